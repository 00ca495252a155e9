"""A worker: supervises the process that runs cases, and is what Ray places on a core or a GPU.

Two processes, because a case may take the one that runs it with it, and only its parent learns the signal, sees a hang on any
node of a cluster, and can hold it to its memory. A death is weather first: the chunk is run again. A case at which the process
dies twice, and once more when it is run alone, did it: the rest of the chunk goes on without it, and it is a finding. One that
never dies alone was struck by somebody else: it is run with its chunk again, and the death is told beside what becomes of it.

Knows how to run chunks and single cases and how to look into a finding; not what comes when, and not the store. `Worker` is
plain Python; the engine makes a Ray actor of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from backend.case import Case
from backend.child.keeper import Keeper, NotStartedError
from backend.child.messages import ReportKind
from backend.child.process import ChildProcess
from backend.child.process_end import EndKind, ProcessEnd
from backend.child.scratch import Scratch
from backend.child.tree import Limits
from backend.codec import from_plain, to_plain
from backend.devices.kinds import device_kind
from backend.errors import AiterfuzzError, CannotRunError
from backend.fate import Fate
from backend.findings import TAKES_PROCESS
from backend.outcome import Outcome
from fuzz.campaign.case_process import COMMAND, At, read_slot
from fuzz.campaign.investigation import Investigated, Investigation
from fuzz.campaign.messages import (
    CaseRan,
    ChildTask,
    ChunkRan,
    DeadCase,
    Investigate,
    Ready,
    RunCase,
    RunChunk,
    SetUp,
    TextsWritten,
    WorkerSetup,
    WriteTexts,
)
from fuzz.campaign.outcomes import HANGS, died
from fuzz.campaign.report import ChunkReport, Shown
from fuzz.campaign.summary import AGAIN_AFTER, AGAIN_ALONE
from fuzz.compiling import COMPILING
from fuzz.provenance import own_fingerprint

T = TypeVar("T")

Seen = Callable[[int, Shown], None]
"""Is told of a chunk's findings while it runs: its number, and what was seen. A process says each once."""

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""What Ray tells a worker of its GPUs by."""

POLL = 0.25
"""Seconds between two looks at the slot while a chunk runs: about once a chunk."""

START_SECONDS = 300.0
"""Until a process takes orders: a first start compiles planners, and a GPU's context may have to be made."""

STARTS = 3
"""Processes in a row that may end before they take orders; somebody may be killing them."""

IDLE_SECONDS = 600.0
"""Between two cases of a chunk, and while planners are compiled, where only our own code runs: longer than either takes."""

DEATHS = 2
"""Ends of a process at one case of a chunk after which the chunk goes on without it, and it is run alone."""


@dataclass(frozen=True, slots=True)
class EndedAt:
    """The end of a process, and what it was at."""

    end: ProcessEnd
    at: At


@dataclass(frozen=True, slots=True)
class ChunkLoss:
    """A process that ended while a chunk ran. position, case: None where no case ran."""

    kind: EndKind
    detail: str
    position: int | None
    case: Case | None


