"""Reads logs line by line: of any size, encoding and author. Knows how text is cleaned; what a line says is forms.py's.

Nothing in a log is run, opened, imported or asked for. A line is cut, a file is read in pieces, and of each topic only so many
facts are kept, so that memory stays bounded.
"""

from __future__ import annotations

import codecs
import gzip
import html
import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from backend.errors import UsageError
from backend.words import counted, noun
from reprod.diagnose.facts import LogFact, LogFacts, Topic
from reprod.diagnose.forms import LineReader
from reprod.text import one_line

LONGEST_LINE = 1 << 18
"""Characters of a line that are looked at: vLLM prints its whole configuration, and a batch's block ids, in one."""

MOST_FACTS = 400
"""Of one topic: the first half and the last are kept, as a server prints its batch every second for days."""

READ_SECONDS = 60.0
"""After which only the ends of logs are read."""

_PIECE = 1 << 20

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0e-\x1f\x7f]"
    r"|(?:#033|\\(?:u001b|x1b|e|033)|\^\[)\[[0-9;]*[A-Za-z]",
    re.IGNORECASE,
)
"""ANSI sequences (colours, titles), also as syslog, JSON, Python and `cat -v` spell them, and further control characters."""

_SPELT = ("#033[", "1b[", "033[", "\\e[", "^[[", "&lt;", "&gt;", "&quot;", "&#")
"""What stands in a text that has a spelling of an escape, or was copied out of a web page's source."""

MESSAGE_KEYS = ("log", "MESSAGE", "message", "msg", "textPayload", "text", "body", "line")
"""Of a line that is a JSON object: where docker, journald, fluentd and structured loggers have the text."""

_QUOTED = 160


