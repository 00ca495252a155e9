"""Stage 1 as the launcher is called: its tensors where they lie, and the kernel, grid and kernargs that it makes of them.

The launch is made from what really reaches mla_decode_stage1_asm_fwd, folded by whatever Python came before: by the launcher
of the revision, evaluated from its text, where there is one, else by the rules of a release. How the kernel then runs is in
machine.py (its machine code) and attention.py (numbers by the contract).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from backend.aiter.arguments import SCALES, TargetGpu
from backend.aiter.codefiles import CodeSource
from backend.aiter.kernargs import Kernarg, layout, pack
from backend.aiter.kernel_rules import KernelKey
from backend.aiter.kernels import NoKernel, choose_kernel, source_table
from backend.aiter.launch import BLOCK, kernarg_values
from backend.aiter.release import Release
from backend.aiter.text.launcher import ENTRY, Launcher, NotLaunched
from backend.aiter.text.surroundings import Tensor
from backend.case import DType
from backend.cxx.errors import CxxError
from backend.devices.model.traits import traits
from backend.errors import UnmodelledError
from backend.real.handlers import ABORTED, failed_check
from backend.real.observe import element_type
from backend.real.script.tensors import PlacedTensor, placed
from backend.real.torch_shim import host

ROLES = {
    "Q": "q",
    "KV": "kv_buffer",
    "qo_indptr": "qo_indptr",
    "kv_indptr": "kv_indptr",
    "kv_page_indices": "kv_indices",
    "kv_last_page_lens": "kv_last_page_lens",
    "num_kv_splits_indptr": "num_kv_splits_indptr",
    "work_meta_data": "work_meta_data",
    "work_metadata": "work_meta_data",
    "work_indptr": "work_indptr",
    "work_info_set": "work_info_set",
    "splitData": "logits",
    "splitLse": "attn_lse",
    "output": "o",
    "lse": "final_lse",
    "q_scale": "q_scale",
    "kv_scale": "kv_scale",
    "g_kv_indptr": "g_kv_indptr",
}
"""Parameter of mla_decode_stage1_asm_fwd -> tensor, all releases."""


@dataclass(frozen=True, slots=True)
class Stage1:
    """One launch. tensors: by name, those that were given. splits: second dimension of logits; scale: softmax_scale.

    symbol, code_object: of the kernel. causal: as the caller asks for it. page_bits: see KernelTraits, of one that is done in
    numbers; machine code has its own.
    """

    symbol: str
    code_object: str
    persistent: bool
    heads: int
    max_seqlen_q: int
    page_size: int
    splits: int
    scale: float
    causal: bool
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    kernarg: bytes
    tensors: Mapping[str, PlacedTensor]
    page_bits: int = field(default=64, compare=False)

    def tensor_near(self, address: int) -> tuple[PlacedTensor, int] | None:
        """The tensor that holds an address, or else the nearest one that begins below it, and the offset from its start."""
        known = sorted(self.tensors.values(), key=lambda t: t.address)
        inside = [t for t in known if t.address <= address < t.address + t.nbytes]
        below = [t for t in known if t.address <= address]
        if inside or below:
            found = (inside or below)[-1]
            return found, address - found.address
        return None


def stage1_of(
    release: Release, device: TargetGpu, source: CodeSource | None, given: Mapping[str, Any], own: Launcher | None = None
) -> Stage1:
    """The launch of a call. given: by parameter, in the order of AITER's declaration. own: the launcher of the revision.

    Raises AiterChecks where AITER's launcher raises, AiterEndsProcess where it ends the process, UnmodelledError for what has
    no rules here.
    """
    by_text = None if own is None else _by_text(own, device, given)
    if by_text is None and not host(given["Q"]).is_contiguous():
        raise failed_check(f"{ENTRY}:only support Q.is_contiguous() for now", release.launcher.checks_end_process)
    tensors = {role: placed(role, given[name]) for name, role in ROLES.items() if given.get(name) is not None}
    tensors = {role: tensor for role, tensor in tensors.items() if tensor.nbytes or role not in SCALES}
    launched = _by_rules(release, device, source, given, tensors) if by_text is None else by_text
    return Stage1(
        symbol=launched.symbol,
        code_object=launched.code_object,
        persistent="num_kv_splits_indptr" not in tensors,
        heads=tensors["q"].shape[1],
        max_seqlen_q=int(given["max_seqlen_q"]),
        page_size=_page_size(given),
        splits=tensors["logits"].shape[1],
        scale=float(given["softmax_scale"]),
        causal=bool(given.get("causal", True)),
        grid=launched.grid,
        block=launched.block,
        kernarg=pack(launched.kernargs, {name: tensor.address for name, tensor in tensors.items()}),
        tensors=tensors,
        page_bits=launched.page_bits,
    )


class _Launched(NamedTuple):
    symbol: str
    code_object: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    kernargs: tuple[Kernarg, ...]
    page_bits: int = 64


def _page_size(given: Mapping[str, Any]) -> int:
    return int(given.get("page_size", given["KV"].shape[1]))


def _by_text(launcher: Launcher, device: TargetGpu, given: Mapping[str, Any]) -> _Launched:
    """The launch by a revision's own launcher; positions count, since its C++ may call a parameter otherwise."""
    arguments = tuple(_for_launcher(launcher, device, name, value) for name, value in given.items())
    try:
        launched = launcher.launch(device, arguments, {})
    except CxxError as error:
        raise UnmodelledError(f"launcher: {error}") from error
    if isinstance(launched, NotLaunched):
        raise failed_check(f"{ENTRY}: {launched.reason}", launched.ends_process, 0 if launcher.exits else ABORTED)
    kernargs = tuple(Kernarg(*each) for each in launched.kernargs)
    return _Launched(launched.symbol, launched.code_object, launched.grid, launched.block, kernargs)


