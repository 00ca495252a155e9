"""Progress on a stream that is no terminal and on one that is; the report's text; provenance."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest

from backend.case import RELEASES
from fuzz.provenance import own_fingerprint, provenance
from fuzz.report import lines
from fuzz.search import Budget, Tally
from fuzz.show import Progress, status


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_status_tells_cases_rate_faults_and_refusals() -> None:
    assert status(Tally(cases=12_000, refused=Counter({"x": 30})), 4.0) == "12,000 cases, 3,000/s, 0 faults, 30 refused"


def test_plain_lines_come_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fuzz.show.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(Budget(cases=100), stream) as progress:
        for cases in range(1, 41):
            now[0] += 0.25
            progress.update(Tally(cases=cases))
        progress.say("fault: x")
        progress.finish(Tally(cases=40))
    told = stream.getvalue().splitlines()
    assert [line.split(" ")[0] for line in told] == ["20", "40", "fault:", "40"]  # 10 s, a line every 5
    assert told[-1] == "40 cases, 4/s, 0 faults, 0 refused"


def test_a_terminal_gets_a_bar_with_the_status() -> None:
    stream = Terminal()
    with Progress(Budget(seconds=60.0), stream) as progress:
        progress.finish(Tally(cases=7))
    assert re.search(r"7 cases, [\d,]+/s, 0 faults", stream.getvalue())
    assert "%" in stream.getvalue()


def test_the_report_of_a_clean_run() -> None:
    tally = Tally(cases=10, refused=Counter({f"reason {i}": 1 for i in range(3)}), unmodelled=Counter({"new kernel": 2}))
    told = "\n".join(lines(tally, {}))
    assert "3 of 10 cases were refused, which is not a fault" in told
    assert "2 of 10 cases are not modelled" in told
    assert told.endswith("no fault in 5 cases")


def test_many_reasons_are_cut_short_and_the_rest_is_counted() -> None:
    told = "\n".join(lines(Tally(cases=50, refused=Counter({f"reason {i}": 1 for i in range(20)})), {}))
    assert told.count("reason ") == 8
    assert "and 12 more reasons" in told


def test_provenance_names_commits_versions_and_our_own_sources() -> None:
    made_by = provenance("model", RELEASES, None)
    assert made_by.releases["2026-06"].startswith("2988812e134a")
    assert made_by.rules == own_fingerprint()
    assert re.fullmatch(r"[0-9a-f]{12}", made_by.rules)
    assert made_by.warnings == ()
    assert "numba" in made_by.versions
