"""Runs a script on the virtual GPU, in a child process with limits, and says what hardware would have done with it.

What runs there is backend.real.script; here it is started, watched and told of. Every script that the project writes goes
through `verified` before it is shown.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.aiter.codefiles import open_source
from backend.aiter.release import release
from backend.case import Arch, Case
from backend.child.fence import Fence
from backend.child.keeper import WATCH_SECONDS
from backend.child.process import ROOT
from backend.child.scratch import Scratch
from backend.child.tree import Limits, ProcessTree
from backend.codec import from_plain, to_plain
from backend.errors import UsageError
from backend.git import folders_of
from backend.real.script import start
from backend.real.script.messages import EXIT_ABORTED, EXIT_CANNOT_RUN, EXIT_FINDINGS, Options, ScriptReport, SeenFinding
from backend.real.script.simulated import VARIABLE
from backend.words import counted

DEFAULT_LIMITS = Limits(seconds=600.0, memory=8 << 30)

REPRO_LIMITS = Limits(seconds=300.0, memory=6 << 30)
"""For scripts of shrunk cases, which take seconds; the rest is for a first start, which compiles, on a busy machine."""

POLL_SECONDS = 0.05

VERIFICATION = "### Verification"
"""Heading in an issue under which the verdicts stand."""

PRODUCT = {Arch.GFX942: "MI300X", Arch.GFX950: "MI355X"}


def never() -> bool:
    """Says that nobody wants to stop, where nothing can ask for it."""
    return False


@dataclass(frozen=True, slots=True)
class Verification:
    """One run. exit_code: the script's process as on hardware. reports: of its processes with a GPU, the first's first.

    processes: of Python that told of themselves. lost: why some of them leave the run without a word of what they did.
    output: what it printed (empty where that went through). stopped: the limit that ended it, None where it came to its end.
    """

    arguments: tuple[str, ...]
    exit_code: int
    reports: tuple[ScriptReport, ...]
    output: str
    stopped: str | None
    seconds: float
    processes: int = 0
    lost: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """ROCm's line of each process that hardware would have aborted."""
        return tuple(report.fault.line for report in self.reports if report.fault is not None)

    @property
    def findings(self) -> tuple[SeenFinding, ...]:
        """Of all processes, each once."""
        found: dict[str, SeenFinding] = {}
        for report in self.reports:
            for seen in report.findings:
                found.setdefault(seen.finding.signature, seen)
        return tuple(found.values())

    @property
    def could_not_run(self) -> str | None:
        """Why the run says nothing, None where it does."""
        reasons = [report.could_not_run for report in self.reports if report.could_not_run is not None]
        if self.stopped is not None:
            return self.stopped
        if self.lost:
            return self.lost[0]
        if not self.reports and not self.processes:
            return f"the process ended without a report (exit {self.exit_code})"
        nobodys = self.exit_code in (0, EXIT_FINDINGS) or self.exit_code > 128  # Python's for an exception, a signal's
        if not self.reports and nobodys:
            return "no process of the script used torch, triton or aiter: nothing was simulated"
        if not reasons and self.exit_code == 0 and not any(_judged(report) for report in self.reports):
            return "no decode call and no kernel launch: nothing was judged"
        if not reasons and self.exit_code == 0 and not self.findings and self.not_judged:
            return self._left_open
        return reasons[0] if reasons else None

    @property
    def not_judged(self) -> tuple[str, ...]:
        """Of all processes, a sentence for each decode call that ran and that nobody could judge byte by byte."""
        return tuple(line for report in self.reports for line in report.not_judged)

    @property
    def _left_open(self) -> str:
        calls = sum(report.decode_calls for report in self.reports)
        return f"{len(self.not_judged)} of {counted(calls, 'decode call')} ran and were not judged: {self.not_judged[0]}"

    @property
    def code(self) -> int:
        """The exit code of `aiterfuzz verify`."""
        if self.faults:
            return EXIT_ABORTED
        if self.could_not_run is not None:
            return EXIT_CANNOT_RUN
        return self.exit_code or (EXIT_FINDINGS if self.findings else 0)


def _judged(report: ScriptReport) -> bool:
    return bool(report.decode_calls or report.launches or report.triton_launches or report.findings)


