"""Whether a store is sound: the sums that must agree, read back from its tables. Knows the tables and no summary.

The writer keeps, in each transaction: every chunk with its cells, labels and findings (see fuzz.campaign.store). A store in
which these disagree was damaged, cut or edited; nothing may be concluded from it, so reading it raises DamagedStoreError.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from backend.codec import from_plain
from backend.errors import AiterfuzzError, CannotRunError, UsageError
from backend.fate import Fate
from backend.findings import TAKES_PROCESS
from backend.words import counted
from fuzz.asked import RELEASE
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.report import CellCounts, Label
from fuzz.campaign.store import DIGEST, OTHER, FindingRow, label_counts, read_findings
from fuzz.campaign.store_blobs import OF_CAMPAIGNS, content_digest, unpack_codes

MOST_FILES = 64
"""Read of a finding's folder; a usual one has four."""

REASONS = ("running", "finished", "interrupted", "killed", "failed")
"""Why a session ended; one more begins with "no worker left"."""

_END_OF_TIME = 1e11
"""Seconds since the epoch that no clock shows; infinity and what is no number are beyond it."""


class DamagedStoreError(CannotRunError):
    """A store that contradicts itself or cannot be read to its end; exit code 3. Restore a copy of it, or begin anew."""


@contextmanager
def damage_is_one_line(path: Path) -> Iterator[None]:
    """Raises DamagedStoreError in place of whatever reading a damaged store raises."""
    try:
        yield
    except DamagedStoreError as error:
        raise DamagedStoreError(f"{path}: {error}") from error
    except AiterfuzzError as error:
        if isinstance(error, UsageError) and str(error).startswith(str(path)):
            raise
        raise DamagedStoreError(f"{path}: damaged store ({_short(error)}); restore a copy, or begin another") from error
    except (sqlite3.Error, zlib.error, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        # ArithmeticError and AttributeError: a number or text where the other is expected. RecursionError is one of ours.
        raise DamagedStoreError(f"{path}: damaged store ({_short(error)}); restore a copy, or begin another") from error
    except RecursionError:
        raise DamagedStoreError(f"{path}: damaged store (nested too deeply); restore a copy, or begin another") from None


def _short(error: BaseException) -> str:
    """One line of an error; a store's text may be long and hold anything."""
    text = " ".join("".join(char if char.isprintable() else " " for char in str(error)).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def require_sound(db: sqlite3.Connection) -> None:
    """Raises DamagedStoreError where tables of a store contradict each other."""
    numbers = {number for (number,) in db.execute("SELECT number FROM campaigns")}
    _require(bool(numbers), "it holds no campaign")
    for table in (*OF_CAMPAIGNS, "notes"):
        of = {number for (number,) in db.execute(f"SELECT DISTINCT campaign FROM {table}")}
        _require(of <= numbers, f"table {table} speaks of a campaign that is not there")
    noted = [json.loads(text) for (text,) in db.execute("SELECT value FROM notes WHERE name = ?", (DIGEST,))]
    _require(len(noted) <= 1, "it has two digests")
    for number in sorted(numbers):
        _require_campaign(db, number)
    for digest in noted:
        _require(digest == content_digest(db), "its content is not what was written when its last session ended")


def folder_of(text: str | None) -> str | None:
    """A finding's folder, relative to the store's; raises DamagedStoreError for one that leads elsewhere."""
    if text is None:
        return None
    path = PurePosixPath(text)
    within = not path.is_absolute() and ".." not in path.parts and "\\" not in text and "\0" not in text and path.parts
    _require(bool(within), f"the folder of a finding leads out of the store ({text[:60]!r})")
    return text


MOST_TEXT = 1 << 20
"""Bytes of a text in a finding's folder."""


def read_text_of(root: Path, folder: str, name: str) -> str:
    """A text in a finding's folder; "" where it is no plain file within `root` of at most MOST_TEXT bytes of UTF-8."""
    file = root / folder / name
    try:
        plain = file.resolve(strict=True) == root.resolve(strict=True) / folder / name and file.is_file()
        if not plain or file.stat().st_size > MOST_TEXT:
            return ""
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        return ""


def files_of(root: Path, folder: str) -> Mapping[str, str]:
    """The texts in a finding's folder, by name; those that `read_text_of` does not read are left out."""
    try:
        names = sorted(os.listdir(root / folder))
    except OSError:
        return {}
    texts = {name: read_text_of(root, folder, name) for name in names[:MOST_FILES]}
    return {name: text for name, text in texts.items() if text}


def require_plain(folder: Path, names: Iterable[str]) -> None:
    """Raises UsageError where one of these names in a campaign's folder is a link or no plain file or folder."""
    for name in names:
        path = folder / name
        if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
            raise UsageError(f"{path}: a link or a device in a campaign's folder is not followed; take it away")


def _require_campaign(db: sqlite3.Connection, number: int) -> None:
    labels = label_counts(db, number)
    findings = {row.signature: row for row in read_findings(db, number)}
    codes = _require_chunks(db, number)
    _require_cells(db, number, labels)
    shown: Counter[str] = Counter()
    for label, count in labels.items():
        if label.fate in (Fate.FAULTY, Fate.DIED):
            shown[label.text] += count
    told = {signature: row.count for signature, row in findings.items() if row.count}
    beside = {signature for signature, row in findings.items() if row.cause.kind in TAKES_PROCESS}
    agreeing = all(shown[each] == told.get(each, 0) for each in shown.keys() | told.keys() if each not in beside)
    if OTHER not in shown:
        _require(
            agreeing and all(shown[each] <= told.get(each, 0) for each in beside),
            f"{counted(shown.total(), 'case shows', 'cases show')} a fault, findings tell of {sum(told.values()):,}",
        )
    for row in findings.values():
        folder_of(row.folder)
        _require_finding(row, codes)
    _require_end(db, number, set(codes))


def _require_chunks(db: sqlite3.Connection, number: int) -> dict[int, list[Label]]:
    """Labels of the first cases of findings' chunks; complains of chunks that do not hold what they say."""
    labels = {n: Label(Fate(fate), text) for n, fate, text in db.execute("SELECT number, fate, text FROM labels")}
    found: dict[int, list[Label]] = {}
    rows = db.execute("SELECT chunk, cases, codes, work, done FROM chunks WHERE campaign = ?", (number,))
    for chunk, cases, blob, work, done in rows:
        codes = unpack_codes(blob).tolist()
        _require(len(codes) == cases and cases > 0, f"chunk {chunk} holds {counted(len(codes), 'case')} and says {cases!r}")
        _require(set(codes) <= set(labels), f"chunk {chunk} has labels that are not there")
        _require(chunk >= 0 and 0 <= work < _END_OF_TIME and 0 <= done < _END_OF_TIME, f"chunk {chunk} was done at no time")
        found[chunk] = [labels[code] for code in codes]
    return found


def _require_cells(db: sqlite3.Connection, number: int, labels: Counter[Label]) -> None:
    whole = CellCounts()
    for (text,) in db.execute("SELECT counts FROM cells WHERE campaign = ?", (number,)):
        whole.add(CellCounts.from_row(json.loads(text)))
    fates: Counter[Fate] = Counter()
    for label, count in labels.items():
        fates[label.fate] += count
    faulty = fates[Fate.FAULTY] + fates[Fate.DIED]
    sums = (
        ("cases", whole.cases, fates.total()),
        ("faulty cases", whole.faulty, faulty),
        ("cases with a signature", whole.signatures.total(), faulty),
        ("refused cases", whole.refused.total(), fates[Fate.REFUSED]),
        ("refused cases of a shape", whole.refused_as.total(), fates[Fate.REFUSED]),
        ("cases with a kernel", whole.kernels.total(), whole.ran),
        ("cases of a shape", whole.ran_as.total(), whole.ran),
        ("cases with a release", sum(whole.facts[fact] for fact in whole.facts if fact.startswith(RELEASE)), whole.ran),
    )
    for what, mapped, told in sums:
        _require(mapped == told, f"the map counts {mapped:,} {what}, the chunks {told:,}")


def _require_finding(row: FindingRow, codes: dict[int, list[Label]]) -> None:
    _require(0 <= row.reliability.shown <= row.reliability.repeats, "a finding showed more often than it was tried")
    if row.chunk < 0:
        return  # of an earlier campaign, to be tried again
    chunk = codes.get(row.chunk, [])
    holds = 0 <= row.position < len(chunk) and chunk[row.position].text in (row.signature, OTHER)
    _require(
        holds or row.cause.kind in TAKES_PROCESS,
        f"finding {row.signature}: its first case, {row.chunk}/{row.position}, does not show it",
    )


def _require_end(db: sqlite3.Connection, number: int, chunks: set[int]) -> None:
    sessions = db.execute(
        "SELECT began, ended, reason, COALESCE(ended, seen) - began FROM sessions WHERE campaign = ? ORDER BY number", (number,)
    ).fetchall()
    for began, ended, reason, seconds in sessions:
        known = reason in REASONS or reason.startswith("no worker left")
        _require(known and began > 0 and seconds >= 0, "a session of it ended before it began, or for no reason")
        _require(ended is not None or reason == "running", "a session ended at no time")
    text, created = db.execute("SELECT config, created FROM campaigns WHERE number = ?", (number,)).fetchone()
    _require(0 < created < _END_OF_TIME, "it began at no time")
    config = from_plain(CampaignConfig, json.loads(text))
    _require(bool(sessions) or not chunks, "it holds chunks that no session ran")
    if not sessions or sessions[-1][2] != "finished":
        return
    (aside,) = db.execute("SELECT COUNT(*) FROM set_aside WHERE campaign = ?", (number,)).fetchone()
    in_time = config.time_limit is not None and sum(row[3] for row in sessions) >= config.time_limit
    _require(bool(in_time or chunks or aside), "it says that it ran to its end, and holds no case")


def _require(holds: bool, contradiction: str) -> None:
    if not holds:
        raise DamagedStoreError(f"damaged store: {contradiction}; restore a copy, or begin another")
