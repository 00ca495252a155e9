"""Tokens that a kernel has not read whole, against the definition taken token by token."""

from __future__ import annotations

import random

import numpy as np
import pytest

from backend.devices.outputs import _unread


def by_definition(
    indices: list[int],
    indptr: list[int],
    kv_lens: list[int],
    page_size: int,
    page_bytes: int,
    token_bytes: int,
    pages: int,
    read: set[int],
) -> tuple[int, int, int, int]:
    """The same answer, byte by byte."""
    missing = []
    for request, kv_len in enumerate(kv_lens):
        for token in range(kv_len):
            entry = indptr[request] + token // page_size
            if not 0 <= entry < min(indptr[request + 1], len(indices)):
                break
            begin = indices[entry] * page_bytes + token % page_size * token_bytes
            if 0 <= indices[entry] < pages and not read.issuperset(range(begin, begin + token_bytes)):
                missing.append((request, token, begin))
    return (len(missing), *(missing[0] if missing else (-1, -1, -1)))


@pytest.mark.parametrize("seed", range(300))
def test_unread_tokens(seed: int) -> None:
    draw = random.Random(seed)
    page_size, token_bytes, pages = draw.choice((1, 2, 4, 16)), draw.choice((1, 3, 5)), draw.randint(1, 12)
    kv_lens = [draw.randint(0, 20) for _ in range(draw.randint(1, 3))]
    indptr = [0]
    for kv_len in kv_lens:
        indptr.append(max(indptr[-1] + -(-kv_len // page_size) + draw.choice((0, 0, 0, -1, 1)), 0))
    indices = [draw.randint(-1, pages) for _ in range(max(indptr[-1] + draw.choice((0, 0, -1)), 0))]
    page_bytes = page_size * token_bytes + draw.choice((0, 0, 7))
    size = pages * page_bytes
    edges = sorted(draw.sample(range(size + 1), 2 * min(draw.randint(0, 6), (size + 1) // 2)))
    begin, end = edges[::2], edges[1::2]
    read = {byte for first, last in zip(begin, end, strict=True) for byte in range(first, last)}
    arrays = (np.array(indices, np.int32), np.array(indptr, np.int32), np.array(kv_lens, np.int64))
    layout = page_size, page_bytes, token_bytes, pages
    found = _unread(*arrays, *layout, np.array(begin, np.int64), np.array(end, np.int64))
    assert tuple(found) == by_definition(indices, indptr, kv_lens, *layout, read)