def _for_launcher(launcher: Launcher, device: TargetGpu, name: str, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return int(value) if isinstance(value, bool) else value
    plain = host(value)
    dtype = launcher.dtype(_DTYPES.get(plain.dtype, str(plain.dtype).removeprefix("torch.")), device.arch)
    return Tensor(ROLES.get(name, name), tuple(plain.shape), dtype, plain.element_size(), tuple(plain.stride()))


_DTYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e4m3fnuz: "fp8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint64: "u64",
    torch.uint8: "u8",
    torch.int8: "i8",
}
"""Element types as AITER's launcher calls them (csrc/include/aiter_enum.h)."""


def has_rules_for(kv: torch.dtype) -> bool:
    """Whether built-in rules know KV of that type; of bytes, whose rows have a width of their own, only AITER's text does."""
    return kv not in (torch.uint8, torch.int8)


def _by_rules(
    release: Release,
    device: TargetGpu,
    source: CodeSource | None,
    given: Mapping[str, Any],
    tensors: Mapping[str, PlacedTensor],
) -> _Launched:
    for name, modelled in (("g_kv_indptr", None), ("cp_world_size", 1), ("nhead_kv", 1)):
        value = given.get(name, modelled)
        if value is not modelled and (torch.is_tensor(value) or value != modelled):
            raise UnmodelledError(f"{ENTRY}({name}): only {modelled!r} is modelled without the launcher's text")
    q, kv, ends = tensors["q"], tensors["kv_buffer"], release.launcher.checks_end_process
    key_types = element_type(q.dtype), element_type(kv.dtype)
    if q.shape[-1] != kv.shape[-1]:
        sizes = f"{q.shape[-1]} and {kv.shape[-1]}"
        raise failed_check(f"{ENTRY}:only support head_size == KV.size(3) for now: given {sizes}", ends)
    read = SCALES if key_types[0] is DType.FP8 else SCALES[1:] if key_types[1] is DType.FP8 else ()
    if release.launcher.fp8_q_needs_scales and not set(read) <= set(tensors):
        if key_types[0] is DType.FP8 and None in (given.get(name) for name in read):
            raise failed_check(f"{ENTRY}: fp8 Q requires q_scale and kv_scale", ends)
        if given.get("kv_scale") is not None:
            raise failed_check(f"{ENTRY}: {' and '.join(read)} data_ptr must not be null", ends)
    persistent, heads, qlen = "num_kv_splits_indptr" not in tensors, q.shape[1], int(given["max_seqlen_q"])
    causal = bool(given.get("causal", True))
    key = KernelKey(*key_types, heads, persistent, qlen, "final_lse" in tensors, causal)
    table = None if source is None else source_table(source, device.arch)
    kernel = choose_kernel(release, device, key, table, source)
    if isinstance(kernel, NoKernel):
        raise failed_check(f"{ENTRY}: {kernel.reason}", ends)
    splits = tensors["logits"].shape[1]
    values = kernarg_values(release, key, kernel, _page_size(given), splits, q.shape[-1])
    values = {name: 0 if isinstance(value, str) and value not in tensors else value for name, value in values.items()}
    values["scalar"] = float(given["softmax_scale"])
    values["s_Bs"] = kv.row_bytes
    if persistent:
        grid = (tensors["work_indptr"].shape[0] - 1, 1, 1)
    else:
        grid = (-(-qlen * heads // kernel.sub_q), tensors["qo_indptr"].shape[0] - 1, splits)
    return _Launched(
        kernel.symbol, kernel.code_object, grid, BLOCK, layout(release.kernarg_size, values), traits(kernel.blob_id).page_bits
    )
