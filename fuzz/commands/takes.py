"""`aiterfuzz takes`: how far each commit of ROCm/aiter is reproduced, part by part."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from backend.words import counted
from fuzz.commands.printing import add_lengths, print_text

if TYPE_CHECKING:
    from reprod.takes import Taken


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "takes",
        help="say how exactly each commit of AITER is reproduced",
        description="Looks at every commit of a range of ROCm/aiter along the first parents: whether sizing, fold, launcher "
        "and planners can be executed and evaluated from its own text for a grid of calls on gfx942 and gfx950, and whether "
        "the reduction's kernels are those of a built-in release. Names the functions that changed. Builds and runs nothing.",
    )
    command.add_argument("checkout", metavar="CHECKOUT", help="checkout or bare repository of ROCm/aiter")
    command.add_argument("range", nargs="?", metavar="A..B", help="commits; default from the newest built-in release to HEAD")
    command.add_argument("--all", action="store_true", help="list every commit, not only those that change something")
    command.add_argument(
        "--finds",
        action="store_true",
        help="run the known faults at the first and the last commit too, and say which of them the range mends or brings",
    )
    add_lengths(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; 0 however far the commits are reproduced."""
    from backend.aiter.release import release
    from backend.case import RELEASES
    from backend.errors import UsageError
    from backend.git import git_folder
    from reprod.takes import commits_of, takes

    if git_folder(arguments.checkout) is None:
        raise UsageError.not_allowed("CHECKOUT", arguments.checkout, "a folder with ROCm/aiter", "clone ROCm/aiter")
    commits = commits_of(arguments.checkout, arguments.range or f"{release(RELEASES[-1]).commit}..HEAD")
    taken, line_by_line = [], not (arguments.json or arguments.quiet)
    for each in takes(arguments.checkout, commits, lambda line: print(line, file=sys.stderr, flush=True)):
        taken.append(each)
        if line_by_line and (arguments.all or each.changed or len(taken) == 1):
            print("\n".join(_lines(each)), flush=True)
    summary = tuple(_summary(taken))
    finds = tuple(finds_lines(arguments.checkout, taken[0].commit.name, taken[-1].commit.name)) if arguments.finds else ()
    plain = {"commits": [_plain(each) for each in taken], "finds": finds}
    print_text(arguments, (*summary, *finds), (*summary, *finds[-1:]), plain)
    return 0


def _lines(taken: Taken) -> Iterator[str]:
    yield str(taken.commit)
    yield "    " + ", ".join(f"{part.part}: {part.basis}" for part in taken.parts)
    yield from (f"    {part.part}: {part.reason}" for part in taken.stands_in)
    if taken.changed:
        yield f"    changed: {', '.join(taken.changed)}"


def _summary(taken: Sequence[Taken]) -> Iterator[str]:
    from backend.revision.assess import PARTS

    whole = sum(not each.stands_in for each in taken)
    yield f"{counted(len(taken), 'commit')}; without a stand-in: {whole} ({100 * whole / len(taken):.1f} %)"
    for part in PARTS:
        count = sum(all(one.part != part for one in each.stands_in) for each in taken)
        yield f"    {part}: {count} ({100 * count / len(taken):.1f} %)"


def finds_lines(checkout: str, first: str, last: str) -> Iterator[str]:
    """How known faults stand at the first and at the last commit, where one is found at one end only."""
    from fuzz.compiling import announced
    from reprod.corpus import OpenPaths, load_corpus, shipped_corpus
    from reprod.matrix import Column, MatrixCell, matrix

    columns, folder = (Column(first[:10], first), Column(last[:10], last)), shipped_corpus()
    with announced():
        rows = matrix(load_corpus(folder), OpenPaths(checkout), columns, replays=False)
    changed = [row for row in rows if MatrixCell.FOUND in row.cells and row.cells[0] is not row.cells[1]]
    for row in changed:
        before, after = row.cells
        good, bad = (last, first) if before is MatrixCell.FOUND else (first, last)
        (file,) = folder.glob(f"{row.entry.id}-*.json")
        yield f"{row.entry.id}, {row.entry.title}: {before} at {columns[0].name}, {after} at {columns[1].name}"
        yield f"    which commit: aiterfuzz bisect {file} --aiter {checkout} --good {good[:10]} --bad {bad[:10]}"
        if after is MatrixCell.FIXED:
            yield f"    then: aiterfuzz corpus mark {row.entry.id} mended --commit THAT_COMMIT"
    unknown = sum(MatrixCell.CANNOT_RUN in row.cells for row in rows)
    yield f"known faults: {len(rows)} tried at both ends; {len(changed)} found at one of them only, {unknown} do not run at one"


def _plain(taken: Taken) -> dict[str, object]:
    return {
        "commit": taken.commit.name,
        "date": taken.commit.date,
        "subject": taken.commit.subject,
        "parts": {each.part: {"basis": str(each.basis), "reason": each.reason} for each in taken.parts},
        "changed": list(taken.changed),
    }
