"""Stage 1 as the launcher is called: its tensors where they lie, and the kernel, grid and kernargs that it makes of them.

The launch is made from what really reaches mla_decode_stage1_asm_fwd, folded by whatever Python came before. How the kernel
then runs is in machine.py (its machine code) and attention.py (numbers by the contract).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.aiter.arguments import TargetGpu
from backend.aiter.codefiles import CodeSource
from backend.aiter.kernargs import layout, pack
from backend.aiter.kernel_rules import KernelKey
from backend.aiter.kernels import KernelChoice, NoKernel, choose_kernel, source_table
from backend.aiter.launch import BLOCK, kernarg_values
from backend.aiter.release import Release
from backend.case import DType
from backend.errors import UnmodelledError
from backend.real.handlers import STAGE_1 as ENTRY
from backend.real.handlers import AiterChecks
from backend.real.observe import element_type
from backend.real.script.tensors import PlacedTensor, placed

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
}
"""Parameter of mla_decode_stage1_asm_fwd -> tensor, all releases."""


@dataclass(frozen=True, slots=True)
class Stage1:
    """One launch. tensors: by name, those that were given. splits: second dimension of logits; scale: softmax_scale.

    causal: as the caller asks for it.
    """

    kernel: KernelChoice
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

    def tensor_near(self, address: int) -> tuple[PlacedTensor, int] | None:
        """The tensor that holds an address, or else the nearest one that begins below it, and the offset from its start."""
        known = sorted(self.tensors.values(), key=lambda t: t.address)
        inside = [t for t in known if t.address <= address < t.address + t.nbytes]
        below = [t for t in known if t.address <= address]
        if inside or below:
            found = (inside or below)[-1]
            return found, address - found.address
        return None


def stage1_of(release: Release, device: TargetGpu, source: CodeSource | None, given: Mapping[str, Any]) -> Stage1:
    """The launch of a call. Raises RuntimeError where AITER's launcher does, UnmodelledError for what has no rules here."""
    for name, modelled in (("cp_world_size", 1), ("nhead_kv", 1)):
        if given.get(name, modelled) != modelled:
            raise UnmodelledError(f"mla_decode_stage1_asm_fwd({name}={given[name]!r}): only {modelled!r} is modelled")
    tensors = {role: placed(role, given[name]) for name, role in ROLES.items() if given.get(name) is not None}
    q, kv = tensors["q"], tensors["kv_buffer"]
    if q.shape[-1] != kv.shape[-1]:
        sizes = f"{q.shape[-1]} and {kv.shape[-1]}"
        raise AiterChecks(f"{ENTRY}:only support head_size == KV.size(3) for now: given {sizes}")
    fp8_q = element_type(q.dtype) is DType.FP8
    if fp8_q and release.launcher.fp8_q_needs_scales and not {"q_scale", "kv_scale"} <= set(tensors):
        raise AiterChecks(f"{ENTRY}: fp8 Q requires q_scale and kv_scale")
    persistent, heads, qlen = "num_kv_splits_indptr" not in tensors, q.shape[1], int(given["max_seqlen_q"])
    causal = bool(given.get("causal", True))
    key = KernelKey(element_type(q.dtype), element_type(kv.dtype), heads, persistent, qlen, "final_lse" in tensors, causal)
    table = None if source is None else source_table(source, device.arch)
    kernel = choose_kernel(release, device, key, table, source)
    if isinstance(kernel, NoKernel):
        raise AiterChecks(f"{ENTRY}: {kernel.reason}")
    page_size, splits = int(given.get("page_size", kv.shape[1])), tensors["logits"].shape[1]
    values = kernarg_values(release, key, kernel, page_size, splits, q.shape[-1])
    values = {name: 0 if isinstance(value, str) and value not in tensors else value for name, value in values.items()}
    values["scalar"] = float(given["softmax_scale"])
    values["s_Bs"] = kv.nbytes // max(kv.shape[0], 1)
    addresses = {name: tensor.address for name, tensor in tensors.items()}
    if persistent:
        grid = (tensors["work_indptr"].shape[0] - 1, 1, 1)
    else:
        grid = (-(-qlen * heads // kernel.sub_q), tensors["qo_indptr"].shape[0] - 1, splits)
    kernarg = pack(layout(release.kernarg_size, values), addresses)
    scale = float(given["softmax_scale"])
    return Stage1(kernel, persistent, heads, qlen, page_size, splits, scale, causal, grid, BLOCK, kernarg, tensors)
