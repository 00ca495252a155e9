"""What ran and what is refused, by heads, types and query rows, in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_summaries import cell, clean

from backend.case import Case
from backend.codec import from_plain
from backend.path import Path as CasePath
from fuzz.cli import main
from fuzz.report.served import refusals_by_shape, rows_in_words, served


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((1,), "1 query row"),
        ((2,), "2 query rows"),
        ((5, 6), "5 and 6 query rows"),
        ((5, 6, 7, 8), "5 to 8 query rows"),
        ((1, 3, 4, 5, 8), "1, 3 to 5 and 8 query rows"),
    ],
)
def test_rows_in_words(rows: tuple[int, ...], words: str) -> None:
    assert rows_in_words(rows) == words


def test_a_refusal_is_of_a_shape() -> None:
    ran = {"2026-06 gfx950 fp8 fp8 4": 30}
    refused = {
        "2026-06 gfx950 fp8 fp8 5 AITER no such kernel": 3,
        "2026-06 gfx950 fp8 fp8 6 AITER no such kernel": 4,
        "2026-06 gfx942 bf16 fp8 1 backend too few heads": 1,
    }
    summary = replace(clean(), cells=(replace(cell(64, 1, 16, 38, 30), ran_as=ran, refused_as=refused),))
    first, second = refusals_by_shape(summary)
    assert (
        first.sentence("TP2", first.release)
        == "TP2 with 5 and 6 query rows (gfx950, q fp8, KV fp8, AITER 2026-06): AITER refuses (no such kernel); a server raises"
    )
    assert (first.cases, first.ran) == (7, 0)
    assert second.sentence("TP2", "v0.1.9").endswith("the backend's rule refuses (too few heads)")
    old, new = served(summary)
    assert (old.cell(1), old.cell(5)) == ("refused", "")
    assert (new.cell(4), new.cell(5)) == ("30", "refused")


def test_a_shape_that_goes_wrong_before_any_kernel_was_drawn_and_is_counted_once() -> None:
    """A planner leaves its buffers, and then AITER refuses: faulty, neither among what ran nor among what was refused."""
    shape = "2026-06 gfx950 fp8 fp8"
    counts = {"ran_as": {f"{shape} 4": 30}, "refused_as": {}, "stopped_as": {f"{shape} 4": 2, f"{shape} 6": 1_000}}
    (row,) = served(replace(clean(), cells=(replace(cell(64, 1, 16, 1_032, 30), **counts),)))
    assert [row.cell(rows) for rows in (4, 5, 6)] == ["30 and 2 faulty before any kernel", "", "1,000 faulty before any kernel"]


def test_a_run_tells_what_ran_what_is_refused_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--shapes", "tp2", "--archs", "gfx950", "--q-dtype", "fp8", "--kv-dtype", "fp8", "--cases", "150"]
    assert main(["run", *flags, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "TP2 (64 heads) with 5 to 8 query rows (gfx950, q fp8, KV fp8, AITER 2026-06): AITER refuses (" in said
    assert "requests of 131,073 to 163,840 KV tokens (--max-kv-len)" in said
    assert "through a process' life" in said
    (row,) = (line.split() for line in said.splitlines() if line.startswith("  TP2 (64 heads)  gfx950"))
    ran = sum(int(count) for count in row[7:11])
    assert row[11:] == ["refused"] * 4
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    refused = [line for line in lines if line["event"] == "refused"]
    assert ran == 150 - len(refused) == lines[-1]["ran"]
    shown = {from_plain(Case, line["case"]): line["reason"] for line in refused if "case" in line}
    assert sorted(case.max_seqlen_q for case in shown) == [5, 6, 7, 8]
    assert {case: CasePath().run(case).refused for case in shown} == shown


def test_what_is_asked_for_is_not_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--heads", "64", "--max-kv-len", "163840", "--max-batch", "512", "--cases", "5", "--out", str(tmp_path)]
    assert main(["run", *flags]) in (0, 1)
    said = capsys.readouterr().out
    assert "draft extension" in said
    assert "--max-kv-len" not in said
    assert "--max-batch" not in said


def test_a_known_fault_says_what_passes_it_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a first run of the fixed rule meets: a bf16 q over fp8 KV is O2, and 1 says nothing new."""
    flags = ["run", "--shapes", "tp2", "--archs", "gfx950", "--q-dtype", "bf16", "--kv-dtype", "fp8", "--cases", "20"]
    assert main([*flags, "--out", str(tmp_path / "first")]) == 1
    assert "(known as O2: no public reference; --expect O2 passes it over)" in capsys.readouterr().out
    assert main([*flags, "--expect", "O2", "--out", str(tmp_path / "again")]) == 0
    assert "Nothing but 1 expected fault on TP2" in capsys.readouterr().out
