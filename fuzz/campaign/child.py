"""The process that runs cases (fuzz.campaign.case_process starts it), with its setup as the first task.

It may die of any case; its supervisor (fuzz.campaign.worker) reads the slot and starts another. Knows neither Ray nor the
store.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from backend.aiter.codefiles import CodeSource, open_source
from backend.case import Case
from backend.checks.numerics import death_once
from backend.child.messages import Payload, ReportKind
from backend.child.process_end import EndKind
from backend.child.serve import Reporter, serve
from backend.codec import from_plain, to_plain
from backend.devices.kinds import device_kind, open_searching
from backend.devices.two_devices import WholeWhereNew
from backend.errors import AiterfuzzError, RuleLostError
from backend.findings import BY_NUMBERS
from backend.host import BuiltIn, Host
from backend.outcome import Outcome, reported
from backend.path import Path
from backend.serving.registry import named_policy
from fuzz.campaign.case_process import ALONE, Slot
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.guidance import KEPT, Frozen
from fuzz.campaign.maker import Maker
from fuzz.campaign.messages import (
    CaseRan,
    ChildTask,
    ChunkRan,
    Investigate,
    Ready,
    RunCase,
    RunChunk,
    SetUp,
    TextsWritten,
    WorkerSetup,
    WriteTexts,
)
from fuzz.campaign.outcomes import died
from fuzz.campaign.report import Shown
from fuzz.compiling import announced, made_ready, noticed


class _Everything:
    def __contains__(self, identifier: object) -> bool:
        return True


EVERYTHING = _Everything()
"""What has been reached where nothing is to be run whole."""


class CampaignChild:
    """Runs what it is told: chunks, single cases, the texts of a finding."""

    def __init__(self) -> None:
        self._slot: Slot | None = None
        self._setup: WorkerSetup | None = None
        self._path: Path | None = None
        self._others: dict[str, Path] = {}
        self._maker: Maker | None = None
        self._frozen = {0: Frozen()}
        self._seen: set[str] = set()
        self._by_numbers = True

    def pause(self) -> None:
        """What follows, up to `resume`, is no part of the case that runs."""
        if self._slot is not None:
            self._slot.pause()

    def resume(self) -> None:
        """The case goes on."""
        if self._slot is not None:
            self._slot.resume()

    def facts(self) -> Mapping[str, Any]:
        """Nothing: the device comes with the setup."""
        return {}

    def failure(self, error: Exception) -> EndKind:
        """Errors of cases never come this far: these are of the machine or of the program."""
        del error
        return EndKind.ERROR

    def run(self, payload: Payload, reporter: Reporter) -> Mapping[str, Any]:
        """Does one task and gives its answer."""
        match from_plain(ChildTask, payload, "task"):  # type: ignore[arg-type]  # a union is no class
            case SetUp(setup, slot):
                self._slot = Slot(FilePath(slot))
                answer: Any = self._take(setup)
            case RunChunk() as task:
                answer = self._chunk(task, reporter)
            case RunCase(case, device):
                answer = self.case(case, device)
            case WriteTexts(case, command):
                answer = self.texts(case, command)
            case Investigate(case, signature, command):
                from fuzz.campaign.investigation import Investigation  # once there is a finding

                self._by_numbers = signature.split("/", 1)[0] in BY_NUMBERS
                try:
                    answer = Investigation(self._ready[0], _Alone(self), signature, command).run(case)
                finally:
                    self._by_numbers = True
        return dict(to_plain(answer))

    def _take(self, setup: WorkerSetup) -> Ready:
        """Opens the device; what is missing is an answer, because trying again does not help."""
        self._setup = setup
        try:
            named_policy(setup.space.backend)  # whoever sends the setup has it from a person
            source = None if setup.aiter is None else open_source(setup.aiter)
            # Of devices without ranks, the script alone has so many processes.
            ranks = setup.ranks if device_kind(setup.device).takes_ranks else 1
            device = open_searching(setup.device, source, ranks, setup.numbers)
            self._path = Path(_host(source), device)
        except AiterfuzzError as error:
            return Ready(str(error))
        self._maker = Maker(setup.space, setup.seed, setup.count)
        return Ready(None)

    @property
    def _ready(self) -> tuple[WorkerSetup, Path, Maker, Slot]:
        assert self._slot is not None
        assert self._setup is not None
        assert self._path is not None
        assert self._maker is not None
        return self._setup, self._path, self._maker, self._slot

    def _chunk(self, task: RunChunk, reporter: Reporter) -> ChunkRan:
        setup, path, maker, slot = self._ready
        if task.frozen is not None:
            read = Frozen.from_text(task.frozen)
            self._frozen = {0: Frozen(), **{n: each for n, each in self._frozen.items() if n >= read.generation - KEPT}}
            self._frozen[read.generation] = read
        frozen = self._frozen[task.generation]
        placed = bool(task.dead or task.name)
        cases = maker.cases(task.chunk, frozen) if placed else []
        dead = {each.position: died(cases[each.position], setup.device, each.how, each.discriminator) for each in task.dead}
        safe = Safe(path, setup.device)

        self._begin(frozen.hits)

        def seen(shown: Shown) -> None:
            if shown.signature not in self._seen:
                self._seen.add(shown.signature)
                reporter.say(ReportKind.SEEN, what=to_plain(shown))

        try:
            drawn = cases if placed else maker.drawn(task.chunk, frozen)
            report = run_chunk(task.chunk, drawn, safe, frozen, slot.note, dead, setup.guided, seen)
        except RuleLostError as lost:
            slot.note(-1, -1)
            return ChunkRan({}, (), str(lost))
        return ChunkRan(report.to_message(), tuple((position, cases[position]) for position in task.name))

    def _begin(self, known: Container[int]) -> None:
        """What is run next is new where `known` lacks it, whatever this process ran before."""
        if self._path is not None and isinstance(self._path.device, WholeWhereNew):
            self._path.device.begin(known)

    def case(self, case: Case, device: str | None = None) -> CaseRan:
        """What is said of a case that is run alone, whole where it can be. device: another than that of the setup."""
        setup, path, _, slot = self._ready
        self._begin(() if self._by_numbers else EVERYTHING)
        if device is not None:
            if device not in self._others:
                self._others[device] = Path(path.host, device)
            path = self._others[device]
        safe = Safe(path, device or setup.device)
        slot.note(ALONE, 0)
        outcome = safe.run(case)
        slot.note(-1, -1)
        once = death_once(outcome.observation) if outcome.observation is not None else None
        # Whoever runs single cases asks how often something comes again: each time counts.
        return CaseRan.of(outcome if once is None else reported(case, (once,), None))

    def texts(self, case: Case, command: str) -> TextsWritten:
        """The texts of the finding that a case shows."""
        from reprod.folder import folder_name
        from reprod.write import Notes, cause_of, finding_files

        setup, path, _, slot = self._ready
        self._begin(() if self._by_numbers else EVERYTHING)
        slot.note(ALONE, 1)
        outcome = path.run(case)
        files = finding_files(outcome, setup.made_by, path, setup.seed, command, Notes(ranks=setup.ranks))
        slot.note(-1, -1)
        return TextsWritten(folder_name(cause_of(outcome).signature, case), files)


@dataclass(frozen=True, slots=True)
class _Alone:
    """Runs single cases as a supervisor has them run, in this process: RunsAlone."""

    child: CampaignChild

    def run(self, case: Case, device: str | None = None) -> Outcome:
        """The outcome of one case, as it would leave the process."""
        return self.child.case(case, device).outcome(case)

    def texts(self, case: Case, command: str) -> tuple[str, Mapping[str, str]]:
        """Folder name and files of a finding."""
        written = self.child.texts(case, command)
        return written.folder, written.files


def _host(source: CodeSource | None) -> Host:
    """The built-in rules; the reader of C++, which a checkout needs, costs a start a tenth of a second."""
    if source is None:
        return BuiltIn()
    from backend.revision.revision import host_of

    return host_of(source)


def main() -> None:
    """Serves until its supervisor is gone. What is imported by then is looked at by no garbage collection."""
    made_ready()  # while its supervisor is not ready either
    gc.freeze()
    gc.enable()
    with contextlib.suppress(OSError):
        # Of all processes on the machine, the one that runs cases is the one to go when memory ends.
        FilePath("/proc/self/oom_score_adj").write_text("900")
    tempfile.tempdir = os.getcwd()  # which the supervisor takes away, in whatever way this process ends
    child = CampaignChild()
    # announced on its standard error, which its supervisor reads; what a first case compiles is no part of its time
    with announced(), noticed(child.pause, child.resume):
        serve(lambda: child)
