"""The metadata that a kernel is launched with, where it is known: the plan as it was made, or what was made of it since.

Backends refresh plans in place, copy them into buffers of a graph, or fill them by hand. Knows no caller.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backend.aiter.arguments import Int32Array
from backend.aiter.planners.memory import WORK_ITEM_WORDS
from backend.aiter.planners.result import Plan, PlannedBuffer, PlannerName


def launched_plan(planned: Plan | None, words: Mapping[str, Int32Array], heads_in_kernel: int) -> Plan:
    """The plan in the buffers. planned: as planning left it, None where no planning is known of.

    words: content of each buffer when the kernel is launched. heads_in_kernel: of a row, where no plan says it.
    """
    if planned is not None and (planned.rejected or planned.overruns or _holds(planned, words)):
        return planned
    indptr, items = words["work_indptr"], words["work_info_set"]
    used = min(max(int(indptr[-1]), 0) * WORK_ITEM_WORDS, len(items) // WORK_ITEM_WORDS * WORK_ITEM_WORDS)
    buffers = {}
    for name, content in words.items():
        kept = content[:used] if name == "work_info_set" else content
        buffers[name] = PlannedBuffer(name, len(content), 0, kept, np.ones(len(kept), np.uint8))
    rows = int(items[:used].reshape(-1, WORK_ITEM_WORDS)[:, 3].max(initial=0))
    return Plan(
        planner=PlannerName.V1_2 if planned is None else planned.planner,
        rejected=None,
        buffers=buffers,
        fold=1 if planned is None else planned.fold,
        head_width=heads_in_kernel if planned is None else planned.head_width,
        rows=rows if planned is None else planned.rows,
        rows_per_sequence=1 if planned is None else planned.rows_per_sequence,
        compute_units=len(indptr) - 1,
        edited=True,
    )


def _holds(planned: Plan, words: Mapping[str, Int32Array]) -> bool:
    """Whether all that planning wrote is still there."""
    for name, buffer in planned.buffers.items():
        content = words.get(name)
        if content is None or len(content) < min(buffer.last + 1, buffer.allocated):
            return False
        low = max(buffer.first, 0)
        image = buffer.image[low - buffer.first :]
        marks = buffer.marks[low - buffer.first :] != 0
        if not np.array_equal(image[marks], content[low : low + len(image)][marks]):
            return False
    return True
