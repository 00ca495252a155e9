"""Numbers from machine code: a call's code object run in full on the simulated CDNA machine, its output against float64.

Inputs are normal numbers rounded to the types of q and KV, the same ones for every choice of a shape. Stage 2 ships as no code
object: its rule is followed in float32, and results say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.aiter.codefiles import CodeSource
from backend.aiter.reduction import SecondStageKind
from backend.call import Call
from backend.case import QK_HEAD_DIM, V_HEAD_DIM, Arch, DType
from backend.cdna.machine import Launch as MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.result import Mode, Outcome, Schedule
from backend.devices.cdna import machine_of
from backend.devices.cdna import space as spaces
from backend.devices.second_stage import merged_rows
from backend.errors import CannotRunError

if TYPE_CHECKING:
    import torch

Doubles = npt.NDArray[np.float64]

POISON = 0xFF
"""Of pool and outputs: NaN in fp8 and bf16, so that what is read without being held shows."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What the numbers are before any rounding. q: [queries, heads, 576]; kv: [tokens, 576] of each request."""

    q: Doubles
    kv: tuple[Doubles, ...]

    @classmethod
    def of(cls, queries: int, heads: int, kv_lens: tuple[int, ...], seed: int) -> Inputs:
        """Normal numbers."""
        draw = np.random.default_rng(seed)
        kv = tuple(draw.standard_normal((length, QK_HEAD_DIM)) for length in kv_lens)
        return cls(draw.standard_normal((queries, heads, QK_HEAD_DIM)), kv)

    def heads(self, begin: int, end: int) -> Inputs:
        """The same with some heads only."""
        return Inputs(self.q[:, begin:end], self.kv)


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """o: [queries, heads, 512]; unwritten: [queries, heads]; bad: accesses that break bounds; instructions: of waves."""

    o: Doubles
    unwritten: npt.NDArray[np.bool_]
    bad: int
    instructions: int


def run(made: Call, inputs: Inputs, source: CodeSource, schedule: Schedule) -> Ran:
    """Runs stage 1 in full and merges. Raises UnmodelledError for machine code without a model, CannotRunError for a hang."""
    launch = made.launched
    space, kernarg = spaces.build(made)
    q = bits(inputs.q, made.decode.q_dtype, launch.arch)
    _put(space, "q", _folded(made, q))
    _put(space, "kv_buffer", _pool(made, inputs))
    for name in {"o", "logits", "attn_lse"} & set(launch.tensors) - set(launch.aliases):
        region = space[name]
        space.remove(name)
        space.add_blank(name, region.size, base=region.base)
    machine = machine_of(source, launch.arch, launch.code_object, launch.symbol)
    axis = None if launch.persistent else spaces.REQUEST_AXIS
    result = machine.run(MachineLaunch(launch.grid, launch.block, kernarg, requester_axis=axis), space, Mode.FULL, schedule)
    if result.outcome is Outcome.LIMIT:
        raise CannotRunError(f"{launch.code_object}: not at its end after {result.executed} wave instructions")
    o = _merged(made, space)
    rows = _unfolded(made, o)
    return Ran(bf16_values(rows), (rows == 0xFFFF).all(-1), len(result.bad_accesses), result.executed)


def rounded(values: Doubles, dtype: DType, arch: Arch) -> Doubles:
    """The numbers as the type holds them."""
    torch, _, kind = _torch_type(dtype, arch)
    made: Doubles = torch.from_numpy(values).float().to(kind).double().numpy()
    return made


def bits(values: Doubles, dtype: DType, arch: Arch) -> npt.NDArray[Any]:
    """The numbers in the type's own bits: uint8 or uint16."""
    torch, raw, kind = _torch_type(dtype, arch)
    made: npt.NDArray[Any] = torch.from_numpy(np.ascontiguousarray(values)).float().to(kind).view(raw).numpy()
    return made.view(np.uint8 if dtype is DType.FP8 else np.uint16)


def bf16_values(raw: npt.NDArray[np.uint16]) -> Doubles:
    """Values of bf16 bits."""
    return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _torch_type(dtype: DType, arch: Arch) -> tuple[Any, torch.dtype, torch.dtype]:
    import torch

    if dtype is DType.BF16:
        return torch, torch.int16, torch.bfloat16
    return torch, torch.uint8, torch.float8_e4m3fnuz if arch is Arch.GFX942 else torch.float8_e4m3fn


