"""A comment for a pull request: headline, faults and other decisions in a line each, the worst's smallest life as a script."""

from __future__ import annotations

import pprint
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.codec import to_plain
from backend.real.frameworks.fetch import seen_from
from fuzz.gate.comparison import Comparison, Fault
from fuzz.gate.source_report import difference
from fuzz.report.report import Report
from reprod.text import as_markdown, some

MARK = "<!-- aiterfuzz gate -->"
"""First line: by it a later comment replaces this one."""

SHOWN = 5
"""Faults, decisions and reasons that are listed; the report has all."""

NAMED = 8
"""Functions, steps or shapes that a reason is told of."""

HERE = Path()

SCRIPT = '''"""Runs one life of {source} again, step by step; needs aiterfuzz, no GPU. Exit code 1: a step is wrong.

Files are named from where this one lies."""

from fuzz.gate.again import run_life

LIFE = {life}

raise SystemExit(run_life({source!r}, LIFE, aiter={aiter!r}, beside=__file__))
'''


def comment(report: Report, found: Comparison, source: str, aiter: str | None, folder: Path = HERE) -> str:
    """Markdown. source, aiter: as they were given to the gate, for the script, which lies in the folder."""
    made = [MARK, f"**{as_markdown(report.title)}**: {as_markdown(report.headline)}", ""]
    made += _bullets([_line(fault) for fault in found.blamed], "more")
    made += _bullets([f"decides otherwise: {difference(*each)}" for each in found.changed or ()], "more decided otherwise")
    made += _bullets([f"not run: {each}" for each in _by_reason(report.left_to_say)], "more not run")
    for fault in found.blamed[:1]:
        made += ["", "<details><summary>The life that shows it, as a script</summary>", "", "```python"]
        made += [life_script(fault, source, aiter, folder).rstrip(), "```", "", "</details>"]
    made += ["", f"<sub>{as_markdown(report.notice)}</sub>"]
    return "\n".join(made) + "\n"


def life_script(fault: Fault, source: str, aiter: str | None, folder: Path = HERE) -> str:
    """The scenario in which a fault shows, as a program in the folder, from which it names its files."""
    source, aiter = seen_from(folder, source), None if aiter is None else seen_from(folder, aiter)
    life = pprint.pformat(to_plain(fault.smallest.scenario), width=110, sort_dicts=False)
    return SCRIPT.format(source=source, aiter=aiter, life=life.replace("`", ""))


LONGEST = 240
"""Characters of a line; summary.md has all of it."""


def _bullets(lines: Sequence[str], more: str) -> Iterator[str]:
    yield from (f"* {as_markdown(_clipped(line, LONGEST))}" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield f"* and {len(lines) - SHOWN} {more}"


def _by_reason(questions: Sequence[str]) -> Iterator[str]:
    """A line for all that did not run for one reason, or of which one thing is said: functions, shapes, steps."""
    parts = [question.partition(": ")[::2] for question in questions]
    said = Counter(before for before, _ in parts)
    groups: dict[str, list[str]] = {}
    for before, behind in parts:
        shared, own = (before, behind) if said[before] > 1 else (behind, before)
        groups.setdefault(shared, []).append(own)
    for shared, each in groups.items():
        if len(each) == 1:
            yield f"{each[0]}{': ' if shared else ''}{shared}"
        else:
            yield f"{_clipped(shared, LONGEST // 2)}: {some([_clipped(own, LONGEST // NAMED) for own in each], NAMED)}"


def _clipped(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


def _line(fault: Fault) -> str:
    where = f" ({fault.decided_at.rpartition('/')[2]})" if fault.decided_at else ""
    return f"{fault.severity.name.lower()}, {fault.shape}{where}: {fault.message}"
