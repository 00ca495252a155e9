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