def _put(space: AddressSpace, name: str, array: npt.NDArray[Any]) -> None:
    """Gives a region its contents, at its place."""
    region = space[name]
    space.remove(name)
    put = space.add_array(name, np.ascontiguousarray(array), base=region.base, paging=region.paging)
    assert put.size == region.size, name


def _pool(made: Call, inputs: Inputs) -> npt.NDArray[Any]:
    decode, page = made.decode, made.decode.page_size
    kind = np.uint8 if decode.kv_dtype is DType.FP8 else np.uint16
    pool = np.full((decode.kv_pages, page, QK_HEAD_DIM), np.iinfo(kind).max, kind)
    first = 0
    for tokens in inputs.kv:
        position = np.arange(len(tokens))
        pages = decode.kv_indices[first + position // page]
        pool[pages, position % page] = bits(tokens, decode.kv_dtype, made.launched.arch)
        first += -(-len(tokens) // page)
    return pool


def _merged(made: Call, space: AddressSpace) -> npt.NDArray[np.uint16]:
    """o as both stages leave it: bf16 bits [rows, heads of the kernel, 512]."""
    launch = made.launched
    heads, stage = launch.heads_in_kernel, launch.second_stage
    o = _array(space, "o", np.uint16).reshape(-1, heads, V_HEAD_DIM)
    if stage.kind is SecondStageKind.NONE:
        return o
    merged = merged_rows(made)
    if merged.copies_bf16:
        copied = _array(space, "logits", np.uint16)[: o.size].reshape(o.shape)
        for begin, end in zip(merged.output_begin, merged.output_end, strict=True):
            o[begin:end] = copied[begin:end]
        return o
    logits = _array(space, "logits", np.float32).reshape(-1, heads, V_HEAD_DIM)
    lse = _array(space, "attn_lse", np.float32).reshape(-1, heads)
    for row, partials in _partials(stage.kind, merged):
        o[row] = bits(_merge(logits[partials], lse[partials]).astype(np.float64), DType.BF16, launch.arch)
    return o


def _partials(kind: SecondStageKind, merged: Any) -> Any:
    """(row of o, its partial rows), one by one."""
    if kind is SecondStageKind.TRITON:
        rows = np.concatenate([np.arange(b, e) for b, e in zip(merged.output_begin, merged.output_end, strict=True)])
        for row, begin, end in zip(rows, merged.partial_begin, merged.partial_end, strict=True):
            yield row, np.arange(begin, end)
        return
    for owner, first, end in zip(merged.output_owner, merged.output_begin, merged.output_end, strict=True):
        begins = merged.partial_begin[merged.partial_owner == owner]
        for row in range(first, end):
            yield row, begins + (row - first)


def _merge(partial: npt.NDArray[np.float32], lse: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """partial: [splits, heads, 512]; lse: [splits, heads], natural logarithms."""
    scale = np.exp(lse - lse.max(axis=0))
    summed: npt.NDArray[np.float32] = (partial * scale[..., None]).sum(axis=0) / scale.sum(axis=0)[:, None]
    return summed


def _array(space: AddressSpace, name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
    contents = space[name].contents
    assert contents is not None
    return contents.view(kind)


def _folded(made: Call, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[queries, model heads, n] as stage 1 sees it (mla_decode_fwd's rearrangement where it copies)."""
    launch, heads = made.launched, made.launched.heads_in_kernel
    if not launch.q_copied:
        return rows.reshape(-1, heads, rows.shape[-1])
    split = rows.reshape(-1, launch.max_seqlen_q, launch.fold, heads, rows.shape[-1])
    return split.transpose(0, 2, 1, 3, 4).reshape(-1, heads, rows.shape[-1])


def _unfolded(made: Call, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The way back."""
    launch, heads = made.launched, made.launched.heads_in_kernel
    if launch.q_copied:
        split = rows.reshape(-1, launch.fold, launch.max_seqlen_q, heads, rows.shape[-1])
        rows = split.transpose(0, 2, 1, 3, 4)
    return rows.reshape(-1, heads * launch.fold, rows.shape[-1])
