"""A Triton kernel for the interpreter; imported in a child process only."""

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
