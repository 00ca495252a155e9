"""What a worker says of one chunk: what became of each case, where it belongs on the map, what it reached.

The types that worker, store and engine share; none of them is named here. A report travels as JSON (`to_message`) from the
process that ran the chunk, and as itself from there on.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backend.case import Case
from backend.codec import from_plain, to_plain
from backend.fate import Fate
from backend.findings import Finding

Codes = npt.NDArray[np.uint16]
"""One entry a case: index of its label."""


@dataclass(frozen=True, slots=True)
class Label:
    """A fate with what tells it apart: the signature of a faulty or died case, the reason of a refused or unmodelled one."""

    fate: Fate
    text: str = ""


CLEAN = Label(Fate.CLEAN)


@dataclass(frozen=True, slots=True)
class Shown:
    """The first case of a chunk that showed a signature. finding: the cause, or a death that did not come again, which no
    label of the chunk names."""

    signature: str
    position: int
    case: Case
    finding: Finding


@dataclass(frozen=True, slots=True)
class Parent:
    """A case to breed from. kernel: that it reached, with the release; family: what kind of fault it shows, "" for none;
    cost: see fuzz.campaign.features.cost."""

    case: Case
    kernel: str
    family: str
    cost: float


NO_PARENT = 65_535
"""In place of a position; chunks have at most as many cases."""


@dataclass(frozen=True, slots=True, eq=False)
class Reached:
    """Coverage of a chunk by feature: parallel arrays, in the order in which features were met.

    ids: int64; counts: uint32, cases of the chunk that have it; positions: uint16, the case that the chunk offers as the
    feature's parent, NO_PARENT for none. Features that the chunk's generation already held as common are left out where no
    better parent is offered.
    """

    ids: npt.NDArray[np.int64]
    counts: npt.NDArray[np.uint32]
    positions: npt.NDArray[np.uint16]


class CallShape(NamedTuple):
    """What a kernel is chosen by, beside the heads: release of AITER, GPU, what q and the KV cache hold, rows a request."""

    release: str
    arch: str
    q_dtype: str
    kv_dtype: str
    rows: int

    @classmethod
    def of(cls, case: Case) -> CallShape:
        """That of a case."""
        return cls(case.release, case.arch.value, case.q_dtype.value, case.kv_dtype.value, case.max_seqlen_q)

    @classmethod
    def read(cls, text: str) -> CallShape:
        """Reads what `text` gave; raises ValueError for anything else."""
        release, arch, q_dtype, kv_dtype, rows = text.split(" ")
        return cls(release, arch, q_dtype, kv_dtype, int(rows))

    @property
    def text(self) -> str:
        """The five, a space between them."""
        return " ".join(map(str, self))


AITER, BACKEND = "AITER", "backend"
"""Who refuses a case: the launcher or what it calls, or the serving backend's rule before any call."""


def refused_as(case: Case, who: str, reason: str) -> str:
    """What a refusal is counted as: the shape, who refuses, and why."""
    return f"{CallShape.of(case).text} {who} {reason}"


def read_refused_as(text: str) -> tuple[CallShape, str, str]:
    """(shape, who refuses, reason) of what `refused_as` gave; raises ValueError for anything else."""
    *shape, who, reason = text.split(" ", len(CallShape._fields) + 1)
    return CallShape.read(" ".join(shape)), who, reason


CellKey = tuple[int, int, int]
"""num_head, and the lower ends of the buckets of batch and longest kv length."""


