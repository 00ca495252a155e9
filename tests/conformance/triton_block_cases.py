"""Further cases of test_triton_matrix.py: kernels over whole blocks, through shared memory, and atomic operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton_cases import TritonCase


@triton.jit
def soft_maximum(x, y, columns, block: tl.constexpr):
    place = tl.arange(0, block)
    row = tl.load(x + tl.program_id(0) * columns + place, mask=place < columns, other=-float("inf")).to(tl.float32)
    weight = tl.exp(row - tl.max(row, 0))
    result = (weight / tl.sum(weight, 0)).to(y.dtype.element_ty)
    tl.store(y + tl.program_id(0) * columns + place, result, mask=place < columns)


@triton.jit
def normalised(x, weight, y, columns, centred: tl.constexpr, block: tl.constexpr):
    place = tl.arange(0, block)
    row = tl.load(x + tl.program_id(0) * columns + place, mask=place < columns, other=0).to(tl.float32)
    if centred:
        row = tl.where(place < columns, row - tl.sum(row, 0) / columns, 0.0)
    scale = tl.rsqrt(tl.sum(row * row, 0) / columns + 1e-5)
    result = row * scale * tl.load(weight + place, mask=place < columns, other=0).to(tl.float32)
    tl.store(y + tl.program_id(0) * columns + place, result.to(y.dtype.element_ty), mask=place < columns)


@triton.jit
def reduced(x, sums, products, largest, where, least, rows: tl.constexpr, columns: tl.constexpr, axis: tl.constexpr):
    value = tl.load(x + tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :])
    place = tl.arange(0, columns if axis == 0 else rows)
    tl.store(sums + place, tl.sum(value, axis))
    tl.store(products + place, tl.reduce(value, axis, joined))
    tl.store(largest + place, tl.max(value, axis))
    tl.store(where + place, tl.argmax(value, axis))
    tl.store(least + place, tl.min(value, axis))


@triton.jit
def joined(a, b):
    return a * 0.5 + b * 0.5 + tl.abs(a - b) * 0.5  # the larger one


@triton.jit
def scanned(x, y, z, rows: tl.constexpr, columns: tl.constexpr, axis: tl.constexpr, reverse: tl.constexpr):
    place = tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :]
    value = tl.load(x + place)
    tl.store(y + place, tl.cumsum(value, axis, reverse=reverse))
    tl.store(z + place, tl.associative_scan(value, axis, joined, reverse=reverse))


@triton.jit
def ordered(x, y, z, rows: tl.constexpr, columns: tl.constexpr, descending: tl.constexpr):
    place = tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :]
    value = tl.load(x + place)
    tl.store(y + place, tl.sort(value, descending=descending))
    few = tl.arange(0, rows)[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(z + few, tl.topk(value, 8))


@triton.jit
def rearranged(x, index, a, b, c, d, rows: tl.constexpr, columns: tl.constexpr):
    place = tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :]
    value = tl.load(x + place)
    tl.store(a + tl.arange(0, columns)[:, None] * rows + tl.arange(0, rows)[None, :], tl.trans(value))
    tl.store(b + place, tl.flip(value, 1))
    tl.store(c + place, tl.gather(value, tl.load(index + place), 1))
    even, odd = tl.split(tl.reshape(value, (rows, columns // 2, 2)))
    tl.store(d + place, tl.reshape(tl.join(odd, even), (rows, columns)))


@triton.jit
def counted(x, y, n: tl.constexpr, bins: tl.constexpr):
    tl.store(y + tl.arange(0, bins), tl.histogram(tl.load(x + tl.arange(0, n)), bins))


@triton.jit
def rotated(x, cosine, sine, y, width: tl.constexpr):
    row, place = tl.program_id(0), tl.arange(0, width // 2)
    first, second = tl.load(x + row * width + place), tl.load(x + row * width + width // 2 + place)
    c, s = tl.load(cosine + row * (width // 2) + place), tl.load(sine + row * (width // 2) + place)
    tl.store(y + row * width + place, (first * c - second * s).to(y.dtype.element_ty))
    tl.store(y + row * width + width // 2 + place, (second * c + first * s).to(y.dtype.element_ty))


@triton.jit
def by_pointer(x, index, y, n, width: tl.constexpr):
    """Rows through 64-bit indices, in a loop that ends by data."""
    at = tl.program_id(0).to(tl.int64)
    total = tl.zeros((width,), tl.float32)
    while at < n:
        total += tl.load(x + tl.load(index + at) * width + tl.arange(0, width))
        at += tl.num_programs(0)
    tl.store(y + tl.program_id(0) * width + tl.arange(0, width), total)


@triton.jit
def described(x, y, rows, columns, size: tl.constexpr):
    """Through a tensor descriptor; what lies outside of the tensor is zero, and not stored."""
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [size, size])
    target = tl.make_tensor_descriptor(y, [rows, columns], [columns, 1], [size, size])
    row, column = tl.program_id(0) * size, tl.program_id(1) * size
    target.store([row, column], source.load([row, column]) * 2)


@triton.jit
def random_words(y, seed, block: tl.constexpr):
    place = tl.arange(0, block)
    tl.store(y + place, tl.randint(seed, place))


@triton.jit
def added(index, value, y, old, n: tl.constexpr, operation: tl.constexpr):
    place = tl.arange(0, n)
    target, operand = y + tl.load(index + place), tl.load(value + place)
    if operation == "add":
        tl.atomic_add(target, operand)
    elif operation == "max":
        tl.atomic_max(target, operand)
    elif operation == "min":
        tl.atomic_min(target, operand)
    elif operation == "and":
        tl.atomic_and(target, operand)
    elif operation == "or":
        tl.atomic_or(target, operand)
    elif operation == "xor":
        tl.atomic_xor(target, operand)
    elif operation == "xchg":
        tl.store(old + place, tl.atomic_xchg(y + place, operand))
    else:
        tl.store(old + place, tl.atomic_cas(y + place, tl.where(place % 2 == 0, 0, 1).to(operand.dtype), operand))


def blocks(rng: np.random.Generator) -> Iterator[TritonCase]:
    """Softmax, norms, rope, reductions, scans, sorting, moves."""
    x, weight = rng.standard_normal((3, 200)).astype(np.float16).astype(float), rng.integers(1, 9, 200) / 4
    for kind in ("f32", "f16", "bf16"):
        values = x if kind != "bf16" else np.round(x * 16) / 16
        given = ((kind, values),)
        exponents = np.exp(values - values.max(1, keepdims=True))
        wanted = exponents / exponents.sum(1, keepdims=True)
        loose = {"f32": 2e-5, "f16": 2e-3, "bf16": 1e-2}[kind]
        yield TritonCase(f"softmax {kind}", soft_maximum, given, ((kind, wanted),), (200,), {"block": 256}, 3, tolerance=loose)
        for name, centred in (("rms norm", False), ("layer norm", True)):
            row = values - values.mean(1, keepdims=True) if centred else values
            wanted = row / np.sqrt((row**2).mean(1, keepdims=True) + 1e-5) * weight
            constants = {"centred": centred, "block": 256}
            both = (*given, (kind, weight))
            yield TritonCase(f"{name} {kind}", normalised, both, ((kind, wanted),), (200,), constants, 3, tolerance=loose)
    angle = rng.integers(-8, 8, (5, 16)) / 8
    cosine, sine = 1 - angle**2 / 4, angle / 2
    full = rng.integers(-16, 16, (5, 32)) / 8
    first, second = full[:, :16], full[:, 16:]
    wanted = np.concatenate([first * cosine - second * sine, second * cosine + first * sine], 1)
    for kind in ("f32", "bf16"):
        given = ((kind, full), (kind, cosine), (kind, sine))
        yield TritonCase(
            f"rope {kind}", rotated, given, ((kind, wanted),), (), {"width": 32}, 5, tolerance=3e-2 if kind == "bf16" else None
        )
    yield from _reductions(rng)
    yield from _moves(rng)


def _reductions(rng: np.random.Generator) -> Iterator[TritonCase]:
    value = rng.permutation(16 * 64).reshape(16, 64) / 16 - 20
    for axis in (0, 1):
        for warps in (1, 4):
            outputs = (
                ("f32", value.sum(axis)), ("f32", value.max(axis)), ("f32", value.max(axis)), ("i32", value.argmax(axis)),
                ("f32", value.min(axis)),
            )  # fmt: skip
            constants = {"rows": 16, "columns": 64, "axis": axis}
            yield TritonCase(
                f"reductions axis {axis} warps {warps}", reduced, (("f32", value),), outputs, (), constants, warps=warps
            )
        for reverse in (False, True):
            turned = np.flip(value, axis) if reverse else value
            found = [turned.cumsum(axis), np.maximum.accumulate(turned, axis)]
            outputs = tuple(("f32", np.flip(each, axis) if reverse else each) for each in found)
            constants = {"rows": 16, "columns": 64, "axis": axis, "reverse": reverse}
            yield TritonCase(f"scans axis {axis}{' reversed' * reverse}", scanned, (("f32", value),), outputs, (), constants)


def _moves(rng: np.random.Generator) -> Iterator[TritonCase]:
    for kind in ("f32", "i32", "f16"):
        value = rng.permutation(4 * 64).reshape(4, 64) - 100
        for descending in (False, True):
            order = np.sort(value, 1)
            wanted = (kind, order[:, ::-1] if descending else order), (kind, order[:, ::-1][:, :8])
            constants = {"rows": 4, "columns": 64, "descending": descending}
            yield TritonCase(f"sort {kind}{' descending' * descending}", ordered, ((kind, value),), wanted, (), constants)
    for kind in ("f32", "bf16", "i8", "i64"):
        value = rng.integers(-100, 100, (16, 64))
        index = rng.integers(0, 64, (16, 64))
        swapped = value.reshape(16, 32, 2)[:, :, ::-1].reshape(16, 64)
        outputs = tuple((kind, each) for each in (value.T, value[:, ::-1], np.take_along_axis(value, index, 1), swapped))
        constants = {"rows": 16, "columns": 64}
        yield TritonCase(f"moves {kind}", rearranged, ((kind, value), ("i32", index)), outputs, (), constants)
    numbers = rng.integers(0, 32, 256)
    yield TritonCase(
        "histogram", counted, (("i32", numbers),), (("i32", np.bincount(numbers, minlength=32)),), (), {"n": 256, "bins": 32}
    )
    rows, index = rng.integers(-9, 9, (20, 32)), rng.integers(0, 20, 13)
    wanted = np.array([rows[index[program::3]].sum(0) for program in range(3)])
    yield TritonCase(
        "rows by 64-bit index", by_pointer, (("f32", rows), ("i64", index)), (("f32", wanted),), (13,), {"width": 32}, 3
    )
    matrix = rng.integers(-50, 50, (20, 40))
    for kind in ("f32", "f16"):
        yield TritonCase(
            f"descriptor {kind}", described, ((kind, matrix),), ((kind, matrix * 2),), (20, 40), {"size": 16}, (2, 3)
        )
    yield TritonCase("random words", random_words, (), (("u32", philox(7, 64)),), (7,), {"block": 64})


def philox(seed: int, count: int) -> Any:
    """First words of Philox-4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3")."""
    words = []
    for offset in range(count):
        c, k0, k1 = [offset, 0, 0, 0], seed, 0
        for _ in range(10):
            low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [(high >> 32) ^ c[1] ^ k0, high & 0xFFFFFFFF, (low >> 32) ^ c[3] ^ k1, low & 0xFFFFFFFF]
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        words.append(c[0])
    return np.array(words, np.uint32)


