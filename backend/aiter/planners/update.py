"""decode_update_mla_metadata_v1: a plan brought up to the next step of the same requests, one token each, in place.

As the Triton kernel of the name does it, written anew (ROCm/aiter e4048607a5, aiter/ops/attention.py): each work item on its
own, the end of a request's KV moved to where it is now, a tile of several q rows made one of one row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backend.aiter.arguments import Int32Array
from backend.case import Arch, DType

GROUP = 16
"""Heads of a row where a plan folds them."""


def heads_apart(num_head: int, arch: Arch, dtypes: tuple[DType, DType], max_seqlen_q: int) -> int:
    """Work items of a request's row, each of some of its heads, as the update takes it. dtypes: of q and of KV."""
    both_fp8 = dtypes == (DType.FP8, DType.FP8)
    native = num_head == GROUP or (both_fp8 and num_head == 128)
    native |= both_fp8 and num_head == 32 and arch is Arch.GFX950 and max_seqlen_q == 4
    return 1 if native or num_head % GROUP else num_head // GROUP


def updated(
    words: Mapping[str, Int32Array], kv_indptr: Int32Array, apart: int, rejected: Int32Array | None
) -> dict[str, Int32Array]:
    """What the buffers of a plan hold after it: those that change, by role.

    words: what they hold before. kv_indptr: KV tokens of the requests now. rejected: rows of each that were planned for and are
    none of its tokens any more; None for none.
    """
    items = words["work_info_set"].reshape(-1, 8).copy()
    final, partials = words["reduce_final_map"].reshape(-1, 2).copy(), words["reduce_partial_map"].copy()
    tiles = words["reduce_indptr"]
    for item in items[: int(words["work_indptr"][-1])]:
        tile, partial, first, end, begin, stop, offset, _ = (int(word) for word in item)
        request = tile // apart
        grown = 1 - (0 if rejected is None else int(rejected[request]))
        held, reach = stop - begin, int(kv_indptr[request + 1])
        if offset == 0:
            if held > 0:
                stop = reach
                begin = reach - held - grown if held + grown > 0 else reach - 1
        else:
            offset += grown
            if offset <= 0:
                held, offset = max(held + offset - 1, 1), 1
            stop = reach - offset
            begin = stop - held
        rows, old = end - first, partial
        if rows > 1:
            first, end = tile, tile + 1
            partial = partial // rows if partial >= 0 else partial
        item[:] = tile, partial, first, end, begin, stop, offset, 0
        if rows > 1 and old >= 0:
            if offset == 0:
                final[tile] = first, end
            of_tile = partials[tiles[tile] : tiles[tile + 1]]
            of_tile[np.flatnonzero(of_tile == old)[:1]] = partial
    return {"work_info_set": items.reshape(-1), "reduce_final_map": final.reshape(-1), "reduce_partial_map": partials}
