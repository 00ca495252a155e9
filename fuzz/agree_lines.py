"""An agreement run told to a person: who ran, who was compared with whom, who differs in what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backend.devices.kinds import DEVICES
from backend.fate import Fate
from fuzz.agree import Agreement, DisagreeingCases
from reprod.case_line import case_line
from reprod.text import table


def lines(agreement: Agreement, seed: int, shown: int) -> Iterator[str]:
    """The report, line by line. shown: characters of each side of a difference."""
    yield (
        f"seed {seed}: {agreement.cases:,} cases launched, {agreement.faulty:,} of them with a fault that was foretold; "
        f"{agreement.unlaunched[Fate.REFUSED]:,} more refused by backend or AITER"
    )
    yield from table(
        ("device", "ran", "rows against float64", "worst error / budget of sound cases", ""),
        [
            (
                name,
                count,
                agreement.rows[name] or "-",
                f"{agreement.worst[name]:.3f}" if name in agreement.worst else "-",
                DEVICES[name].witness.notice if name in DEVICES else "",
            )
            for name, count in agreement.ran.items()
        ],
    )
    if agreement.not_run:
        yield "not run:"
        rows = [(device, count, reason[:shown]) for (device, reason), count in agreement.not_run.most_common()]
        yield from table(("device", "cases", "reason"), rows)
    compared = [(*pair, count, agreement.differing[pair]) for pair, count in agreement.compared.items()]
    yield from table(("left", "right", "cases compared", "that differ"), compared)
    for (pair, reason), count in agreement.not_compared.items():
        yield f"  not compared, {' and '.join(pair)}, {count} cases: {reason}"
    if agreement.apart:
        yield "foretold of AITER's kernel with a sound plan; cuda runs another kernel and does not show it (no disagreement):"
        yield from _differences(agreement.apart, shown)
    if not agreement.found:
        yield "no two devices disagree"
        return
    yield "who disagrees on what:"
    yield from _differences(agreement.found, shown)


def _differences(found: Mapping[tuple[str, str, str], DisagreeingCases], shown: int) -> list[str]:
    most_first = sorted(found.items(), key=lambda each: -each[1].count)
    rows = [
        (left, right, what, one.count, one.difference.left[:shown], one.difference.right[:shown], case_line(one.first))
        for (left, right, what), one in most_first
    ]
    return table(("left", "right", "what", "cases", "left saw", "right saw", "first case"), rows)
