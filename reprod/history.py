"""Commits of ROCm/aiter that touch what decides an MLA decode call, from git alone. Knows no planner and runs no case."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import UsageError
from backend.git import git

PATHS = (
    "hsa/gfx942/mla",
    "hsa/gfx950/mla",
    "csrc/kernels/mla",
    "csrc/include/mla.h",
    "csrc/py_itfs_cu/asm_mla.cu",
    "aiter/mla.py",
    "aiter/ops/attention.py",
)
"""Code objects and kernel tables, planners and reduction, launcher, fold rule, sizing. The same paths at every revision since
2025-11, when code objects moved to hsa/<arch>/mla."""


@dataclass(frozen=True, slots=True)
class Commit:
    """name: full object id; date: of its author, YYYY-MM-DD; subject: first line."""

    name: str
    date: str
    subject: str

    def __str__(self) -> str:
        return f"{self.name[:10]} ({self.date}, {self.subject})"


def commit(checkout: str, revision: str) -> Commit:
    """The commit that a person named; raises UsageError where there is none."""
    shown = _git(checkout, "log", "-1", "--format=%H%x09%as%x09%s", "--end-of-options", revision)
    if shown is None:
        raise UsageError.not_allowed(
            "revision of ROCm/aiter", revision, f"a commit in {checkout}", "is it fetched? (git fetch)"
        )
    return _parsed(shown.strip())


def is_before(checkout: str, earlier: str, later: str) -> bool:
    """Whether a commit is an ancestor of another."""
    return _git(checkout, "merge-base", "--is-ancestor", earlier, later) is not None


def commits_between(checkout: str, earlier: str, later: str) -> tuple[Commit, ...]:
    """Commits after `earlier` up to `later` along the first parents that touch PATHS, oldest first.

    Raises UsageError where one is not an ancestor of the other.
    """
    if not is_before(checkout, earlier, later):
        raise UsageError(f"{earlier} is not an ancestor of {later}; give two revisions of which one comes before the other")
    listed = _git(
        checkout, "log", "--first-parent", "--reverse", "--format=%H%x09%as%x09%s", f"{earlier}..{later}", "--", *PATHS
    )
    return tuple(_parsed(line) for line in (listed or "").splitlines())


def _parsed(line: str) -> Commit:
    name, date, subject = line.split("\t", 2)
    return Commit(name, date, subject)


def _git(checkout: str, *arguments: str) -> str | None:
    """Output of git; None where it says no."""
    found = git(checkout, *arguments)
    return None if found is None else found.decode("utf-8", "replace")
