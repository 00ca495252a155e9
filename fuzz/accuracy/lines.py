"""The errors of kernel choices as a table, and the questions that it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from backend.case import DType
from backend.devices.kinds import device_kind
from backend.observation import Numbers
from fuzz.accuracy.choices import pairs
from fuzz.accuracy.measure import Measured
from reprod.text import table

Types = tuple[DType, DType]

HEADER = ("q", "KV", "mode", "heads", "kernel", "rel rms", "cosine", "max error", "of budget", "whole rel rms", "how")

NOTES = """\
rel rms, cosine (smallest of a row), max error (of an element): against float64 attention on the bytes that the kernel reads.
of budget: largest error over what rounding alone may do; above 1 is wrong. whole rel rms: against float64 attention on the
numbers before they were rounded to the types of q and KV. Inputs are independent normal numbers: attention is close to flat,
and errors of a model's own tensors differ. Merging of splits (stage 2) ships as no code object; it is followed in float32."""


def lines(found: Sequence[Measured], rounding: Mapping[Types, Numbers], device: str) -> Iterator[str]:
    """The report, line by line."""
    ran = [one for one in found if one.kernel is not None]
    yield from table(HEADER, [_row(one) for one in ran])
    missing = [one for one in found if one.kernel is None]
    if missing:
        yield "no numbers:"
        rows = [(*_types(one), one.choice.case.mode or "-", one.choice.heads, one.failed) for one in missing]
        yield from table((*HEADER[:4], "why"), rows)
    if rounding:
        yield "rounding q and KV to their types, with exact attention after it:"
        yield from table(("q", "KV", "rel rms"), [(*types, _figure(n.relative_rms)) for types, n in rounding.items()])
    yield from _answers(ran)
    yield NOTES
    if not device_kind(device).is_hardware:
        yield "not run on hardware: AITER's machine code on a simulated CDNA machine"


def _row(one: Measured) -> tuple[object, ...]:
    numbers, case = one.kernel, one.choice.case
    assert numbers is not None
    lost = numbers.not_a_number + numbers.unwritten
    return (
        *_types(one),
        case.mode or "-",
        one.choice.heads,
        one.choice.kernel,
        _figure(numbers.relative_rms) + (f" ({lost} rows NaN or not written)" if lost else ""),
        "-" if numbers.cosine is None else f"{numbers.cosine:.6f}",
        _figure(numbers.largest_error),
        f"{numbers.worst:.2f}",
        _figure(None if one.whole is None else one.whole.relative_rms),
        one.how,
    )


def _answers(ran: Sequence[Measured]) -> Iterator[str]:
    rows = []
    for question, first, second in pairs([one.choice for one in ran]):
        sides = [ran[index].kernel for index in (first, second)]
        wholes = [ran[index].whole for index in (first, second)]
        assert sides[0] is not None
        assert sides[1] is not None
        rows.append((question, _ratio(sides[0], sides[1]), _ratio(*wholes)))
    if rows:
        yield "compared, rel rms of the first : of the second"
        yield from table(("", "kernel alone", "with the rounding of q and KV"), rows)


def _ratio(first: Numbers | None, second: Numbers | None) -> str:
    if first is None or second is None:
        return "-"
    return f"{_figure(first.relative_rms)} : {_figure(second.relative_rms)}"


def _types(one: Measured) -> Types:
    return one.choice.case.q_dtype, one.choice.case.kv_dtype


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
