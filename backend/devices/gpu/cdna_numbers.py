"""Numbers of the device `cdna`: what q and the KV pool hold, and the output of both stages against float64 attention.

What requests hold is as on the devices `cuda` and `rocm` for the same seed (backend/devices/gpu/values.py). The rest of the
pool is zeros: what a kernel fetches for tokens that it then hides is a number on a GPU too, and zeros that nobody touches cost
no memory. Imported only where numbers are asked for: it needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backend.call import Call
from backend.case import DType
from backend.cdna.memory import AddressSpace
from backend.codec import from_plain
from backend.devices.cdna.merged_output import folded, outputs, partial_rows
from backend.devices.gpu.numbers import BF16_P, FP8_P, NumbersTally
from backend.devices.gpu.values import KV_STREAM, QUERY_STREAM, RAW_TYPE, as_float64, fill, is_fnuz
from backend.errors import CannotRunError
from backend.observation import Numbers
from backend.words import counted, number_of


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Raw elements as the caller has them. q: [queries, heads of the model, n]; pool: [tokens of the pool, n], n elements."""

    q: torch.Tensor
    pool: torch.Tensor

    def of_launch(self, call: Call) -> Mapping[str, npt.NDArray[Any]]:
        """The same as stage 1 sees them, by tensor name."""
        return {"q": folded(call, self.q.numpy()), "kv_buffer": self.pool.numpy()}


def draw(call: Call, seed: int) -> Inputs:
    """The values of a seed. Raises CannotRunError for a pool that this machine has no addresses for."""
    decode, fnuz = call.decode, is_fnuz(call.launched.arch)
    q = torch.empty((decode.q_rows, decode.num_head, decode.qk_head_dim), dtype=RAW_TYPE[decode.q_dtype])
    fill(q, decode.q_dtype, fnuz, seed, QUERY_STREAM)
    try:
        zeros = np.zeros((decode.kv_pages * decode.page_size, decode.qk_head_dim), f"i{decode.kv_dtype.itemsize}")
    except MemoryError as error:
        raise CannotRunError(
            f"numbers in a KV pool of {counted(decode.kv_pages, 'page')}: {error}; run without numbers"
        ) from error
    pool = torch.from_numpy(zeros).view(RAW_TYPE[decode.kv_dtype])
    held = np.unique(decode.kv_indices[(decode.kv_indices >= 0) & (decode.kv_indices < decode.kv_pages)]).astype(np.int64)
    for run in np.split(held, np.flatnonzero(np.diff(held) > 1) + 1) if len(held) else ():
        first, end = int(run[0]) * decode.page_size, (int(run[-1]) + 1) * decode.page_size
        fill(pool[first:end], decode.kv_dtype, fnuz, seed, KV_STREAM, first=first * decode.qk_head_dim)
    return Inputs(q, pool)


def judge(call: Call, space: AddressSpace, inputs: Inputs) -> Numbers:
    """The output against attention on the very bytes that the kernel reads, in the order that the case says, not the plan.

    space: after stage 1. A request whose page table leads out of the pool has no reference and is left out.
    """
    decode, decision, fnuz = call.decode, call.decision, is_fnuz(call.launched.arch)
    left = outputs(call, space)
    found, visible = NumbersTally(FP8_P if decode.q_dtype is DType.FP8 else BF16_P), decision.visible()
    query = entry = 0
    for number, (length, rows) in enumerate(zip(decision.kv_lens, decision.query_lens, strict=True)):
        position = np.arange(length)
        entry = number * decision.topk if decision.topk else entry
        entries = entry + position // decode.page_size
        here, query, entry = slice(query, query + rows), query + rows, entry + -(-length // decode.page_size)
        if entry > len(decode.kv_indices):
            continue
        slots = decode.kv_indices[entries].astype(np.int64) * decode.page_size + position % decode.page_size
        if not ((slots >= 0) & (slots < len(inputs.pool))).all():
            continue
        found.add(
            as_float64(inputs.q[here], decode.q_dtype, fnuz),
            as_float64(inputs.pool[torch.from_numpy(slots)], decode.kv_dtype, fnuz),
            torch.from_numpy(left.values[here]),
            torch.from_numpy(left.unwritten[here]),
            None if left.lse is None else torch.from_numpy(left.lse[here]),
            here.start,
            visible[here],
            decode.sm_scale,
        )
    return from_plain(Numbers, found.result())


def partial_row_notes(call: Call, space: AddressSpace) -> tuple[str, ...]:
    """Work items that leave a NaN or an infinity in a partial row, in a line, or none: what the reduction then spreads."""
    if call.plan is None or not call.launched.persistent:
        return ()
    logits, written = partial_rows(call, space)
    bad = written & ~np.isfinite(logits).all(axis=(1, 2))
    first, count = "", 0
    for number, item in enumerate(call.plan.work_items.tolist()):
        request, place, q_begin, q_end, kv_begin, kv_end = item[:6]
        rows = [q_begin + row for row in range(max(q_end - q_begin, 0)) if 0 <= place + row < len(bad) and bad[place + row]]
        if place < 0 or not rows:
            continue
        count += len(rows)
        first = first or (
            f"first of work item {number}: entries [{kv_begin}, {kv_end}) of kv_indices, request {request}, "
            f"rows {', '.join(map(str, rows))}"
        )
    return (f"stage 1 leaves a NaN or an infinity in {number_of(count, 'partial row')}, {first}",) if count else ()
