"""Merging stores: campaigns of several machines or nights in one store, each kept as it was, told as one by the summary;
and findings as corpus entries, the form in which they are shared, reviewed and replayed.

A campaign has an identity; of two copies (one that was resumed elsewhere, a backup) the one with more chunks is taken, since a
campaign's chunks are the same whoever ran them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from backend.errors import CannotRunError, UsageError
from fuzz.campaign.chunks import Safe
from fuzz.campaign.config import IDENTITY
from fuzz.campaign.read_summary import load_summary
from fuzz.campaign.soundness import files_of
from fuzz.campaign.store import FILE_NAME, FINDINGS, SCHEMA, VERSION, store_path, write_digest
from fuzz.campaign.store_blobs import recode, unpack_codes
from fuzz.campaign.summary import CampaignSummary, TriagedFinding
from reprod.entry import entry_of, entry_text
from reprod.folder import write_folder

_BY_CAMPAIGN = ("sessions", "cells", "findings", "losses", "set_aside")
"""Tables whose first column is the campaign and of which everything else is copied as it is. Notes are not: last night's
comparison is of one campaign."""


def merge(stores: Sequence[Path], out: Path) -> Path:
    """Writes a new store with the campaigns of all of them, and the folders of their findings; returns the database.

    Raises UsageError where `out` holds a store already, or something that is given is none.
    """
    sources = [store_path(store) for store in stores]
    target = out / FILE_NAME
    if target.exists():
        raise UsageError(f"--out: {out} holds a store already; give another folder")
    for source in sources:
        load_summary(source)  # a damaged one is said to be
    out.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    db = sqlite3.connect(unfinished, isolation_level=None)
    db.executescript(SCHEMA)
    db.execute(f"PRAGMA user_version = {VERSION}")
    for source in sources:
        db.execute("ATTACH ? AS other", (str(source),))
        db.execute("BEGIN")
        _take(db, source)
        db.execute("COMMIT")
        db.execute("DETACH other")
    write_digest(db)
    db.execute("VACUUM")
    named = [folder for (folder,) in db.execute("SELECT DISTINCT folder FROM findings WHERE folder IS NOT NULL")]
    db.close()
    below = [f"{FINDINGS}/{each.name}" for source in sources for each in (source.parent / FINDINGS).glob("[!.]*")]
    for source, folder in itertools.product(sources, dict.fromkeys(named + below)):
        files = files_of(source.parent, folder)
        if files:
            write_folder((out / folder).parent, Path(folder).name, files)
    unfinished.rename(target)
    return target


def _take(db: sqlite3.Connection, source: Path) -> None:
    labels = _labels(db)
    for number, identity in db.execute("SELECT number, identity FROM other.campaigns ORDER BY number").fetchall():
        known = db.execute("SELECT number FROM main.campaigns WHERE identity = ?", (identity,)).fetchone()
        if known is not None:
            _require_a_copy(db, known[0], number, labels, source)
            if _chunks(db, "main", known[0]) >= _chunks(db, "other", number):
                continue
            for table in ("campaigns", "chunks", *_BY_CAMPAIGN):
                column = "number" if table == "campaigns" else "campaign"
                db.execute(f"DELETE FROM main.{table} WHERE {column} = ?", known)
        (free,) = db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM main.campaigns").fetchone()
        _copy(db, "campaigns", "number", number, free)
        for table in _BY_CAMPAIGN:
            _copy(db, table, "campaign", number, free)
        _copy_chunks(db, number, free, labels)


def _require_a_copy(db: sqlite3.Connection, here: int, there: int, labels: dict[int, int], source: Path) -> None:
    """Raises UsageError where two stores tell different things of a chunk of one campaign, or of what it is."""
    asked = [
        db.execute(f"SELECT config, space, seed FROM {where}.campaigns WHERE number = ?", (number,)).fetchone()
        for where, number in (("main", here), ("other", there))
    ]
    identities = [({name: json.loads(config)[name] for name in IDENTITY}, *rest) for config, *rest in asked]
    same = identities[0] == identities[1]
    pairs = db.execute(
        "SELECT m.codes, o.codes FROM main.chunks m JOIN other.chunks o ON m.chunk = o.chunk "
        "WHERE m.campaign = ? AND o.campaign = ?",
        (here, there),
    )
    if not same or any(not np.array_equal(unpack_codes(mine), unpack_codes(recode(its, labels))) for mine, its in pairs):
        raise UsageError(
            f"{source}: contradicts another copy of the same campaign; find out which of the two is right, and give that one"
        )


def _chunks(db: sqlite3.Connection, where: str, campaign: int) -> int:
    (count,) = db.execute(f"SELECT COUNT(*) FROM {where}.chunks WHERE campaign = ?", (campaign,)).fetchone()
    return int(count)


def _labels(db: sqlite3.Connection) -> dict[int, int]:
    """Numbers of the other store's labels -> numbers here."""
    db.execute(
        "INSERT OR IGNORE INTO main.labels(number, fate, text) SELECT NULL, fate, text FROM other.labels ORDER BY number"
    )
    rows = db.execute("SELECT o.number, m.number FROM other.labels o JOIN main.labels m ON o.fate = m.fate AND o.text = m.text")
    return dict(rows.fetchall())


def _copy(db: sqlite3.Connection, table: str, column: str, campaign: int, number: int) -> None:
    columns = [f'"{row[1]}"' for row in db.execute(f"PRAGMA main.table_info({table})")]
    others = ", ".join(name for name in columns if name != f'"{column}"')
    db.execute(
        f"INSERT INTO main.{table}({column}, {others}) SELECT ?, {others} FROM other.{table} WHERE {column} = ?",
        (number, campaign),
    )


def _copy_chunks(db: sqlite3.Connection, campaign: int, number: int, labels: dict[int, int]) -> None:
    for row in db.execute("SELECT * FROM other.chunks WHERE campaign = ? ORDER BY chunk", (campaign,)):
        _, chunk, cases, codes, *rest = row
        values = (number, chunk, cases, recode(codes, labels), *rest)
        db.execute(f"INSERT INTO main.chunks VALUES({', '.join('?' * len(values))})", values)


def export(summary: CampaignSummary, folder: Path) -> Iterator[Path]:
    """Writes an entry for each finding that no entry of the corpus is known for and that its smallest case shows on its device.

    A file that is there already is left alone: somebody may have cut it down to the figures that matter.
    """
    from backend.path import Path as CasePath

    config = summary.members[0].config
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"corpus folder {folder}: cannot be made ({error.strerror or error}); give another") from error
    try:
        path = Safe(CasePath(device=config.device), config.device)
    except CannotRunError as error:
        raise CannotRunError(f"an entry states what its case shows, and device {config.device} is not here: {error}") from error
    for finding in summary.findings:
        if finding.known is not None or not finding.reliability.shown:
            continue
        file = folder / file_name(finding)
        if file.exists():
            continue
        outcome = path.run(finding.smallest)
        if outcome.cause is None or outcome.cause.signature != finding.signature:
            continue
        title = f"{finding.kind.value} at {finding.stage}"
        file.write_text(entry_text(entry_of(outcome, file.stem.partition("-")[0], title)), encoding="utf-8")
        yield file


def file_name(finding: TriagedFinding) -> str:
    """`N<hash>-what-it-is.json`: N for new, the hash of the signature, so that two campaigns give one fault one name."""
    number = int(hashlib.sha256(finding.signature.encode()).hexdigest()[:8], 16)
    words = re.sub(r"[^a-z0-9]+", "-", finding.signature.lower()).strip("-")[:60].rstrip("-")
    return f"N{number}-{words}.json"
