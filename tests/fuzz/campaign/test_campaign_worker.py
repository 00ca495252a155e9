"""A worker survives what its cases do: the one that did it is named, the others come out as if nothing had been."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbed import descendants
from undisturbed import labels, outcomes
from weather import everywhere

from backend.case import Case
from backend.codec import from_plain, to_plain
from backend.errors import CannotRunError
from backend.fate import Fate
from backend.findings import FindingKind
from fuzz.campaign.case_process import At, Slot, read_slot
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.investigation import Investigated, Investigation
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.report import Shown
from fuzz.campaign.summary import LossKind, is_weather
from fuzz.campaign.worker import Broken, CaseSupervisor, ChunkDone, Worker
from fuzz.provenance import provenance
from tests.tiers import one_of_each

CASES = 12
"""Of a chunk; exactly one of them is marked, which a test checks."""

COMMON = {
    "releases": ("2026-06",),
    "q_dtype": "fp8",
    "kv_dtype": "fp8",
    "query_rows": (1,),
    "max_kv_len": 1024,
    "seed": 24,
    "chunk_cases": CASES,
    "cases": CASES,
}


def config(name: str) -> CampaignConfig:
    return CampaignConfig(backend=f"weather-{name}", **COMMON)  # type: ignore[arg-type]


def order(name: str, device: str = "model", **changes: float) -> WorkerSetup:
    made_by = provenance("model", ("2026-06",), None)
    made = WorkerSetup(config(name).space(), config(name).seed, CASES, True, device, None, 60.0, 900, 2, 3, made_by)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def _weather() -> Iterator[None]:
    with everywhere():
        yield


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "slot"
    mine = [pid for pid, command in descendants(os.getpid()).items() if str(tmp_path) in command]
    assert not mine, "a process outlived its supervisor"


def test_one_slow_run_leaves_the_tries_of_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine was busy with something else while a case was timed: its smallest form is looked for as far as ever."""
    clock = itertools.accumulate(itertools.chain((0.0, 4.0), itertools.repeat(0.0005)))
    monkeypatch.setattr("fuzz.campaign.investigation.time.perf_counter", lambda: next(clock))

    class Supervised:
        def run(self, case: Case, device: str | None = None) -> None: ...

    looked_into = Investigation(order("calm"), Supervised(), "any", "")  # type: ignore[arg-type]
    assert looked_into._affordable_tries(Case(num_head=16, kv_lens=(1,))) == looked_into.setup.shrink_tries


def test_a_slot_outlives_what_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "slot"
    assert read_slot(path) == At(-1, -1, 0)
    pid = os.fork()
    if pid == 0:
        Slot(path).note(7, 30)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    at = read_slot(path)
    assert (at.chunk, at.position, at.running) == (7, 30, True)
    path.write_bytes(b"half")
    assert not read_slot(path).running


@pytest.mark.parametrize(
    ("name", "kind", "discriminator"),
    [
        ("aborts", LossKind.SIGNAL, "SIGABRT"),
        pytest.param("segfaults", LossKind.SIGNAL, "SIGSEGV", marks=pytest.mark.slow),  # a signal, as SIGABRT is
        ("leaves", LossKind.EXIT, "exit 7"),
        # How such a process is told and ended: tests/child/test_supervisor.py, tests/child/test_service.py.
        pytest.param("hangs", LossKind.HANG, "hang", marks=pytest.mark.slow),
        pytest.param("eats_memory", LossKind.MEMORY, "memory", marks=pytest.mark.slow),
    ],
)
def test_the_case_that_did_it_is_named_and_the_others_go_on(slot: Path, name: str, kind: LossKind, discriminator: str) -> None:
    calm = outcomes(config("calm"))[0]
    supervisor = CaseSupervisor(order(name, seconds_a_case=3.0 if name == "hangs" else 60.0), slot)
    try:
        done = supervisor.chunk(0, 0, None)
    finally:
        supervisor.close()
    found = labels(done.report)
    at_fault = [position for position, label in enumerate(found) if label.fate is Fate.DIED]
    assert len(at_fault) == 1
    assert found[at_fault[0]].text.endswith(discriminator)
    assert [label for i, label in enumerate(found) if i not in at_fault] == [
        label for i, label in enumerate(calm) if i not in at_fault
    ]
    assert len(done.report.shown) == 1
    shown = done.report.shown[0]
    assert len(shown.case.kv_lens) == 3
    assert shown.finding.kind is (FindingKind.HANG if kind is LossKind.HANG else FindingKind.DIED)
    assert [(loss.kind, loss.position, loss.case) for loss in done.losses] == [(kind, at_fault[0], shown.case)] * 2


def test_an_exception_is_a_finding_and_costs_no_process(slot: Path) -> None:
    supervisor = CaseSupervisor(order("raises"), slot)
    try:
        done = supervisor.chunk(0, 0, None)
    finally:
        supervisor.close()
    assert not done.losses
    assert [shown.signature for shown in done.report.shown] == ["died/device model/ZeroDivisionError in weather.py:raises"]


