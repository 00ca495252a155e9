"""`aiterfuzz gate SOURCE --table`: what a real backend file decides, by heads and KV dtype, and what AITER makes of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.commands.arguments import numbers, some_of

if TYPE_CHECKING:
    from fuzz.report.report import Report


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command of earlier versions, with its flags."""
    from backend.case import Arch

    command = commands.add_parser(
        "decide",
        help="print the decision table of a real backend file",
        description="What `aiterfuzz gate SOURCE --table` prints.",
    )
    command.add_argument("source", metavar="SOURCE", help="the source")
    command.add_argument("--base", metavar="SOURCE", help="print only what differs from this one")
    command.add_argument("--arch", type=some_of("--arch", Arch), metavar="A[,A]", help="gfx950 (default), gfx942")
    command.add_argument("--heads", type=numbers("--heads"), metavar="N[,N]", help="heads a rank")
    command.add_argument("--aiter", metavar="PATH[@REV]", help="checkout of ROCm/aiter whose code runs")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    command.set_defaults(command=run, kv_dtype=None)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; the exit code of its verdict."""
    from backend.codec import to_plain
    from fuzz.report import render
    from reprod.folder import prepare_file

    prepare_file("--json", arguments.json)
    made = table(arguments)
    print("\n".join(render.lines(made)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(to_plain(made.data["rows"]), indent=1) + "\n", encoding="utf-8")
    return made.verdict.exit_code


def table(arguments: argparse.Namespace) -> Report:
    """The decision table as a report, by `source`, `base`, `aiter`, `arch`, `heads` and `kv_dtype`."""
    from concurrent.futures import ThreadPoolExecutor

    from backend.aiter.codefiles import open_source
    from backend.case import Arch
    from backend.devices.kinds import open_device
    from backend.real.frameworks.fetch import same_file_of
    from backend.real.frameworks.scenarios import HEADS, KV_DTYPES
    from backend.real.frameworks.session import SourceSession
    from backend.revision.revision import host_of
    from fuzz.compiling import announced
    from fuzz.gate.decide import Decided, decide, report
    from fuzz.gate.which_aiter import which_aiter

    chosen = which_aiter(arguments.source, arguments.aiter)
    code = open_source(chosen.aiter) if chosen.aiter is not None else None
    device, host = open_device("model", code), host_of(code)
    archs, heads = arguments.arch or (Arch.GFX950,), arguments.heads or HEADS

    def rows(source: str) -> list[Decided]:
        with SourceSession(source, aiter=chosen.aiter, release=chosen.release) as session:
            asked = heads, arguments.kv_dtype or KV_DTYPES, host
            return [row for arch in archs for row in decide(session, device, arch, *asked)]

    base = [same_file_of(arguments.base, arguments.source)] if arguments.base else []
    with announced(), ThreadPoolExecutor(2) as pool:
        change, *before = pool.map(rows, [arguments.source, *base])
    basis = host.warning() if code is not None else None
    about = [chosen.why, *([basis] if basis is not None else [])]
    return report(arguments.source, change, before[0] if before else None, about, device.name)
