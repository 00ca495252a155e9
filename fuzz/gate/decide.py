"""The decision table of a source with what follows from each row: planner, kernel, safe or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from backend.case import Arch, DType
from backend.devices.device import Device
from backend.devices.kinds import notice
from backend.errors import NoSuchStepError
from backend.fate import Fate
from backend.host import Host
from backend.outcome import Outcome
from backend.real.frameworks.record import Says
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.frameworks.steps import outcome_of
from backend.words import counted
from fuzz.report.report import Report, Result, Section, Test
from fuzz.verdict import Conclusion, Counts, Verdict
from reprod.text import one_line

KV_LENS = (33, 1)
DRAFT_TOKENS = 2

HEADER = ("heads", "GPU", "KV", "ps fast intra", "splits", "drafting", "planner", "kernel", "plain decode")

LEGEND = (
    "ps fast intra: persistent kernel, fast_mode, intra_batch_mode, each T or F; splits: max_split_per_batch, without and with "
    "draft tokens",
    "plain decode: one eager step of two requests; graphs, drafts and the rest of a process' life are what the gate runs",
)


@dataclass(frozen=True, slots=True)
class Decided:
    """One row, for plain decode. flags: ps, fast, intra as T and F.

    safe: "yes", the signature of the fault, "no: " and who refuses or raises with its words, or "unknown: " and why.
    fate: the same as one word; refuses: whether the file itself says no, by a raise or an assertion of its own.
    """

    num_head: int
    arch: Arch
    kv_dtype: DType
    flags: str
    splits: int | None
    splits_speculative: int | None
    planner: str
    kernel: str
    safe: str
    fate: Fate
    refuses: bool = False

    @property
    def answered(self) -> bool:
        """Whether the row says what was asked: it ran, or the file itself does not take the head count."""
        return self.fate in (Fate.CLEAN, Fate.FAULTY) or self.refuses

    def cells(self) -> tuple[object, ...]:
        """The row's cells in a table."""
        splits = ("-" if each is None else each for each in (self.splits, self.splits_speculative))
        return self.num_head, self.arch.value, self.kv_dtype.value, self.flags, *splits, self.planner, self.kernel, self.safe


def decide(
    session: SourceSession,
    device: Device,
    arch: Arch,
    heads: Sequence[int],
    kv_dtypes: Sequence[DType],
    host: Host | None,
) -> list[Decided]:
    """One row for each head count and KV dtype, from the real constructor and one eager step each way."""
    return [_row(session, device, arch, h, kv, host) for h in heads for kv in kv_dtypes]


def report(source: str, rows: Sequence[Decided], base: Sequence[Decided] | None, about: Sequence[str], device: str) -> Report:
    """The table; with a base, only the rows that differ, both of them. about: which AITER, and what it rests on."""
    found = verdict(rows, base)
    return Report(
        title=f"aiterfuzz gate {source} --table",
        verdict=found,
        headline=_headline(found, len(rows)),
        notice=notice(device),
        about=tuple(about),
        sections=(_section(rows, base),),
        explained=(),
        notes=LEGEND,
        tests=tuple(_test(row) for row in rows),
        data={"rows": rows} if base is None else {"rows": rows, "base": base},
    )


def _headline(found: Verdict, rows: int) -> str:
    if found.blamed:
        return f"at fault: {found.blamed} of {counted(rows, 'row')}"
    if found.conclusion is Conclusion.OPEN:
        return "not all of it ran; no row that did is at fault"
    return f"none of {counted(rows, 'row')} is at fault"


def _section(rows: Sequence[Decided], base: Sequence[Decided] | None) -> Section:
    if base is None:
        return Section("", HEADER, tuple(row.cells() for row in rows))
    before = {(row.num_head, row.arch, row.kv_dtype): row for row in base}
    shown = []
    for row in rows:
        old = before.get((row.num_head, row.arch, row.kv_dtype))
        if old is not None and old != row:
            shown += [("base", *old.cells()), ("change", *row.cells())]
    return Section("", ("", *HEADER), tuple(shown)) if shown else Section("no decision differs from the base's", (), ())


