"""The matrix of entries and releases, and that docs/corpus.md is what the command writes today."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from backend.case import RELEASES
from backend.findings import Finding, FindingKind, Party, Severity
from backend.serving.frameworks import pins
from fuzz.cli import main
from fuzz.commands.replay import DOCUMENT_COMMAND
from reprod.corpus import CorpusEntry, Expected, OpenPaths, ReplayStatus, load_corpus
from reprod.matrix import SHIPPED, MatrixCell, document, matrix, matrix_markdown, pinned_columns, shipped_columns

ROOT = Path(__file__).parents[2]

ENTRIES = {entry.id: entry for entry in load_corpus(ROOT / "corpus")}


def cells(*names: str) -> dict[str, tuple[MatrixCell, ...]]:
    return {row.entry.id: row.cells for row in matrix([ENTRIES[name] for name in names], OpenPaths())}


def test_found_fixed_silent_and_refused_are_told_apart() -> None:
    found = cells("F7", "F1", "C2", "O4", "O5")
    assert found["F7"] == (MatrixCell.FOUND, MatrixCell.FIXED, MatrixCell.FIXED)
    assert found["F1"] == (MatrixCell.REFUSED, MatrixCell.FOUND, MatrixCell.FOUND)
    assert set(found["C2"]) <= {MatrixCell.SILENT}
    assert found["O4"] == (MatrixCell.REFUSED, MatrixCell.SILENT, MatrixCell.FOUND)
    assert found["O5"][1:] == (MatrixCell.SILENT, MatrixCell.FOUND)
    assert set(cells("F8")["F8"]) == {MatrixCell.PLANTED}


@pytest.mark.checkout
def test_a_fault_of_the_same_kind_at_the_same_place_is_another_one(aiter_checkout: Path) -> None:
    """Where O17's case shows O2: heads are planned otherwise than launched, but no queries are."""
    entry = ENTRIES["O17"]
    (row,) = matrix([dataclasses.replace(entry, faulty=entry.faulty[:1], silent=())], OpenPaths(str(aiter_checkout)))
    assert row.cells[1:] == (MatrixCell.OTHER, MatrixCell.OTHER)
    assert row.replayed is ReplayStatus.FOUND


def test_what_cannot_run_is_not_told_as_silent() -> None:
    (row,) = matrix([ENTRIES["F6"]], OpenPaths())
    assert set(row.cells) == {MatrixCell.CANNOT_RUN}
    assert row.replayed is ReplayStatus.CANNOT_RUN


def rows_of(text: str) -> dict[str, str]:
    return {found[1]: found[0] for found in re.finditer(r"^\| ([A-Z]\d+\w?) \|.*$", text, re.MULTILINE)}


def without_a_checkout(entry: CorpusEntry) -> bool:
    return not any(side.revision for _, side in entry.sides())


def test_the_document_is_up_to_date() -> None:
    """Every row that needs no checkout, to the letter; the others must be there."""
    written = rows_of((ROOT / "docs" / "corpus.md").read_text(encoding="utf-8").partition(SHIPPED)[0])
    assert set(written) == set(ENTRIES), f"write it anew: {DOCUMENT_COMMAND}"
    here = [entry for entry in ENTRIES.values() if without_a_checkout(entry)]
    assert len(here) >= 15
    for line in matrix_markdown(matrix(here, OpenPaths()))[2:]:
        name = line.split("|")[1].strip()
        assert written[name] == line, f"write it anew: {DOCUMENT_COMMAND}"


