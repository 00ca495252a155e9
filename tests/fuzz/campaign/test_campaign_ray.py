"""Campaigns on a real Ray, in a process of their own: killed in parts and as a whole, stopped, resumed, compared.

Each starts and ends its own local Ray, which takes some seconds: so few tests, each of which shows much.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from disturbed import Soak, start
from ray_nodes import ray_nodes
from stored_outcomes import stored
from undisturbed import outcomes
from weather import everywhere

from backend.case import DType
from backend.errors import CannotRunError, UsageError
from fuzz.campaign.cluster import Cluster, Demand
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.read_summary import load_summary, read_case
from fuzz.campaign.summary import LossKind
from fuzz.verdict import Conclusion

WORKERS = min(2, len(os.sched_getaffinity(0)))

QUICK = ["--no-verify", "--repeats", "1", "--shrink-tries", "10"]
"""For campaigns whose findings are beside the point."""

LIMIT = 240.0
"""Seconds for one campaign: some hundred times what it takes."""


@pytest.fixture(scope="module", autouse=True)
def _weather() -> Iterator[None]:
    with everywhere():
        yield


@pytest.fixture(scope="module")
def address(_weather: None) -> Iterator[str]:
    """Of a Ray that several tests share."""
    with ray_nodes(WORKERS) as (where, _):
        yield where


def campaign(arguments: Sequence[str], folder: Path, command: str = "campaign") -> tuple[int, str]:
    """Runs one of one worker to its end; its exit code and what it said."""
    log = folder.with_suffix(".log")
    process = start([*arguments, "--workers", "1", "--out", str(folder)], log, command)
    try:
        return process.wait(LIMIT), log.read_text()
    finally:
        process.kill()


@pytest.mark.slow(guard="fuzz/campaign/test_run_is_a_campaign.py::test_both_find_the_same")
def test_the_founding_fault_is_one_entry_known_and_expected_and_nothing_to_compare_another_rule_with(
    address: str, tmp_path: Path
) -> None:
    """A night on the rule before the fix, which expects the fault, and a night on the fixed one, which is another backend."""
    common = ["--q-dtype", "fp8", "--kv-dtype", "fp8", "--qlen", "1", "--cases", "300", "--expect", "F1", "--address", address]
    code, said = campaign(["--backend", "sglang-before-27188", *common], tmp_path / "nights", "nightly")
    assert code == 0, said
    (first,) = (tmp_path / "nights").iterdir()
    summary = load_summary(first)
    assert summary.verdict.conclusion is Conclusion.CLEAN
    assert {cell.num_head for cell in summary.cells} == {32, 64}
    (finding,) = summary.findings
    assert finding.known is not None
    assert finding.known.entry == "F1"
    assert (finding.smallest.num_head, finding.smallest.kv_lens) == (64, (1,))
    assert finding.minimal
    assert str(finding.reliability) == "5 of 5"
    folder = first / str(finding.folder)
    assert (folder / "repro.py").is_file()
    for text in ("issue.md", "explain.txt"):
        assert "repro.py was run on a simulated MI355X" in (folder / text).read_text(), said
        assert "and shows what it is for" in (folder / text).read_text()
    assert f"findings/{folder.name}: repro.py shows what it is for" in said
    assert read_case(first, *map(int, finding.origin.split("/")[1:])) == finding.first
    assert stored(first) == outcomes(summary.members[0].config)

    code, said = campaign(common, tmp_path / "nights", "nightly")
    assert code == 0, said
    (second,) = set((tmp_path / "nights").iterdir()) - {first}
    summary = load_summary(second)
    assert summary.verdict.conclusion is Conclusion.CLEAN
    assert summary.comparison is None
    assert not summary.findings


@pytest.mark.slow(guard="fuzz/campaign/test_campaign_worker.py::test_a_kill_from_outside_leaves_no_trace_in_the_results")
def test_a_soak_leaves_no_trace_in_the_results(tmp_path: Path) -> None:
    """Workers, their processes and the driver are killed at random for a while."""
    _soak(tmp_path, cases=1000, seconds=8.0, pauses=(0.3, 2.0), seed=4)


@pytest.mark.slow(guard="fuzz/campaign/test_campaign_worker.py::test_a_kill_from_outside_leaves_no_trace_in_the_results")
def test_a_long_soak_leaves_no_trace_in_the_results(tmp_path: Path) -> None:
    _soak(tmp_path, cases=15_000, seconds=120.0, pauses=(0.3, 3.0), seed=11)


def _soak(tmp_path: Path, cases: int, seconds: float, pauses: tuple[float, float], seed: int) -> None:
    folder = tmp_path / "soak"
    common = ["--cases", str(cases), "--chunk-cases", "50", "--generation-chunks", "8", "--workers", str(WORKERS), *QUICK]
    soak = Soak(["--backend", "weather-takes_its_time", *common], folder, Random(seed))
    code = soak.run(seconds, pauses, limit=seconds + LIMIT)
    said = folder.with_suffix(".log").read_text()
    assert code == 1, said
    assert soak.kills, said
    summary = load_summary(folder)
    assert summary.complete
    assert summary.counts.cases == cases
    assert summary.counts.died == 0
    assert not summary.lost_chunks
    # A driver that is killed before its workers are there has begun no session.
    assert len(summary.members[0].sessions) <= 1 + sum(kill.startswith("driver") for kill in soak.kills)
    config = CampaignConfig(backend="weather-calm", cases=cases, chunk_cases=50, generation_chunks=8)
    assert stored(folder) == outcomes(config)
    assert {finding.signature: finding.count for finding in summary.findings} == _faults(config)


def _faults(config: CampaignConfig) -> dict[str, int]:
    counted: dict[str, int] = {}
    for labels in outcomes(config).values():
        for label in labels:
            if label.fate == "faulty":
                counted[label.text] = counted.get(label.text, 0) + 1
    return counted


@pytest.mark.slow(guard="fuzz/campaign/test_campaign_worker.py::test_the_case_that_did_it_is_named_and_the_others_go_on")
def test_a_case_that_kills_its_process_is_a_finding_and_the_rest_goes_on(address: str, tmp_path: Path) -> None:
    config = CampaignConfig("weather-calm", cases=40, chunk_cases=20, query_rows=(1,), max_kv_len=1024, seed=6)
    flags = ["--cases", "40", "--chunk-cases", "20", "--qlen", "1", "--max-kv", "1024", "--seed", "6"]
    flags += ["--address", address, "--no-verify", "--repeats", "2", "--shrink-tries", "1"]
    code, said = campaign(["--backend", "weather-aborts", *flags], tmp_path / "a")
    assert code == 1, said
    summary = load_summary(tmp_path / "a")
    assert summary.counts.cases == 40
    assert summary.counts.died == 2
    (died,) = [finding for finding in summary.findings if finding.signature == "died/device model/SIGABRT"]
    assert died.count == summary.counts.died
    assert str(died.reliability) == "2 of 2"
    assert len(died.smallest.kv_lens) == 3
    named = {(loss.chunk, loss.position) for loss in summary.losses if loss.kind is LossKind.SIGNAL}
    assert len(named) == summary.counts.died
    calm = outcomes(config)
    differing = {(c, i) for c, found in stored(tmp_path / "a").items() for i, label in enumerate(found) if label != calm[c][i]}
    assert differing == named


@pytest.mark.slow(guard="fuzz/test_commands.py::test_ctrl_c_stops_with_everything_written")
def test_ctrl_c_writes_everything_and_the_campaign_goes_on(address: str, tmp_path: Path) -> None:
    """SIGINT to the whole group, as a terminal sends it, in the middle of a campaign."""
    folder = tmp_path / "a"
    config = CampaignConfig(backend="weather-calm", cases=600, chunk_cases=20)
    flags = ["--cases", "600", "--chunk-cases", "20", "--workers", str(WORKERS), "--address", address, *QUICK]
    process = start(["--backend", "weather-takes_its_time", *flags, "--out", str(folder)], tmp_path / "log")
    _until(lambda: (folder / "campaign.sqlite").exists() and load_summary(folder).counts.cases >= 40)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LIMIT) in (1, 3), (tmp_path / "log").read_text()
    stopped = load_summary(folder)
    assert stopped.members[0].sessions[-1].reason == "interrupted"
    assert not stopped.complete
    assert f"go on with: aiterfuzz campaign --resume --out {folder}" in (tmp_path / "log").read_text()
    assert 40 <= stopped.counts.cases < 600
    wanted = outcomes(config)
    assert stored(folder) == {chunk: wanted[chunk] for chunk in stored(folder)}
    again = start(["--resume", "--backend", "weather-takes_its_time", "--out", str(folder)], tmp_path / "log")
    assert again.wait(LIMIT) == 1, (tmp_path / "log").read_text()
    assert stored(folder) == wanted
    assert load_summary(folder).complete


@pytest.mark.slow(guard="fuzz/campaign/test_campaign_engine.py::test_interrupted_sessions_add_up_to_an_undisturbed_one")
def test_a_campaign_goes_on_from_another_folder_and_under_another_name(address: str, tmp_path: Path) -> None:
    """As documented: --resume --out with a relative path, from elsewhere, after the folder was moved, and with a full path."""
    space = ["--heads", "32", "--q-dtype", "fp8", "--kv-dtype", "fp8"]
    common = [*space, "--cases", "40", "--chunk-cases", "20", "--workers", "1", "--address", address, *QUICK]
    (tmp_path / "elsewhere").mkdir()

    def ran(arguments: list[str], folder: Path) -> str:
        log = tmp_path / "log"
        process = start(arguments, log, cwd=folder)
        assert process.wait(LIMIT) == 0, log.read_text()
        return log.read_text()

    ran([*common, "--out", "c"], tmp_path)
    ran(["--resume", "--out", "../c", "--cases", "80"], tmp_path / "elsewhere")
    assert Path(load_summary(tmp_path / "c").members[0].config.out).is_absolute(), "workers run elsewhere"
    (tmp_path / "c").rename(tmp_path / "moved")
    ran(["--resume", "--out", str(tmp_path / "moved"), "--cases", "120"], tmp_path / "elsewhere")
    wanted = CampaignConfig(heads=(32,), q_dtype=DType.FP8, kv_dtype=DType.FP8, cases=120, chunk_cases=20)
    assert stored(tmp_path / "moved") == outcomes(wanted)
    assert not (tmp_path / "c").exists()
    assert load_summary(tmp_path / "moved").members[0].config.out == str(tmp_path / "moved")


@pytest.mark.slow(guard="fuzz/campaign/test_campaign_engine.py::test_the_case_of_a_lost_worker_is_read_from_its_slot")
def test_a_killed_campaign_names_the_cases_that_ran(address: str, tmp_path: Path) -> None:
    """Killed while every worker is at a case that hangs: the next session says which."""
    folder, slots = tmp_path / "a", tmp_path / "a" / "running"
    flags = ["--cases", "4000", "--chunk-cases", "20", "--workers", str(WORKERS), "--address", address, *QUICK]
    process = start(["--backend", "weather-hangs_late", *flags, "--out", str(folder)], tmp_path / "log")
    _until(lambda: _still(slots))
    process.kill()
    process.wait()
    hanging = [read_case(folder, chunk, position) for chunk, position in _places(slots)]
    assert len(hanging) == WORKERS
    assert all(len(case.kv_lens) == 3 for case in hanging)
    process = start(["--resume", "--backend", "weather-hangs_late", "--out", str(folder)], tmp_path / "log")
    _until(lambda: any(loss.kind is LossKind.DRIVER for loss in load_summary(folder).losses))
    process.kill()
    process.wait()
    named = [loss.case for loss in load_summary(folder).losses if loss.kind is LossKind.DRIVER]
    assert named == hanging


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.2)


def _places(slots: Path) -> list[tuple[int, int]]:
    from fuzz.campaign.case_process import read_slot

    found = [read_slot(path) for path in (sorted(slots.iterdir()) if slots.is_dir() else [])]
    return [(at.chunk, at.position) for at in found if at.running and at.chunk < 1 << 40]


def _still(slots: Path) -> bool:
    """Whether every worker is at a case that does not come back."""
    before = _places(slots)
    time.sleep(2.0)
    return len(before) == WORKERS and before == _places(slots)


@pytest.mark.parametrize(
    ("demand", "total", "free", "workers", "most", "each"),
    [
        (Demand("CPU"), 8, 8.0, 8, 8, 1.0),
        (Demand("GPU"), 2, 2.0, 2, 2, 1.0),
        (Demand("GPU", sharing=4), 1, 1.0, 4, 4, 0.25),
        (Demand("GPU", sharing=4), 2, 2.0, 8, 8, 0.25),
        (Demand("GPU", sharing=4), 2, 2.0, 2, 8, 1.0),  # a GPU for each, rather than one for both
        (Demand("GPU", sharing=4), 2, 2.0, 3, 8, 0.5),
        (Demand("GPU", sharing=4), 2, 0.5, 2, 2, 0.25),
        (Demand("GPU", sharing=4, ranks=2), 2, 2.0, 1, 1, 2),
        (Demand("GPU", sharing=4, ranks=2), 8, 7.0, 3, 3, 2),
        (Demand("GPU", sharing=4, ranks=2), 1, 1.0, 1, 1, 1),  # two processes on one GPU
        (Demand("GPU", sharing=4), 2, 1.5, 6, 6, 0.25),
        (Demand("GPU"), 0, 0.0, 1, 0, 1.0),
    ],
)
def test_what_workers_are_given(demand: Demand, total: int, free: float, workers: int, most: int, each: float) -> None:
    assert demand.most(total, free) == most
    assert demand.each(total, free, workers) == pytest.approx(each)
    if most:
        assert workers * demand.each(total, free, workers) <= free


@pytest.mark.slow(guard="fuzz/campaign/test_campaign_engine.py::test_a_lost_worker_is_replaced_and_its_chunks_go_to_others")
def test_a_lost_node_is_weather(tmp_path: Path) -> None:
    """One worker a node on a cluster of two; a node is killed, and the other does the rest."""
    folder = tmp_path / "a"
    with ray_nodes(1, 1) as (where, remove):
        flags = ["--backend", "weather-takes_its_time", "--cases", "4000", "--chunk-cases", "50", "--workers", "2", *QUICK]
        process = start([*flags, "--address", where, "--out", str(folder)], tmp_path / "log")
        _until(lambda: (folder / "campaign.sqlite").exists() and load_summary(folder).counts.cases >= 300)
        remove()
        assert process.wait(LIMIT) == 1, (tmp_path / "log").read_text()
    summary = load_summary(folder)
    assert summary.complete
    assert summary.counts.cases == 4000
    assert len(summary.losses) >= 1
    assert stored(folder) == outcomes(CampaignConfig(backend="weather-calm", cases=4000, chunk_cases=50))


def test_a_ray_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(CannotRunError, match="cannot be reached"), Cluster("127.0.0.1:1", Demand("CPU")):
        pass


@pytest.mark.slow(guard="test_what_workers_are_given")
def test_what_ray_lacks_is_said_at_once() -> None:
    with Cluster(None, Demand("CPU")) as cluster:
        has = cluster.workers(0)
        assert has == len(os.sched_getaffinity(0))
        with pytest.raises(UsageError, match=f"1\\.\\.{has}"):
            cluster.workers(has + 1)
        gpus = Cluster(None, Demand("GPU", sharing=4))
        if not cluster.resources.get("GPU"):
            with pytest.raises(CannotRunError, match="no GPU for a worker"):
                gpus.workers(0)
