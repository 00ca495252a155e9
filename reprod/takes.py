"""How far each commit of ROCm/aiter is reproduced, along the first parents of a range, and which functions each changed."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backend.aiter.codefiles import CodeSource, open_source
from backend.aiter.text.surroundings import MACROS
from backend.cxx.errors import CxxError
from backend.cxx.syntax import parse_unit
from backend.errors import UsageError
from backend.git import git
from backend.host import Basis
from backend.revision.assess import PARTS, Assessed, assess
from reprod.history import Commit, commits_between

FILES = tuple(dict.fromkeys(path for paths in PARTS.values() for path in paths))
"""All files that decide a part."""

CODE_OBJECTS = ("hsa/gfx942/mla", "hsa/gfx950/mla")


@dataclass(frozen=True, slots=True)
class Taken:
    """One commit. parts: what each rests on. changed: functions (and tables) that it changed, empty where it touches none of
    FILES."""

    commit: Commit
    parts: tuple[Assessed, ...]
    changed: tuple[str, ...]

    @property
    def stands_in(self) -> tuple[Assessed, ...]:
        """Parts for which another revision's rules would stand in."""
        return tuple(each for each in self.parts if each.basis is Basis.STAND_IN)


def commits_of(checkout: str, asked: str) -> tuple[Commit, ...]:
    """The commits of A..B along the first parents, oldest first, A included; of a single revision that one.

    Raises UsageError where they are not commits of the checkout.
    """
    earlier, dots, later = asked.partition("..")
    listed = git(checkout, "log", "--first-parent", "--reverse", "--format=%H%x09%as%x09%s", *_range(earlier, dots, later))
    first = git(checkout, "log", "-1", "--format=%H%x09%as%x09%s", "--end-of-options", earlier)
    if listed is None or first is None:
        raise UsageError.not_allowed(
            "range of ROCm/aiter", asked, f"A..B or one revision of {checkout}", "is it fetched? (git fetch)"
        )
    lines = first.decode("utf-8", "replace").splitlines() + (listed.decode("utf-8", "replace").splitlines() if dots else [])
    return tuple(Commit(*line.split("\t", 2)) for line in lines)


def distinct_commits(checkout: str, earlier: str, later: str) -> tuple[Commit, ...]:
    """The commits after `earlier` up to `later` along the first parents that change FILES or a code object, oldest first.

    Raises UsageError where one is not an ancestor of the other, and where no commit is left.
    """
    before, found = _contents(checkout, earlier), []
    for each in commits_between(checkout, earlier, later):
        contents = _contents(checkout, each.name)
        if contents != before:
            found.append(each)
        before = contents
    if not found:
        raise UsageError.not_allowed("range of ROCm/aiter", f"{earlier}..{later}", "one with a commit that touches MLA decode")
    return tuple(found)


def _contents(checkout: str, commit: str) -> bytes:
    return git(checkout, "ls-tree", "-r", "--end-of-options", commit, "--", *FILES, *CODE_OBJECTS) or b""


def _range(earlier: str, dots: str, later: str) -> tuple[str, ...]:
    return ("--end-of-options", f"{earlier}..{later or 'HEAD'}") if dots else ("-1", "--end-of-options", earlier)


def takes(checkout: str, commits: tuple[Commit, ...], said: Callable[[str], None]) -> Iterator[Taken]:
    """Each commit with what its parts rest on. said: is told what is being looked at, a line each."""
    touching = _touching(checkout, commits)
    known: dict[tuple[str, ...], Assessed] = {}
    parts: tuple[Assessed, ...] = ()
    before: CodeSource | None = None
    for number, commit in enumerate(commits):
        changed: tuple[str, ...] = ()
        if number == 0 or commit.name in touching:
            source = open_source(f"{checkout}@{commit.name}")
            if number:
                said(f"{number + 1} of {len(commits)}: {commit}")
            ids = _blob_ids(checkout, commit.name)
            parts = tuple(_assessed(known, source, part, ids) for part in PARTS)
            changed = () if before is None else tuple(_changes(before, source))
            before = source
        yield Taken(commit, parts, changed)


def _assessed(known: dict[tuple[str, ...], Assessed], source: CodeSource, part: str, ids: dict[str, str]) -> Assessed:
    key = (part, *(ids.get(path, "") for path in PARTS[part]))
    if key not in known:
        known[key] = assess(source, part)
    return known[key]


def _touching(checkout: str, commits: tuple[Commit, ...]) -> frozenset[str]:
    """Those of the commits that touch FILES."""
    if len(commits) < 2:
        return frozenset()
    listed = git(
        checkout,
        "log",
        "--first-parent",
        "--format=%H",
        "--end-of-options",
        f"{commits[0].name}..{commits[-1].name}",
        "--",
        *FILES,
    )
    return frozenset((listed or b"").decode().split())


def _blob_ids(checkout: str, commit: str) -> dict[str, str]:
    listed = git(checkout, "ls-tree", "-z", commit, "--", *FILES) or b""
    entries = (line.decode().split("\t", 1) for line in listed.split(b"\0") if line)
    return {path: head.split()[2] for head, path in entries}


def _changes(before: CodeSource, after: CodeSource) -> Iterator[str]:
    """Functions of FILES whose text is another, without comments and spacing; a table by its path."""
    for path in FILES:
        old, new = before.read(path), after.read(path)
        if old == new:
            continue
        if path.endswith(".csv"):
            yield path
            continue
        digests = [_bodies(path, (content or b"").decode("utf-8", "replace")) for content in (old, new)]
        names = [name for name in {**digests[0], **digests[1]} if digests[0].get(name) != digests[1].get(name)]
        yield from (f"{path.rpartition('/')[2]}: {name}" for name in names)


def _bodies(path: str, text: str) -> dict[str, str]:
    """Digest of each function and record of a file."""
    if path.endswith(".py"):
        tree = ast.parse(text)
        return {node.name: ast.dump(node) for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    try:
        unit = parse_unit([(path, text)], MACROS)
    except CxxError:
        return {"": text}
    return {
        name: hashlib.sha256(re.sub(r"\s+", "", "".join(each.node.text.decode() for each in declared)).encode()).hexdigest()
        for name, declared in unit.named.items()
    }
