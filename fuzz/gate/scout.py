"""A candidate of AITER below a backend that stays: what it brings and mends for what that backend sends, in words.

The comparison is the gate's, with AITER as the change; here, what only a change of AITER does: kernels that come and go, and
calls that it refused and takes now. Runs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.codec import to_plain
from backend.real.noted_call import SourceLine
from fuzz.gate.comparison import Comparison
from fuzz.gate.gate import Examined
from fuzz.gate.judge import Sighting, StepKernel, Work
from fuzz.gate.source_report import report
from fuzz.report.report import Code, Report, Section
from fuzz.verdict import Conclusion
from reprod.history import Commit
from reprod.text import listed


@dataclass(frozen=True, slots=True)
class KernelChange:
    """What is launched for some work that both sides ran. before, after: in the order of their names."""

    work: Work
    before: tuple[StepKernel, ...]
    after: tuple[StepKernel, ...]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Kernels that come in place of others, then those of the same name with other code."""
        old, new = ({each.code_object for each in side} for side in (self.before, self.after))
        gone = [each.code_object for each in self.before if each.code_object not in new]
        come = [each.code_object for each in self.after if each.code_object not in old]
        if gone or come:
            yield listed(gone) or "one of the others", listed(come) or "one of the others"
        for each in self.after:
            if each.code_object in old and each not in self.before:
                yield each.code_object, f"{each.code_object}, other code"


def kernel_changes(base: Examined, candidate: Examined) -> tuple[KernelChange, ...]:
    """Work for which the two launch other code, by name or content, least heads first."""
    before, after = _kernels(base), _kernels(candidate)
    both = sorted(work for work in before if work in after)
    made = (KernelChange(work, tuple(sorted(before[work])), tuple(sorted(after[work]))) for work in both)
    return tuple(each for each in made if each.before != each.after)


def taken_now(base: Examined, candidate: Examined) -> tuple[Sighting, ...]:
    """What did not run on the base and does on the candidate, one sighting a work."""
    ran = {work for judged in candidate.swept for work, _ in judged.ran}
    ran_before = {work for judged in base.swept for work, _ in judged.ran}
    found = {
        Work(each.shape, each.kind, each.rows): each
        for each in base.sightings
        if each.did_not_run and Work(each.shape, each.kind, each.rows) in ran - ran_before
    }
    return tuple(found[work] for work in sorted(found))


def scout_report(
    found: Comparison, base: Examined, candidate: Examined, title: str, why: tuple[str, ...], gate: SourceLine | None
) -> Report:
    """The gate's report of it. why: how the two revisions were chosen, a line each."""
    made = report(found, candidate, base, gate, who="candidate")
    kernels, taken = kernel_changes(base, candidate), taken_now(base, candidate)
    sections = [*made.sections]
    if taken:
        header = ("heads by what they do", "the base")
        sections.append(Section("Runs now, and did not on the base:", header, tuple(_taken_rows(taken))))
    if kernels:
        sections.append(Section("Kernels that differ from the base's:", KERNEL_HEADER, tuple(_kernel_rows(kernels))))
    notes = made.notes if kernels else (*made.notes, "every kernel is the same code as the base's")
    plain = {
        **made.data,
        "kernels": [_plain(each) for each in kernels],
        "taken_now": [{"shape": to_plain(each.shape), "rows": each.rows, "before": each.message} for each in taken],
    }
    return dataclasses.replace(made, title=title, about=(*why, *made.about), sections=tuple(sections), notes=notes, data=plain)


KERNEL_HEADER = ("base", "candidate", "tensors", "heads by what they do")


def with_range(made: Report, scouted: Sequence[ScoutedCommit]) -> Report:
    """The report of one commit of a range, with the table of all."""
    bad = first_bad(scouted)
    unknown = [each.commit.name[:9] for each in scouted if each.found.verdict.conclusion is Conclusion.OPEN]
    rest = f"; not all of it ran at {', '.join(unknown)}" if unknown else ""
    said = f"first bad commit: {bad.commit}: {'; '.join(bad.brings)}" if bad is not None else "no commit brings a fault"
    rows = tuple(each.cells() for each in scouted)
    table = Section("Commit by commit, against the base:", RANGE_HEADER, rows)
    plain = {**made.data, "commits": plain_range(scouted)}
    return dataclasses.replace(made, sections=(*made.sections, table), notes=(*made.notes, said + rest), data=plain)


