"""A comment for a pull request: the headline, blamed faults in a line each, the smallest life of the worst as a script."""

from __future__ import annotations

import pprint
from pathlib import Path

from backend.codec import to_plain
from backend.real.frameworks.fetch import seen_from
from fuzz.gate.comparison import Comparison, Fault
from fuzz.report.report import Report
from reprod.text import as_markdown

MARK = "<!-- aiterfuzz gate -->"
"""First line: by it a later comment replaces this one."""

SHOWN = 5
"""Faults that are listed; the report has all."""

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
    made += [f"* {as_markdown(_line(fault))}" for fault in found.blamed[:SHOWN]]
    if len(found.blamed) > SHOWN:
        made.append(f"* and {len(found.blamed) - SHOWN} more")
    left = report.left_to_say
    made += [f"* not run: {as_markdown(_clipped(each))}" for each in left[:SHOWN]]
    if len(left) > SHOWN:
        made.append(f"* and {len(left) - SHOWN} more not run")
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
"""Characters of what did not run, which may name dozens of steps; summary.md has all of them."""


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def _line(fault: Fault) -> str:
    where = f" ({fault.decided_at.rpartition('/')[2]})" if fault.decided_at else ""
    return f"{fault.severity.name.lower()}, {fault.shape}{where}: {fault.message}"
