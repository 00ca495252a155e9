"""The report of a gated source: its faults folded by shape, what is mended, which decisions differ. Words only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from backend.codec import to_plain
from backend.devices.kinds import notice
from backend.findings import Party, Severity
from backend.git import path_and_revision, shortened
from backend.real.frameworks.record import DecisionRow
from backend.real.noted_call import SourceLine
from backend.words import counted
from fuzz.gate.comparison import Comparison, Fault
from fuzz.gate.gate import Examined
from fuzz.gate.headline import headline, question_tests, what_ids_stand_for
from fuzz.gate.judge import Sighting
from fuzz.gate.order import in_words
from fuzz.gate.run import LIVES
from fuzz.report.report import Code, Report, Result, Room, Section, Test
from reprod.case_line import case_line
from reprod.text import listed, one_line

HEADER = ("worst", "shape", "rows", "phases", "fault", "standing", "line")

DECIDED = {
    "persistent": "persistent kernel",
    "fast_mode": "fast_mode",
    "intra_batch_mode": "intra_batch_mode",
    "splits": "max_split_per_batch",
    "splits_speculative": "max_split_per_batch with drafts",
    "num_head_kernel": "heads in the call",
}
"""Fields of a decision as AITER's arguments are called."""

EDITED_SHOWN = 4
"""Changed lines that the terminal names of a fault."""

SHOWN = 5
"""Functions of which the report says how little of them ran; gate.json has every one."""


CONSEQUENCE = {
    Severity.WRITE: "memory outside of a tensor is overwritten: another tensor's, or the GPU faults where nothing is mapped",
    Severity.READ: "memory that is not the request's is read: the GPU faults where nothing is mapped, else the output is wrong",
    Severity.SILENT: "the output is wrong, and nothing says so",
    Severity.REFUSED: "a server that sends this ends with the exception",
}

Again = Callable[[Fault], str]
"""The command that shows a fault's smallest case again, "" for none."""


def report(
    found: Comparison,
    change: Examined,
    base: Examined | None,
    gate: SourceLine | None = None,
    who: str = "change",
    again: Again = lambda _: "",
) -> Report:
    """gate: the line of the file that decides for the fast planner, None where there is none. who: what is judged."""
    explained = [line for alike in _alike(found.blamed) for line in _explained(alike, again, _revision(change))]
    subject, has = (f"{who} brings", f"the {who} brings") if base is not None else ("source is to blame for", "the source has")
    rest = sum(not fault.blamed and not fault.smallest.did_not_run for fault in found.faults)
    return Report(
        title=f"aiterfuzz gate {change.label}",
        verdict=found.verdict,
        headline=headline(found.verdict, subject, has, rest, _limits(found, change)),
        notice=notice(change.device),
        about=(*_about(who, change), *(_about("base", base, change) if base is not None else ())),
        sections=(
            *_faults(found),
            *what_ids_stand_for(each.known for each in (*found.faults, *found.mended)),
            *_executed(change),
        ),
        explained=tuple(explained),
        notes=(*_refusals(found), *_hidden(found), *_mended(found), *_changed(found), *_change_run(found)),
        tests=(*(_test(fault, gate) for fault in found.faults), *question_tests(found.verdict)),
        data={
            "faults": [_plain_fault(fault) for fault in found.faults],
            "mended": [_plain_fault(fault) for fault in found.mended],
            "executed": None if change.executed is None else change.executed.as_data(),
            "changed_lines": None if found.change_run is None else to_plain(found.change_run),
            "decisions": to_plain(found.decisions),
            "changed": to_plain(found.changed),
            "change": _plain_examined(change),
            "base": None if base is None else _plain_examined(base),
        },
    )


def _faults(found: Comparison) -> Iterator[Section]:
    if found.faults:
        yield Section("", HEADER, tuple(_rows_of(found.faults)))


def _revision(examined: Examined) -> str:
    """Which AITER a case is of, where it is none of the built-in releases."""
    return shortened(path_and_revision(examined.aiter)[1], 9)


def _explained(alike: Sequence[Fault], again: Again, aiter: str) -> Iterator[str]:
    """What is wrong, whose doing it is and what follows, where it is decided, and how to see it again. aiter: see case_line."""
    fault = alike[0]
    seen = fault.smallest
    own = f"; the step itself is wrong: {seen.contradicts}" if seen.contradicts else ""
    yield f"{_shapes(alike)}: {one_line(fault.message)}{own}"
    yield f"  at fault: {_at_fault(seen)}. {_sentence(CONSEQUENCE[fault.severity])}."
    if fault.edited:
        lines = listed([str(line) for line in fault.edited[:EDITED_SHOWN]])
        more = f" and {len(fault.edited) - EDITED_SHOWN} more" if len(fault.edited) > EDITED_SHOWN else ""
        one = len(fault.edited) == 1
        yield f"  changed line{'' if one else 's'} that ran there: {lines}{more}; the call: {_short_line(fault.line)}"
    if seen.case is not None:
        yield f"  smallest: {case_line(seen.case, aiter)}; {seen.scenario.name}"
    if command := again(fault):
        yield f"  again: {command}"


