"""How the shares of reprod.layouts are told: one table and what it assumes, for explain.txt and for the issue."""

from __future__ import annotations

from collections.abc import Iterator

from reprod.layouts import EARLIER_BYTES, MOST_EARLIER, Layouts

HEADER = ("memory", "one rank faults", "two ranks fault", "no fault, but another tensor overwritten")


def percent(share: float) -> str:
    """A share as a person reads it; one that is neither none nor all never rounds to either."""
    if share in (0.0, 1.0):
        return f"{share * 100:.0f} %"
    return f"{min(max(share * 100, 0.1), 99.9):.1f} %"


def rows(found: Layouts) -> list[tuple[str, str, str, str]]:
    """One row a setting, under HEADER."""
    return [
        (share.setting.value, percent(share.one_rank), percent(share.two_ranks), percent(share.overwrites / share.draws))
        for share in found.shares
    ]


def by_access(found: Layouts) -> list[str]:
    """One line for each access outside of a tensor: in how many layouts of each setting it alone faults."""
    lines = []
    for i, stray in enumerate(found.strays):
        shares = ", ".join(f"{share.setting.value} {percent(share.by_stray[i] / share.draws)}" for share in found.shares)
        lines.append(f"{stray}: {shares}")
    return lines


def assumptions(found: Layouts) -> Iterator[str]:
    """What the shares rest on, one sentence a line."""
    draws = found.shares[0].draws
    yield (
        f"{draws} layouts of each kind of memory, seed {found.seed}: torch's caching allocator with its default settings "
        "(blocks of 512 bytes, segments of 2 MiB up to 1 MiB, of 20 MiB up to 10 MiB, else whole 2 MiB)"
    )
    yield (
        "before the call: weights that fill the last segment of each pool to anywhere (not a graph's own pool), then 0 to "
        f"{MOST_EARLIER} steps, half of which free something again, of {EARLIER_BYTES[0]} B to {EARLIER_BYTES[1] >> 20} MiB, "
        "evenly on a logarithmic scale; an assumption, since the model around is not known"
    )
    yield "a segment is mapped as a whole and has an unmapped guard page behind it (HSA_SVM_GUARD_PAGES, on by default)"
    yield "two ranks are two processes whose layouts are taken as independent; ranks that run in step may lie alike"
