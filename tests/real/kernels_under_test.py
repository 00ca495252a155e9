"""Triton kernels for the interpreter; imported in a child process only."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def copy_words(source, target, asked, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    offset = tl.arange(0, BLOCK)
    for start in range(0, asked, BLOCK):
        inside = start + offset < asked
        words = tl.load(source + start + offset, mask=inside, other=0)
        tl.store(target + start + offset, words, mask=inside)


@triton.jit
def copy_a_row(source, target, asked, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """The interpreter has this mask in integers."""
    offset = tl.arange(0, BLOCK)
    for start in range(0, asked, BLOCK):
        inside = (tl.program_id(0) < 1) & (start + offset < asked)
        words = tl.load(source + start + offset, mask=inside, other=0)
        tl.store(target + start + offset, words, mask=inside)


SCALE = 3


@triton.jit
def scaled_by_a_global(source, target, asked, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    inside = tl.arange(0, BLOCK) < asked
    words = tl.load(source + tl.arange(0, BLOCK), mask=inside)
    tl.store(target + tl.arange(0, BLOCK), words * SCALE, mask=inside)


@triton.jit
def counted(source, target, asked, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    inside = tl.arange(0, BLOCK) < asked
    tl.atomic_add(target + tl.arange(0, BLOCK), tl.load(source + tl.arange(0, BLOCK), mask=inside), mask=inside)


@triton.jit
def of_its_address(source, target, asked, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    inside = tl.arange(0, BLOCK) < asked
    tl.store(target + tl.arange(0, BLOCK), source.to(tl.int64).to(tl.int32), mask=inside)


@triton.jit
def into_the_other(source, target, distance, write: tl.constexpr):  # type: ignore[no-untyped-def]
    """Eight words of `target`, by a pointer into `source`, after all that is made of one: splat, broadcast, bitcast, select."""
    words = tl.arange(0, 4)
    block = (source + distance)[None, None] + words[None, :] + tl.arange(0, 2)[:, None] * 4
    same = tl.where(words[None, :] >= 0, block.to(tl.pointer_type(tl.int32)), block)
    if write:
        tl.store(same, 7)
    else:
        tl.store(tl.reshape(target + words[None, :] + tl.arange(0, 2)[:, None] * 4, (2, 4)), tl.load(same))


@triton.jit
def counted_in_the_other(source, target, distance, write: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.atomic_add(source + distance + tl.arange(0, 8), 7)


@triton.jit
def swapped_in_the_other(source, target, distance, write: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.atomic_cas(source + distance + tl.arange(0, 8), tl.full((8,), -1, tl.int32), tl.full((8,), 7, tl.int32))


@triton.jit
def block_in_the_other(source, target, distance, write: tl.constexpr):  # type: ignore[no-untyped-def]
    block = tl.make_block_ptr(source + distance, (8,), (1,), (0,), (8,), (0,))
    tl.store(block, tl.full((8,), 7, tl.int32), boundary_check=(0,))


@triton.jit
def masked_in_the_other(source, target, distance, write: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.store(source + distance + tl.arange(0, 8), 7, mask=tl.arange(0, 8) < 0)


@triton.jit
def one_of_both(source, target, distance, write: tl.constexpr):  # type: ignore[no-untyped-def]
    words = tl.arange(0, 8)
    tl.store(tl.where(words < 4, source + words, target + words), 7)


@triton.jit
def by_table(source, target, distance, write: tl.constexpr):  # type: ignore[no-untyped-def]
    """The address of the words is read from memory: `source` holds it as two words."""
    address = tl.load(source.to(tl.pointer_type(tl.int64)))
    tl.store(address.to(tl.pointer_type(tl.int32)) + tl.arange(0, 8), 7)
