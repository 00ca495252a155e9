"""The matrix of entries and releases, and that docs/corpus.md is what the command writes today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend.case import RELEASES
from fuzz.cli import main
from fuzz.commands.replay import DOCUMENT_COMMAND
from reprod.corpus import CorpusEntry, OpenPaths, ReplayStatus, load_corpus
from reprod.matrix import SHIPPED, MatrixCell, document, matrix, matrix_markdown, pinned_columns

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
