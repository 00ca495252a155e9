"""What a planner leaves behind: the five buffers as they are afterwards, what was written outside of them, what was read
that is nobody's. Knows neither the planners nor how their memory is kept.

Backends refresh plans in place, copy them into buffers of a graph, or fill them by hand: `launched_plan` is what a kernel is
launched with, the plan as it was made or what was made of it since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from backend.aiter.arguments import Int32Array
from backend.aiter.planners.memory import WORK_ITEM_WORDS
from backend.cxx.arithmetic import POISON


class PlannerName(StrEnum):
    """The three planners behind get_mla_metadata_v1, as AITER's files are called (csrc/kernels/mla/metadata)."""

    V1_0 = "v1_0"  # intra_batch_mode: "fake non-persistent", every sequence in the same number of pieces
    V1_1 = "v1_1"  # neither flag: greedy, the least-loaded compute unit takes the next piece
    V1_2 = "v1_2"  # fast_mode: sequences laid end to end and cut into equal shares


EDITED = "metadata, not as planned"
"""Stage of a finding in metadata that somebody wrote over after it was planned."""


@dataclass(frozen=True, slots=True, eq=False)
class Overrun:
    """One run of words written outside of a buffer.

    first_word, last_word: int32 words from the buffer's start, both inclusive; negative before the start, >= the
    allocated size past the end. values: what was written there, one word each.
    """

    buffer: str
    first_word: int
    last_word: int
    values: Int32Array

    @property
    def words(self) -> int:
        """How many int32 words the run has."""
        return self.last_word - self.first_word + 1


@dataclass(frozen=True, slots=True)
class StrayRead:
    """A read of `array[index]` that is not the array's: past its end, before its start, or never written (local memory).

    The model goes on with POISON; what hardware reads there is whatever lies there.
    """

    array: str
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class PlannedBuffer:
    """One buffer after planning, kept as the stretch of memory that was touched.

    allocated: size in int32 words. first: word, counted from the buffer's start, of image[0]; negative where the planner wrote
    before the start. image: the words from the lowest to the highest one written. marks: 1 where image was written.
    """

    name: str
    allocated: int
    first: int
    image: Int32Array
    marks: npt.NDArray[np.uint8]

    @property
    def last(self) -> int:
        """Highest word written (inclusive); below `first` where nothing was."""
        return self.first + self.image.size - 1

    @property
    def words(self) -> Int32Array:
        """All `allocated` words; POISON where nothing was written. A new array for each call, as large as the buffer."""
        words = np.full(self.allocated, POISON, np.int32)
        low, high = max(self.first, 0), min(self.last + 1, self.allocated)
        words[low:high] = self.image[low - self.first : max(high - self.first, low - self.first)]
        return words

    @property
    def written(self) -> npt.NDArray[np.uint8]:
        """For each of the `allocated` words, 1 if it was written. A new array for each call."""
        written = np.zeros(self.allocated, np.uint8)
        low, high = max(self.first, 0), min(self.last + 1, self.allocated)
        written[low:high] = self.marks[low - self.first : max(high - self.first, low - self.first)]
        return written

    @property
    def overrun(self) -> tuple[Overrun, ...]:
        """The runs written before the start and past the end, in the order of their words."""
        if self.first >= 0 and self.last < self.allocated:
            return ()
        return tuple(
            Overrun(self.name, self.first + begin, self.first + end - 1, self.image[begin:end])
            for begin, end in self._runs()
            if self.first + begin < 0 or self.first + begin >= self.allocated
        )

    def reading(self, first_word: int, last_word: int) -> Int32Array:
        """The words first_word..last_word (inclusive) as a kernel would read them, overrun included; POISON elsewhere."""
        words = np.full(max(last_word - first_word + 1, 0), POISON, np.int32)
        low, high = max(first_word, self.first), min(last_word, self.last)
        if low <= high:
            words[low - first_word : high - first_word + 1] = self.image[low - self.first : high - self.first + 1]
        return words

    def _runs(self) -> list[tuple[int, int]]:
        """Runs of written words in image, [begin, end), cut at word 0 and at the buffer's end."""
        cuts = {0, self.image.size, -self.first, self.allocated - self.first}
        edges = np.flatnonzero(np.diff(self.marks)) + 1
        bounds = sorted({int(edge) for edge in edges} | {cut for cut in cuts if 0 <= cut <= self.image.size})
        return [(begin, end) for begin, end in pairwise(bounds) if self.marks[begin]]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The outcome of one get_mla_metadata_v1.

    rejected: why AITER raises before it launches the planner, None where it runs; all else is empty when it is rejected.
    ends_process: it does not raise then but ends the process, which no caller can catch.
    buffers: by name, as `PlannedBuffer`; work_metadata holds two addresses only and is left out.
    reads_past_end: reads of what is not theirs, in the kernel's order, repetitions in a row folded into one.
    fold: head groups that a query row was planned as (1: not folded). head_width: heads that a planned row stands for.
    query_fold: of these groups, those planned as further query rows of one planned row (1: each group has a row of its own).
    rows: planned rows. rows_per_sequence: rows that share one sequence's KV (fold, or query positions in v1_0 with 128 heads);
    row v reads the KV of sequence v // rows_per_sequence. compute_units: parts that work is dealt to (work_indptr entries - 1).
    branches: union of `Branch` bits taken; of a text that was evaluated, bits above them, one for each of its branches.
    edited: the buffers hold something else than planning left in them (launched.py).
    """

    planner: PlannerName
    rejected: str | None
    buffers: Mapping[str, PlannedBuffer]
    reads_past_end: tuple[StrayRead, ...] = ()
    fold: int = 0
    head_width: int = 0
    rows: int = 0
    rows_per_sequence: int = 0
    compute_units: int = 0
    branches: int = 0
    edited: bool = False
    ends_process: bool = False
    query_fold: int = 1

    @property
    def stage(self) -> str:
        """Who made it, for findings."""
        return EDITED if self.edited else f"planner {self.planner}"

    @property
    def overruns(self) -> tuple[Overrun, ...]:
        """Everything written outside of a buffer, buffer by buffer."""
        return tuple(overrun for buffer in self.buffers.values() for overrun in buffer.overrun)

    @property
    def work_items(self) -> Int32Array:
        """Work items recorded from the start of work_info_set on, those past its end included: [items, 8].

        Columns: batch, partial row (-1: write o), q_begin, q_end, kv_begin, kv_end (exclusive), kv_offset, pad.
        """
        buffer = self.buffers["work_info_set"]
        if buffer.first > 0:
            return buffer.reading(0, buffer.last).reshape(-1, WORK_ITEM_WORDS)
        return buffer.image[-buffer.first :].reshape(-1, WORK_ITEM_WORDS)


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
