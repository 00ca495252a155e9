"""The engine: hands chunks to workers, takes reports in, looks into findings, replaces workers that are lost. One process.

It decides what comes next; how cases are run (worker), made (guided), kept (store) and shown (live) is elsewhere, and Ray is
behind `Cluster`, whose methods tests replace.

What holds at any moment: a chunk is in exactly one of four places: not begun, handed out, recorded, set aside. A chunk that was
handed out to a worker that is lost goes back to the first of these. Recording is a transaction of the store, so that the same
holds after a SIGKILL, where everything handed out counts as not begun.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.case import Case
from backend.fate import Fate
from backend.findings import Finding
from backend.words import counted
from fuzz.campaign.case_process import read_slot
from fuzz.campaign.collaborators import Log, NoLog, Triage, Verifying, View
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.guidance import KEPT, Guide
from fuzz.campaign.investigation import Investigated
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.pool import Lost, Workers
from fuzz.campaign.progress import Status, in_minutes
from fuzz.campaign.report import Shown
from fuzz.campaign.store import FINDINGS, Store
from fuzz.campaign.store_blobs import StoredChunk
from fuzz.campaign.summary import LossKind, is_weather
from fuzz.campaign.verifying import unverified
from fuzz.campaign.worker import Broken, ChunkDone, Hello
from reprod.folder import write_folder
from reprod.reference import KnownReference

AHEAD = 2
"""Calls that a worker holds: it finds the next one waiting when it has answered one."""

WAIT_SECONDS = 0.2
"""At most, for an answer, so that Ctrl-C and the end of time are seen."""

HELLO_SECONDS = 400.0
"""Until a worker answers for the first time; its own process has 300 s."""

ATTEMPTS = 3
"""Workers (not their processes: those are seen to by the worker) that a chunk may take with it before it is set aside."""

STOP_SECONDS = 20.0
"""Granted to chunks that run when somebody stops the campaign."""

CLOSING_SECONDS = 120.0
"""Granted to findings that are not looked into or not verified yet when the campaign's own time is over."""

REPLACE_SECONDS = 1.0
"""Between two looks for room for workers that are missing: Ray frees what a dead one held with some delay."""

PATIENCE_SECONDS = 30.0
"""Without any worker, until the campaign gives up."""

FRUITLESS = 5
"""Workers lost in a row, for each that was asked for, without a chunk recorded in between: then it is no weather."""

RUNNING = "running"
"""Folder of the slots."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What a worker was asked: hello, a chunk, or to look into a signature."""

    what: str
    chunk: int = -1
    signature: str = ""


@dataclass(slots=True, eq=False)
class _Hand:
    """A worker. calls: in the order in which it answers them, by Ray's reference."""

    name: str
    actor: Any
    since: float
    slot: Path | None = None
    gpu: str = ""
    calls: dict[Any, _Call] = field(default_factory=dict)


