"""Findings of a campaign are verified: each folder once, beside the engine, and again after whatever cut it short."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from test_campaign_engine import CONFIG, FakeActor, FakeCluster, session
from undisturbed import reports

import fuzz.campaign.engine
from backend.case import Case
from backend.errors import CannotRunError
from fuzz.campaign.investigation import Investigated
from fuzz.campaign.read_summary import load_summary
from fuzz.campaign.report import ChunkReport
from fuzz.campaign.store import FINDINGS
from fuzz.campaign.summary import Reliability
from fuzz.campaign.verifying import Verifier, unverified
from reprod.folder import CASE, EXPLAIN, ISSUE, SCRIPT, write_folder
from reprod.verify import VERIFICATION, ScriptVerdict, Verification

FILES = {CASE: "{}\n", EXPLAIN: "why\n", SCRIPT: "pass\n", ISSUE: "### Cause\n"}
AS_FOUND, REMEDIED = Verification((), 134, (), "", None, 1.0), Verification(("--fixed",), 0, (), "", None, 1.0)


@pytest.fixture(scope="module")
def done() -> dict[int, ChunkReport]:
    return {report.chunk: report for report in reports(CONFIG)}


def told_with_files(done: dict[int, ChunkReport]) -> Callable[[FakeActor, str, tuple[Any, ...]], Any]:
    """Workers that answer with a whole folder for each finding, named by it."""

    def mishap(actor: FakeActor, method: str, arguments: tuple[Any, ...]) -> Any:
        if method != "investigate":
            return None
        case, signature, _ = arguments
        shown = next(s for report in done.values() for s in report.shown if s.signature == signature)
        folder = f"bug-{zlib.crc32(signature.encode()):x}"
        return Investigated(signature, case, True, (shown.finding,), Reliability(3, 3), folder, FILES)

    return mishap


class Counting:
    """Stands for the simulated GPU: notes what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[Case, str | None]] = []

    def __call__(
        self, files: Mapping[str, str], case: Case, aiter: str | None, wanted_to_stop: Callable[[], bool]
    ) -> Sequence[ScriptVerdict]:
        assert files == FILES
        self.given.append((case, aiter))
        return [ScriptVerdict(SCRIPT, (AS_FOUND, REMEDIED))]


def issues(folder: Path) -> list[str]:
    return [file.read_text() for file in sorted((folder / FINDINGS).glob(f"*/{ISSUE}"))]


def test_each_finding_is_verified_once(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    gpu = Counting()
    with Verifier(gpu) as verifier:
        reason = session(tmp_path, FakeCluster(done, Random(1), told_with_files(done)), verifier=verifier)
        assert not verifier.pending
    assert reason == "finished"
    findings = load_summary(tmp_path).findings
    assert findings
    assert sorted(map(repr, gpu.given)) == sorted(repr((finding.smallest, CONFIG.aiter)) for finding in findings)
    assert all(VERIFICATION in text and f"{SCRIPT} was run on" in text for text in issues(tmp_path))


def test_what_a_session_left_unverified_the_next_one_does(tmp_path: Path, done: dict[int, ChunkReport]) -> None:
    session(tmp_path, FakeCluster(done, Random(1), told_with_files(done)))
    assert not any(VERIFICATION in text for text in issues(tmp_path))
    for again in (True, False):
        gpu = Counting()
        with Verifier(gpu) as verifier:
            assert session(tmp_path, FakeCluster(done, Random(1), told_with_files(done)), verifier=verifier) == "finished"
        assert len(gpu.given) == (len(issues(tmp_path)) if again else 0)
        assert all(text.count(VERIFICATION) == 1 for text in issues(tmp_path))


def test_a_verification_that_does_not_end_is_left_behind(
    tmp_path: Path, done: dict[int, ChunkReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz.campaign.engine, "CLOSING_SECONDS", 0.2)
    stopped = threading.Event()

    def endless(files: Mapping[str, str], case: Case, aiter: str | None, wanted: Callable[[], bool]) -> Sequence[ScriptVerdict]:
        while not wanted():
            threading.Event().wait(0.01)
        stopped.set()
        return ()

    with Verifier(endless) as verifier:
        assert session(tmp_path, FakeCluster(done, Random(1), told_with_files(done)), verifier=verifier) == "finished"
    assert stopped.is_set()
    assert not any(VERIFICATION in text for text in issues(tmp_path))


@pytest.mark.parametrize("error", [CannotRunError("no torch"), ValueError("surprise")])
def test_what_cannot_be_verified_is_said_and_holds_nothing_up(error: Exception) -> None:
    def fails(*arguments: object) -> Sequence[ScriptVerdict]:
        raise error

    with Verifier(fails) as verifier:
        verifier.give("bug-a", FILES, Case(num_head=64, kv_lens=(1,)), None)
        verifier.give("bug-without-script", {CASE: "{}"}, Case(num_head=64, kv_lens=(1,)), None)
        assert verifier.pending == 1
        found = []
        while verifier.pending:
            found += verifier.take()
    (only,) = found
    assert str(error) in only.in_words
    assert only.files == FILES


def test_only_folders_with_a_script_that_nobody_ran_are_taken_up_again(tmp_path: Path) -> None:
    write_folder(tmp_path, "plain", FILES)
    write_folder(tmp_path, "done", FILES | {ISSUE: f"x\n{VERIFICATION}\n"})
    write_folder(tmp_path, "died", {CASE: "{}"})
    found = {name: unverified(tmp_path, name) for name in ("plain", "done", "died", "nowhere")}
    assert found == {"plain": True, "done": False, "died": False, "nowhere": False}