@dataclass
class _Kept:
    """Facts of one topic, (value, file, line number, text): the first ones and the last ones."""

    first: list[tuple[str, str, int, str]] = field(default_factory=list)
    last: deque[tuple[str, str, int, str]] = field(default_factory=lambda: deque(maxlen=MOST_FACTS // 2))
    count: int = 0

    def add(self, fact: tuple[str, str, int, str]) -> None:
        self.count += 1
        (self.first if len(self.first) < MOST_FACTS // 2 else self.last).append(fact)

    @property
    def dropped(self) -> int:
        return self.count - len(self.first) - len(self.last)


def read_logs(paths: Sequence[Path], seconds: float = READ_SECONDS) -> LogFacts:
    """What some logs say; `-` is standard input. Raises UsageError for a file that is not there or cannot be read."""
    started, kept, notes, lines = time.monotonic(), dict[Topic, _Kept](), list[str](), 0
    reader = LineReader()
    for place, path in enumerate(paths):
        name = "stdin" if str(path) == "-" else path.name
        until = started + seconds * (place + 1) / len(paths)
        for number, text in _messages(_lines(path, name, notes, until)):
            lines += 1
            for topic, value in reader.facts_of(text):
                kept.setdefault(topic, _Kept()).add((value, name, number, text[:_QUOTED]))
    notes += [
        f"{counted(each.dropped, 'more line')} about {topic.value.replace('_', ' ')} {noun(each.dropped, 'was', 'were')} "
        "not kept"
        for topic, each in kept.items()
        if each.dropped
    ]
    order = {path.name: place for place, path in enumerate(paths)}
    found = [
        LogFact(topic, value, name, number, one_line(text.strip()))
        for topic, each in kept.items()
        for value, name, number, text in (*each.first, *each.last)
    ]
    return LogFacts(tuple(sorted(found, key=lambda fact: (order.get(fact.file, 0), fact.line))), tuple(notes), lines)


def _messages(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """(line number, text) of each line; of one that is a JSON object the text inside, as many lines as it has.

    docker cuts a long line into several records, of which the last one alone ends with a line feed.
    """
    held = ""
    for number, line in enumerate(lines, 1):
        text = _message(line) if line.startswith("{") else None
        if text is None:
            yield number, line
            continue
        held += text[0]
        if text[1] and len(held) < LONGEST_LINE:
            continue
        for each in held.splitlines():
            yield number, _cleaned(each)
        held = ""
    if held:
        yield number, _cleaned(held)


def _message(line: str) -> tuple[str, bool] | None:
    """(text of a JSON record, whether the next one goes on with it); None for a line that is no such record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    key = next((key for key in MESSAGE_KEYS if key in record), None) if isinstance(record, dict) else None
    if key is None:
        return None
    text = record[key]
    if isinstance(text, list) and all(isinstance(each, int) and 0 <= each < 256 for each in text):
        text = bytes(text).decode("utf-8", "replace")  # journald, where a text holds control characters
    if not isinstance(text, str):
        return None
    return text, key == "log" and "stream" in record and not text.endswith("\n")


def _lines(path: Path, name: str, notes: list[str], until: float) -> Iterator[str]:
    try:
        with _opened(path) as file:
            yield from _split(file, name, notes, until)
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


def _split(file: IO[bytes], name: str, notes: list[str], until: float) -> Iterator[str]:
    """Lines without their ends; \\r ends one too (progress bars), and what exceeds LONGEST_LINE is left out."""
    first = file.read(_PIECE)
    if _is_no_text(first):
        raise UsageError(
            f"{name}: no text, nor gzipped text; give a log, of a core dump what rocgdb prints of it, of an archive its text"
        )
    decoder = _decoder(first)
    rest, cut, late = "", 0, False
    piece = first
    while piece:
        text = rest + decoder.decode(piece)
        spelt = any(each in text for each in _SPELT)  # once for thousands of lines, most of which have none
        parts = re.split(r"\r\n|\n|\r", text)
        rest = parts.pop()
        for part in parts:
            cut += len(part) > LONGEST_LINE
            yield _cleaned(part, spelt)
        if len(rest) > 2 * LONGEST_LINE:  # one line that never ends: its beginning is kept, so that memory stays bounded
            rest = rest[: LONGEST_LINE + 1]
        if not late and time.monotonic() > until:
            late = True
            if not _to_the_end(file):
                notes.append(f"{name}: the rest was not looked at, for want of time; give its end alone")
                return
            notes.append(f"{name}: between its beginning and its last {TAIL >> 20} MiB it was not looked at, for want of time")
            rest, decoder = "", _decoder(first)
        piece = file.read(_PIECE)
    rest += decoder.decode(b"", True)
    if rest:
        cut += len(rest) > LONGEST_LINE
        yield _cleaned(rest)
    if cut:
        lines = counted(cut, "line is", "lines are")
        notes.append(f"{name}: {lines} longer than {LONGEST_LINE:,} characters; only the beginning was looked at")


def _to_the_end(file: IO[bytes]) -> bool:
    """Goes on at the last TAIL bytes, where a crash stands; False where the file cannot be gone to."""
    if isinstance(file, gzip.GzipFile) or not file.seekable():
        return False
    place, end = file.tell(), file.seek(0, 2)
    file.seek(max(place, (end - TAIL) & ~1))
    return True


TAIL = 16 << 20
"""Bytes at a log's end that are read however late it is."""


def _sample(first: bytes) -> bytes:
    """The first bytes behind the zeros that a log begins with that was cut while its writer went on where it was."""
    zeros = len(first) - len(first.lstrip(b"\0"))
    return first[zeros & ~1 :][:4096]


_CONTROL = bytes(range(1, 7)) + bytes(range(14, 27)) + bytes(range(28, 32))
"""What no text has, of any encoding by bytes: neither bell, white space nor escape."""


def _is_no_text(first: bytes) -> bool:
    """Whether a file is an executable, a core dump, a picture or compressed: of bytes but zeros, a twentieth is controls."""
    sample = _sample(first).replace(b"\0", b"") if _encoding(first) == "utf-8" else b""
    return (len(sample) - len(sample.translate(None, _CONTROL))) * 20 > len(sample)


def _decoder(first: bytes) -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder(_encoding(first))(errors="replace")


def _encoding(first: bytes) -> str:
    """By the byte order mark, by zero bytes where there is none; what is not UTF-8 becomes a replacement character."""
    if first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encoding = "utf-16"
    elif first[:3] == codecs.BOM_UTF8:
        encoding = "utf-8-sig"
    else:
        sample = _sample(first)
        odd, even = (sample[at::2].count(0) * 3 > len(sample) for at in (1, 0))
        encoding = "utf-8" if odd == even else "utf-16-le" if odd else "utf-16-be"
    return encoding


def _cleaned(line: str, spelt: bool = True) -> str:
    """A line without what is not its text. spelt: whether it may hold spellings of _SPELT."""
    line = line[:LONGEST_LINE]
    if spelt and "&" in line:
        line = html.unescape(line)
    return line if line.isprintable() and not (spelt and "[" in line) else _ESCAPES.sub("", line)
