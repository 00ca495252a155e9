"""What a person sees while a campaign runs, on a stream that is no terminal and on one that is; provenance."""

from __future__ import annotations

import io
import re

import pytest

from backend.case import RELEASES
from fuzz.campaign.progress import Live, Status, line
from fuzz.provenance import own_fingerprint, provenance


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def status(seconds: float, cases: int) -> Status:
    return Status(seconds, cases, 9, 1, 30, 0, 1, 60.0 - seconds, None)


def test_a_line_tells_cases_rate_findings_and_refusals() -> None:
    assert line(status(4.0, 12_000), 3000.0) == "12,000 cases, 3,000/s, coverage 9, 1 finding, 30 refused, 1 worker, 0:56 left"


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
    assert [each.split(" ")[0] for each in lines] == ["20", "40", "finding:", "40"]  # 10 s, a line every 5


def test_a_terminal_gets_a_bar_with_the_status() -> None:
    stream = Terminal()
    with Live(stream) as live:
        live.finish(status(10.0, 7))
    assert re.search(r"7 cases, [\d,]+/s, coverage 9", stream.getvalue())


def test_provenance_names_commits_versions_and_our_own_sources() -> None:
    made_by = provenance("model", RELEASES, None)
    assert made_by.releases["2026-06"].startswith("2988812e134a")
    assert made_by.rules == own_fingerprint()
    assert re.fullmatch(r"[0-9a-f]{12}", made_by.rules)
    assert made_by.warnings == ()
    assert "numba" in made_by.versions
