"""compute-sanitizer around a child: how it is started, and its records as violations. Knows its text, no kernel."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from backend.child.messages import Range
from backend.child.process_end import place
from backend.errors import CannotRunError
from backend.observation import Violation, ViolationKind

PADDING = 1 << 20
"""Bytes that it leaves unmapped, in its own books, after each allocation: an overrun within is not the neighbour's."""

_RECORD = re.compile(
    r"Invalid __global__ (?P<access>read|write) of size (?P<size>\d+) bytes\n"
    r"=+\s+at (?P<where>[^\n]+)\n"
    r"=+\s+by thread \((?P<thread>\d+),[^\n]*?\) in block \((?P<block>\d+,\d+,\d+)\)\n"
    r"=+\s+(?:Address|Access at|Access to) (?P<address>0x[0-9a-fA-F]+) is [^\n]*"
)


def command(logs: Path) -> list[str]:
    """argv to put before a child's; raises CannotRunError where the tool is not installed."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise CannotRunError("compute-sanitizer is not on the PATH; it comes with CUDA's toolkit")
    log = f"{logs}/%p.log"
    return [tool, "--tool", "memcheck", "--padding", str(PADDING), "--log-file", log]


def violations(logs: Path, ranges: Sequence[Range], stage: str) -> list[Violation]:
    """What the latest log with records says, one violation a tensor and direction; the first record tells where."""
    for log in sorted(logs.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True):
        found = parse(log.read_text(encoding="utf-8", errors="replace"), ranges, stage)
        log.unlink()
        if found:
            return found
    return []


def parse(text: str, ranges: Sequence[Range], stage: str) -> list[Violation]:
    """Records of a log, gathered by tensor and direction."""
    gathered: dict[tuple[str, bool], list[tuple[int, int, int, re.Match[str]]]] = {}
    for match in _RECORD.finditer(text):
        at = place(ranges, int(match["address"], 16))
        if at is None:
            continue
        size = int(match["size"])
        gathered.setdefault((at.name, match["access"] == "write"), []).append((at.offset, at.offset + size, at.size, match))
    found = []
    for (tensor, is_write), records in gathered.items():
        first, _, size, match = records[0]
        block = tuple(int(part) for part in match["block"].split(","))
        found.append(
            Violation(
                kind=ViolationKind.OUT_OF_BOUNDS,
                stage=stage,
                tensor=tensor,
                is_write=is_write,
                first_offset=first,
                end_offset=max(record[1] for record in records),
                extent=-first if first < 0 else max(record[1] for record in records) - size,
                count=len(records),
                why=f"compute-sanitizer: {match['access']} of {match['size']} bytes at {match['where']}",
                lane=int(match["thread"]),
                workgroup=(block[0], block[1], block[2]),
            )
        )
    return found
