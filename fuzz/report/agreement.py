"""An agreement run as a Report: who ran, who was compared with whom, who differs in what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backend.devices.kinds import DEVICES
from backend.fate import Fate
from backend.words import counted
from fuzz.agree import Agreement, AgreementAsked, DisagreeingCases
from fuzz.report.report import Report, Result, Section, Test
from fuzz.verdict import Conclusion, Verdict
from reprod.case_line import case_line

DIFFERENCE = ("left", "right", "what", "cases", "left saw", "right saw", "first case")

Found = Mapping[tuple[str, str, str], DisagreeingCases]


def report(agreement: Agreement, asked: AgreementAsked, seed: int, shown: int) -> Report:
    """For people and machines. seed: of the cases; shown: characters of each side of a difference."""
    verdict = agreement.verdict(asked)
    notices = dict.fromkeys(DEVICES[name].witness.notice for name in agreement.ran if name in DEVICES)
    return Report(
        title="aiterfuzz selftest agree",
        verdict=verdict,
        headline=_headline(verdict),
        notice=" ".join(notices),
        about=(
            f"seed {seed}: {counted(agreement.cases, 'case')} launched, {agreement.faulty:,} of them with a fault that was "
            "foretold; "
            f"{agreement.unlaunched[Fate.REFUSED]:,} more refused by backend or AITER",
        ),
        sections=tuple(_sections(agreement, shown)),
        explained=(),
        notes=(),
        tests=tuple(_tests(agreement)),
        data={
            "seed": seed,
            "cases": agreement.cases,
            "ran": agreement.ran,
            "compared": _by_pair(agreement.compared),
            "differing": _by_pair(agreement.differing),
            "found": _plain(agreement.found),
            "apart": _plain(agreement.apart),
        },
    )


def _headline(verdict: Verdict) -> str:
    if verdict.blamed:
        return f"devices disagree on {counted(verdict.blamed, 'thing')}"
    if verdict.conclusion is Conclusion.OPEN:
        return "not all of it ran; no two devices disagree in what did"
    return "no two devices disagree"


def _sections(agreement: Agreement, shown: int) -> Iterator[Section]:
    devices = [
        (
            name,
            count,
            agreement.rows[name] or "-",
            f"{agreement.worst[name]:.3f}" if name in agreement.worst else "-",
            DEVICES[name].witness.notice if name in DEVICES else "",
        )
        for name, count in agreement.ran.items()
    ]
    yield Section("", ("device", "ran", "rows against float64", "worst error / budget of sound cases", ""), tuple(devices))
    if agreement.not_run:
        reasons = [(device, count, reason[:shown]) for (device, reason), count in agreement.not_run.most_common()]
        yield Section("not run:", ("device", "cases", "reason"), tuple(reasons))
    compared = [(*pair, count, agreement.differing[pair]) for pair, count in agreement.compared.items()]
    yield Section("", ("left", "right", "cases compared", "that differ"), tuple(compared))
    if agreement.not_compared:
        apart = [(*pair, count, reason) for (pair, reason), count in agreement.not_compared.items()]
        yield Section("not compared:", ("left", "right", "cases", "reason"), tuple(apart))
    if agreement.apart:
        heading = "foretold of AITER's kernel with a sound plan; cuda, which runs another, does not show it (no disagreement):"
        yield Section(heading, DIFFERENCE, tuple(_differences(agreement.apart, shown)))
    if agreement.found:
        yield Section("who disagrees on what:", DIFFERENCE, tuple(_differences(agreement.found, shown)))


def _differences(found: Found, shown: int) -> Iterator[tuple[object, ...]]:
    for (left, right, what), one in sorted(found.items(), key=lambda each: -each[1].count):
        yield left, right, what, one.count, one.difference.left[:shown], one.difference.right[:shown], case_line(one.first)


def _tests(agreement: Agreement) -> Iterator[Test]:
    """A test for each pair that was compared."""
    for left, right in agreement.compared:
        what = [what for a, b, what in agreement.found if (a, b) == (left, right)]
        yield Test(f"{left} and {right} agree", "agree", Result.FAILURE if what else Result.PASSED, "; ".join(what))


def _by_pair(counts: Mapping[tuple[str, str], int]) -> list[dict[str, object]]:
    return [{"left": left, "right": right, "cases": count} for (left, right), count in counts.items()]


def _plain(found: Found) -> list[dict[str, object]]:
    return [
        {"left": left, "right": right, "what": what, "cases": one.count, "difference": one.difference, "first": one.first}
        for (left, right, what), one in found.items()
    ]
