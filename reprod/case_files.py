"""The case that a person means: a case's file, a finding's folder, or an entry of the corpus. Knows files, runs nothing."""

from __future__ import annotations

from pathlib import Path

from backend.case import Case
from backend.codec import json_of, read_file, text_of
from backend.errors import UsageError
from reprod.corpus import load_entry
from reprod.folder import CASE


def given_case(path: Path) -> Case:
    """The case of a path; of a corpus entry, the first case of its first side. Raises UsageError naming the path."""
    file = path / CASE if path.is_dir() else path
    if not file.is_file():
        allowed = f"a case's file, a finding's folder (with {CASE} in it) or a corpus entry"
        raise UsageError.not_allowed("finding", str(path), allowed)
    return _first(file) if _is_entry(file) else read_file(Case, file)


def _first(file: Path) -> Case:
    entry = load_entry(file)
    _, side = next(entry.sides())
    return next(side.cases())


def _is_entry(file: Path) -> bool:
    plain = json_of(text_of(file, "a JSON file"), str(file))
    return isinstance(plain, dict) and "fault_class" in plain