@dataclass(slots=True)
class CellCounts:
    """Figures of one field of the map, to be added up.

    ran: cases that reached a kernel and were not refused behind it; ran_as: how many of them as each CallShape. refused: by
    reason; refused_as: the same by `refused_as`, with the shape and who refuses. signatures: with counts. facts: those that ran
    by fact (fuzz.asked). stopped_as: faulty cases that reached no kernel, as each CallShape: a planner left its buffers, and
    the launcher refused.
    """

    cases: int = 0
    ran: int = 0
    faulty: int = 0
    kernels: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    signatures: Counter[str] = field(default_factory=Counter)
    ran_as: Counter[str] = field(default_factory=Counter)
    refused_as: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    stopped_as: Counter[str] = field(default_factory=Counter)

    def add(self, other: CellCounts) -> None:
        """Adds the figures of another field of the same key."""
        self.cases += other.cases
        self.ran += other.ran
        self.faulty += other.faulty
        self.kernels.update(other.kernels)
        self.refused.update(other.refused)
        self.signatures.update(other.signatures)
        self.ran_as.update(other.ran_as)
        self.refused_as.update(other.refused_as)
        self.facts.update(other.facts)
        self.stopped_as.update(other.stopped_as)

    def to_row(self) -> list[Any]:
        """Gives the fields as JSON values, in their order."""
        counters = (
            *(self.kernels, self.refused, self.signatures),
            *(self.ran_as, self.refused_as, self.facts, self.stopped_as),
        )
        return [self.cases, self.ran, self.faulty, *(dict(counter) for counter in counters)]

    @classmethod
    def from_row(cls, row: list[Any]) -> CellCounts:
        """The figures of a row that `to_row` made; raises ValueError or TypeError for any other."""
        cases, ran, faulty, *counters = row
        kernels, refused, signatures, ran_as, refused_as, facts, stopped_as = (Counter(dict(counter)) for counter in counters)
        return cls(cases, ran, faulty, kernels, refused, signatures, ran_as, refused_as, facts, stopped_as)


def bucket(value: int) -> int:
    """Lower end of the bucket of a batch or a length: 0, 1, 2, 4, 8, ...; a bucket reaches up to the next lower end."""
    return 1 << (value.bit_length() - 1) if value else 0


def bucket_end(low: int) -> int:
    """Inclusive upper end of a bucket."""
    return 2 * low - 1 if low else 0


def cell_of(case: Case) -> CellKey:
    """The field of the map that a case belongs to."""
    return case.num_head, bucket(len(case.kv_lens)), bucket(max(case.kv_lens))


@dataclass(frozen=True, slots=True, eq=False)
class ChunkReport:
    """One chunk, whole: a chunk is recorded with all of its cases or not at all.

    labels: those that occur; codes: one entry a case, an index into labels. shown: by signature. cells: the map. kept: parents
    that are offered, by position. refused: the first case of each shape that is refused, by position. seconds: of work.
    """

    chunk: int
    seconds: float
    labels: tuple[Label, ...]
    codes: Codes
    shown: tuple[Shown, ...]
    cells: Mapping[CellKey, CellCounts]
    reached: Reached
    kept: Mapping[int, Parent]
    refused: Mapping[int, Case] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """Cases of the chunk."""
        return len(self.codes)

    def fates(self) -> Counter[Fate]:
        """How many cases came to what."""
        counted = np.bincount(self.codes, minlength=len(self.labels))
        fates: Counter[Fate] = Counter()
        for label, count in zip(self.labels, counted.tolist(), strict=True):
            fates[label.fate] += count
        return fates

    def to_message(self) -> dict[str, Any]:
        """Gives the report as JSON values."""
        return {
            "chunk": self.chunk,
            "seconds": self.seconds,
            "labels": [[label.fate.value, label.text] for label in self.labels],
            "codes": _text(self.codes),
            "shown": to_plain(self.shown),
            "cells": [[*key, *counts.to_row()] for key, counts in self.cells.items()],
            "reached": [_text(self.reached.ids), _text(self.reached.counts), _text(self.reached.positions)],
            "kept": {str(position): to_plain(parent) for position, parent in self.kept.items()},
            "refused": {str(position): to_plain(case) for position, case in self.refused.items()},
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> ChunkReport:
        """Reads what `to_message` gave."""
        ids, counts, positions = message["reached"]
        return cls(
            chunk=message["chunk"],
            seconds=message["seconds"],
            labels=tuple(Label(Fate(fate), text) for fate, text in message["labels"]),
            codes=np.frombuffer(b64decode(message["codes"]), np.uint16),
            shown=tuple(from_plain(Shown, each) for each in message["shown"]),
            cells={(row[0], row[1], row[2]): CellCounts.from_row(row[3:]) for row in message["cells"]},
            reached=Reached(
                np.frombuffer(b64decode(ids), np.int64),
                np.frombuffer(b64decode(counts), np.uint32),
                np.frombuffer(b64decode(positions), np.uint16),
            ),
            kept={int(position): from_plain(Parent, plain) for position, plain in message["kept"].items()},
            refused={int(position): from_plain(Case, case) for position, case in message["refused"].items()},
        )


def _text(array: npt.NDArray[Any]) -> str:
    return b64encode(array.tobytes()).decode()
