"""Triton kernels of our own as machine code: every case of triton_cases.py and triton_block_cases.py against numpy.

Both architectures; with buffer instructions, which Triton's launcher asks for where tensors have less than 2 GiB, and with
global ones.
"""

from __future__ import annotations

import struct
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "cdna"))
sys.path.insert(0, str(Path(__file__).parent))
from number_formats import decode_bfloat16, decode_float8, encode_bfloat16, encode_float8

from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.result import MachineEnd, Mode

pytestmark = pytest.mark.slow

PLAIN = {
    "f16": ("fp16", np.float16), "f32": ("fp32", np.float32), "f64": ("fp64", np.float64), "i8": ("i8", np.int8),
    "i16": ("i16", np.int16), "i32": ("i32", np.int32), "i64": ("i64", np.int64), "u8": ("u8", np.uint8),
    "u32": ("u32", np.uint32), "u64": ("u64", np.uint64),
}  # fmt: skip
EIGHT = {"fp8": "e4m3", "e5m2": "e5m2"}


def triton_name(kind: str, arch: str) -> str:
    if kind in EIGHT:
        return {"fp8": ("fp8e4nv", "fp8e4b8"), "e5m2": ("fp8e5", "fp8e5b16")}[kind][arch == "gfx942"]
    return "bf16" if kind == "bf16" else PLAIN[kind][0]


def encoded(kind: str, values: NDArray[Any], arch: str) -> NDArray[Any]:
    if kind in EIGHT:
        return encode_float8(np.asarray(values, np.float64), EIGHT[kind], arch == "gfx942")
    return encode_bfloat16(np.asarray(values, np.float64)) if kind == "bf16" else np.asarray(values).astype(PLAIN[kind][1])


def decoded(kind: str, stored: NDArray[Any], arch: str) -> NDArray[Any]:
    if kind in EIGHT:
        return decode_float8(stored, EIGHT[kind], arch == "gfx942").astype(np.float64)
    return decode_bfloat16(stored).astype(np.float64) if kind == "bf16" else stored


@cache
def cases() -> dict[str, Any]:
    pytest.importorskip("triton")
    import triton_block_cases as block
    import triton_cases as plain

    parts = (plain.elementwise_integers, plain.elementwise_floats, plain.functions, plain.conversions, plain.products)
    rng = np.random.default_rng(5)
    return {case.name: case for part in (*parts, block.blocks, block.atomics) for case in part(rng)}


def compiled(case: Any, arch: str, form: str) -> tuple[Kernel, int]:
    """(kernel, bytes of dynamic LDS)."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = [kind for kind, _ in (*case.inputs, *case.outputs)]
    names = case.kernel.arg_names
    signature = {name: f"*{triton_name(kind, arch)}" for name, kind in zip(names, pointers, strict=False)}
    signature |= dict.fromkeys(names[len(pointers) : len(pointers) + len(case.numbers)], "i32")
    signature |= dict.fromkeys(case.constants, "constexpr")
    assert list(signature) == list(names)
    known = [["tt.divisibility", 16]] + ([["tt.pointer_range", 32]] if form == "buffer" else [])
    source = ASTSource(
        case.kernel, signature=signature, constexprs=case.constants, attrs={(place,): known for place in range(len(pointers))}
    )
    with triton.knobs.amd.scope():
        triton.knobs.amd.use_buffer_ops = form == "buffer"
        made = triton.compile(source, target=GPUTarget("hip", arch, 64), options={"num_warps": case.warps})
    (kernel,) = load_code_object(made.asm["hsaco"]).kernels
    return kernel, made.metadata.shared


def held(case: Any, arch: str, form: str) -> None:
    from triton_cases import TOLERANCES

    kernel, lds = compiled(case, arch, form)
    space = AddressSpace()
    bases, stored = [], []
    for place, (kind, values) in enumerate(case.inputs):
        bases.append(space.add_array(f"input {place}", np.ascontiguousarray(encoded(kind, values, arch)).reshape(-1)).base)
    for place, (kind, wanted) in enumerate(case.outputs):
        array = np.zeros(max(np.asarray(wanted).size, 1), encoded(kind, np.zeros(1), arch).dtype)
        bases.append(space.add_array(f"output {place}", array, writable=True).base)
        stored.append(array)
    block = bytearray(max(kernel.kernarg_size, 16))
    for argument, value in zip(kernel.arguments, (*bases, *case.numbers), strict=False):
        struct.pack_into({4: "<i", 8: "<Q"}[argument.size], block, argument.offset, value)
    grid = (*(case.grid if isinstance(case.grid, tuple) else (case.grid,)), 1, 1)[:3]
    launch = MachineLaunch(grid, (64 * case.warps, 1, 1), bytes(block), dynamic_lds=lds)
    result = Machine(kernel).run(launch, space, Mode.FULL, max_instructions=20_000_000)
    assert result.outcome is MachineEnd.DONE
    assert result.bad_accesses == ()
    for (kind, wanted), array in zip(case.outputs, stored, strict=True):
        got, right = decoded(kind, array, arch), np.asarray(wanted).reshape(-1)
        if kind in PLAIN and kind[0] in "iu" and case.tolerance is None:
            assert np.array_equal(got, right.astype(got.dtype)), (got[:8], right[:8])
            continue
        if not case.tolerance and kind not in ("f32", "f64"):
            right = decoded(kind, encoded(kind, right, arch), arch)  # as the type has it
        limit = TOLERANCES.get(kind, 0) if case.tolerance is None else case.tolerance
        got, right = got.astype(np.float64), right.astype(np.float64)
        difference = np.abs(got - right) / np.maximum(np.abs(right), case.least)
        assert (difference <= limit).all(), (got[~(difference <= limit)][:4], right[~(difference <= limit)][:4])


@pytest.mark.parametrize("form", ["buffer", "global"])
@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_every_case_is_numpys(arch: str, form: str) -> None:
    """All of them in one test: which cases there are is known when triton is imported, and no sooner."""
    wrong = {}
    for name, case in cases().items():
        if form == "buffer" and case.only_global:
            continue
        try:
            held(case, arch, form)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"[:400]
    assert len(cases()) >= 145
    assert not wrong
