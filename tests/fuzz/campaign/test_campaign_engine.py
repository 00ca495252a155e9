"""The engine, with workers that answer in any order, get lost and come back: every chunk is recorded once, whatever happens."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from stored_outcomes import stored
from undisturbed import labels, outcomes, reports

from backend.call import Call
from backend.case import Case, DType
from backend.child.process_end import EndKind
from backend.codec import dumps, from_plain
from backend.devices.model.device import ModelDevice
from backend.errors import UsageError
from backend.fate import Fate
from backend.findings import Finding, FindingKind
from backend.observation import DeviceEnd, Observation
from backend.path import Path as CasePath
from fuzz.campaign.case_process import Slot
from fuzz.campaign.chunks import Safe, died, run_chunk
from fuzz.campaign.cluster import Lost
from fuzz.campaign.collaborators import Verifying
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.engine import ATTEMPTS, Engine
from fuzz.campaign.guidance import Frozen
from fuzz.campaign.investigation import Investigated
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.progress import Status
from fuzz.campaign.read_summary import load_summary, read_case
from fuzz.campaign.report import ChunkReport, Label, Shown
from fuzz.campaign.session import resume_command, stopped, to_retry, without_workers
from fuzz.campaign.store import FILE_NAME, Store, environment
from fuzz.campaign.summary import AGAIN_ALONE, LossKind, Reliability, is_weather
from fuzz.campaign.verifying import NoVerifier
from fuzz.campaign.worker import Broken, ChunkDone, Hello, Seen
from fuzz.provenance import provenance
from fuzz.report.campaign import campaign_report
from fuzz.report.render import lines, markdown
from fuzz.strategies import chunk_cases
from fuzz.verdict import Conclusion
from reprod.reference import KnownReference

CONFIG = CampaignConfig(backend="sglang-before-27188", shapes=("tp2", "tp4"), cases=300, chunk_cases=10, generation_chunks=4)

MADE_BY = provenance("model", ("2026-06",), None)


@pytest.fixture(scope="module")
def done() -> dict[int, ChunkReport]:
    """Reports of an undisturbed campaign, which the workers here hand out as if they had just run them."""
    return {report.chunk: report for report in reports(CONFIG)}


@dataclass(eq=False)
class FakeActor:
    name: str
    slot: Path
    calls: list[tuple[int, str, tuple[Any, ...]]] = field(default_factory=list)
    lost: bool = False


@dataclass
class FakeCluster:
    """Workers that answer from prepared reports. `mishap` may turn the next answer of an actor into something else."""

    reports: dict[int, ChunkReport]
    random: Random
    mishap: Callable[[FakeActor, str, tuple[Any, ...]], Any] = lambda actor, method, arguments: None
    slots: int = 3
    actors: list[FakeActor] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    count: int = 0

    def free(self) -> int:
        return self.slots - sum(not actor.lost for actor in self.actors)

    def listen(self, seen: Seen) -> None:
        self.seen = seen

    def spawn(self, setup: WorkerSetup, name: str, running: str) -> FakeActor:
        assert self.free() > 0
        actor = FakeActor(name, Path(running) / name)
        self.actors.append(actor)
        return actor

    def call(self, actor: FakeActor, method: str, *arguments: Any) -> int:
        self.count += 1
        actor.calls.append((self.count, method, arguments))
        return self.count

    def put(self, value: Any) -> Any:
        return value

    def wait(self, calls: Sequence[int], seconds: float) -> list[int]:
        """One actor, at random, gets to its next call."""
        busy = [actor for actor in self.actors if actor.calls and actor.calls[0][0] in calls]
        actor = self.random.choice(busy)
        number, method, arguments = actor.calls.pop(0)
        answer = self.mishap(actor, method, arguments) or self._answer(actor, method, arguments)
        self.answers[number] = answer
        ready = [number]
        if isinstance(answer, Lost):
            actor.lost = True
            for later, _, _ in actor.calls:
                self.answers[later] = answer
                ready.append(later)
            actor.calls.clear()
        return ready

    def _answer(self, actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "hello":
            return Hello("here", "node", 1, str(actor.slot), MADE_BY.rules)
        if method == "chunk":
            self.asked.append(arguments[0])
            return ChunkDone(self.reports[arguments[0]], ())
        case, signature, _ = arguments
        shown = next(s for report in self.reports.values() for s in report.shown if s.signature == signature)
        return Investigated(signature, case, True, (shown.finding,), Reliability(3, 3), "bug-x", {"case.json": "{}"})

    def answer(self, call: int) -> Any:
        return self.answers.pop(call)

    def end(self, actor: FakeActor) -> None:
        actor.lost = True


class Silent:
    def update(self, status: Status) -> None:
        assert status.cases >= 0

    def say(self, text: str) -> None:
        assert text


class Listening(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class NothingKnown:
    def reference(self, cause: Finding, case: Case) -> KnownReference | None:
        return None


def open_store(folder: Path, config: CampaignConfig = CONFIG) -> Store:
    path = folder / FILE_NAME
    if path.exists():
        return Store.open(path)
    (folder / "running").mkdir(parents=True)
    return Store.create(path, "identity", config, config.space(), MADE_BY, environment(1, {"CPU": 2}))


def order(config: CampaignConfig = CONFIG) -> WorkerSetup:
    return WorkerSetup(config.space(), config.seed, config.cases_a_chunk, True, "model", None, 30.0, 4096, 3, 100, MADE_BY)


def session(
    folder: Path,
    cluster: FakeCluster,
    stop: Callable[[], bool] = lambda: False,
    workers: int = 3,
    config: CampaignConfig = CONFIG,
    verifier: Verifying | None = None,
    view: Silent | None = None,
) -> str:
    store = open_store(folder, config)
    store.begin_session(workers, "fake", MADE_BY.rules)
    engine = Engine(config, order(config), store, cluster, view or Silent(), NothingKnown(), verifier or NoVerifier(), stop)
    engine.prepare()
    try:
        reason = engine.run(workers)
        store.end_session(reason)
        return reason
    finally:
        store.close()


@pytest.mark.parametrize(("workers", "seed"), [(1, 0), (2, 1), (3, 2), (3, 3)])
def test_all_chunks_are_recorded_once_whatever_the_order(
    tmp_path: Path, done: dict[int, ChunkReport], workers: int, seed: int
) -> None:
    cluster = FakeCluster(done, Random(seed))
    assert session(tmp_path, cluster, workers=workers) == "finished"
    assert stored(tmp_path) == {chunk: labels(report) for chunk, report in done.items()}
    assert sorted(cluster.asked) == sorted(done)
    summary = load_summary(tmp_path)
    _agrees(summary.counts.cases, done)
    assert summary.complete
    assert summary.verdict.conclusion is Conclusion.FAULTY
    assert summary.exit_code == 1


def test_a_finding_is_named_at_sight_and_not_again_when_its_chunk_is_recorded(
    tmp_path: Path, done: dict[int, ChunkReport]
) -> None:
    view = Listening()
    named: dict[str, int] = {}

    def at_sight(actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> None:
        """What a worker of this machine does on the way to its answer."""
        if method == "chunk":
            for shown in done[arguments[0]].shown:
                cluster.seen(arguments[0], shown)
                named.setdefault(shown.signature, sum(f"finding: {shown.signature} (" in text for text in view.said))

    cluster = FakeCluster(done, Random(0), at_sight)
    assert session(tmp_path, cluster, workers=1, view=view) == "finished"
    assert named
    assert set(named.values()) == {1}
    findings = [text for text in view.said if text.startswith("finding: ")]
    assert len(findings) == len(named)
    assert len(load_summary(tmp_path).findings) == len(named)


def test_what_runs_counts_before_its_chunk_is_recorded(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    told: list[Status] = []

    def on_the_way(actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> None:
        if method == "chunk" and not told:
            Slot(actor.slot).note(arguments[0], 6)
            cluster.seen(arguments[0], shown)
            told.append(engine.status())

    shown = next(shown for report in done.values() for shown in report.shown)
    cluster = FakeCluster(done, Random(0), on_the_way)
    store = open_store(tmp_path)
    store.begin_session(1, "fake", MADE_BY.rules)
    engine = Engine(CONFIG, order(), store, cluster, Silent(), NothingKnown(), NoVerifier(), lambda: bool(told))
    engine.run(1)
    store.close()
    assert [(status.cases, status.findings, status.doing) for status in told] == [(6, 1, "")]


def test_who_stops_a_search_is_told_what_goes_on_with_it(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    assert session(tmp_path, FakeCluster(done, Random(0)), stop=lambda: True) == "interrupted"
    assert stopped(load_summary(tmp_path), "out") == ["go on with: aiterfuzz campaign --resume --out out"]
    assert session(tmp_path, FakeCluster(done, Random(0))) == "finished"
    assert stopped(load_summary(tmp_path), "out") == []
    broken = "no worker left: rule my_rule.py: its process did not answer within 5 s"
    assert without_workers(broken, "my_rule.py", tmp_path) == "mend the rule and begin anew with another --out"
    assert without_workers("no worker left: no GPU", "direct", tmp_path).startswith("go on with `aiterfuzz campaign --resume")
    assert resume_command("out", "my_rule.py") == "aiterfuzz campaign --resume --backend my_rule.py --out out"


def _agrees(cases: int, done: dict[int, ChunkReport]) -> None:
    assert cases == sum(report.cases for report in done.values())


def test_the_summary_adds_up(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    session(tmp_path, FakeCluster(done, Random(0)))
    summary = load_summary(tmp_path)
    every = [label for report in done.values() for label in labels(report)]
    counts = summary.counts
    assert (counts.clean, counts.faulty, counts.refused) == tuple(
        sum(label.fate is fate for label in every) for fate in (Fate.CLEAN, Fate.FAULTY, Fate.REFUSED)
    )
    assert counts.clean + counts.faulty + counts.refused + counts.unmodelled + counts.died == counts.cases
    assert sum(cell.cases for cell in summary.cells) == counts.cases
    assert sum(cell.faulty for cell in summary.cells) == counts.faulty + counts.died
    assert sum(reason.cases for reason in summary.refused_reasons) == counts.refused
    assert {finding.signature: finding.count for finding in summary.findings} == {
        text: sum(label.text == text for label in every)
        for text in {label.text for label in every if label.fate in (Fate.FAULTY, Fate.DIED)}
    }
    assert {signature for cell in summary.cells for signature in cell.signatures} == {f.signature for f in summary.findings}
    assert summary.samples[-1].cases == counts.cases
    assert summary.samples[-1].features == summary.features == len({f for r in done.values() for f in r.reached.ids.tolist()})
    assert all(str(finding.reliability) == "3 of 3" and finding.folder == "findings/bug-x" for finding in summary.findings)
    assert sum(cell.ran for cell in summary.cells) == sum(summary.kernels.values())
    by_shape = [(*cell.ran_as.values(), *cell.refused_as.values(), *cell.stopped_as.values()) for cell in summary.cells]
    assert sum(map(sum, by_shape)) == counts.clean + counts.faulty + counts.refused, "each case is counted once"


def test_a_lost_worker_is_replaced_and_its_chunks_go_to_others(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    random = Random(9)

    def mishap(actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> Any:
        if random.random() < 0.2:
            return Lost(LossKind.ACTOR, "gone")
        return None

    cluster = FakeCluster(done, Random(1), mishap)
    assert session(tmp_path, cluster) == "finished"
    assert len(cluster.actors) > 3
    summary = load_summary(tmp_path)
    assert len(summary.losses) == len(cluster.actors) - 3
    aside = summary.lost_chunks
    assert stored(tmp_path) == {chunk: labels(report) for chunk, report in done.items() if chunk not in aside}


def test_the_case_of_a_lost_worker_is_read_from_its_slot(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    told: list[tuple[int, int]] = []

    def mishap(actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "chunk" and arguments[0] == 11 and not told:
            Slot(actor.slot).note(11, 6)
            told.append((11, 6))
            return Lost(LossKind.ACTOR, "gone")
        return None

    session(tmp_path, FakeCluster(done, Random(1), mishap))
    (loss,) = load_summary(tmp_path).losses
    assert (loss.chunk, loss.position) == (11, 6)
    assert loss.case == read_case(tmp_path, 11, 6)


def test_a_chunk_that_takes_its_workers_with_it_is_set_aside_and_the_rest_goes_on(
    tmp_path: Path, done: dict[int, ChunkReport]
) -> None:
    def mishap(actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> Any:
        return Lost(LossKind.NODE, "gone") if method == "chunk" and arguments[0] == 5 else None

    cluster = FakeCluster(done, Random(1), mishap)
    assert session(tmp_path, cluster) == "finished"
    summary = load_summary(tmp_path)
    assert summary.lost_chunks == (5,)
    assert len(cluster.actors) == 3 + ATTEMPTS
    assert set(stored(tmp_path)) == set(done) - {5}
    assert any("set aside" in doubt for doubt in summary.doubts)


def test_without_workers_the_campaign_ends_and_goes_on_later(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    def broken(actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> Any:
        return Broken("no GPU driver", usable=False) if method == "chunk" and arguments[0] >= 7 else None

    assert session(tmp_path, FakeCluster(done, Random(1), broken)) == "no worker left: no GPU driver"
    before = load_summary(tmp_path)
    assert not before.complete
    assert 0 < before.counts.cases < 300
    again = FakeCluster(done, Random(2))
    recorded = set(stored(tmp_path))
    assert session(tmp_path, again) == "finished"
    assert set(again.asked) == set(done) - recorded
    assert stored(tmp_path) == {chunk: labels(report) for chunk, report in done.items()}


def test_a_campaign_stopped_before_its_first_chunk_says_so_once(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    """That no shape of those asked for ran follows, and is not said besides."""
    config = dataclasses.replace(CONFIG, shapes=None, heads=(64, 32))
    assert session(tmp_path, FakeCluster(done, Random(1)), stop=lambda: True, config=config) == "interrupted"
    summary = load_summary(tmp_path)
    assert summary.doubts == ("no case ran: it ended before the first chunk of cases was done",)
    assert summary.never_ran
    report = campaign_report(summary)
    for said in ("\n".join(lines(report)), markdown(report)):
        assert said.count("it ended before the first chunk") == 1
    assert "drawn." not in "\n".join(lines(report))


@pytest.mark.parametrize("seed", range(4))
def test_interrupted_sessions_add_up_to_an_undisturbed_one(tmp_path: Path, done: dict[int, ChunkReport], seed: int) -> None:
    random = Random(seed)
    asked: list[int] = []
    for _ in range(50):
        cluster = FakeCluster(done, random)
        left = [random.randrange(1, 8)]

        def stop(cluster: FakeCluster = cluster, left: list[int] = left) -> bool:
            return len(cluster.asked) >= left[0]

        reason = session(tmp_path, cluster, stop)
        asked += cluster.asked
        if reason == "finished":
            break
        assert reason == "interrupted"
    assert sorted(asked) == sorted(done)
    assert stored(tmp_path) == {chunk: labels(report) for chunk, report in done.items()}
    summary = load_summary(tmp_path)
    assert len(summary.members[0].sessions) > 2
    assert summary.complete
    seconds = [sample.seconds for sample in summary.samples]
    assert seconds == sorted(seconds)


def test_the_cases_that_workers_are_asked_for_can_be_drawn_from_the_store(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    session(tmp_path, FakeCluster(done, Random(3)))
    for report in done.values():
        for shown in report.shown:
            assert read_case(tmp_path, report.chunk, shown.position) == shown.case
    with pytest.raises(UsageError, match="0\\.\\.9"):
        read_case(tmp_path, 0, 10)
    with pytest.raises(UsageError, match="are not in"):
        read_case(tmp_path, 10_000, 0)


def test_prepared_reports_are_what_a_campaign_gives() -> None:
    assert outcomes(CONFIG.replace(cases=40)) == {c: f for c, f in outcomes(CONFIG.replace(cases=80)).items() if c < 4}


CALM = CampaignConfig(
    backend="sglang-27188",
    releases=("2026-06",),
    q_dtype=DType.FP8,
    kv_dtype=DType.FP8,
    query_rows=(1,),
    max_kv_len=1024,
    cases=40,
    chunk_cases=10,
)

THE_CASE = chunk_cases(CALM.space(), 0, 0, 1)[0]

DEATH = died(THE_CASE, "model", "was killed by SIGKILL", "SIGKILL").findings[0]


def with_a_death(report: ChunkReport) -> ChunkReport:
    """The same chunk, in which the last case took its process with it."""
    codes = report.codes.copy()
    codes[-1] = len(report.labels)
    cells = {key: copy.deepcopy(counts) for key, counts in report.cells.items()}
    cell = next(iter(cells.values()))
    cell.faulty += 1
    cell.signatures[DEATH.signature] += 1
    shown = Shown(DEATH.signature, report.cases - 1, THE_CASE, DEATH)
    label = Label(Fate.DIED, DEATH.signature)
    return dataclasses.replace(report, labels=(*report.labels, label), codes=codes, shown=(*report.shown, shown), cells=cells)


def repeated(shown: int, finding: Finding = DEATH) -> Callable[[FakeActor, str, tuple[Any, ...]], Any]:
    """Workers that look into the death and see it so many times of five."""

    def answer(actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> Any:
        if method != "investigate":
            return None
        case, signature, _ = arguments
        assert signature == finding.signature
        findings = (finding,) if shown else ()
        return Investigated(signature, case, False, findings, Reliability(shown, 5), "bug-x", {"case.json": dumps(case)})

    return answer


@pytest.fixture
def deadly() -> dict[int, ChunkReport]:
    """A campaign without faults, in which the process that ran the last case of chunk 1 was killed."""
    return {report.chunk: with_a_death(report) if report.chunk == 1 else report for report in reports(CALM)}


def test_a_death_that_does_not_come_again_is_no_finding_and_its_case_did_not_run(
    tmp_path: Path, deadly: dict[int, ChunkReport]
) -> None:
    session(tmp_path, FakeCluster(deadly, Random(1), repeated(0)), config=CALM)
    summary = load_summary(tmp_path)
    assert (summary.verdict.conclusion, summary.exit_code, summary.findings) == (Conclusion.OPEN, 3, ())
    assert [doubt for doubt in summary.doubts if doubt.startswith("nothing is known of 1 that lost the process")]
    (unclear,) = summary.not_reproduced
    assert (unclear.signature, unclear.count, str(unclear.reliability)) == (DEATH.signature, 1, "0 of 5")
    assert summary.counts.died == 1
    assert unclear.folder is not None
    assert from_plain(Case, json.loads((tmp_path / unclear.folder / "case.json").read_text())) == unclear.first
    assert (sum(cell.faulty for cell in summary.cells), sum(cell.not_reproduced for cell in summary.cells)) == (0, 1)
    text = "\n".join(lines(campaign_report(summary)))
    assert "1 not reproduced" in text
    assert DEATH.message in text
    assert "does not expect" not in text


def test_a_death_that_comes_again_once_is_a_finding_with_that_reliability(
    tmp_path: Path, deadly: dict[int, ChunkReport]
) -> None:
    session(tmp_path, FakeCluster(deadly, Random(1), repeated(1)), config=CALM)
    summary = load_summary(tmp_path)
    assert (summary.verdict.conclusion, summary.exit_code, summary.not_reproduced) == (Conclusion.FAULTY, 1, ())
    assert [(finding.signature, str(finding.reliability)) for finding in summary.findings] == [(DEATH.signature, "1 of 5")]


def test_what_was_seen_is_a_finding_however_often_it_comes_again() -> None:
    """Bytes outside of a tensor are no weather, nor is a death that its device has seen again in a fresh process."""
    never = Reliability(0, 5)
    assert is_weather(DEATH, never)
    assert not is_weather(DEATH, Reliability(0, 0))
    assert not is_weather(dataclasses.replace(DEATH, evidence={"again_when_alone": 1}), never)
    assert not is_weather(dataclasses.replace(DEATH, evidence={"after": "case 3 of the same process"}), never)
    assert not is_weather(dataclasses.replace(DEATH, kind=FindingKind.OUT_OF_BOUNDS_WRITE), never)


def test_a_death_that_came_again_is_not_hidden_by_an_earlier_one_that_did_not(
    tmp_path: Path, deadly: dict[int, ChunkReport]
) -> None:
    """One signature, two cases: a kill from outside, and a later case that dies whenever it runs."""
    again = dataclasses.replace(DEATH, evidence={AGAIN_ALONE: 1})
    later = with_a_death(reports(CALM)[2])
    (shown,) = later.shown
    later = dataclasses.replace(later, shown=(dataclasses.replace(shown, finding=again),))
    store = open_store(tmp_path, CALM)
    store.begin_session(1, "fake", MADE_BY.rules)
    assert store.chunk(deadly[1], "worker-0", 0) == [DEATH.signature]
    store.finding(DEATH.signature, reliability=Reliability(0, 5))
    assert store.chunk(later, "worker-0", 0) == [DEATH.signature], "looked into once more"
    row = store.findings[DEATH.signature]
    assert (row.first, row.count, row.reliability) == (shown.case, 2, Reliability(0, 0))
    assert not is_weather(row.cause, Reliability(0, 5))
    assert store.chunk(dataclasses.replace(later, chunk=3), "worker-0", 0) == []
    store.close()


@pytest.mark.parametrize(("shown", "exit_code"), [(0, 3), (2, 1)])
def test_resuming_tries_again_what_did_not_come_again(
    tmp_path: Path, deadly: dict[int, ChunkReport], shown: int, exit_code: int
) -> None:
    session(tmp_path, FakeCluster(deadly, Random(1), repeated(0)), config=CALM)
    session(tmp_path, FakeCluster(deadly, Random(1), repeated(shown)), config=CALM)
    summary = load_summary(tmp_path)
    assert summary.exit_code == exit_code
    (entry,) = summary.findings or summary.not_reproduced
    assert str(entry.reliability) == f"{shown} of 5"


@pytest.mark.parametrize(("shown", "exit_code"), [(0, 0), (5, 1)])
def test_the_next_campaign_tries_again_what_the_last_could_not_reproduce(
    tmp_path: Path, deadly: dict[int, ChunkReport], shown: int, exit_code: int
) -> None:
    last, tonight = tmp_path / "last", tmp_path / "tonight"
    session(last, FakeCluster(deadly, Random(1), repeated(0)), config=CALM)
    store = open_store(tonight, CALM)
    for unclear in to_retry(CALM, load_summary(last)):
        store.carry_over(unclear)
    store.begin_session(1, "fake", MADE_BY.rules)
    store.close()
    calm = {report.chunk: report for report in reports(CALM)}
    session(tonight, FakeCluster(calm, Random(1), repeated(shown)), config=CALM)
    summary = load_summary(tonight)
    assert summary.exit_code == exit_code
    (entry,) = summary.findings or summary.not_reproduced
    assert (entry.count, entry.origin, str(entry.reliability)) == (0, "an earlier campaign", f"{shown} of 5")
    assert not to_retry(CALM, summary), "tried once more, and not every night"
    assert not to_retry(CALM.replace(device="cdna"), load_summary(last)), "another device"


class DiesOnce:
    """A device in whose hands the process of one case is lost, and not again when that case is run again."""

    name = "cuda"

    def __init__(self, victim: Case | None) -> None:
        self._victim = victim
        self._model = ModelDevice()

    def observe(self, call: Call) -> Observation:
        seen = self._model.observe(call)
        once = DeviceEnd(EndKind.SIGNAL, "killed by SIGKILL") if call.decision.case == self._victim else None
        return dataclasses.replace(seen, device=self.name, end=DeviceEnd(EndKind.COMPLETED, once=once))


def test_a_death_that_its_device_did_not_see_again_changes_nothing_but_is_told(tmp_path: Path) -> None:
    """Labels, map and what guidance is made from are those of an undisturbed campaign; the death is repeated like any other."""
    cases = chunk_cases(CALM.space(), 0, 0, 10)
    calm, disturbed = (
        run_chunk(0, cases, Safe(CasePath(None, DiesOnce(victim)), "cuda"), Frozen()) for victim in (None, cases[4])
    )
    assert labels(disturbed) == labels(calm)
    assert disturbed.reached.ids.tolist() == calm.reached.ids.tolist()
    assert (disturbed.kept, disturbed.cells, calm.shown) == (calm.kept, calm.cells, ())
    (shown,) = disturbed.shown
    assert (shown.position, shown.case, shown.finding.kind) == (4, cases[4], FindingKind.DIED)
    config = CALM.replace(cases=10)
    session(tmp_path, FakeCluster({0: disturbed}, Random(1), repeated(0, shown.finding)), config=config)
    summary = load_summary(tmp_path)
    assert (summary.exit_code, summary.counts.died, summary.findings) == (0, 0, ())
    assert [(each.signature, each.count) for each in summary.not_reproduced] == [(shown.signature, 1)]