def verify(
    script: Path,
    arguments: Sequence[str],
    options: Options,
    limits: Limits = DEFAULT_LIMITS,
    captured: bool = False,
    wanted_to_stop: Callable[[], bool] = never,
    passed: Sequence[str] = (),
    readable: Sequence[Path] = (),
) -> Verification:
    """Run `python SCRIPT ARGUMENTS` on the virtual GPU. captured: keep what it prints instead of letting it through.

    wanted_to_stop: asked while it runs, and ends it when somebody does. passed, readable: further variables and
    files that the script sees; it runs behind the fence (backend.child.fence), whose environment is a clean one.

    Raises UsageError where there is no such script or revision of AITER.
    """
    if not script.is_file():
        raise UsageError(f"{script}: no such file; give the path of a Python script")
    if options.aiter is not None:
        open_source(options.aiter)
    if options.release is not None:
        release(options.release)
    started = time.monotonic()
    with Scratch("verify-") as folder, tempfile.TemporaryFile() as kept:
        options_text = json.dumps(to_plain(options) | {"reports": str(folder)})
        scratch = folder / "scratch"
        scratch.mkdir()
        beside = script.resolve().parent
        project = (beside.parent,) if Path.home() in beside.parent.parents else ()
        readable = (beside, *project, *readable, *(() if options.aiter is None else folders_of(options.aiter)))
        fence = Fence(scratch, readable, (folder,), Path.cwd())
        tree = ProcessTree(
            [sys.executable, str(script), *arguments],
            fence.environment(_environment(options_text), passed),
            fence=fence,
            stdout=kept if captured else None,
            stderr=kept if captured else None,
        )
        strangers: dict[str, None] = {}
        try:
            stopped = _watch(tree, limits, started, wanted_to_stop, strangers)
        finally:
            status = tree.close()
        kept.seek(0)
        output = kept.read().decode(errors="replace")
        code = status if status >= 0 else 128 - status
        records = records_of(folder)
        reports = tuple(record.report for record in records if record.report is not None)
        lost = (*(record.lost for record in records if record.lost is not None), *strangers)
        seconds = time.monotonic() - started
        return Verification(tuple(arguments), code, reports, output, stopped, seconds, len(records), lost)


