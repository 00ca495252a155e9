"""What a store keeps of a chunk as compressed blobs, packed and unpacked, and the digest of all that a store holds."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from backend.codec import from_plain, to_plain
from backend.words import counted
from fuzz.campaign.report import Codes, Parent, Reached

MOST_CODE_BYTES = 2 * 65_535
"""Of a chunk's codes: a chunk has at most 65,535 cases."""

MOST_REACHED_BYTES = 256 << 20
"""Of what a chunk reached: a thousand times what it usually takes."""

OF_CAMPAIGNS = ("sessions", "chunks", "cells", "findings", "losses", "set_aside")
"""Tables whose first column is the campaign that a row belongs to, without the notes."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredChunk:
    """What guidance is made again from. reached: its features; kept: parents that it offers, by position."""

    chunk: int
    reached: Reached
    kept: Mapping[int, Parent]


def pack_codes(codes: Codes, numbers: Iterable[int]) -> bytes:
    """A chunk's codes with the store's label numbers in place of the report's."""
    table = np.fromiter(numbers, np.uint16)
    return zlib.compress(table[codes].tobytes(), 6)


def unpack_codes(blob: bytes) -> Codes:
    """The codes of a blob that `pack_codes` made; raises ValueError or zlib.error for any other."""
    return np.frombuffer(_unpacked(blob, MOST_CODE_BYTES), np.uint16)


def recode(blob: bytes, numbers: Mapping[int, int]) -> bytes:
    """The codes of another store with the label numbers of this one."""
    table = np.zeros(max(numbers) + 1, np.uint16)
    table[list(numbers)] = list(numbers.values())
    return zlib.compress(table[unpack_codes(blob)].tobytes(), 6)


def pack_reached(reached: Reached, kept: Mapping[int, Parent]) -> bytes:
    """Features and parents of a chunk in one compressed text."""
    plain = [
        reached.ids.tolist(),
        reached.counts.tolist(),
        reached.positions.tolist(),
        [[p, to_plain(c)] for p, c in kept.items()],
    ]
    return zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 6)


def unpack_reached(chunk: int, blob: bytes) -> StoredChunk:
    """The chunk of a blob that `pack_reached` made; raises ValueError or zlib.error for any other."""
    ids, counts, positions, kept = json.loads(_unpacked(blob, MOST_REACHED_BYTES))
    reached = Reached(np.array(ids, np.int64), np.array(counts, np.uint32), np.array(positions, np.uint16))
    return StoredChunk(chunk, reached, {position: from_plain(Parent, plain) for position, plain in kept})


def content_digest(db: sqlite3.Connection) -> str:
    """A sha256 in hexadecimal over all rows of a store but its notes; of what its last writer left, whole."""
    digest = hashlib.sha256()
    for table in ("campaigns", "labels", *OF_CAMPAIGNS):
        digest.update(table.encode())
        columns = len(db.execute(f"PRAGMA table_info({table})").fetchall())
        order = ", ".join(str(column) for column in range(1, min(columns, 6) + 1))  # more than any table's key has
        for row in db.execute(f"SELECT * FROM {table} ORDER BY {order}"):
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _unpacked(blob: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(blob, most)
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(f"a blob that is cut short, or unpacks to more than {counted(most, 'byte')}")
    return data
