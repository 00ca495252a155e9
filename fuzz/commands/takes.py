"""`aiterfuzz takes`: how far each commit of ROCm/aiter is reproduced, part by part."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reprod.takes import Taken


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "takes",
        help="say for commits of AITER what is exact, evaluated or a stand-in",
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
    command.add_argument("--json", type=Path, metavar="FILE", help="write all commits there as well")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; 0 however far the commits are reproduced."""
    from backend.aiter.release import release
    from backend.case import RELEASES
    from backend.errors import UsageError
    from reprod.folder import prepare_file
    from reprod.takes import commits_of, takes

    prepare_file("--json", arguments.json)
    if not Path(arguments.checkout).is_dir():
        raise UsageError.not_allowed("CHECKOUT", arguments.checkout, "a folder with ROCm/aiter", "clone ROCm/aiter")
    commits = commits_of(arguments.checkout, arguments.range or f"{release(RELEASES[-1]).commit}..HEAD")
    taken = []
    for each in takes(arguments.checkout, commits, lambda line: print(line, file=sys.stderr, flush=True)):
        taken.append(each)
        if arguments.all or each.changed or len(taken) == 1:
            print(f"{each.commit}")
            print("    " + ", ".join(f"{part.part}: {part.basis}" for part in each.parts))
            for part in each.stands_in:
                print(f"    {part.part}: {part.reason}")
            if each.changed:
                print(f"    changed: {', '.join(each.changed)}")
    _summary(taken)
    if arguments.finds:
        tell_finds(arguments.checkout, taken[0].commit.name, taken[-1].commit.name)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([_plain(each) for each in taken], indent=1) + "\n", encoding="utf-8")
    return 0


def _summary(taken: list[Taken]) -> None:
    from backend.revision.assess import PARTS

    whole = sum(not each.stands_in for each in taken)
    print(f"{len(taken)} commits; without a stand-in: {whole} ({100 * whole / len(taken):.1f} %)")
    for part in PARTS:
        count = sum(all(one.part != part for one in each.stands_in) for each in taken)
        print(f"    {part}: {count} ({100 * count / len(taken):.1f} %)")


def tell_finds(checkout: str, first: str, last: str) -> None:
    """Prints how known faults stand at the first and at the last commit, where one is found at one end only."""
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
        print(f"{row.entry.id}, {row.entry.title}: {before} at {columns[0].name}, {after} at {columns[1].name}")
        print(f"    which commit: aiterfuzz bisect {file} --aiter {checkout} --good {good[:10]} --bad {bad[:10]}")
        if after is MatrixCell.FIXED:
            print(f"    then: aiterfuzz corpus mark {row.entry.id} mended --commit THAT_COMMIT")
    unknown = sum(MatrixCell.CANNOT_RUN in row.cells for row in rows)
    print(
        f"known faults: {len(rows)} tried at both ends; {len(changed)} found at one of them only, {unknown} do not run at one"
    )


def _plain(taken: Taken) -> dict[str, object]:
    return {
        "commit": taken.commit.name,
        "date": taken.commit.date,
        "subject": taken.commit.subject,
        "parts": {each.part: {"basis": str(each.basis), "reason": each.reason} for each in taken.parts},
        "changed": list(taken.changed),
    }
