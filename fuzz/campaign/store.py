"""The store of a campaign: one SQLite file, written by one process, readable by any other while it is.

    campaigns  one row a campaign: a merged store holds several, each under its own number
    sessions   starts of a campaign; ended is NULL for one that was killed
    chunks     one row a chunk, whole: codes (zlib of uint16, an index into labels for each case), reached and kept (what
               guidance needs to be made again), when it was done
    labels     what a code means: fate and text
    cells      the coverage map, added up; kernels, reasons and signatures with counts as JSON
    findings   one row a signature and campaign
    losses     workers lost, with the case each was at
    notes      anything else by name, as JSON (the comparison with last night)

A chunk and everything that is counted from it are written in one transaction, so that after a SIGKILL at any moment each chunk
is there with all of its consequences or not at all. This module writes; fuzz.campaign.read_summary reads.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.case import Case
from backend.codec import dumps, from_plain
from backend.errors import CannotRunError, UsageError, of_the_disk
from backend.fate import Fate
from backend.findings import Finding
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.report import CellCounts, CellKey, ChunkReport, Label
from fuzz.campaign.store_blobs import StoredChunk, content_digest, pack_codes, pack_reached, unpack_codes, unpack_reached
from fuzz.campaign.summary import Environment, LossKind, Reliability, TriagedFinding, seen_again
from fuzz.provenance import Provenance
from fuzz.space import CaseSpace
from reprod.reference import KnownReference

FILE_NAME = "campaign.sqlite"
LOCK_NAME = ".lock"
FINDINGS = "findings"
"""Folder of the findings' folders, beside the file."""

VERSION = 6
"""Of the tables and of what guidance keeps in them; a store of another version is refused."""

COMMIT_SECONDS = 1.0
"""Between two commits: what a SIGKILL can undo, and what resuming then does again."""

DIGEST = "digest"
"""Note that holds the digest of the store's content while nobody writes."""

MOST_LABELS = 60_000
"""Reasons and signatures told apart; a code has 16 bits, and more than some hundreds means that a reason names its case."""
OTHER = "(one of too many to tell apart)"

SCHEMA = """
CREATE TABLE campaigns(
  number INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, created REAL NOT NULL, seed INTEGER NOT NULL, config TEXT NOT NULL,
  space TEXT NOT NULL, provenance TEXT NOT NULL, environment TEXT NOT NULL);
CREATE TABLE sessions(
  campaign INTEGER NOT NULL, number INTEGER NOT NULL, began REAL NOT NULL, ended REAL, seen REAL NOT NULL, reason TEXT NOT NULL,
  workers INTEGER NOT NULL, cluster TEXT NOT NULL, rules TEXT NOT NULL, offset REAL NOT NULL, PRIMARY KEY(campaign, number));
CREATE TABLE labels(number INTEGER PRIMARY KEY, fate TEXT NOT NULL, text TEXT NOT NULL, UNIQUE(fate, text));
CREATE TABLE chunks(
  campaign INTEGER NOT NULL, chunk INTEGER NOT NULL, cases INTEGER NOT NULL, codes BLOB NOT NULL, reached BLOB NOT NULL,
  work REAL NOT NULL, done REAL NOT NULL, features INTEGER NOT NULL, signatures INTEGER NOT NULL, worker TEXT NOT NULL,
  PRIMARY KEY(campaign, chunk)) WITHOUT ROWID;
CREATE TABLE cells(
  campaign INTEGER NOT NULL, num_head INTEGER NOT NULL, batch INTEGER NOT NULL, kv_len INTEGER NOT NULL, counts TEXT NOT NULL,
  PRIMARY KEY(campaign, num_head, batch, kv_len)) WITHOUT ROWID;
CREATE TABLE findings(
  campaign INTEGER NOT NULL, signature TEXT NOT NULL, cause TEXT NOT NULL, count INTEGER NOT NULL, first_seen REAL NOT NULL,
  last_seen REAL NOT NULL, first TEXT NOT NULL, chunk INTEGER NOT NULL, position INTEGER NOT NULL, smallest TEXT NOT NULL,
  minimal INTEGER NOT NULL, shown INTEGER NOT NULL, repeats INTEGER NOT NULL, findings TEXT NOT NULL, known TEXT, folder TEXT,
  PRIMARY KEY(campaign, signature)) WITHOUT ROWID;
CREATE TABLE losses(
  campaign INTEGER NOT NULL, seconds REAL NOT NULL, kind TEXT NOT NULL, worker TEXT NOT NULL, detail TEXT NOT NULL,
  chunk INTEGER, position INTEGER, "case" TEXT);
CREATE TABLE set_aside(campaign INTEGER NOT NULL, chunk INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY(campaign, chunk));
CREATE TABLE notes(campaign INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY(campaign, name));
"""