def test_a_kill_from_outside_leaves_no_trace_in_the_results(slot: Path) -> None:
    """Nobody's fault: the case that ran is named among the losses, and every case comes out as undisturbed."""
    supervisor = CaseSupervisor(order("takes_long"), slot)
    supervisor.start()
    killed: list[int] = []

    def kill() -> None:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            at = read_slot(slot)
            children = [pid for pid, command in descendants(os.getpid()).items() if "fuzz.campaign.child" in command]
            if at.running and at.position >= 2 and children:
                os.kill(children[0], signal.SIGKILL)
                killed.append(at.position)
                return
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        done = supervisor.chunk(0, 0, None)
    finally:
        killer.join()
        supervisor.close()
    assert labels(done.report) == outcomes(config("calm"))[0]
    assert len(done.losses) == 1
    assert done.losses[0].kind is LossKind.SIGNAL
    assert "SIGKILL" in done.losses[0].detail
    assert done.losses[0].position is not None
    assert done.losses[0].position >= killed[0]
    assert done.losses[0].case is not None


@pytest.mark.slow(guard="test_a_finding_is_looked_into_by_the_process_as_case_by_case")
def test_a_finding_is_shrunk_repeated_and_told(slot: Path) -> None:
    worker = Worker(order("aborts"), slot.name, str(slot.parent))
    try:
        done = worker.chunk(0, 0, None)
        assert not isinstance(done, Broken)
        (shown,) = done.report.shown
        found = worker.investigate(shown.case, shown.signature, "aiterfuzz ...")
        assert isinstance(found, Investigated)
        assert (found.reliability.shown, found.reliability.repeats) == (2, 2)
        assert len(found.smallest.kv_lens) == 3
        assert set(found.files) == {"case.json", "explain.txt"}
        not_again = worker.investigate(shown.case.replace(kv_lens=(1,)), shown.signature, "aiterfuzz ...")
        assert isinstance(not_again, Investigated)
        assert (not_again.reliability.shown, not_again.reliability.repeats) == (0, 2)
    finally:
        worker.close()


@pytest.mark.parametrize("name", one_of_each(["aborts_sometimes", "aborts_once"]))
def test_a_death_that_never_comes_alone_takes_no_outcome_away(
    slot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Twice in its chunk; then alone, five times: one that does not die then has the outcome that it has undisturbed."""
    monkeypatch.setenv("AITERFUZZ_TEST_RUNS", str(tmp_path / "runs"))
    calm = outcomes(config("calm"))[0]
    worker = Worker(order(name, repeats=5), slot.name, str(slot.parent))
    try:
        done = worker.chunk(0, 0, None)
        assert not isinstance(done, Broken)
        (death,) = done.report.shown
        found = worker.investigate(death.case, death.signature, "aiterfuzz ...")
    finally:
        worker.close()
    assert isinstance(found, Investigated)
    assert (found.reliability.shown, found.reliability.repeats) == (0, 5)
    assert from_plain(Case, json.loads(found.files["case.json"])) == death.case
    differ = [at for at, label in enumerate(labels(done.report)) if label != calm[at]]
    if name == "aborts_once":
        assert differ == []
        assert is_weather(death.finding, found.reliability)
    else:  # the third of the five times alone
        assert differ == [death.position]
        assert not is_weather(death.finding, found.reliability)


def test_what_the_machine_lacks_is_an_answer(slot: Path) -> None:
    worker = Worker(order("calm", device="no-such-device"), slot.name, str(slot.parent))
    answer = worker.hello()
    assert isinstance(answer, Broken)
    assert not answer.usable
    assert "no-such-device" in answer.reason
    with pytest.raises(CannotRunError, match="no-such-device"):
        CaseSupervisor(order("calm", device="no-such-device"), slot).start()


FAULTY = CampaignConfig(backend="sglang-before-27188", shapes=("tp2",), releases=("2026-06",), seed=1, cases=40, chunk_cases=40)


def faulty_order() -> WorkerSetup:
    made_by = provenance("model", ("2026-06",), None)
    return WorkerSetup(FAULTY.space(), FAULTY.seed, FAULTY.cases_a_chunk, True, "model", None, 60.0, 2000, 2, 50, made_by)


def test_findings_are_told_before_their_chunk_is_answered_and_once(slot: Path) -> None:
    told: list[tuple[int, Shown]] = []
    running: list[bool] = []

    def seen(chunk: int, shown: Shown) -> None:
        told.append((chunk, shown))
        running.append(not done)

    done: list[ChunkDone] = []
    supervisor = CaseSupervisor(faulty_order(), slot, seen=seen)
    try:
        done.append(supervisor.chunk(0, 0, None))
        supervisor.chunk(0, 0, None)
    finally:
        supervisor.close()
    assert told
    assert [shown for _, shown in told] == list(done[0].report.shown)
    assert {chunk for chunk, _ in told} == {0}
    assert all(running)


def test_a_finding_is_looked_into_by_the_process_as_case_by_case(slot: Path) -> None:
    """One task of the process gives what its supervisor finds out where it runs each case alone."""
    supervisor = CaseSupervisor(faulty_order(), slot)
    try:
        shown = supervisor.chunk(0, 0, None).report.shown[0]
        before = supervisor._child.tasks  # type: ignore[union-attr]
        at_once = supervisor.investigate(shown.case, shown.signature, "aiterfuzz ...")
        assert supervisor._child.tasks == before + 1  # type: ignore[union-attr]
        one_by_one = Investigation(supervisor.setup, supervisor, shown.signature, "aiterfuzz ...").run(shown.case)
    finally:
        supervisor.close()
    assert to_plain(at_once) == to_plain(one_by_one)
    assert at_once.minimal
    assert at_once.reliability.shown == at_once.reliability.repeats == 2