@dataclass(frozen=True, slots=True)
class ScoutedCommit:
    """One commit of a range against the base of the range."""

    commit: Commit
    found: Comparison
    kernels: int

    @property
    def brings(self) -> tuple[str, ...]:
        """What it shows that the base does not, each once."""
        return tuple(dict.fromkeys(f"{fault.signature} ({fault.shape.tensors})" for fault in self.found.blamed))

    def cells(self) -> tuple[object, ...]:
        """The commit's row of the table, under RANGE_HEADER."""
        open_ = len(self.found.verdict.open_questions)
        says = self.found.verdict.conclusion.value + (f", {open_} open" if open_ else "")
        mended = len({fault.signature for fault in self.found.mended})
        return self.commit.name[:9], self.commit.date, says, len(self.brings), mended, self.kernels, self.commit.subject


RANGE_HEADER = ("commit", "date", "against the base", "brings", "mends", "other kernels", "subject")


def first_bad(scouted: Sequence[ScoutedCommit]) -> ScoutedCommit | None:
    """The first commit that has a fault which the base has not, None where there is none."""
    return next((each for each in scouted if each.found.blamed), None)


def telling(scouted: Sequence[ScoutedCommit]) -> ScoutedCommit:
    """The commit whose report is the range's: the first bad one, else the first of which not all ran, else the last."""
    unknown = (each for each in scouted if each.found.verdict.conclusion is Conclusion.OPEN)
    return first_bad(scouted) or next(unknown, scouted[-1])


def plain_range(scouted: Sequence[ScoutedCommit]) -> list[dict[str, object]]:
    """The commits as plain data, for gate.json."""
    return [
        {
            "commit": each.commit.name,
            "date": each.commit.date,
            "subject": each.commit.subject,
            "verdict": each.found.verdict.conclusion.value,
            "brings": list(each.brings),
            "mends": sorted({fault.signature for fault in each.found.mended}),
            "other_kernels": each.kernels,
        }
        for each in scouted
    ]


def _kernels(examined: Examined) -> dict[Work, set[StepKernel]]:
    made: dict[Work, set[StepKernel]] = {}
    for judged in examined.swept:
        for work, kernels in judged.kernels.items():
            made.setdefault(work, set()).update(kernels)
    return made


def _taken_rows(taken: tuple[Sighting, ...]) -> Iterator[tuple[object, ...]]:
    """One row for all work that the base did not run for one reason."""
    alike: dict[str, dict[str, list[int]]] = {}
    for each in taken:
        task = f"{each.shape.tensors}, {Work(each.shape, each.kind, each.rows).task}"
        alike.setdefault(each.message, {}).setdefault(task, []).append(each.shape.num_head)
    for message, tasks in alike.items():
        yield _by_task(tasks), message


def _by_task(heads: Mapping[str, Sequence[int]]) -> str:
    return "; ".join(f"{task}: {', '.join(map(str, sorted(numbers)))}" for task, numbers in heads.items())


def _kernel_rows(changes: tuple[KernelChange, ...]) -> Iterator[tuple[object, ...]]:
    """One row for all work that changes alike."""
    alike: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    for each in changes:
        for before, after in each.pairs():
            tasks = alike.setdefault((before, after, each.work.shape.tensors), {})
            tasks.setdefault(each.work.task, []).append(each.work.shape.num_head)
    for (before, after, tensors), tasks in alike.items():
        yield Code(before), Code(after), tensors, _by_task(tasks)


def _plain(change: KernelChange) -> Mapping[str, object]:
    return {
        "shape": to_plain(change.work.shape),
        "task": change.work.task,
        "before": [dataclasses.asdict(each) for each in change.before],
        "after": [dataclasses.asdict(each) for each in change.after],
    }
