"""The errors of kernel choices as a Report: a table, and the questions that it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from backend.case import DType
from backend.devices.kinds import device_kind
from backend.observation import Numbers
from backend.words import counted
from fuzz.accuracy.measure import Measured, pairs, verdict, within
from fuzz.report.report import Report, Result, Section, Test
from fuzz.verdict import Conclusion, Verdict

Types = tuple[DType, DType]

HEADER = ("q", "KV", "mode", "heads", "kernel", "rel rms", "cosine", "max error", "of budget", "whole rel rms", "how")

NOTES = (
    "rel rms, cosine (smallest of a row), max error (of an element): against float64 attention on the bytes that the kernel "
    "reads",
    "of budget: largest error over what rounding alone may do; above 1 is wrong",
    "whole rel rms: against float64 attention on the numbers before they were rounded to the types of q and KV",
    "inputs are independent normal numbers: attention is close to flat, and errors of a model's own tensors differ",
    "merging of splits (stage 2) ships as no code object; it is followed in float32",
)


def report(found: Sequence[Measured], rounding: Mapping[Types, Numbers], device: str) -> Report:
    """For people and machines. rounding: by types of q and KV, the error of rounding alone; empty where nobody measured it."""
    come_to, ran = verdict(found), [one for one in found if one.kernel is not None]
    return Report(
        title="aiterfuzz selftest accuracy kernels",
        verdict=come_to,
        headline=_headline(come_to, len(ran)),
        notice=device_kind(device).witness.notice,
        about=(),
        sections=tuple(_sections(found, rounding)),
        explained=(),
        notes=NOTES,
        tests=tuple(_tests(found)),
        data={"choices": [figures_of(one) for one in found]},
    )


def _headline(verdict: Verdict, ran: int) -> str:
    if verdict.blamed:
        return f"of {ran} kernel choices outside of the error budget: {verdict.blamed}"
    within = f"{ran} kernel choices within their error budgets"
    return f"not all of it ran; {within}" if verdict.conclusion is Conclusion.OPEN else within


def figures_of(one: Measured) -> dict[str, object]:
    """A choice with its figures, as JSON holds them; without numbers where it `failed`."""
    choice = one.choice
    named = {"case": choice.case, "groups": choice.groups, "kernel": choice.kernel, "how": one.how}
    return named | {"failed": one.failed, "numbers": one.kernel, "whole": one.whole}


def _sections(found: Sequence[Measured], rounding: Mapping[Types, Numbers]) -> Iterator[Section]:
    ran = [one for one in found if one.kernel is not None]
    yield Section("", HEADER, tuple(_row(one) for one in ran))
    missing = [one for one in found if one.kernel is None]
    if missing:
        rows = [(*_types(one), one.choice.case.mode or "-", one.choice.heads, one.failed) for one in missing]
        yield Section("no numbers:", (*HEADER[:4], "why"), tuple(rows))
    if rounding:
        figures = [(*types, _figure(numbers.relative_rms)) for types, numbers in rounding.items()]
        heading = "rounding q and KV to their types, with exact attention after it:"
        yield Section(heading, ("q", "KV", "rel rms"), tuple(figures))
    yield from _answers(ran)


def _tests(found: Sequence[Measured]) -> Iterator[Test]:
    """A test for each choice that gave numbers; a refused one is skipped."""
    for one in found:
        name = f"{'/'.join(_types(one))} {one.choice.case.mode or 'the rule'} in {one.choice.heads} heads"
        if one.kernel is None:
            yield Test(name, "accuracy", Result.SKIPPED, one.failed)
        else:
            yield Test(name, "accuracy", Result.PASSED if within(one.kernel) else Result.FAILURE, f"{one.kernel.worst:.2f}")


def _row(one: Measured) -> tuple[object, ...]:
    numbers, case = one.kernel, one.choice.case
    assert numbers is not None
    lost = numbers.not_a_number + numbers.unwritten
    return (
        *_types(one),
        case.mode or "-",
        one.choice.heads,
        one.choice.kernel,
        _figure(numbers.relative_rms) + (f" ({counted(lost, 'row')} NaN or not written)" if lost else ""),
        "-" if numbers.cosine is None else f"{numbers.cosine:.6f}",
        _figure(numbers.largest_error),
        f"{numbers.worst:.2f}",
        _figure(None if one.whole is None else one.whole.relative_rms),
        one.how,
    )


def _answers(ran: Sequence[Measured]) -> Iterator[Section]:
    rows = []
    for question, first, second in pairs([one.choice for one in ran]):
        sides = [ran[index].kernel for index in (first, second)]
        wholes = [ran[index].whole for index in (first, second)]
        assert sides[0] is not None
        assert sides[1] is not None
        rows.append((question, _ratio(sides[0], sides[1]), _ratio(*wholes)))
    if rows:
        heading = "compared, rel rms of the first : of the second"
        yield Section(heading, ("", "kernel alone", "with the rounding of q and KV"), tuple(rows))


def _ratio(first: Numbers | None, second: Numbers | None) -> str:
    if first is None or second is None:
        return "-"
    return f"{_figure(first.relative_rms)} : {_figure(second.relative_rms)}"


def _types(one: Measured) -> Types:
    return one.choice.case.q_dtype, one.choice.case.kv_dtype


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
