"""The store: what is written is read back, a kill undoes whole transactions only, one writer at a time, stores merge."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from stored_outcomes import read_outcomes, stored
from test_campaign_engine import CONFIG, MADE_BY, FakeCluster, NothingKnown, Silent, open_store, order, session
from undisturbed import labels, reports

from backend.case import Case
from backend.codec import dumps
from backend.errors import UsageError, of_the_disk
from fuzz.campaign.engine import Engine
from fuzz.campaign.merge import export, merge
from fuzz.campaign.read_summary import compare, load_summary, write_comparison
from fuzz.campaign.report import ChunkReport, bucket, bucket_end
from fuzz.campaign.store import (
    FILE_NAME,
    Lock,
    Store,
    connect,
    pack_codes,
    pack_reached,
    unpack_codes,
    unpack_reached,
)
from fuzz.campaign.summary import FindingStanding, LossKind
from fuzz.campaign.verifying import NoVerifier
from reprod.corpus import OpenPaths, ReplayStatus, load_corpus, replay


@pytest.fixture(scope="module")
def done() -> dict[int, ChunkReport]:
    return {report.chunk: report for report in reports(CONFIG)}


def test_buckets_partition_the_numbers() -> None:
    for value in range(2000):
        low = bucket(value)
        assert low <= value <= bucket_end(low)
        assert bucket(bucket_end(low)) == low
        assert bucket(bucket_end(low) + 1) > low


def test_a_report_survives_its_message(done: dict[int, ChunkReport]) -> None:
    for report in done.values():
        again = ChunkReport.from_message(json.loads(json.dumps(report.to_message())))
        assert labels(again) == labels(report)
        assert (again.chunk, again.shown, again.cells, again.kept) == (report.chunk, report.shown, report.cells, report.kept)
        for name in ("ids", "counts", "positions"):
            assert getattr(again.reached, name).tolist() == getattr(report.reached, name).tolist()


def test_blobs_are_read_as_they_were_written(done: dict[int, ChunkReport]) -> None:
    report = done[3]
    numbers = [500 + i for i in range(len(report.labels))]
    assert unpack_codes(pack_codes(report.codes, numbers)).tolist() == [numbers[code] for code in report.codes.tolist()]
    chunk = unpack_reached(3, pack_reached(report.reached, report.kept))
    assert chunk.kept == report.kept
    assert np.array_equal(chunk.reached.ids, report.reached.ids)


def test_a_kill_between_two_commits_leaves_whole_chunks(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    """A writer records nine chunks, commits after five, and is killed: five are there, with their cells and findings."""
    store = open_store(tmp_path)
    store.begin_session(1, "fake", "rules")
    store.close()
    pid = os.fork()
    if pid == 0:
        writer = Store.open(tmp_path / FILE_NAME)
        writer.begin_session(1, "fake", "rules")
        for chunk in range(9):
            writer.chunk(done[chunk], "worker", 0)
            if chunk == 4:
                writer.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert stored(tmp_path) == {chunk: labels(done[chunk]) for chunk in range(5)}
    summary = load_summary(tmp_path)
    assert sum(cell.cases for cell in summary.cells) == summary.counts.cases == 50
    assert sum(finding.count for finding in summary.findings) == summary.counts.faulty
    again = Store.open(tmp_path / FILE_NAME)
    assert again.done_chunks() == set(range(5))
    again.begin_session(1, "fake", "rules")
    assert again.fates().total() == 50
    with pytest.raises(sqlite3.IntegrityError):
        again.chunk(done[2], "worker", 0)
    again.close()
    assert [each.reason for each in load_summary(tmp_path).members[0].sessions] == ["killed", "killed", "running"]


def test_a_store_can_be_read_while_it_is_written(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    store = open_store(tmp_path)
    store.begin_session(1, "fake", "rules")
    store.chunk(done[0], "worker", 3)
    store.commit()
    store.chunk(done[1], "worker", 4)
    assert load_summary(tmp_path).counts.cases == 10
    assert load_summary(tmp_path / FILE_NAME).features == 3
    store.close()


@pytest.mark.parametrize("step", [36_000.0, -36_000.0])
def test_a_clock_that_is_set_is_not_time_that_passed(
    tmp_path: Path, done: dict[int, ChunkReport], monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """By ten hours in the middle of a session: neither running time nor anything that is dated shows it."""
    day = time.time
    began = day()
    store = open_store(tmp_path)
    store.begin_session(1, "fake", "rules")
    monkeypatch.setattr(time, "time", lambda: day() + step)
    store.chunk(done[0], "worker", 0)
    assert 0 <= store.seconds < 3600
    store.end_session("finished")
    store.close()
    again = Store.open(tmp_path / FILE_NAME)
    again.begin_session(1, "fake", "rules")
    assert 0 <= again.seconds < 3600
    again.close()
    summary = load_summary(tmp_path)
    assert 0 <= summary.seconds < 3600
    assert all(began <= finding.first_seen < began + 3600 for finding in summary.findings)


def test_a_full_disk_loses_nothing_that_was_announced(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    """The database may not grow beyond some pages: what was said is there, and the campaign goes on once it may."""
    said: list[str] = []

    class Said(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    store = open_store(tmp_path)
    store.begin_session(1, "fake", MADE_BY.rules)
    store.commit()
    store._db.execute("COMMIT")
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 12}")
    store._db.execute("BEGIN")
    cluster = FakeCluster(done, Random(0))
    engine = Engine(CONFIG, order(), store, cluster, Said(), NothingKnown(), NoVerifier(), lambda: False)
    with pytest.raises(sqlite3.OperationalError, match="disk is full") as raised:
        engine.run(1)
    assert of_the_disk(raised.value)
    store.fail(raised.value, "failed")
    summary = load_summary(tmp_path)
    announced = {text.split()[1] for text in said if text.startswith("finding: ")}
    assert announced
    assert announced <= {finding.signature.split()[0] for finding in summary.findings}
    assert 0 < len(stored(tmp_path)) < len(done)
    assert sum(cell.cases for cell in summary.cells) == summary.counts.cases
    assert session(tmp_path, FakeCluster(done, Random(1))) == "finished"
    assert stored(tmp_path) == {chunk: labels(report) for chunk, report in done.items()}


def test_a_full_disk_is_no_wrong_store(tmp_path: Path) -> None:
    """What reads a store makes a file beside it: where that cannot be, nothing is said of the store."""
    open_store(tmp_path).close()
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from fuzz.cli import main"
    program = f"{limit}; sys.exit(main(['report', {str(tmp_path)!r}]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "make room" in done.stderr


@pytest.mark.parametrize(
    ("said", "expected"),
    [("database or disk is full", True), ("unable to open database file", True), ("no such table: chunks", False)],
)
def test_what_sqlite_says_of_the_disk_is_told_from_what_it_says_of_the_store(said: str, expected: bool) -> None:
    """The second where a disk has no inode left for the file that it makes beside a store; whatever it was raised again as."""
    error = UsageError("not a store")
    error.__cause__ = sqlite3.OperationalError(said)
    assert of_the_disk(error) is expected


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    with pytest.raises(UsageError, match="another campaign is writing there"):
        Lock(tmp_path)
    lock.release()
    Lock(tmp_path).release()


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="campaign's folder"):
        load_summary(tmp_path)
    text = tmp_path / "a.sqlite"
    text.write_text("no database, but long enough to be looked at as one" * 30)
    with pytest.raises(UsageError, match="not a store"):
        load_summary(text)
    other = tmp_path / "b.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(UsageError, match="version"):
        load_summary(other)
    open_store(tmp_path / "c").close()
    with pytest.raises(UsageError, match="holds a campaign already"):
        Store.create(tmp_path / "c" / FILE_NAME, "x", CONFIG, CONFIG.space(), None, None)  # type: ignore[arg-type]


def test_losses_are_kept_with_their_case(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.begin_session(1, "fake", "rules")
    case = Case(num_head=64, kv_lens=(5, 6))
    store.loss(LossKind.SIGNAL, "worker-1", "was killed by SIGSEGV", 3, 4, case)
    store.loss(LossKind.NODE, "worker-2", "gone", None, None, None)
    store.close()
    first, second = load_summary(tmp_path).losses
    assert (first.kind, first.chunk, first.position, first.case) == (LossKind.SIGNAL, 3, 4, case)
    assert (second.kind, second.case) == (LossKind.NODE, None)


def campaign(folder: Path, identity: str, chunks: list[ChunkReport], seed: int = 0) -> None:
    """A store with these chunks, as an interrupted campaign leaves it."""
    (folder / "findings" / f"of-{identity}").mkdir(parents=True)
    (folder / "findings" / f"of-{identity}" / "case.json").write_text("{}")
    made = open_store(folder)
    made.close()
    db = sqlite3.connect(folder / FILE_NAME)
    db.execute("UPDATE campaigns SET identity = ?, seed = ?", (identity, seed))
    db.commit()
    db.close()
    store = Store.open(folder / FILE_NAME)
    store.begin_session(1, "fake", "rules")
    for report in chunks:
        store.chunk(report, "worker", 0)
    store.end_session("finished")
    store.close()


def test_merged_campaigns_add_up(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    """Different labels come in different orders, so that numbers of labels have to be translated."""
    campaign(tmp_path / "a", "one", [done[0], done[1], done[2]])
    campaign(tmp_path / "b", "two", [done[7], done[3], done[5]], seed=7)
    path = merge([tmp_path / "a", tmp_path / "b" / FILE_NAME], tmp_path / "out")
    found = read_outcomes(path)
    wanted = {("one", chunk): labels(done[chunk]) for chunk in (0, 1, 2)} | {
        ("two", chunk): labels(done[chunk]) for chunk in (3, 5, 7)
    }
    assert found == wanted
    whole, a, b = (load_summary(tmp_path / name) for name in ("out", "a", "b"))
    assert whole.counts.cases == a.counts.cases + b.counts.cases == 60
    assert len(whole.members) == 2
    counted: dict[str, int] = {}
    for finding in (*a.findings, *b.findings):
        counted[finding.signature] = counted.get(finding.signature, 0) + finding.count
    assert {finding.signature: finding.count for finding in whole.findings} == counted
    assert sum(cell.cases for cell in whole.cells) == 60
    assert len({(cell.num_head, cell.batch.low, cell.kv_len.low) for cell in whole.cells}) == len(whole.cells)
    assert {entry.name for entry in (tmp_path / "out" / "findings").iterdir()} == {"of-one", "of-two"}
    with pytest.raises(UsageError, match="was merged"):
        Store.open(path)
    with pytest.raises(UsageError, match="holds a store already"):
        merge([tmp_path / "a"], tmp_path / "out")


def test_what_one_member_expects_excuses_no_other(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    """Two nights show the same fault, and one of them expects it: the other's is blamed all the same."""
    for name, chunk, seed in (("a", 0, 0), ("b", 3, 7)):
        campaign(tmp_path / name, name, [done[chunk]], seed=seed)
    seen = [{finding.signature for finding in load_summary(tmp_path / name).findings} for name in ("a", "b")]
    both = sorted(seen[0] & seen[1])
    assert both
    for expecting, blamed in (((), True), (("a",), True), (("a", "b"), False)):
        for name in ("a", "b"):
            expected = tuple(both) if name in expecting else ()
            db = sqlite3.connect(tmp_path / name / FILE_NAME)
            db.execute("UPDATE campaigns SET config = ?", (dumps(CONFIG.replace(expect=expected)),))
            db.execute("DELETE FROM notes")  # its digest is of what it was
            db.commit()
            db.close()
        folder = tmp_path / f"out-{'-'.join(expecting)}"
        merge([tmp_path / "a", tmp_path / "b"], folder)
        assert all(finding.is_blamed is blamed for finding in load_summary(folder).findings if finding.signature in both)