def test_the_part_about_what_is_shipped_holds_together() -> None:
    """Without a checkout: the columns are the pins of today, and each entry stands in some way at all of them."""
    part = (ROOT / "docs" / "corpus.md").read_text(encoding="utf-8").partition(SHIPPED)[2]
    tables = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    where = next(number for number, row in enumerate(tables) if row[0] == "shipped")
    users = dict(tables[2:where])
    today = {column.name: column.users for column in shipped_columns()}
    assert users == {name: today[name] for name in users}, f"write it anew: {DOCUMENT_COMMAND}"
    absent = {pin.release for pin in pins() if pin.short not in users}
    assert absent <= {pin.release for pin in pins() if pin.date > "2026-09-04"}
    assert tables[where][1:] == list(users)
    rows = {row[0]: row[1:] for row in tables[where + 2 :]}
    assert set(rows) == set(ENTRIES), f"write it anew: {DOCUMENT_COMMAND}"
    for name, cells in rows.items():
        assert len(cells) == len(users)
        assert set(cells) <= {cell.value for cell in MatrixCell}
        if not ENTRIES[name].faulty:
            # At two old revisions a table names a kernel that its code object lacks.
            told = set(cells) - {MatrixCell.CANNOT_RUN}
            assert told <= {MatrixCell.SILENT, MatrixCell.REFUSED}, f"{name} is a control"
            assert cells.count(MatrixCell.CANNOT_RUN) <= 2, name
        known = [at for at, cell in enumerate(cells) if cell == MatrixCell.FIXED]
        assert all(MatrixCell.FOUND in cells[:at] for at in known), name


def test_a_kernel_that_is_called_otherwise_shows_the_same() -> None:
    expected = Expected(FindingKind.OUT_OF_BOUNDS_READ, tensor="q", stage="old.co")
    shown = Finding(FindingKind.OUT_OF_BOUNDS_READ, Severity.READ, Party.KERNEL, "new.co", "q", "reads")
    assert not expected.same_place(shown)
    assert expected.whatever_kernel(shown).same_place(shown)
    elsewhere = dataclasses.replace(shown, stage="planner v1_2")
    assert not expected.whatever_kernel(elsewhere).same_place(elsewhere)
    assert not expected.whatever_kernel(shown).same_place(dataclasses.replace(shown, tensor="o"))


@pytest.mark.checkout
@pytest.mark.slow
def test_the_whole_document_is_up_to_date(aiter_checkout: Path) -> None:
    paths, entries = OpenPaths(str(aiter_checkout)), list(ENTRIES.values())
    columns, _ = pinned_columns(str(aiter_checkout))
    text = document(matrix(entries, paths), DOCUMENT_COMMAND, matrix(entries, paths, columns, replays=False), columns)
    assert (ROOT / "docs" / "corpus.md").read_text(encoding="utf-8") == text


def test_the_command_prints_the_matrix_and_writes_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(next((ROOT / "corpus").glob(f"{name}-*.json"))) for name in ("F7", "C2")]
    assert main(["replay", *files, "--markdown", str(tmp_path / "corpus.md")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^F7 .* found +fixed +fixed +found$", shown, re.MULTILINE)
    assert all(release in shown for release in RELEASES)
    assert set(rows_of((tmp_path / "corpus.md").read_text(encoding="utf-8"))) == {"F7", "C2"}
    assert main(["replay", *files, "--markdown", str(tmp_path / "absent" / "corpus.md")]) == 2


@pytest.mark.checkout
def test_replay_at_a_revision_says_how_each_entry_stands_there(
    aiter_checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """O7 at sglang 0.5.14's own pin, one line of the launcher off 2026-06; F7 is mended there."""
    files = [str(next((ROOT / "corpus").glob(f"{name}-*.json"))) for name in ("O7", "F7")]
    at = f"{aiter_checkout}@7d604afe5"
    assert main(["replay", *files, "--aiter", at]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^O7 +found ", shown, re.MULTILINE)
    assert re.search(r"^F7 +silent ", shown, re.MULTILINE)
    assert f"at {at}: 1 found, 1 silent" in shown
    assert main(["replay", files[1], "--aiter", at]) == 0
    assert main(["replay", files[1], "--aiter", f"{aiter_checkout}@unheard-of"]) == 2