class Engine:
    """Runs one campaign in one session. `run` returns why it ended: "finished", "interrupted", or "no worker left: ..."."""

    def __init__(
        self,
        config: CampaignConfig,
        setup: WorkerSetup,
        store: Store,
        cluster: Workers,
        view: View,
        triage: Triage,
        verifier: Verifying,
        wanted_to_stop: Callable[[], bool],
        log: Log | None = None,
        findings: str = FINDINGS,
        command: str = "",
    ) -> None:
        """findings: folder of the findings' folders, below the store's. command: what found them, for their texts."""
        self.config = config
        self.store = store
        self._setup = setup
        self._cluster = cluster
        self._view = view
        self._triage = triage
        self._verifier = verifier
        self._wanted_to_stop = wanted_to_stop
        self._folder = store.path.parent
        self._log = log or NoLog()
        self._findings = findings
        ranks = f" --ranks {config.ranks}" if config.ranks > 1 else ""
        self._command = command or (
            f"aiterfuzz campaign --backend {config.backend} --seed {config.seed} --device {config.device}{ranks}"
        )
        self._hands: list[_Hand] = []
        self._wanted = 0
        self._spawned = 0
        self._fruitless = 0
        self._looked_for_room = self._had_workers = time.monotonic()
        self._losses = 0
        self._broken = ""
        self._guide = Guide(config.generation_chunks, config.guided)
        self._frozen: dict[int, Any] = {}
        self._attempts: Counter[int] = Counter()
        self._again: list[int] = []
        self._next = 0
        self.done: set[int] = set()
        self._fates: Counter[Fate] = Counter()
        self._by_gpu: Counter[str] = Counter()
        self._to_investigate: deque[str] = deque()
        self._named: set[str] = set()
        cluster.listen(self._seen)

    def run(self, workers: int) -> str:
        """Runs until the budget is spent, somebody stops it, or no worker is left."""
        self._wanted = workers
        for _ in range(workers):
            self._spawn()
        stopped_at: float | None = None
        while True:
            reason = self._ended()
            if reason is None:
                self._replace()
                self._hand_out()
            elif stopped_at is None:
                stopped_at = time.monotonic()
            if reason is not None and stopped_at is not None and self._closed(reason, time.monotonic() - stopped_at):
                self._say_unverified()
                self._say_gpus()
                return reason
            self._collect()
            self._take_verified()
            self.store.commit_if_due()
            self._view.update(self.status("" if stopped_at is None else self._still(time.monotonic() - stopped_at)))

    def status(self, doing: str = "") -> Status:
        """What the view shows of the campaign. doing: what is done in place of drawing cases."""
        limit, time_limit = self.config.chunk_limit, self.config.time_limit
        at_work = [read_slot(hand.slot) for hand in self._hands if hand.slot is not None]
        begun = sum(at.position for at in at_work if at.of_a_chunk and at.chunk not in self.done)
        cases = self._fates.total() + begun
        weather = {each for each, row in self.store.findings.items() if is_weather(row.cause, row.reliability)}
        if not doing and not at_work and not cases:
            doing = f"starting {counted(self._wanted, 'worker')}"
        return Status(
            seconds=self.store.seconds,
            cases=cases,
            features=self._guide.features,
            findings=len((self.store.findings.keys() | self._named) - weather),
            refused=self._fates[Fate.REFUSED],
            losses=self._losses,
            seconds_left=None if time_limit is None else max(0.0, time_limit - self.store.seconds),
            cases_left=None if limit is None else max(0, limit * self._setup.count - cases),
            shrinking=self._count("investigate"),
            doing=doing,
        )

    # What there is to do.

    def prepare(self) -> None:
        """Takes in what the store holds of earlier sessions. Once, before `run`."""
        self.done = self.store.done_chunks()
        aside = self.store.chunks_set_aside()
        self._guide.take_all(self.store.stored_chunks(max(self.done, default=-1) + 1), aside)
        self.done |= aside
        self._fates = self.store.fates()
        unfinished = [
            row.signature
            for row in self.store.findings.values()
            if not row.reliability.repeats
            or is_weather(row.cause, row.reliability)
            # Its script is made again, from the case: what lies in the folder may be anybody's, and is not run.
            or (self.config.verify and row.folder is not None and unverified(self._folder, row.folder))
        ]
        self._to_investigate.extend(unfinished)

    def _ended(self) -> str | None:
        """Why nothing new is begun; None where something is."""
        if self._wanted_to_stop():
            return "interrupted"
        if self._given_up():
            return f"no worker left: {self._broken}"
        if self.config.time_limit is not None and self.store.seconds >= self.config.time_limit:
            return "finished"
        return "finished" if self._exhausted() and not self._running("chunk") else None

    def _exhausted(self) -> bool:
        while self._next in self.done:
            self._next += 1
        limit = self.config.chunk_limit
        return limit is not None and self._next >= limit and not self._again

    def _closed(self, reason: str, seconds: float) -> bool:
        """Whether everything is in that is waited for. seconds: since the reason came up."""
        if reason != "finished":
            return not self._running("chunk") or seconds > STOP_SECONDS
        if seconds > CLOSING_SECONDS:
            return True
        if not self._hands:
            return not self._verifier.pending
        for hand in self._ready():
            if self._to_investigate and not hand.calls:
                self._investigate(hand)
        busy = self._running("chunk") or self._running("investigate")
        return not (busy or self._to_investigate or self._verifier.pending)

    def _still(self, seconds: float) -> str:
        """What is done yet, and for how long at most. seconds: since the search is over."""
        investigating = len(self._to_investigate) + self._count("investigate")
        if self._running("chunk"):
            what = "finishing the chunks that are begun"
        elif investigating:
            what = f"shrinking {counted(investigating, 'finding')}"
        elif self._verifier.pending:
            given = self._verifier.given
            what = f"verifying script {given - self._verifier.pending + 1} of {given}"
        else:
            return "finishing"
        most = STOP_SECONDS if self._wanted_to_stop() else CLOSING_SECONDS
        return f"{what}, at most {in_minutes(max(0.0, most - seconds))} left"

    def _running(self, what: str) -> bool:
        return self._count(what) > 0

    def _count(self, what: str) -> int:
        return sum(call.what == what for hand in self._hands for call in hand.calls.values())

    def _ready(self) -> list[_Hand]:
        return [hand for hand in self._hands if hand.slot is not None]

    def _hand_out(self) -> None:
        for depth in range(1, AHEAD + 1):
            for hand in self._ready():
                if len(hand.calls) < depth:
                    if self._to_investigate and not any(call.what == "investigate" for call in hand.calls.values()):
                        self._investigate(hand)
                    elif not self._hand_chunk(hand):
                        return

    def _hand_chunk(self, hand: _Hand) -> bool:
        """Hands the next chunk to a worker; False where there is none yet."""
        if self._again:
            chunk = self._again[0]
        elif not self._exhausted():
            chunk = self._next
        else:
            return False
        frozen = self._guide.frozen(chunk)
        if frozen is None:
            return False
        if self._again:
            heapq.heappop(self._again)
        else:
            self._next += 1
        generation, text = 0, None  # a generation made from nothing is like the first
        if frozen.hits:
            generation = frozen.generation
            if generation not in self._frozen:
                self._frozen = {number: text for number, text in self._frozen.items() if number >= generation - KEPT}
                self._frozen[generation] = self._cluster.put(frozen.to_text())
            text = self._frozen[generation]
        call = self._cluster.call(hand.actor, "chunk", chunk, generation, text)
        hand.calls[call] = _Call("chunk", chunk=chunk)
        return True

    def _investigate(self, hand: _Hand) -> None:
        signature = self._to_investigate.popleft()
        row = self.store.findings[signature]
        case = row.smallest if row.minimal and row.reliability.shown else row.first
        call = self._cluster.call(hand.actor, "investigate", case, signature, self._command)
        hand.calls[call] = _Call("investigate", signature=signature)

    # What comes back.

    def _collect(self) -> None:
        calls = {call: hand for hand in self._hands for call in hand.calls}
        if not calls:
            time.sleep(WAIT_SECONDS / 10)
            return
        for call in self._cluster.wait(list(calls), WAIT_SECONDS):
            hand = calls[call]
            if call in hand.calls:
                self._take(hand, hand.calls.pop(call), self._cluster.answer(call))
        late = [hand for hand in self._hands if hand.slot is None and time.monotonic() - hand.since > HELLO_SECONDS]
        for hand in late:
            self._cluster.end(hand.actor)
            self._lose(hand, LossKind.ACTOR, f"did not answer within {HELLO_SECONDS:g} s", None)

    def _take(self, hand: _Hand, call: _Call, answer: Any) -> None:
        match answer:
            case Hello():
                hand.slot = Path(answer.slot)
                hand.gpu = f"{answer.host}: GPU {answer.gpu}" if answer.gpu else ""
            case ChunkDone():
                self._record(hand, answer)
            case Investigated():
                self._found(answer)
            case Broken(reason, usable=True):
                self._view.say(f"finding {call.signature} could not be looked into: {reason}")
            case Broken(reason):
                self._broken = reason
                self._wanted -= 1
                self._cluster.end(hand.actor)
                self._lose(hand, LossKind.EXIT, f"cannot run: {reason}", call)
            case Lost(kind, detail):
                self._lose(hand, kind, detail, call)
            case other:
                raise AssertionError(other)

    def _record(self, hand: _Hand, answer: ChunkDone) -> None:
        report = answer.report
        assert report.chunk not in self.done, report.chunk
        self.done.add(report.chunk)
        self._fruitless = 0
        if hand.gpu:
            self._by_gpu[hand.gpu] += report.cases
        self._guide.take(StoredChunk(report.chunk, report.reached, report.kept))
        new = self.store.chunk(report, hand.name, self._guide.features)
        for signature in new:
            row = self.store.findings[signature]
            self.store.finding(signature, known=self._triage.reference(row.cause, row.first))
        for loss in answer.losses:
            self._losses += 1
            self.store.loss(loss.kind, hand.name, loss.detail, report.chunk, loss.position, loss.case)
        for fate, count in report.fates().items():
            self._fates[fate] += count
        if new:
            self.store.commit()  # what is announced is kept, whatever comes
        self._log.ran(report)
        for signature in new:
            self._announce(signature)

    def _announce(self, signature: str) -> None:
        row = self.store.findings[signature]
        self._to_investigate.append(signature)
        if signature not in self._named:
            self._name(signature, row.cause, (row.chunk, row.position), row.known)

    def _seen(self, chunk: int, shown: Shown) -> None:
        """A finding at sight, in a worker's thread: named now, and kept when its chunk is recorded."""
        if shown.signature not in self.store.findings and shown.signature not in self._named:
            known = self._triage.reference(shown.finding, shown.case)
            self._name(shown.signature, shown.finding, (chunk, shown.position), known)

    def _name(self, signature: str, cause: Finding, place: tuple[int, int], known: KnownReference | None) -> None:
        self._named.add(signature)
        after = f"{cause.severity.name.lower()}, case {place[0]}/{place[1]}, {self.store.seconds:.1f} s"
        self._view.say(f"finding: {signature} ({after}{f', known as {known.entry}' if known is not None else ''})")

    def _found(self, answer: Investigated) -> None:
        write_folder(self._folder / self._findings, answer.folder, answer.files)
        self._verifier.give(answer.folder, answer.files, answer.smallest, self.config.aiter)
        row = self.store.findings[answer.signature]
        cause = next((finding for finding in answer.findings if finding.signature == answer.signature), row.cause)
        self.store.finding(
            answer.signature,
            cause=cause,
            smallest=answer.smallest,
            minimal=answer.minimal,
            findings=answer.findings or row.findings,
            reliability=answer.reliability,
            folder=(Path(self._findings) / answer.folder).as_posix(),
            known=self._triage.reference(cause, answer.smallest) or row.known,
        )
        self._log.found(row)
        if is_weather(cause, answer.reliability):
            self._view.say(f"not reproduced: {answer.signature} ({answer.reliability}); no finding, its case is kept")

    def _take_verified(self) -> None:
        for done in self._verifier.take():
            write_folder(self._folder / self._findings, done.folder, done.files)
            self._view.say(f"{self._folder / self._findings / done.folder}: {done.in_words}")

    def _say_gpus(self) -> None:
        """Each GPU's share of the cases of this session."""
        total = self._by_gpu.total()
        for gpu, cases in sorted(self._by_gpu.items()):
            self._view.say(f"{gpu}: {counted(cases, 'case')} ({cases / total:.1%})")

    def _say_unverified(self) -> None:
        if self._verifier.pending:
            left = counted(self._verifier.pending, "finding is", "findings are")
            self._view.say(f"{left} not verified; --resume or `aiterfuzz verify` does it")

    # Workers that come and go.

    def _spawn(self) -> None:
        name = f"worker-{self._spawned}"
        self._spawned += 1
        actor = self._cluster.spawn(self._setup, name, str(self._folder / RUNNING))
        hand = _Hand(name, actor, time.monotonic())
        hand.calls[self._cluster.call(actor, "hello")] = _Call("hello")
        self._hands.append(hand)

    def _given_up(self) -> bool:
        """Whether there is no worker and none will come."""
        if self._fruitless > FRUITLESS * max(1, self._wanted):
            return True
        if self._hands:
            self._had_workers = time.monotonic()
        return not self._hands and (not self._wanted or time.monotonic() - self._had_workers > PATIENCE_SECONDS)

    def _replace(self) -> None:
        """Starts workers for those that are missing, as far as there is room."""
        now = time.monotonic()
        if len(self._hands) < self._wanted and now - self._looked_for_room >= REPLACE_SECONDS:
            self._looked_for_room = now
            for _ in range(min(self._wanted - len(self._hands), self._cluster.free())):
                self._spawn()

    def _lose(self, hand: _Hand, kind: LossKind, detail: str, call: _Call | None) -> None:
        """A worker is gone: what it had goes to others."""
        self._losses += 1
        self._fruitless += 1
        self._broken = self._broken or detail
        self._hands.remove(hand)
        chunk, position, case = self._at(hand)
        self.store.loss(kind, hand.name, detail, chunk, position, case)
        if chunk is None and call is not None and call.what == "chunk":
            chunk = call.chunk
        calls = ([call] if call is not None else []) + list(hand.calls.values())
        hand.calls.clear()
        for each in calls:
            if each.what == "chunk":
                self._back(each.chunk, counts=each.chunk == chunk, detail=detail)
            elif each.what == "investigate":
                self._to_investigate.append(each.signature)
        self._looked_for_room = 0.0

    def _back(self, chunk: int, counts: bool, detail: str) -> None:
        """A chunk goes back to those not begun. counts: whether it ran when its worker was lost."""
        self._attempts[chunk] += counts
        if self._attempts[chunk] >= ATTEMPTS:
            self.done.add(chunk)
            self.store.set_aside(chunk, f"{ATTEMPTS} workers were lost over it; the last one: {detail}")
            self._guide.take_nothing(chunk)
        else:
            heapq.heappush(self._again, chunk)

    def _at(self, hand: _Hand) -> tuple[int | None, int | None, Case | None]:
        """Where a lost worker was: chunk, position, case; as far as its slot can be read from here."""
        if hand.slot is None:
            return None, None, None
        at = read_slot(hand.slot)
        hand.slot.unlink(missing_ok=True)
        if not at.of_a_chunk:
            return None, None, None
        return at.chunk, at.position, self.case_at(at.chunk, at.position)

    def case_at(self, chunk: int, position: int) -> Case | None:
        """The case at a place, drawn again."""
        from fuzz.campaign.maker import Maker

        frozen = self._guide.frozen(chunk)
        if frozen is None:
            return None
        return Maker(self._setup.space, self._setup.seed, self._setup.count).cases(chunk, frozen)[position]