@pytest.mark.parametrize("order", [("short", "long"), ("long", "short")])
def test_of_two_copies_the_longer_one_counts(tmp_path: Path, done: dict[int, ChunkReport], order: tuple[str, str]) -> None:
    campaign(tmp_path / "short", "same", [done[0]])
    campaign(tmp_path / "long", "same", [done[0], done[1]])
    merge([tmp_path / name for name in order], tmp_path / "out")
    summary = load_summary(tmp_path / "out")
    assert len(summary.members) == 1
    assert summary.counts.cases == 20
    assert sum(cell.cases for cell in summary.cells) == 20


def test_a_comparison_says_what_is_new_still_there_and_gone(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    by_signature: dict[str, list[int]] = {}
    for report in done.values():
        for shown in report.shown:
            by_signature.setdefault(shown.signature, []).append(report.chunk)
    campaign(tmp_path / "last", "last", [done[chunk] for chunk in range(10)])
    campaign(tmp_path / "now", "now", [done[chunk] for chunk in range(20, 30)])
    last, now = load_summary(tmp_path / "last"), load_summary(tmp_path / "now")
    before = {s for s, chunks in by_signature.items() if any(c < 10 for c in chunks)}
    after = {s for s, chunks in by_signature.items() if any(c >= 20 for c in chunks)}
    write_comparison(tmp_path / "now", compare(now, last, "last"))
    compared = load_summary(tmp_path / "now")
    assert compared.comparison is not None
    assert set(compared.comparison.new) == after - before
    assert set(compared.comparison.still_there) == after & before
    assert {gone.signature for gone in compared.comparison.gone} == before - after
    for finding in compared.findings:
        assert finding.standing is (FindingStanding.NEW if finding.signature not in before else FindingStanding.STILL_THERE)
    assert all(finding.standing is FindingStanding.NOT_COMPARED for finding in last.findings)


def test_findings_are_exported_as_entries_that_are_found_again(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    session(tmp_path / "campaign", FakeCluster(done, Random(0)))
    summary = load_summary(tmp_path / "campaign")
    written = list(export(summary, tmp_path / "corpus"))
    assert len(written) == len(summary.findings) > 1
    entries = load_corpus(tmp_path / "corpus")
    assert [replay(entry, OpenPaths()).status for entry in entries] == [ReplayStatus.FOUND] * len(written)
    assert not list(export(summary, tmp_path / "corpus"))


def test_reading_does_not_write(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    db = connect(tmp_path / FILE_NAME)
    with pytest.raises(sqlite3.OperationalError):
        db.execute("DELETE FROM campaigns")
    db.close()