def _environment(options: str) -> dict[str, str]:
    """What makes every Python process below a simulated one (backend.real.script.simulated); this Python comes first."""
    paths = (str(Path(start.__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", ""))
    programs = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
    return {
        **os.environ,
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TRITON_INTERPRET": "0",
        VARIABLE: options,
    }


def _watch(
    tree: ProcessTree, limits: Limits, started: float, wanted_to_stop: Callable[[], bool], strangers: dict[str, None]
) -> str | None:
    """Wait for the end; the limit that it was stopped at, None for none. strangers: filled with Pythons out of reach."""
    looked = started
    while tree.status is None:
        now = time.monotonic()
        if wanted_to_stop():
            return "stopped"
        if now - started > limits.seconds:
            return f"stopped at its limit of {limits.seconds:g} s"
        if now - looked >= WATCH_SECONDS:
            looked = now
            strangers |= dict.fromkeys(tree.without(VARIABLE, "python"))
            offence = tree.offence(limits)
            if offence is not None:
                return f"stopped at its limit of {offence.limit}"
        time.sleep(POLL_SECONDS)
    return None


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """What a process of a script told last (backend.real.script.simulated). simulates: it has imported torch, triton or aiter.

    ended: this is its end. report: None where nothing is simulated in it.
    """

    pid: int
    command: tuple[str, ...]
    simulates: bool
    ended: bool
    could_not_run: str | None
    report: ScriptReport | None

    @property
    def lost(self) -> str | None:
        """Why this process leaves the run without a word of what it did, None where it does not."""
        who = f"process {self.pid} ({shlex.join(self.command)[:200]})"
        if self.could_not_run is not None and self.report is None:
            return f"{who}: {self.could_not_run}"
        if self.simulates and not self.ended:
            return f"{who} ended without telling its end"
        return None


def records_of(folder: Path) -> tuple[ProcessRecord, ...]:
    """What all processes told into the folder of their reports, in the order of their starts."""
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        lines = [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        if lines:
            found.append(from_plain(ProcessRecord, json.loads(lines[-1])))
    return tuple(found)


def verification_lines(done: Verification) -> Iterator[str]:
    """A run for people, line by line; what the script itself and the runtime printed is left out."""
    for report in done.reports:
        who = f"process {report.pid}: " if len(done.reports) > 1 else ""
        yield (
            f"{who}simulated {PRODUCT[Arch(report.arch)]} ({report.arch}, {report.num_cu} CUs), "
            f"aiter: {report.aiter}; "
            f"{counted(report.decode_calls, 'decode call')}, {counted(report.launches, 'launch')}; stage 1 by {report.engine}"
            + (f"; {counted(report.triton_launches, 'Triton launch')} by machine code" if report.triton_launches else "")
        )
        yield from (f"note: {note}" for note in (*report.notes, *report.not_judged))
    yield from conclusion_lines(done)


def plain(done: Verification) -> dict[str, object]:
    """A run for programs. output: what the script printed."""
    return {
        "exit_code": done.code,
        "could_not_run": done.could_not_run,
        "faults": done.faults,
        "findings": done.findings,
        "script": {"exit_code": done.exit_code, "output": done.output},
        "processes": done.reports,
    }


def conclusion_lines(done: Verification) -> Iterator[str]:
    """What a run comes to for people: findings, why it says nothing, the exit code."""
    findings = done.findings
    if findings:
        yield f"{counted(len(findings), 'finding')} byte by byte:"
    for seen in findings:
        yield from _finding_lines(seen)
    if not findings and done.could_not_run is None:
        yield "no finding byte by byte" + (" in the calls that were judged" if done.not_judged else "")
    if done.could_not_run is not None:
        yield f"could not run: {done.could_not_run}"
    if done.exit_code != done.code:
        yield f"exit {done.code} (the script itself ends with {done.exit_code})"
    elif done.exit_code and not findings and not done.faults and done.could_not_run is None:
        yield f"exit {done.code}, {_by_whom(done)}"
    else:
        yield f"exit {done.code}"


def _by_whom(done: Verification) -> str:
    """Who ended a script that did not end well: AITER, by a refusal that it did not outlive, or itself."""
    refused = next((report for report in done.reports if report.refused_by_aiter is not None), None)
    if refused is None:
        return "by the script itself: what it printed says why"
    who = "" if refused is done.reports[0] else f" of process {refused.pid}"
    return f"by AITER's refusal{who}: {refused.refused_by_aiter}"


def _finding_lines(seen: SeenFinding) -> Iterator[str]:
    finding = seen.finding
    extra = f" ({counted(seen.calls, 'call')})" if seen.calls > 1 else ""
    extra += " (after the abort: hardware does not come to it)" if seen.after_abort else ""
    yield f"  {finding.party.value}, {finding.stage}: {finding.kind.value}{extra}"
    yield f"    {finding.message}"
    figures = ", ".join(f"{name} {value}" for name, value in finding.evidence.items())
    if figures:
        yield f"    {figures}"


def runs_of(script: str) -> tuple[tuple[str, ...], ...]:
    """The ways in which a script of ours (templates/repro.py.txt) is run, by what its text offers."""
    runs: list[tuple[str, ...]] = [()]
    if '"--fixed"' in script:
        runs.append(("--fixed",))
    return tuple(runs)


@dataclass(frozen=True, slots=True)
class ScriptVerdict:
    """What all runs of one script of ours came to. name: of its file."""

    name: str
    runs: tuple[Verification, ...]

    @property
    def shows(self) -> bool:
        """Whether the script, as it prints and ends, goes wrong as found and, where it has a remedy, right with that."""
        wrong = (run for run in self._as_found if run.exit_code in (EXIT_FINDINGS, EXIT_ABORTED))
        return self._right_when_fixed and any(_exception(run) is None for run in wrong)

    @property
    def in_words(self) -> str:
        """The verdict in words."""
        if self.shows:
            return "shows what it is for"
        if any(_exception(run) is not None for run in self._as_found):
            return "ends by an exception, which shows nothing"
        if self._right_when_fixed and any(run.findings for run in self._as_found):
            return "goes wrong, which only a look at each byte shows here: the script itself ends well"
        if any(run.stopped is not None for run in self.runs):
            return "was stopped before it could show what it is for"
        return "does NOT show what it is for"

    @property
    def _as_found(self) -> list[Verification]:
        """An abort is an answer, though the process that it ends tells nothing more."""
        found = [run for run in self.runs if "--fixed" not in run.arguments]
        return [run for run in found if run.faults or run.could_not_run is None]

    @property
    def _right_when_fixed(self) -> bool:
        return all(run.code == 0 for run in self.runs if "--fixed" in run.arguments)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each run, after one that says where."""
        first = next((report for run in self.runs for report in run.reports), None)
        where = "a simulated GPU" if first is None else f"a simulated {PRODUCT[Arch(first.arch)]}"
        by = "" if first is None else f" (stage 1 by {first.engine}; aiter: {_revision(first.aiter)})"
        head = f"{self.name} was run on {where}{by} and {self.in_words}:"
        return (head, *(f"`{_command(self.name, run)}`: {_result(run)}" for run in self.runs))


def _command(name: str, run: Verification) -> str:
    return " ".join(("python", name, *run.arguments))


def _result(run: Verification) -> str:
    if run.could_not_run is not None and not run.faults:
        return f"could not run ({run.could_not_run})"
    parts = [f"exit {run.exit_code}"]
    wrong = _wrong_result(run.output)
    if wrong is not None:
        parts.append(f"the script's comparison with its reference fails ({wrong})")
    if (exception := _exception(run)) is not None:
        parts.append(f"by an exception ({exception})")
    none = "no finding" if wrong is None else "no finding byte by byte"
    parts.append(f"{counted(len(run.findings), 'finding')} byte by byte" if run.findings else none)
    return ", ".join(parts) + (f"; simulated: {run.faults[0]}" if run.faults else "")


WRONG_RESULT = "wrong result:"
"""Line of a script of ours under which stands how its output differs from its reference, the plainest difference first."""


def _wrong_result(output: str) -> str | None:
    """The first difference that a script of ours printed, None where its comparison did not fail."""
    _, found, after = output.partition(f"\n{WRONG_RESULT}\n")
    return after.splitlines()[0].strip() if found and after else None


def _exception(run: Verification) -> str | None:
    """The exception by which a script of ours ended before it had compared anything, as Python prints it; None without one."""
    _, found, after = run.output.partition("Traceback (most recent call last):\n")
    if run.exit_code != EXIT_FINDINGS or not found or any(said in run.output for said in CAME_TO_ITS_END):
        return None
    return next((line.strip() for line in after.splitlines() if line and not line.startswith(" ")), None)


CAME_TO_ITS_END = ("FAULTY\n", "FAILED (failures=")
"""What a script of ours, or unittest, prints of a comparison that failed; an exception ends the process with the same code."""


def _revision(label: str) -> str:
    """The revision of `PATH@REVISION`, without the path, which means something on this machine only."""
    return f"ROCm/aiter {label.rpartition('@')[2]}" if "@" in label else label


def verdict(
    name: str,
    script: str,
    case: Case,
    aiter: str | None,
    limits: Limits = REPRO_LIMITS,
    wanted_to_stop: Callable[[], bool] = never,
    runs: Sequence[tuple[str, ...]] | None = None,
) -> ScriptVerdict:
    """Runs a script of ours, given as its text, in each way that it offers. aiter: PATH[@REVISION] of a checkout.

    runs: arguments of the runs in place of those ways.
    """
    options = Options(case.arch, aiter, case.release if aiter is None else None, case.compute_units)
    with Scratch("script-") as folder:
        file = folder / name
        file.write_text(script, encoding="utf-8")
        ways = runs_of(script) if runs is None else runs
        return ScriptVerdict(name, tuple(verify(file, run, options, limits, True, wanted_to_stop) for run in ways))


def verdicts(
    files: Mapping[str, str], case: Case, aiter: str | None = None, wanted_to_stop: Callable[[], bool] = never
) -> tuple[ScriptVerdict, ...]:
    """What each script of a finding's folder (reprod.write) was seen to do."""
    scripts = sorted((name, text) for name, text in files.items() if name.endswith(".py"))
    return tuple(verdict(name, text, case, aiter, wanted_to_stop=wanted_to_stop) for name, text in scripts)


def with_verdicts(files: Mapping[str, str], seen: Sequence[ScriptVerdict]) -> Mapping[str, str]:
    """The files of a finding's folder with the verdicts in issue and explanation.

    A script that does not show what it is for, or cannot be run here, is there all the same, and the lines say so.
    """
    added = {
        "explain.txt": "\n".join(("", *_nested(seen, "", "  "))) + "\n",
        "issue.md": "\n".join(("", VERIFICATION, "", *_nested(seen, "* ", "  * "))) + "\n",
    }
    return {name: text + added.get(name, "") for name, text in files.items()}


def _nested(seen: Sequence[ScriptVerdict], first: str, further: str) -> Iterator[str]:
    for each in seen:
        head, *runs = each.lines
        yield first + head
        yield from (further + run for run in runs)


def verified(files: Mapping[str, str], case: Case, aiter: str | None = None) -> Mapping[str, str]:
    """The files of a finding's folder with what each of its scripts was seen to do."""
    return with_verdicts(files, verdicts(files, case, aiter))
