"""An entry's file: how it is written, so that a diff reads well, and how a shrunk finding becomes one.

Also the case that a person means by a path. Reading entries is reprod.corpus; this module runs nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from backend.case import Case
from backend.codec import read_file, to_plain
from backend.errors import UsageError
from backend.file_text import json_of, text_of
from backend.outcome import Outcome
from reprod.blame import blame
from reprod.corpus import CorpusEntry, Expected, Side, load_entry, meant
from reprod.folder import CASE


def entry_of(outcome: Outcome, entry_id: str, title: str, references: tuple[str, ...] = ()) -> CorpusEntry:
    """An entry that expects of a case what it shows now, every figure exact.

    Raises UsageError for an outcome without a finding. The fixed side is for the author to add, once there is a fix.
    """
    cause = outcome.cause
    if cause is None:
        raise UsageError("nothing to keep: the case shows no finding; give one that does")
    expect = tuple(
        Expected(f.kind, f.tensor or None, f.party, f.stage, dict(f.evidence))
        for f in (cause, *(f for f in outcome.findings if f is not cause))
    )
    found = blame(outcome)
    side = Side(outcome.case, (outcome.case.release,), expect=expect, signature=cause.signature)
    return CorpusEntry(entry_id, title, references, cause.kind.value, found.verdict, (found.sentence,), (side,), ())


def entry_file_name(entry: CorpusEntry) -> str:
    """`ID-what-it-is.json`, from the title."""
    words = re.sub(r"[^a-z0-9]+", "-", entry.title.lower()).strip("-")[:LONGEST_NAME].rstrip("-")
    return f"{entry.id}-{words}.json"


LONGEST_NAME = 48
"""Characters of a title that go into a file's name."""


def entry_text(entry: CorpusEntry) -> str:
    """The file of an entry: one field a line, lists of numbers on one line, fields at their default left out."""
    return _pretty(_without_defaults(entry)) + "\n"


def _without_defaults(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {}
        for field in dataclasses.fields(value):
            given = getattr(value, field.name)
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
            if given != default or field.name in ALWAYS_WRITTEN:
                kept[field.name] = _without_defaults(given)
        return kept
    if isinstance(value, (tuple, list)):
        return [_without_defaults(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _without_defaults(item) for key, item in value.items()}
    return to_plain(value)


ALWAYS_WRITTEN = ("backend", "faulty", "silent")
"""Whose rule decides is what an entry is about, default or not."""


def _pretty(plain: Any, indent: str = "") -> str:
    short = json.dumps(plain, ensure_ascii=False)
    flat = not any(isinstance(item, dict) for item in (plain.values() if isinstance(plain, dict) else _items(plain)))
    if not isinstance(plain, (dict, list)) or (flat and len(indent) + len(short) <= LINE):
        return short
    deeper = indent + "  "
    if isinstance(plain, dict):
        lines = [f"{deeper}{json.dumps(key)}: {_pretty(value, deeper)}" for key, value in plain.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _pretty(item, deeper) for item in plain) + f"\n{indent}]"


def _items(plain: Any) -> list[Any]:
    return plain if isinstance(plain, list) else []


LINE = 120
"""Longest line that is kept together."""


def given_case(path: Path) -> Case:
    """The case of a path; of a corpus entry, or a known fault's id, the first case of its first side. Raises UsageError naming
    the path.
    """
    file = path / CASE if path.is_dir() else meant(path)
    if not file.is_file():
        allowed = f"a case's file, a finding's folder (with {CASE} in it), a corpus entry or a known fault's id, as F1"
        raise UsageError.not_allowed("finding", str(path), allowed)
    return _first(file) if _is_entry(file) else read_file(Case, file)


def is_finding(path: Path) -> bool:
    """Whether a path is a finding's folder or the file of a case, and no part of a corpus."""
    return (path / CASE).is_file() or (path.is_file() and not _is_entry(path))


def _first(file: Path) -> Case:
    entry = load_entry(file)
    _, side = next(entry.sides())
    return next(side.cases())


def _is_entry(file: Path) -> bool:
    plain = json_of(text_of(file, "a JSON file"), str(file))
    return isinstance(plain, dict) and "fault_class" in plain
