"""Reads logs line by line: of any size, encoding and author. Knows how text is cleaned; what a line says is forms.py's.

Nothing in a log is run, opened, imported or asked for. A line is cut, a file is read in pieces, and of each topic only so many
facts are kept, so that memory stays bounded.
"""

from __future__ import annotations

import codecs
import gzip
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from backend.errors import UsageError
from reprod.diagnose.facts import LogFact, LogFacts, Topic
from reprod.diagnose.forms import facts_of
from reprod.text import one_line

LONGEST_LINE = 1 << 18
"""Characters of a line that are looked at: vLLM prints its whole configuration, and a batch's block ids, in one."""

MOST_FACTS = 400
"""Of one topic: the first half and the last are kept, as a server prints its batch every second for days."""

READ_SECONDS = 120.0
"""After which the rest of the logs is left: a gigabyte takes less, on a machine that does nothing else."""

_PIECE = 1 << 20

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0e-\x1f\x7f]")
"""ANSI sequences (colours, titles) and further control characters."""

_QUOTED = 160


def read_logs(paths: Sequence[Path], seconds: float = READ_SECONDS) -> LogFacts:
    """What some logs say; `-` is standard input. Raises UsageError for a file that is not there or cannot be read."""
    deadline = time.monotonic() + seconds
    kept: dict[Topic, list[LogFact]] = {}
    dropped: Counter[Topic] = Counter()
    notes: list[str] = []
    lines = 0
    for path in paths:
        name = "stdin" if str(path) == "-" else path.name
        for number, text in enumerate(_lines(path, name, notes), 1):
            lines += 1
            for topic, value in facts_of(text):
                fact = LogFact(topic, value, name, number, one_line(text.strip()[:_QUOTED]))
                _keep(kept.setdefault(topic, []), fact, dropped)
            if number % 4096 == 0 and time.monotonic() > deadline:
                notes.append(f"{name}: read up to line {number:,} ({seconds:g} s); the rest was not looked at")
                break
    notes += [f"{count:,} more lines about {topic.value.replace('_', ' ')} were not kept" for topic, count in dropped.items()]
    order = {name: place for place, name in enumerate(dict.fromkeys(path.name for path in paths))}
    found = sorted((fact for facts in kept.values() for fact in facts), key=lambda fact: (order.get(fact.file, 0), fact.line))
    return LogFacts(tuple(found), tuple(notes), lines)


def _keep(facts: list[LogFact], fact: LogFact, dropped: Counter[Topic]) -> None:
    facts.append(fact)
    if len(facts) > MOST_FACTS:
        del facts[MOST_FACTS // 2]
        dropped[fact.topic] += 1


def _lines(path: Path, name: str, notes: list[str]) -> Iterator[str]:
    try:
        with _opened(path) as file:
            yield from _split(file, name, notes)
    except (EOFError, gzip.BadGzipFile) as error:
        notes.append(f"{name}: the compressed file ends early or is damaged ({error}); what came before was read")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror or error}); give a log's file, or - for standard input"
        ) from error


def _opened(path: Path) -> IO[bytes]:
    if str(path) == "-":
        return sys.stdin.buffer
    if not path.is_file():
        raise UsageError.not_allowed("LOG", str(path), "a file that is there, or - for standard input")
    with path.open("rb") as file:
        magic = file.read(2)
    if magic == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


def _split(file: IO[bytes], name: str, notes: list[str]) -> Iterator[str]:
    """Lines without their ends; \\r ends one too (progress bars), and what exceeds LONGEST_LINE is left out."""
    first = file.read(_PIECE)
    decoder = _decoder(first)
    rest, cut = "", 0
    piece = first
    while piece:
        parts = re.split(r"\r\n|\n|\r", rest + decoder.decode(piece))
        rest = parts.pop()
        for part in parts:
            cut += len(part) > LONGEST_LINE
            yield _cleaned(part)
        if len(rest) > 2 * LONGEST_LINE:  # one line that never ends: its beginning is kept, so that memory stays bounded
            rest = rest[: LONGEST_LINE + 1]
        piece = file.read(_PIECE)
    rest += decoder.decode(b"", True)
    if rest:
        cut += len(rest) > LONGEST_LINE
        yield _cleaned(rest)
    if cut:
        notes.append(f"{name}: {cut} lines are longer than {LONGEST_LINE:,} characters; only their beginning was looked at")


def _decoder(first: bytes) -> codecs.IncrementalDecoder:
    """By the byte order mark, by zero bytes where there is none; what is not UTF-8 becomes a replacement character."""
    if first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encoding = "utf-16"
    elif first[:3] == codecs.BOM_UTF8:
        encoding = "utf-8-sig"
    else:
        sample = first[:4096]
        odd, even = sample[1::2].count(0), sample[::2].count(0)
        encoding = "utf-16-le" if odd > len(sample) // 3 else "utf-16-be" if even > len(sample) // 3 else "utf-8"
    return codecs.getincrementaldecoder(encoding)(errors="replace")


def _cleaned(line: str) -> str:
    return _ESCAPES.sub("", line[:LONGEST_LINE])