@dataclass(slots=True)
class FindingRow:
    """A finding as the writer holds it."""

    signature: str
    cause: Finding
    count: int
    first_seen: float
    last_seen: float
    first: Case
    chunk: int
    position: int
    smallest: Case
    minimal: bool
    reliability: Reliability
    findings: tuple[Finding, ...]
    known: KnownReference | None
    folder: str | None


def store_path(given: Path) -> Path:
    """The database of a store that is named by its file or its folder; raises UsageError where there is none."""
    path = given / FILE_NAME if given.is_dir() else given
    if not path.is_file():
        raise UsageError.not_allowed("store", str(given), f"a campaign's folder, or its {FILE_NAME}")
    return path


def connect(path: Path, *, writing: bool = False) -> sqlite3.Connection:
    """Opens a store of this version; raises UsageError for anything else, CannotRunError where the disk fails or is full."""
    try:
        # A reader must be able to make the -shm file of a store whose writer was killed, so it is opened for writing too.
        connection = sqlite3.connect(path, isolation_level=None, timeout=30.0)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        if of_the_disk(error):
            raise CannotRunError(f"{path}: cannot be opened ({error}); make room, or copy it where there is some") from error
        raise UsageError(f"{path}: not a store ({error}); give the {FILE_NAME} of a campaign") from error
    if version != VERSION:
        raise UsageError.not_allowed(
            f"{path}: version of the store", version, VERSION, "read it with the aiterfuzz that wrote it"
        )
    if not writing:
        connection.execute("PRAGMA query_only = 1")
    return connection


