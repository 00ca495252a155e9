"""Numbers from machine code: a call's code object run in full on the simulated CDNA machine, its output against float64.

Inputs are normal numbers rounded to the types of q and KV, the same ones for every choice of a shape. Stage 2 ships as no code
object: its rule is followed in float32 (backend/devices/cdna/merged_output.py), and results say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.aiter.codefiles import CodeSource
from backend.call import Call
from backend.case import QK_HEAD_DIM, Arch, DType
from backend.cdna.machine import MachineLaunch
from backend.cdna.result import MachineEnd, Mode, Schedule
from backend.devices.cdna import address_space as spaces
from backend.devices.cdna.device import machine_of
from backend.devices.cdna.merged_output import folded, outputs
from backend.errors import CannotRunError

if TYPE_CHECKING:
    import torch

Doubles = npt.NDArray[np.float64]

POISON = 0xFF
"""Of pool and outputs: NaN in fp8 and bf16, so that what is read without being held shows."""


@dataclass(frozen=True, slots=True, eq=False)
class UnroundedInputs:
    """What the numbers are before any rounding. q: [queries, heads, 576]; kv: [tokens, 576] of each request."""

    q: Doubles
    kv: tuple[Doubles, ...]

    @classmethod
    def of(cls, queries: int, heads: int, kv_lens: tuple[int, ...], seed: int) -> UnroundedInputs:
        """Draws normally distributed numbers."""
        draw = np.random.default_rng(seed)
        kv = tuple(draw.standard_normal((length, QK_HEAD_DIM)) for length in kv_lens)
        return cls(draw.standard_normal((queries, heads, QK_HEAD_DIM)), kv)

    def heads(self, begin: int, end: int) -> UnroundedInputs:
        """The same with some heads only."""
        return UnroundedInputs(self.q[:, begin:end], self.kv)


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """o: [queries, heads, 512]; unwritten: [queries, heads]; bad: accesses that break bounds; instructions: of waves."""

    o: Doubles
    unwritten: npt.NDArray[np.bool_]
    bad: int
    instructions: int


def run(made: Call, inputs: UnroundedInputs, source: CodeSource, schedule: Schedule) -> Ran:
    """Runs stage 1 in full and merges. Raises UnmodelledError for machine code without a model, CannotRunError for a hang."""
    launch = made.launched
    q = folded(made, bits(inputs.q, made.decode.q_dtype, launch.arch))
    space, kernarg = spaces.build(made, {"q": q, "kv_buffer": _pool(made, inputs)})
    machine = machine_of(source, launch.arch, launch.code_object, launch.symbol)
    axis = None if launch.persistent else spaces.REQUEST_AXIS
    result = machine.run(MachineLaunch(launch.grid, launch.block, kernarg, requester_axis=axis), space, Mode.FULL, schedule)
    if result.outcome is MachineEnd.LIMIT:
        raise CannotRunError(f"{launch.code_object}: not at its end after {result.executed} wave instructions")
    left = outputs(made, space)
    return Ran(left.values, left.unwritten, len(result.bad_accesses), result.executed)


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


def _torch_type(dtype: DType, arch: Arch) -> tuple[Any, torch.dtype, torch.dtype]:
    import torch

    if dtype is DType.BF16:
        return torch, torch.int16, torch.bfloat16
    return torch, torch.uint8, torch.float8_e4m3fnuz if arch is Arch.GFX942 else torch.float8_e4m3fn


def _pool(made: Call, inputs: UnroundedInputs) -> npt.NDArray[Any]:
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
