"""What a person sees while a campaign runs, on a stream that is no terminal and on one that is; provenance."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
from pathlib import Path

import pytest

from backend.case import RELEASES
from fuzz import provenance as provenance_module
from fuzz.campaign.progress import Live, Status, line
from fuzz.provenance import own_fingerprint, provenance


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def status(seconds: float, cases: int) -> Status:
    return Status(seconds, cases, 9, 1, 30, 0, 60.0 - seconds, None)


def test_a_line_tells_first_what_is_done_how_far_and_how_long() -> None:
    drawing = status(4.0, 12_000)
    assert line(drawing, 3000.0) == "drawing: 12,000 cases, 3,000/s, at most 0:56 left, 1 finding, 30 refused, coverage 9"
    known = dataclasses.replace(drawing, cases_left=8_000, shrinking=2)
    assert line(known, 400.0).startswith("drawing and shrinking 2 findings: 12,000 of 20,000 cases, 400/s, about 0:20 left, ")
    assert line(known, 0.0).startswith("drawing and shrinking 2 findings: 12,000 of 20,000 cases, 0/s, at most 0:56 left, ")
    closing = dataclasses.replace(known, doing="verifying script 2 of 4, at most 1:40 left")
    assert line(closing, 0.0) == "verifying script 2 of 4, at most 1:40 left, 12,000 cases, 1 finding, 30 refused, coverage 9"


def test_a_plain_line_is_not_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fuzz.campaign.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with Live(stream) as live:
        for second in range(1, 70):
            now[0] += 1.0
            live.update(dataclasses.replace(status(0.0, 7), doing=f"shrinking 1 finding, at most {120 - second} left"))
    assert len(stream.getvalue().splitlines()) == 2  # after 5 s, and a minute later: it is alive


def test_plain_lines_come_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fuzz.campaign.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with Live(stream) as live:
        for cases in range(1, 41):
            now[0] += 0.25
            live.update(status(now[0] - 100, cases))
        live.say("finding: x")
        live.finish(status(10.0, 40))
    lines = stream.getvalue().splitlines()
    begun = ["drawing: 20", "drawing: 40", "finding: x", "drawing: 40"]  # 10 s, a line every 5
    assert [" ".join(each.split(" ")[:2]) for each in lines] == begun


def test_a_terminal_gets_a_bar_with_the_status() -> None:
    stream = Terminal()
    with Live(stream) as live:
        live.finish(status(10.0, 7))
    assert re.search(r"drawing: 7 cases, [\d,]+/s, at most", stream.getvalue())


def test_provenance_names_commits_versions_and_our_own_sources() -> None:
    made_by = provenance("model", RELEASES, None)
    assert made_by.releases["2026-06"].startswith("2988812e134a")
    assert made_by.rules == own_fingerprint()
    assert re.fullmatch(r"[0-9a-f]{12}", made_by.rules)
    assert made_by.warnings == ()
    assert "numba" in made_by.versions


@pytest.mark.parametrize("table", ["backend/aiter/tables/kernarg_reads.csv", "backend/cdna/decode/opcodes.txt"])
def test_a_changed_table_is_another_program(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store says by it whether its cases were judged by this program."""
    copied = tmp_path / table
    copied.parent.mkdir(parents=True)
    shutil.copy(Path(provenance_module.__file__).parents[1] / table, copied)
    monkeypatch.setattr(provenance_module, "__file__", str(tmp_path / "fuzz" / "provenance.py"))
    computed = own_fingerprint.__wrapped__  # which is kept for the process
    before = computed()
    copied.write_text(copied.read_text(encoding="utf-8") + "# more\n", encoding="utf-8")
    assert computed() != before