def _at_fault(seen: Sighting) -> str:
    """The party in words, and why it."""
    if seen.did_not_run:
        return "the file, or AITER, says no"
    if seen.finding is None or seen.contradicts:
        return "the file: it passes AITER what its batch does not have"
    party = seen.finding.party
    who = "the file, which calls AITER" if party is Party.CALLER else f"AITER's {party.value}"
    return f"{who}: {seen.finding.kind.row.reason}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _limits(found: Comparison, change: Examined) -> tuple[str, str]:
    """What a clean headline says of what ran: of the file; of the changed lines and switches where some did not."""
    if change.is_the_base:
        return "as the base is (file and package are its, byte for byte; not swept)", ""
    refused = f"refused with {' and with '.join(found.refused)}" if found.refused else ""
    if change.executed is None:
        return "", refused
    within, besides = change.executed.headline_says()
    ran = found.change_run
    part = (
        f"{len(ran.lines - ran.ran):,} of {counted(len(ran.lines), 'changed line')} did not run" if ran and ran.not_run else ""
    )
    return within, "; ".join(each for each in (part, refused, besides) if each)


def _executed(change: Examined) -> Iterator[Section]:
    """What of the file did not run: by function, and the calls into AITER."""
    ran = change.executed
    if ran is None:
        return
    rows = tuple((Code(name), f"{lines:,} of {of:,}") for name, lines, of in ran.least_run)
    if rows:
        yield Section("Least executed:", ("function", "lines run"), rows[:SHOWN], left_out=max(len(rows) - SHOWN, 0))
    calls = tuple((Code(each.name), str(each.line)) for each in ran.calls_not_run)
    if calls:
        yield Section("Calls into AITER that did not run:", ("function", "line"), calls, room=Room.PAGES)


def _about(which: str, examined: Examined, told: Examined | None = None) -> Iterator[str]:
    """Lines about one side; what it shares with the side that was told before it is not named again."""
    counts = examined.counts
    yield (
        f"{which}: {examined.label}; AITER: {examined.aiter}; {counted(examined.scenarios, 'scenario')} "
        f"({examined.random:,} of them random), {counted(counts.ran, 'step')} judged, {counts.refused:,} refused by the "
        "file or AITER, "
        f"{counts.unjudged:,} not judged"
    )
    if examined.executed is not None:
        yield f"  {examined.executed.says()}"
    if examined.by_arguments:
        names = ", ".join(f"{name} {count:,}" for name, count in examined.by_arguments.items())
        yield f"  kernels not run, the arguments of their calls judged: {names}"
    if examined.left_out:
        same = told is not None and told.left_out == examined.left_out
        left = "the same scenarios" if same else in_words(examined.left_out, examined.asked)
        yield f"  time was over before {left} (--seconds{_enough(examined)})"
    if not examined.is_the_base:
        yield f"  {_lived(examined)}"
    if examined.no_life_under:
        left = ", ".join(f"{'='.join(setting)} ({why})" for setting, why in examined.no_life_under.items())
        yield f"  none of them under {left}"
    if examined.warning:
        yield f"  {examined.warning}"
    for reason, count in examined.not_run.items():
        yield f"  {count:,} not judged: {reason}"


def _lived(examined: Examined) -> str:
    """How many random lives were tried, and what of --seconds is theirs."""
    if examined.lives == 0:
        return "no random lives were asked for (--lives 0): what only they show was not looked for"
    if not examined.random:
        return "no random life was tried, since --seconds were over first: what only they show was not looked for"
    lives = counted(examined.random, "random life", "random lives")
    return f"{lives} of seed {examined.seed} in {examined.lived_in:.1f} s; {LIVES:.0%} of --seconds is kept for them"


def _enough(examined: Examined) -> str:
    """How much time would have been enough, at the pace of what ran."""
    done = examined.asked - len(examined.left_out)
    if not done:
        return ": too few for any of them, give more"
    return f": about {examined.swept_in * examined.asked / done:.0f} for all of them at the pace of the others"


def _test(fault: Fault, gate: SourceLine | None) -> Test:
    """A fault as a test; one that nobody is blamed for is skipped."""
    message = f"{_rows(fault)}, {', '.join(fault.phases)}: {fault.message}"
    result = Result.FAILURE if fault.blamed else Result.SKIPPED
    detail = f"{fault.standing.value}; {fault.line or ''}"
    return Test(fault.signature, str(fault.shape), result, message, detail, place=_place(fault, gate))


def _rows_of(faults: Sequence[Fault]) -> list[tuple[object, ...]]:
    """One row for all shapes that differ in nothing but their heads."""
    return [(alike[0].severity.name.lower(), _shapes(alike), *_cells(alike[0])) for alike in _alike(faults)]


