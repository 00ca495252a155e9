"""Which shapes reached a kernel and which are refused: heads by types by query rows; each refusal as a sentence. No markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.fate import ENDS_PROCESS
from fuzz.campaign.report import AITER, CallShape, read_refused_as
from fuzz.campaign.summary import CampaignSummary

Key = tuple[int, str, str, str, str]
"""Heads a rank, release of AITER, GPU, what q and the KV cache hold."""


@dataclass(frozen=True, slots=True)
class ServedRow:
    """Cases of one number of heads and one combination of types, by query rows a request; its first fields are those of Key.

    ran: that reached a kernel; refused: that AITER or the backend refused; stopped: faulty, and reached no kernel.
    """

    heads: int
    release: str
    arch: str
    q_dtype: str
    kv_dtype: str
    ran: Mapping[int, int]
    refused: Mapping[int, int]
    stopped: Mapping[int, int]

    def cell(self, rows: int) -> str:
        """`1,234`, `refused`, `1,234 and 5 refused`, `faulty`, or nothing where no case was drawn."""
        ran, refused, stopped = (counts.get(rows, 0) for counts in (self.ran, self.refused, self.stopped))
        parts = [(ran, ""), (refused, "refused"), (stopped, "faulty before any kernel")]
        said = [f"{count:,} {what}".rstrip() for count, what in parts if count]
        return "refused" if refused and len(said) == 1 else " and ".join(said)


@dataclass(frozen=True, slots=True)
class RefusedShapes:
    """Shapes that are refused for one reason. cases: refused; ran: of the same shapes, that were not. who: AITER or backend."""

    heads: int
    release: str
    arch: str
    q_dtype: str
    kv_dtype: str
    rows: tuple[int, ...]
    who: str
    reason: str
    cases: int
    ran: int

    def sentence(self, name: str, aiter: str) -> str:
        """`TP2 with 5 to 8 query rows (gfx950, q fp8, KV fp8, AITER 2026-06): AITER refuses (why); a server raises`.

        name: of the shape. aiter: what stands for the release.
        """
        where = f"{self.arch}, q {self.q_dtype}, KV {self.kv_dtype}, AITER {aiter}"
        some = f" some, {self.ran:,} ran" if self.ran else ""
        after = "; a server raises" if self.who == AITER and ENDS_PROCESS not in self.reason else ""
        who = "AITER refuses" if self.who == AITER else "the backend's rule refuses"
        return f"{name} with {rows_in_words(self.rows)} ({where}): {who}{some} ({self.reason}){after}"


def served(summary: CampaignSummary) -> tuple[ServedRow, ...]:
    """A row for each number of heads and combination of types of which a case was drawn, most heads first."""
    ran: dict[Key, Counter[int]] = {}
    refused: dict[Key, Counter[int]] = {}
    stopped: dict[Key, Counter[int]] = {}
    for cell in summary.cells:
        for name, count in cell.ran_as.items():
            _count(ran, cell.num_head, CallShape.read(name), count)
        for name, count in cell.refused_as.items():
            _count(refused, cell.num_head, read_refused_as(name)[0], count)
        for name, count in cell.stopped_as.items():
            _count(stopped, cell.num_head, CallShape.read(name), count)
    fates = (ran, refused, stopped)
    keys = sorted({key for counts in fates for key in counts}, key=lambda key: (-key[0], key[1:]))
    return tuple(ServedRow(*key, *(dict(counts.get(key, {})) for counts in fates)) for key in keys)


def refusals_by_shape(summary: CampaignSummary) -> tuple[RefusedShapes, ...]:
    """Each reason with the shapes that it is given for, the most frequent first."""
    found: dict[tuple[Key, str, str], Counter[int]] = {}
    for cell in summary.cells:
        for name, count in cell.refused_as.items():
            shape, who, reason = read_refused_as(name)
            key = (cell.num_head, *shape[:4])
            found.setdefault((key, who, reason), Counter())[shape.rows] += count
    ran = {(row.heads, row.release, row.arch, row.q_dtype, row.kv_dtype): row.ran for row in served(summary)}
    made = (
        RefusedShapes(
            *key, tuple(sorted(counts)), who, reason, counts.total(), sum(ran.get(key, {}).get(rows, 0) for rows in counts)
        )
        for (key, who, reason), counts in found.items()
    )
    return tuple(sorted(made, key=lambda each: (-each.cases, each.heads, each.rows)))


def rows_in_words(rows: Sequence[int]) -> str:
    """`1 query row`, `2, 4, 5 and 7 query rows`, `1 and 5 to 8 query rows`, of ascending numbers."""
    parts = list(_runs(rows))
    said = " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)
    return f"{said} query row{'' if tuple(rows) == (1,) else 's'}"


def _runs(rows: Sequence[int]) -> Iterator[str]:
    first = last = rows[0]
    for each in (*rows[1:], None):
        if each == last + 1:
            last = each
            continue
        yield from (f"{first} to {last}",) if last > first + 1 else map(str, range(first, last + 1))
        if each is not None:
            first = last = each


def _count(into: dict[Key, Counter[int]], heads: int, shape: CallShape, count: int) -> None:
    into.setdefault((heads, *shape[:4]), Counter())[shape.rows] += count