@dataclass(frozen=True, slots=True, eq=False)
class ChunkDone:
    """A chunk with what it cost."""

    report: ChunkReport
    losses: tuple[ChunkLoss, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """What was asked could not be done at all; the reason is for a person. usable: whether other chunks may still go well."""

    reason: str
    usable: bool


@dataclass(frozen=True, slots=True)
class Hello:
    """Where a worker is. slot: the file that names its case; rules: fingerprint of its sources; gpu: number, "" for none."""

    host: str
    node: str
    pid: int
    slot: str
    rules: str
    gpu: str = ""


class _Child:
    """One process, and what it was told last. process: one that was started before, None to start one."""

    def __init__(self, memory: int, process: ChildProcess | None) -> None:
        self.keeper = Keeper(COMMAND, {}, Limits(start=START_SECONDS, memory=memory << 20), process=process)
        self.generations = {0}
        self.tasks = 0


class CaseSupervisor:
    """Keeps one process that runs cases. `run` makes it a path (reprod.shrink.Runner) on which no case can do harm.

    slot: file that names its case. ahead: a case_process() that was started already. seen: is told of findings on the way.
    Raises CannotRunError where no process comes up, with the reason.
    """

    def __init__(
        self, setup: WorkerSetup, slot: Path, ahead: ChildProcess | None = None, seen: Seen = lambda chunk, shown: None
    ) -> None:
        self.setup = setup
        self.slot = slot
        self._ahead = ahead
        self._seen = seen
        self._child: _Child | None = None
        self._stopped = self._compiling = False

    def chunk(self, chunk: int, generation: int, frozen: str | None) -> ChunkDone:
        """Runs a chunk to its end, whatever its cases do. frozen: Frozen.to_text(), None for generation 0."""
        losses: list[EndedAt] = []
        deaths: Counter[int] = Counter()
        dead: dict[int, EndedAt] = {}
        struck: dict[int, EndedAt] = {}
        again: dict[int, Mapping[str, int | str]] = {}
        idle_deaths = 0
        while True:
            child = self._started()
            known = generation in child.generations
            task = RunChunk(
                chunk=chunk,
                generation=generation,
                frozen=None if known else frozen,
                dead=tuple(DeadCase(at, died.end.how, died.end.discriminator) for at, died in dead.items()),
                name=tuple(sorted({loss.at.position for loss in losses if loss.at.running})),
            )
            answer = self._ask(task, ChunkRan)
            if not isinstance(answer, EndedAt):
                if answer.missing is not None:
                    raise CannotRunError(answer.missing)
                child.generations.add(generation)
                named = dict(answer.named)
                for position in dead.keys() - again.keys():
                    if self._dies_alone(named[position]):
                        again[position] = {AGAIN_ALONE: 1}
                    elif position in struck:
                        again[position] = {AGAIN_AFTER: "other cases of its chunk, twice"}
                if dead.keys() <= again.keys():
                    report = self._with_deaths(ChunkReport.from_message(answer.report), named, struck, again)
                    return ChunkDone(report, tuple(_loss(loss, named) for loss in losses))
                for position in dead.keys() - again.keys():
                    struck[position] = dead.pop(position)
                    deaths[position] = 0
                continue
            losses.append(answer)
            if answer.at.running:
                position = answer.at.position
                deaths[position] += 1
                if deaths[position] >= DEATHS:
                    dead[position] = answer
            else:
                idle_deaths += 1
                if idle_deaths > STARTS:
                    raise CannotRunError(
                        f"chunk {chunk}: its process {answer.end.how} between cases, again and again; {answer.end.said}"
                    )

    def _dies_alone(self, case: Case) -> bool:
        """Whether it takes its process along, at one of as many tries as a finding is repeated."""
        return any(self.run(case).fate is Fate.DIED for _ in range(max(1, self.setup.repeats)))

    def _with_deaths(
        self,
        report: ChunkReport,
        named: Mapping[int, Case],
        struck: Mapping[int, EndedAt],
        again: Mapping[int, Mapping[str, int | str]],
    ) -> ChunkReport:
        """A report with how each death came again, and with the deaths that did not."""
        shown = [
            replace(each, finding=replace(each.finding, evidence={**each.finding.evidence, **again.get(each.position, {})}))
            for each in report.shown
        ]
        for position in sorted(struck.keys() - again.keys()):
            end = struck[position].end
            cause = died(named[position], self.setup.device, end.how, end.discriminator).cause
            assert cause is not None
            if cause.signature not in {each.signature for each in shown}:
                shown.append(Shown(cause.signature, position, named[position], cause))
        return replace(report, shown=tuple(shown))

    def run(self, case: Case, device: str | None = None) -> Outcome:
        """The outcome of one case, without what stays in the process; a death is a finding. device: None for the setup's."""
        answer = self._ask(RunCase(case, device), CaseRan)
        if isinstance(answer, EndedAt):
            return died(case, device or self.setup.device, answer.end.how, answer.end.discriminator)
        return answer.outcome(case)

    def investigate(self, case: Case, signature: str, command: str) -> Investigated:
        """What there is to know of a finding: all of it by the process, or case by case where it ends over one."""
        if signature.partition("/")[0] not in TAKES_PROCESS:
            answer = self._ask(Investigate(case, signature, command), Investigated)
            if not isinstance(answer, EndedAt):
                return answer
        return Investigation(self.setup, self, signature, command).run(case)

    def texts(self, case: Case, command: str) -> tuple[str, Mapping[str, str]] | None:
        """Folder name and files of a finding; None where the process does not survive them."""
        answer = self._ask(WriteTexts(case, command), TextsWritten)
        return None if isinstance(answer, EndedAt) else (answer.folder, answer.files)

    def start(self) -> None:
        """Starts the process, where none runs."""
        self._started()

    def stop(self) -> None:
        """Kills the process, from another thread, and starts no other."""
        self._stopped = True
        child = self._child
        if child is not None:
            child.keeper.kill(EndKind.STOPPED, "was stopped", "stopped")

    def close(self) -> None:
        """Ends the process that runs cases."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        if self._child is not None:
            self._child.keeper.close()
            self._child = None

    def _started(self) -> _Child:
        """The process, ready for tasks."""
        said = ""
        for _ in range(STARTS):
            if self._stopped:
                raise CannotRunError("stopped")
            if self._child is not None:
                return self._child
            ahead, self._ahead = self._ahead, None
            try:
                self._child = _Child(self.setup.memory, ahead)
            except NotStartedError as error:
                said = f"{error.how}; {error.said}"
                continue
            answer = self._ask(SetUp(self.setup, str(self.slot)), Ready)
            if isinstance(answer, EndedAt):
                said = f"{answer.end.how}; {answer.end.said}"
            elif answer.missing is not None:
                self.close()
                raise CannotRunError(answer.missing)
        if self._child is not None:
            return self._child
        raise CannotRunError(f"the process that runs cases does not come up: it {said}")

    def _ask(self, task: ChildTask, kind: type[T]) -> T | EndedAt:
        """The answer to a task, which is of that type, or how the process ended over it."""
        child = self._child if isinstance(task, SetUp) else self._started()
        assert child is not None
        keeper = child.keeper
        child.tasks += 1
        keeper.post({"task": child.tasks, "payload": to_plain(task)})
        last, deadline = At(-1, -1, -1), keeper.deadline(IDLE_SECONDS)
        while True:
            over = deadline.over  # before its slot is read and its pipes: we may wait for a processor in between
            message = keeper.next(time.monotonic() + POLL)
            if message is not None:
                if message["say"] == ReportKind.DONE:
                    return from_plain(kind, message["result"])
                if message["say"] == ReportKind.SEEN and isinstance(task, RunChunk):
                    self._seen(task.chunk, from_plain(Shown, message["what"]))
                if message["say"] == ReportKind.FAILED:
                    self.close()
                    raise CannotRunError(f"a worker's own error: {message['text'].strip()}")
                continue
            self._say_compiling(keeper.process.errors)
            if keeper.end is not None:
                return self._ended(keeper.end)
            at = read_slot(self.slot)
            if at != last:
                last, deadline = at, keeper.deadline(self.setup.seconds_a_case if at.running else IDLE_SECONDS)
            elif over:
                keeper.kill(EndKind.HANG, f"did not come back within {deadline.seconds:g} s", HANGS)

    def _say_compiling(self, errors: str) -> None:
        """Passes on, once, what a first start is busy with."""
        if not self._compiling and COMPILING in errors:
            self._compiling = True
            print(COMPILING, file=sys.stderr, flush=True)

    def _ended(self, end: ProcessEnd) -> EndedAt:
        """The process ended; it is cleared away."""
        at = read_slot(self.slot)
        self.close()
        return EndedAt(end, at)


def _loss(ended: EndedAt, named: Mapping[int, Case]) -> ChunkLoss:
    end, position = ended.end, ended.at.position if ended.at.running else None
    detail = f"{end.how}; {end.said}" if end.said else end.how
    return ChunkLoss(end.kind, detail, position, None if position is None else named[position])


class Worker:
    """What the engine talks to. Every method but `stop` is called by one thread and returns; what cannot be done is Broken."""

    def __init__(
        self,
        setup: WorkerSetup,
        name: str,
        running: str,
        ahead: ChildProcess | None = None,
        seen: Seen = lambda chunk, shown: None,
    ) -> None:
        """running: folder for the slot; another is taken where this node lacks it. ahead, seen: as of CaseSupervisor."""
        self._setup = setup
        self._own = None if Path(running).is_dir() else Scratch()
        folder = Path(running) if self._own is None else self._own.path
        self._supervisor = CaseSupervisor(setup, folder / name, ahead, seen)

    def hello(self) -> Hello | Broken:
        """Starts the process that runs cases and says where it is."""
        try:
            self._supervisor.start()
        except AiterfuzzError as error:
            return Broken(str(error), usable=False)
        gpu = (
            next((os.environ[name] for name in VISIBLE if os.environ.get(name)), "")
            if device_kind(self._setup.device).is_hardware
            else ""
        )
        return Hello(os.uname().nodename, _node(), os.getpid(), str(self._supervisor.slot), own_fingerprint(), gpu)

    def chunk(self, chunk: int, generation: int, frozen: str | None) -> ChunkDone | Broken:
        """A chunk of the campaign, run to its end; Broken where that cannot be."""
        try:
            return self._supervisor.chunk(chunk, generation, frozen)
        except AiterfuzzError as error:
            return Broken(str(error), usable=False)

    def close(self) -> None:
        """Ends the process that runs cases."""
        self._supervisor.close()
        if self._own is not None:
            self._own.close()

    def stop(self) -> None:
        """Kills the process that runs cases, for good, from another thread: what runs comes back as Broken."""
        self._supervisor.stop()

    def investigate(self, case: Case, signature: str, command: str) -> Investigated | Broken:
        """Shrinks a case that showed the signature, repeats the smallest one, writes the texts."""
        try:
            return self._supervisor.investigate(case, signature, command)
        except AiterfuzzError as error:
            return Broken(str(error), usable=True)


def _node() -> str:
    """Ray's name of this node, "" outside of Ray."""
    if "ray" not in sys.modules:
        return ""
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""
