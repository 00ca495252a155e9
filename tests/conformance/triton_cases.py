"""Triton kernels of our own, with inputs and what numpy makes of them: the cases of test_triton_matrix.py.

A case is one kernel with its inputs, then its outputs, then whole numbers, then constants, in the order of its parameters.
Numbers are given and wanted as float64 or integers, whatever the tensors' types; an input is what its type has nearest to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray
from triton.language.extra.hip import libdevice

Numbers = NDArray[Any]

TOLERANCES = {"f32": 2e-6, "f64": 1e-13, "f16": 1e-3, "bf16": 8e-3, "fp8": 0.13, "e5m2": 0.26}
"""Largest difference of an output, by its type, as a part of what is wanted, or of the case's `least` where that is more."""


@dataclass(frozen=True)
class TritonCase:
    """See the module. inputs: (type, numbers); outputs: (type, wanted). tolerance: None for that of the output's type.

    grid: workgroups, of one dimension or more. only_global: for a buffer instruction Triton 3.7.1 asks LLVM by a wrong name.
    """

    name: str
    kernel: Any
    inputs: tuple[tuple[str, Numbers], ...]
    outputs: tuple[tuple[str, Numbers], ...]
    numbers: tuple[int, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    grid: int | tuple[int, ...] = 1
    warps: int = 4
    tolerance: float | None = None
    least: float = 1e-3
    only_global: bool = False


# Elementwise.


@triton.jit
def unary(x, y, n, function: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    value = function(tl.load(x + place, mask=place < n, other=1))
    tl.store(y + place, value.to(y.dtype.element_ty), mask=place < n)


@triton.jit
def binary(x, z, y, n, function: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    value = function(tl.load(x + place, mask=place < n, other=1), tl.load(z + place, mask=place < n, other=1))
    tl.store(y + place, value.to(y.dtype.element_ty), mask=place < n)


@triton.jit
def converted(x, y, n, rounding: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.load(x + place, mask=place < n).to(y.dtype.element_ty, fp_downcast_rounding=rounding)
    tl.store(y + place, value, mask=place < n)


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def subtract(a, b):
    return a - b


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def divide(a, b):
    return a / b


@triton.jit
def quotient(a, b):
    return a // b


@triton.jit
def remainder(a, b):
    return a % b


@triton.jit
def bits(a, b):
    return (a & b) ^ ((a | b) >> 1) ^ (~a << 2)


@triton.jit
def extremes(a, b):
    return tl.maximum(a, b) - tl.minimum(a, b)


@triton.jit
def compared(a, b):
    return tl.where(a < b, a, b + (a == b).to(b.dtype))


@triton.jit
def fused(a, b):
    return tl.fma(a, b, a)


COUNT = 200
INTEGERS = {
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "u32": np.uint32,
    "u64": np.uint64,
}
FLOATS = ("f16", "bf16", "f32", "f64")


def toward_zero(a: Numbers, b: Numbers) -> Numbers:
    """The quotient of whole numbers, cut off."""
    return np.array([_quotient(int(x), int(y)) for x, y in zip(a, b, strict=True)], dtype=a.dtype)


def _quotient(x: int, y: int) -> int:
    size = abs(x) // abs(y)
    return size if (x < 0) == (y < 0) else -size


def elementwise_integers(rng: np.random.Generator) -> Iterator[TritonCase]:
    wanted: dict[str, tuple[Any, Callable[[Numbers, Numbers], Numbers]]] = {
        "add": (add, lambda a, b: a + b),
        "subtract": (subtract, lambda a, b: a - b),
        "multiply": (multiply, lambda a, b: a * b),
        "quotient": (quotient, toward_zero),
        "remainder": (remainder, lambda a, b: a - b * toward_zero(a, b)),
        "bits": (bits, lambda a, b: (a & b) ^ ((a | b) >> a.dtype.type(1)) ^ (~a << a.dtype.type(2))),
        "extremes": (extremes, lambda a, b: np.maximum(a, b) - np.minimum(a, b)),
    }
    for kind, dtype in INTEGERS.items():
        info = np.iinfo(dtype)
        a, b = (rng.integers(info.min // 2, info.max // 2, COUNT, dtype=dtype) for _ in range(2))
        b[b == 0] = 3
        for name, (function, reference) in wanted.items():
            with np.errstate(all="ignore"):
                result = reference(a, b)
            yield elementwise(f"{name} {kind}", function, ((kind, a), (kind, b)), (kind, result))


def elementwise(name: str, function: Any, inputs: tuple, output: tuple, tolerance: float | None = None) -> TritonCase:  # type: ignore[type-arg]
    kernel = unary if len(inputs) == 1 else binary
    constants = {"function": function, "block": 128}
    return TritonCase(name, kernel, inputs, (output,), (COUNT,), constants, grid=2, tolerance=tolerance)


def elementwise_floats(rng: np.random.Generator) -> Iterator[TritonCase]:
    wanted: dict[str, tuple[Any, Callable[[Numbers, Numbers], Numbers]]] = {
        "add": (add, lambda a, b: a + b),
        "multiply": (multiply, lambda a, b: a * b),
        "divide": (divide, lambda a, b: a / b),
        "extremes": (extremes, lambda a, b: np.maximum(a, b) - np.minimum(a, b)),
        "compared": (compared, lambda a, b: np.where(a < b, a, b + (a == b))),
        "fused": (fused, lambda a, b: a * b + a),
    }
    a, b = (rng.integers(-60, 60, COUNT) / 8 + 0.0625 for _ in range(2))
    for kind in FLOATS:
        for name, (function, reference) in wanted.items():
            yield elementwise(f"{name} {kind}", function, ((kind, a), (kind, b)), (kind, reference(a, b)))


@triton.jit
def sigmoid_of(a):
    return tl.sigmoid(a)


def _special(name: str) -> Callable[[Numbers], Numbers]:
    return np.vectorize(getattr(math, name), otypes=[np.float64])


UNARY: dict[str, Callable[[Numbers], Numbers]] = {
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin, "cos": np.cos, "abs": np.abs, "floor": np.floor, "ceil": np.ceil, "erf": _special("erf"),
}  # fmt: skip
LIBRARY: dict[str, Callable[[Numbers], Numbers]] = {
    "tanh": np.tanh, "sinh": np.sinh, "cosh": np.cosh, "atan": np.arctan, "nearbyint": np.rint,
    "round": lambda x: np.floor(x + 0.5),
    "asinh": np.arcsinh, "log1p": np.log1p,
    "expm1": np.expm1, "rint": np.rint, "trunc": np.trunc, "log10": np.log10, "tan": np.tan,
    "erfc": _special("erfc"), "lgamma": _special("lgamma"),
}  # fmt: skip
LIBRARY_OF_TWO: dict[str, Callable[[Numbers, Numbers], Numbers]] = {
    "pow": np.power, "fmod": np.fmod, "hypot": np.hypot, "atan2": np.arctan2, "copysign": np.copysign,
}  # fmt: skip


def functions(rng: np.random.Generator) -> Iterator[TritonCase]:
    values = rng.uniform(0.25, 6, COUNT).astype(np.float32).astype(np.float64)
    others = rng.uniform(0.5, 3, COUNT).astype(np.float32).astype(np.float64)
    for kind, tolerance in (("f32", 1e-5), ("f64", 1e-12)):
        for name, reference in UNARY.items():
            yield elementwise(f"{name} {kind}", getattr(tl, name), ((kind, values),), (kind, reference(values)), tolerance)
        for name, reference in LIBRARY.items():
            limit = 3e-4 if name == "tan" and kind == "f32" else tolerance
            yield elementwise(
                f"libdevice {name} {kind}", getattr(libdevice, name), ((kind, values),), (kind, reference(values)), limit
            )
        for name, both in LIBRARY_OF_TWO.items():
            given = ((kind, values), (kind, others))
            yield elementwise(
                f"libdevice {name} {kind}", getattr(libdevice, name), given, (kind, both(values, others)), tolerance
            )
    yield elementwise("sigmoid f32", sigmoid_of, (("f32", values),), ("f32", 1 / (1 + np.exp(-values))), 1e-5)


def conversions(rng: np.random.Generator) -> Iterator[TritonCase]:
    """What rounds is given as a number that the target has, half a step beside it; Triton converts 8-bit floats to 16 and 32
    bits only."""
    exact = np.concatenate(
        [rng.integers(-15, 16, COUNT - 5) * 2.0 ** rng.integers(-3, 3, COUNT - 5), [0.0, 1.0, -1.0, 6.0, -28.0]]
    )
    for source in ("f32", "f16", "bf16", "f64", "fp8", "e5m2"):
        for target in ("f32", "f16", "bf16", "f64", "fp8", "e5m2", "i32", "i8"):
            narrow = {"fp8", "e5m2"} & {source, target}
            if source == target or len(narrow) == 2 or (narrow and {"f64", "i32", "i8"} & {source, target}):
                continue
            given = (
                np.round(exact * 4) / 4
                if "e5m2" not in narrow
                else np.sign(exact) * 2.0 ** np.round(np.log2(np.abs(exact) + 1))
            )
            wanted = np.trunc(given) if target[0] == "i" else given
            constants = {"rounding": None, "block": 128}
            case = TritonCase(
                f"{source} to {target}", converted, ((source, given),), ((target, wanted),), (COUNT,), constants, 2
            )
            yield replace(case, tolerance=0.0 if target[0] != "i" else None)
    values = np.concatenate([rng.uniform(-100, 100, COUNT - 4), [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11]])
    values = values.astype(np.float32).astype(np.float64)
    for target in ("f16", "bf16", "fp8", "e5m2"):
        constants = {"rounding": "rtne", "block": 128}
        yield TritonCase(
            f"f32 rounded to {target}",
            converted,
            (("f32", values),),
            ((target, values),),
            (COUNT,),
            constants,
            2,
            tolerance=0.0,
        )


# Products.


@triton.jit
def product(a, b, c, depth, rows: tl.constexpr, columns: tl.constexpr, step: tl.constexpr, exact: tl.constexpr):
    row, column, place = tl.arange(0, rows), tl.arange(0, columns), tl.arange(0, step)
    total = tl.zeros((rows, columns), tl.int32 if a.dtype.element_ty == tl.int8 else tl.float32)
    for first in range(0, depth, step):
        left = tl.load(a + row[:, None] * depth + first + place[None, :], mask=(first + place)[None, :] < depth, other=0.0)
        right = tl.load(
            b + (first + place)[:, None] * columns + column[None, :], mask=(first + place)[:, None] < depth, other=0.0
        )
        total = tl.dot(left, right, total, input_precision=exact, out_dtype=total.dtype)
    tl.store(c + row[:, None] * columns + column[None, :], total.to(c.dtype.element_ty))


@triton.jit
def attention(q, k, v, o, keys, causal: tl.constexpr, rows: tl.constexpr, step: tl.constexpr, width: tl.constexpr):
    row, column, place = tl.arange(0, rows), tl.arange(0, width), tl.arange(0, step)
    query = tl.load(q + row[:, None] * width + column[None, :])
    largest, total = tl.full((rows,), -float("inf"), tl.float32), tl.zeros((rows,), tl.float32)
    result = tl.zeros((rows, width), tl.float32)
    for first in range(0, keys, step):
        inside = first + place < keys
        key = tl.load(k + (first + place)[None, :] * width + column[:, None], mask=inside[None, :], other=0.0)
        score = tl.dot(query, key) * (1.4426950408889634 / 8)
        seen = inside[None, :] & (place[None, :] + first <= row[:, None]) if causal else inside[None, :]
        score = tl.where(seen, score, -float("inf"))
        larger = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp2(score - larger[:, None])
        decay = tl.exp2(largest - larger)
        value = tl.load(v + (first + place)[:, None] * width + column[None, :], mask=inside[:, None], other=0.0)
        result = tl.dot(weight.to(value.dtype), value, result * decay[:, None])
        total = total * decay + tl.sum(weight, 1)
        largest = larger
    tl.store(o + row[:, None] * width + column[None, :], (result / total[:, None]).to(o.dtype.element_ty))


def products(rng: np.random.Generator) -> Iterator[TritonCase]:
    sizes = ((16, 16, 32, 1), (32, 64, 32, 4), (64, 32, 64, 2), (128, 64, 32, 4))
    for kind, output in (("f16", "f32"), ("bf16", "bf16"), ("fp8", "f32"), ("e5m2", "f32"), ("i8", "i32"), ("f32", "f32")):
        for rows, columns, step, warps in sizes:
            depth = 72
            a, b = (rng.integers(-4, 5, shape).astype(np.float64) for shape in ((rows, depth), (depth, columns)))
            constants = {"rows": rows, "columns": columns, "step": step, "exact": "ieee"}
            yield TritonCase(
                f"product {kind} {rows}x{columns}x{step}", product, ((kind, a), (kind, b)), ((output, a @ b),), (depth,),
                constants, warps=warps,
            )  # fmt: skip
    for kind in ("f16", "bf16"):
        for causal in (False, True):
            q, k, v = (rng.standard_normal((size, 64)) for size in (64, 90, 90))
            given = tuple((kind, each) for each in (q, k, v))
            rounded = [each.astype(np.float16).astype(np.float64) if kind == "f16" else each for each in (q, k, v)]
            scores = rounded[0] @ rounded[1].T / 8
            if causal:
                scores = np.where(np.arange(90)[None] <= np.arange(64)[:, None], scores, -np.inf)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            wanted = weights @ rounded[2] / weights.sum(1, keepdims=True)
            constants = {"causal": causal, "rows": 64, "step": 32, "width": 64}
            name = f"attention {kind}{' causal' if causal else ''}"
            yield TritonCase(name, attention, given, ((kind, wanted),), (90,), constants, tolerance=0.02, least=0.5)