class Lock:
    """That a folder has one writer. Held until the process ends, however it ends; raises UsageError where another holds it."""

    def __init__(self, folder: Path) -> None:
        self._file = os.fdopen(os.open(folder / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666), "w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UsageError(f"{folder}: another campaign is writing there; wait for it, or give another --out") from error

    def release(self) -> None:
        """Lets other processes write again."""
        self._file.close()


class Clock:
    """Time since a moment, by the clock that nobody sets; in seconds, and as a time of day (epoch) counted on from there."""

    def __init__(self) -> None:
        self.began = time.time()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since this clock was made."""
        return time.monotonic() - self._began

    @property
    def now(self) -> float:
        """The time of day, had nobody set the machine's clock in between."""
        return self.began + self.seconds


class Store:
    """The writer. Changes are gathered and committed together about once a second, and by `commit`."""

    def __init__(self, path: Path, campaign: int, connection: sqlite3.Connection) -> None:
        self.path = path
        self.campaign = campaign
        self._db = connection
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._labels: dict[tuple[str, str], int] = {
            (fate, text): number for number, fate, text in self._db.execute("SELECT number, fate, text FROM labels")
        }
        self._cells: dict[CellKey, CellCounts] = {}
        self.findings: dict[str, FindingRow] = {row.signature: row for row in read_findings(self._db, campaign)}
        self._changed: set[str] = set()
        self._committed = time.monotonic()
        self._clock = Clock()
        self._offset = 0.0
        self._db.execute("BEGIN")

    @classmethod
    def create(
        cls, path: Path, identity: str, config: CampaignConfig, space: CaseSpace, made_by: Provenance, environment: Environment
    ) -> Store:
        """A new store; raises UsageError where there is one already."""
        if path.exists():
            raise UsageError(f"{path.parent}: holds a campaign already; go on with --resume, or give another --out")
        # Under another name until it is whole: who looks meanwhile, or after a kill, sees no store rather than half of one.
        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        connection = sqlite3.connect(unfinished, isolation_level=None, timeout=30.0)
        connection.executescript(SCHEMA)
        connection.execute(
            "INSERT INTO campaigns VALUES(1, ?, ?, ?, ?, ?, ?, ?)",
            (identity, time.time(), config.seed, dumps(config), dumps(space), dumps(made_by), dumps(environment)),
        )
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.close()
        unfinished.rename(path)
        return cls(path, 1, connect(path, writing=True))

    @classmethod
    def open(cls, path: Path) -> Store:
        """The store of a campaign that goes on; raises UsageError for one that was merged from several."""
        connection = connect(path, writing=True)
        numbers = [number for (number,) in connection.execute("SELECT number FROM campaigns")]
        if len(numbers) != 1:
            raise UsageError(f"{path}: was merged from {len(numbers)} campaigns; resume one of these")
        return cls(path, numbers[0], connection)

    def begin_session(self, workers: int, cluster: str, rules: str) -> None:
        """Notes a start. Sessions that were killed are ended where they were last seen."""
        self._db.execute(
            "UPDATE sessions SET ended = seen, reason = 'killed' WHERE campaign = ? AND ended IS NULL", (self.campaign,)
        )
        self._clock = Clock()
        self._db.execute("DELETE FROM notes WHERE name = ?", (DIGEST,))
        number, offset = self._db.execute(
            "SELECT COUNT(*), TOTAL(ended - began) FROM sessions WHERE campaign = ?", (self.campaign,)
        ).fetchone()
        began = self._clock.began
        row = (self.campaign, number, began, None, began, "running", workers, cluster, rules, offset)
        self._db.execute("INSERT INTO sessions VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._session, self._offset = number, offset
        self.commit()

    @property
    def seconds(self) -> float:
        """Seconds that the campaign has run for: its sessions added up."""
        return self._offset + self._clock.seconds

    def end_session(self, reason: str) -> None:
        """Notes how the session ended."""
        now = self._clock.now
        self._db.execute(
            "UPDATE sessions SET ended = ?, seen = ?, reason = ? WHERE campaign = ? AND number = ?",
            (now, now, reason, self.campaign, self._session),
        )
        self._flush()
        write_digest(self._db)
        self.commit()

    def done_chunks(self) -> set[int]:
        """Numbers of the chunks that are there."""
        return {chunk for (chunk,) in self._db.execute("SELECT chunk FROM chunks WHERE campaign = ?", (self.campaign,))}

    def stored_chunks(self, until: int) -> Iterator[StoredChunk]:
        """Chunks 0 .. until-1, as far as they are there, in order."""
        return read_reached(self._db, self.campaign, until)

    def chunk(self, report: ChunkReport, worker: str, features: int) -> list[str]:
        """Records a chunk; the signatures that were not known before. features: known in all, with this chunk's."""
        numbers = [self._label(label) for label in report.labels]
        signatures = len(self.findings.keys() | {shown.signature for shown in report.shown})
        row = (
            *(self.campaign, report.chunk, report.cases, pack_codes(report.codes, numbers)),
            *(pack_reached(report.reached, report.kept), report.seconds, self.seconds, features, signatures, worker),
        )
        self._db.execute("INSERT INTO chunks VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        new = [self._shown(report, index) for index in range(len(report.shown))]
        self._count(report)
        for key, counts in report.cells.items():
            self._cells.setdefault(key, CellCounts()).add(counts)
        return [signature for signature in new if signature is not None]

    def _label(self, label: Label) -> int:
        key = (label.fate.value, label.text)
        number = self._labels.get(key)
        if number is None:
            if len(self._labels) >= MOST_LABELS and label.text != OTHER:
                return self._label(Label(label.fate, OTHER))
            number = self._labels[key] = len(self._labels) + 1
            self._db.execute("INSERT INTO labels VALUES(?, ?, ?)", (number, *key))
        return number

    def _shown(self, report: ChunkReport, index: int) -> str | None:
        shown, now = report.shown[index], self._clock.now
        known = self.findings.get(shown.signature)
        self._changed.add(shown.signature)
        # A death that came again says nothing of an earlier one of its signature that did not, and is not hidden by it.
        outdone = known is not None and not known.reliability.shown and seen_again(shown.finding) > seen_again(known.cause)
        if known is None or outdone:
            count, since = (known.count, known.first_seen) if known is not None else (0, now)
            self.findings[shown.signature] = FindingRow(
                *(shown.signature, shown.finding, count, since, now, shown.case, report.chunk, shown.position),
                *(shown.case, False, Reliability(0, 0), (shown.finding,), None, None),
            )
            return shown.signature
        known.last_seen = now
        return None

    def _count(self, report: ChunkReport) -> None:
        counted = np.bincount(report.codes, minlength=len(report.labels))
        for label, count in zip(report.labels, counted.tolist(), strict=True):
            if label.text in self.findings:
                self.findings[label.text].count += count
        reported = {label.text for label in report.labels}
        for shown in report.shown:
            if shown.signature not in reported:
                self.findings[shown.signature].count += 1

    def carry_over(self, earlier: TriagedFinding) -> None:
        """Takes in what an earlier campaign could not reproduce, to be looked into again; no case of this one has shown it."""
        self.findings[earlier.signature] = FindingRow(
            *(earlier.signature, earlier.findings[0], 0, earlier.first_seen, earlier.last_seen, earlier.first, -1, -1),
            *(earlier.smallest, False, Reliability(0, 0), earlier.findings, None, None),
        )
        self._changed.add(earlier.signature)

    def finding(self, signature: str, **changes: Any) -> None:
        """Changes fields of a finding."""
        for name, value in changes.items():
            setattr(self.findings[signature], name, value)
        self._changed.add(signature)

    def loss(
        self, kind: LossKind, worker: str, detail: str, chunk: int | None, position: int | None, case: Case | None
    ) -> None:
        """Records a lost worker."""
        case_text = None if case is None else dumps(case)
        row = (self.campaign, self.seconds, kind.value, worker, detail, chunk, position, case_text)
        self._db.execute("INSERT INTO losses VALUES(?, ?, ?, ?, ?, ?, ?, ?)", row)

    def set_aside(self, chunk: int, reason: str) -> None:
        """Records a chunk that cannot be run."""
        self._db.execute("INSERT OR REPLACE INTO set_aside VALUES(?, ?, ?)", (self.campaign, chunk, reason))

    def chunks_set_aside(self) -> set[int]:
        """Numbers of the chunks that could not be run."""
        return {chunk for (chunk,) in self._db.execute("SELECT chunk FROM set_aside WHERE campaign = ?", (self.campaign,))}

    def fates(self) -> Counter[Fate]:
        """How many cases came to what, of all chunks that are there."""
        counted = label_counts(self._db, self.campaign)
        fates: Counter[Fate] = Counter()
        for label, count in counted.items():
            fates[label.fate] += count
        return fates

    def configure(self, config: CampaignConfig) -> None:
        """Another configuration for a campaign that goes on; whoever calls sees to it that its identity is kept."""
        self._db.execute("UPDATE campaigns SET config = ? WHERE number = ?", (dumps(config), self.campaign))

    def commit_if_due(self) -> None:
        """Commits where it is time to."""
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Hands everything so far to the file."""
        self._flush()
        self._db.execute("UPDATE sessions SET seen = ? WHERE campaign = ? AND ended IS NULL", (self._clock.now, self.campaign))
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")
        self._committed = time.monotonic()

    def _flush(self) -> None:
        self._flush_cells()
        for signature in self._changed:
            self._db.execute(f"INSERT OR REPLACE INTO findings VALUES({', '.join('?' * 16)})", _finding_values(self, signature))
        self._changed.clear()

    def _flush_cells(self) -> None:
        for key, counts in self._cells.items():
            where = (self.campaign, *key)
            found = self._db.execute(
                "SELECT counts FROM cells WHERE campaign = ? AND num_head = ? AND batch = ? AND kv_len = ?", where
            ).fetchone()
            if found is not None:
                counts.add(CellCounts.from_row(json.loads(found[0])))
            text = json.dumps(counts.to_row(), separators=(",", ":"))
            self._db.execute("INSERT OR REPLACE INTO cells VALUES(?, ?, ?, ?, ?)", (*where, text))
        self._cells.clear()

    def close(self) -> None:
        """Commits what is pending and closes."""
        self.commit()
        self._db.execute("COMMIT")
        self._db.close()

    def fail(self, error: BaseException, reason: str) -> None:
        """Closes after an error: with all that is known, or, where the error is of the database, as a kill would leave it."""
        with contextlib.suppress(sqlite3.Error):
            if not isinstance(error, sqlite3.Error):
                self.end_session(reason)
                self._db.execute("COMMIT")
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


def _finding_values(store: Store, signature: str) -> tuple[Any, ...]:
    row = store.findings[signature]
    return (
        *(store.campaign, signature, dumps(row.cause), row.count, row.first_seen, row.last_seen, dumps(row.first)),
        *(row.chunk, row.position, dumps(row.smallest), int(row.minimal), row.reliability.shown, row.reliability.repeats),
        *(dumps(row.findings), None if row.known is None else dumps(row.known), row.folder),
    )


def write_digest(db: sqlite3.Connection) -> None:
    """Notes the digest of a store that nobody will write for now, under its first campaign."""
    db.execute("INSERT INTO notes SELECT MIN(number), ?, ? FROM campaigns", (DIGEST, json.dumps(content_digest(db))))


def read_findings(db: sqlite3.Connection, campaign: int) -> Iterator[FindingRow]:
    """The findings of a campaign."""
    for row in db.execute("SELECT * FROM findings WHERE campaign = ? ORDER BY first_seen, signature", (campaign,)):
        _, signature, cause, count, first_seen, last_seen, first, chunk, position, smallest, minimal, *rest = row
        shown, repeats, findings, known, folder = rest
        yield FindingRow(
            *(
                signature,
                from_plain(Finding, json.loads(cause)),
                count,
                first_seen,
                last_seen,
                from_plain(Case, json.loads(first)),
            ),
            *(chunk, position, from_plain(Case, json.loads(smallest)), bool(minimal), Reliability(shown, repeats)),
            tuple(from_plain(Finding, plain) for plain in json.loads(findings)),
            None if known is None else from_plain(KnownReference, json.loads(known)),
            folder,
        )


def label_counts(db: sqlite3.Connection, campaign: int) -> Counter[Label]:
    """How many cases of a campaign have each label."""
    labels = {number: Label(Fate(fate), text) for number, fate, text in db.execute("SELECT number, fate, text FROM labels")}
    counted = np.zeros(MOST_LABELS + len(Fate) + 1, np.int64)
    for (blob,) in db.execute("SELECT codes FROM chunks WHERE campaign = ?", (campaign,)):
        counted += np.bincount(unpack_codes(blob), minlength=len(counted))
    return Counter({labels[number]: int(counted[number]) for number in np.flatnonzero(counted).tolist()})


def read_reached(db: sqlite3.Connection, campaign: int, until: int) -> Iterator[StoredChunk]:
    """What chunks 0 .. until-1 reached, as far as they are there, in order."""
    rows = db.execute("SELECT chunk, reached FROM chunks WHERE campaign = ? AND chunk < ? ORDER BY chunk", (campaign, until))
    for chunk, blob in rows:
        yield unpack_reached(chunk, blob)


def environment(nodes: int, resources: Mapping[str, float]) -> Environment:
    """Of this machine and the cluster it drives."""
    name = os.uname()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Environment(
        name.nodename, f"{name.sysname} {name.release} {name.machine}", os.cpu_count() or 1, memory, nodes, dict(resources)
    )