ATOMIC = {"max": np.maximum, "min": np.minimum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def atomics(rng: np.random.Generator) -> Iterator[TritonCase]:
    """Every operation that Triton has, on memory that is zero before."""
    index = rng.integers(0, 16, 128)
    unused = ("i32", np.zeros(1, int))
    for kind in ("i32", "i64", "f32", "f64", "f16", "bf16"):
        value = rng.integers(-8, 8, 128)
        wanted = np.zeros(16, int)
        np.add.at(wanted, index, value)
        given = (("i32", index), (kind, value))
        yield TritonCase(f"atomic add {kind}", added, given, ((kind, wanted), unused), (), {"n": 128, "operation": "add"})
    for kind in ("i32", "u32", "i64", "f32"):
        for name, reference in ATOMIC.items():
            if kind == "f32" and name not in ("max", "min"):
                continue
            # Of one sign: within a wave Triton 3.7.1 reduces signed numbers as if they had none (global form).
            value = rng.integers(0, 1000, 128) - (1001 if name == "min" and kind[0] != "u" else 0)
            wanted = np.zeros(16, int)
            reference.at(wanted, index, value)
            given = (("i32", index), (kind, value))
            yield TritonCase(f"atomic {name} {kind}", added, given, ((kind, wanted), unused), (), {"n": 128, "operation": name})
    for kind in ("i32", "i64", "f32"):
        value = rng.integers(1, 1000, 128)
        given = (("i32", index), (kind, value))
        outputs = ((kind, value), (kind, np.zeros(128, int)))
        yield TritonCase(f"atomic xchg {kind}", added, given, outputs, (), {"n": 128, "operation": "xchg"}, only_global=True)
    for kind in ("i32", "i64"):
        # As many elements as work-items: Triton 3.7.1 exchanges twice what two of them stand for (global form).
        value = rng.integers(1, 1000, 256)
        given = (("i32", np.zeros(256, int)), (kind, value))
        outputs = ((kind, np.where(np.arange(256) % 2 == 0, value, 0)), (kind, np.zeros(256, int)))
        yield TritonCase(f"atomic cas {kind}", added, given, outputs, (), {"n": 256, "operation": "cas"})