def _alike(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Faults that a person would call one: only the heads differ; in the order of the first of each."""
    made: dict[object, list[Fault]] = {}
    for fault in faults:
        made.setdefault((fault.severity, fault.shape.tensors, _cells(fault)), []).append(fault)
    return list(made.values())


def _shapes(alike: Sequence[Fault]) -> str:
    heads = ", ".join(str(head) for head in sorted({fault.shape.num_head for fault in alike}))
    return f"{heads} heads, {alike[0].shape.tensors}"


def _cells(fault: Fault) -> tuple[object, ...]:
    known = f" ({fault.known.entry})" if fault.known is not None else ""
    return (
        ",".join(map(str, fault.rows)),
        " ".join(fault.phases),
        Code(fault.signature),
        f"{fault.standing.value}{known}",
        _short_line(fault.decided_at),
    )


def _rows(fault: Fault) -> str:
    return f"{', '.join(map(str, fault.rows))} {'row' if fault.rows == (1,) else 'rows'} a request"


def _short_line(line: str | None) -> str:
    if line is None:
        return ""
    path, _, number = line.rpartition(":")
    return f"{path.rpartition('/')[2]}:{number}"


def _refusals(found: Comparison) -> Iterator[str]:
    """What did not run and nobody is blamed for: of which step, and who says no in which words. A shape may run in others."""
    for alike in _alike([fault for fault in found.faults if fault.smallest.did_not_run and not fault.blamed]):
        fault = alike[0]
        seen = fault.smallest
        step = "" if seen.before_steps else f", {seen.kind.value}"
        where = f'{_shapes(alike)}, {_rows(fault)}{step}, in "{seen.scenario.name}"'
        yield f"refused ({fault.standing.value}): {where}: {fault.message}"
    for each in found.not_its:
        yield f"refused, and asked by a case of the corpus alone, which the file need not run: {each}"


def _hidden(found: Comparison) -> Iterator[str]:
    """Faults that the base has too where another comes first."""
    for alike in _alike([fault for fault in found.faults if fault.hidden_by]):
        fault = alike[0]
        yield f"in the base too: {_shapes(alike)}, {_rows(fault)}: {fault.signature}; there {fault.hidden_by} comes first"


def _mended(found: Comparison) -> Iterator[str]:
    for alike in _alike(found.mended):
        known = alike[0].known
        reference = f" ({known.entry})" if known is not None else ""
        yield f"mended: {_shapes(alike)}, {_rows(alike[0])}: {alike[0].signature}{reference}"


def _changed(found: Comparison) -> Iterator[str]:
    if found.changed is None:
        return
    for old, new in found.changed:
        yield f"decides otherwise: {difference(old, new)}"
    yield "no other decision differs" if found.changed else "no decision differs from the base's"


def _change_run(found: Comparison) -> Iterator[str]:
    if found.change_run is not None:
        yield found.change_run.says()


def difference(old: DecisionRow, new: DecisionRow) -> str:
    """What differs between two rows of the same shape, each by its name."""
    shape = f"{counted(new.num_head, 'head')}, {new.kv_dtype} KV"
    if old.refused is not None or new.refused is not None:
        return f"{shape}: {_whole(old)} -> {_whole(new)}"
    pairs = ((name, getattr(old, field), getattr(new, field)) for field, name in DECIDED.items())
    return f"{shape}: {', '.join(f'{name} {before} -> {after}' for name, before, after in pairs if before != after)}"


def _whole(row: DecisionRow) -> str:
    if row.refused is not None:
        return f"raises ({one_line(row.refused)})"
    return ", ".join(f"{name} {getattr(row, field)}" for field, name in DECIDED.items())


def _place(fault: Fault, gate: SourceLine | None) -> tuple[str, int]:
    if gate is not None and not fault.edited and fault.signature.startswith("head-width"):
        return _from_here(gate.file), gate.line
    file, _, line = (fault.decided_at or "").rpartition(":")
    return (_from_here(file), int(line)) if file and line.isdigit() else ("", 1)


def _from_here(file: str) -> str:
    """A file below the working directory as a path from there, as annotations and code scanning take it."""
    path = Path(file)
    return path.relative_to(Path.cwd()).as_posix() if path.is_absolute() and path.is_relative_to(Path.cwd()) else file


def _plain_fault(fault: Fault) -> dict[str, Any]:
    return {
        "signature": fault.signature,
        "severity": fault.severity.name.lower(),
        "shape": to_plain(fault.shape),
        "rows": list(fault.rows),
        "phases": [phase.value for phase in fault.phases],
        "message": fault.message,
        "line": fault.line,
        "edited": list(fault.edited),
        "standing": fault.standing.value,
        "hidden_by": fault.hidden_by,
        "blamed": fault.blamed,
        "known": to_plain(fault.known),
        "smallest": to_plain(fault.smallest.case),
        "scenario": to_plain(fault.smallest.scenario),
    }


def _plain_examined(examined: Examined) -> dict[str, Any]:
    names = ("label", "aiter", "device", "scenarios", "random", "counts", "not_run", "warning", "peak_memory", "by_arguments")
    return {name: to_plain(getattr(examined, name)) for name in (*names, "seed", "lived_in")}