def _test(row: Decided) -> Test:
    name = f"{counted(row.num_head, 'head')}, {row.arch} KV {row.kv_dtype}"
    if row.fate is Fate.FAULTY:
        return Test(name, "decide", Result.FAILURE, row.safe)
    return Test(name, "decide", Result.PASSED if row.fate is Fate.CLEAN else Result.SKIPPED, row.safe)


def verdict(rows: Sequence[Decided], base: Sequence[Decided] | None) -> Verdict:
    """Of a table. A row that ran in the base and does not any more is blamed on the change.

    What the file itself refuses is an answer; a crash, a refusal of AITER's and what is not modelled leave the question open.
    """
    before = {(row.num_head, row.arch, row.kv_dtype): row for row in base or ()}
    blamed, missing = 0, []
    for row in rows:
        old = before.get((row.num_head, row.arch, row.kv_dtype))
        gone = old is not None and old.fate in (Fate.CLEAN, Fate.FAULTY) and row.fate is Fate.REFUSED
        blamed += row.fate is Fate.FAULTY or gone
        if not row.answered and not gone:
            missing.append(f"{counted(row.num_head, 'head')}, {row.kv_dtype} KV: {row.safe}")
    return Verdict(Counts.of(Counter(row.fate for row in rows)), blamed, tuple(missing))


def _row(session: SourceSession, device: Device, arch: Arch, num_head: int, kv_dtype: DType, host: Host | None) -> Decided:
    plain = session.run(_probe(arch, session.release, num_head, kv_dtype, None))
    failed = plain.not_started or next((each for each in plain.failed if each.step >= 0), None)
    if failed is None and not plain.steps and plain.checked:
        said = f"unknown: it calls {plain.checked[0].name}, of which the arguments alone are judged"
        return Decided(num_head, arch, kv_dtype, "", None, None, "", "", said, Fate.NOT_RUN)
    if failed is not None or not plain.steps:
        error, says = (one_line(failed.error), failed.says) if failed is not None else ("no step reached AITER", Says.CRASH)
        said = f"no: {'AITER refuses' if says is Says.AITER else says.value}: {error}"
        return Decided(num_head, arch, kv_dtype, "", None, None, "", "", said, Fate.REFUSED, says is Says.REFUSAL)
    step = plain.steps[0]
    outcome = outcome_of(step, device, host)
    flags = "".join("T" if flag else "F" for flag in (step.persistent, step.fast_mode, step.intra_batch_mode))
    kernel = outcome.observation.call.launched.code_object if outcome.observation is not None else "-"
    plan = outcome.call.plan if outcome.call is not None else None
    planner = plan.planner.value if plan is not None else "-"
    splits = _splits_of_drafts(session, _probe(arch, session.release, num_head, kv_dtype, DRAFT_TOKENS))
    safe = _safe(outcome)
    return Decided(num_head, arch, kv_dtype, flags, step.splits, splits, planner, kernel, safe, outcome.fate)


def _safe(outcome: Outcome) -> str:
    cause = outcome.cause
    if outcome.faulty and cause is not None:
        return cause.signature
    if outcome.fate is Fate.CLEAN:
        return "yes"
    reason = one_line(str(outcome.reason))
    return f"no: AITER refuses: {reason}" if outcome.fate is Fate.REFUSED else f"unknown: {reason}"


def _splits_of_drafts(session: SourceSession, probe: Scenario) -> int | None:
    """None too for a file that verifies no drafts."""
    try:
        recording = session.run(probe)
    except NoSuchStepError:
        return None
    return recording.steps[0].splits if recording.steps else None


def _probe(arch: Arch, release: str, num_head: int, kv_dtype: DType, draft_tokens: int | None) -> Scenario:
    q_dtype = kv_dtype if arch is Arch.GFX950 else DType.BF16
    config = BackendConfig(num_head, kv_dtype, q_dtype, draft_tokens=draft_tokens, max_requests=len(KV_LENS))
    kind = StepKind.DECODE if draft_tokens is None else StepKind.TARGET_VERIFY
    return Scenario("decide", (config,), (Step(kind, KV_LENS),), arch=arch, release=release)
