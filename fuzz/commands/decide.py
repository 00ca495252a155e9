"""`aiterfuzz decide`: what a real backend file decides, by heads and KV dtype, and what AITER makes of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fuzz.commands.arguments import numbers, read_arch


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "decide",
        help="print the decision table of a real backend file",
        description="Builds the real attention backend of a source (sglang==X, vllm==X, a wheel, PATH, PATH@REVISION) on a GPU "
        "that isn't there and prints what it decides for each head count and KV dtype, the planner and kernel that AITER "
        "takes, and whether plain decode is safe. Exits 1 where a row is faulty, or ran in the base and does not any more; 3 "
        "where a row that the file does not itself refuse did not run.",
    )
    command.add_argument("source", metavar="SOURCE", help="the source")
    command.add_argument("--base", metavar="SOURCE", help="print only what differs from this one")
    command.add_argument("--arch", type=read_arch, metavar="A", help="gfx950 (default), gfx942")
    command.add_argument("--heads", type=numbers("--heads"), metavar="N[,N]", help="heads a rank")
    command.add_argument(
        "--aiter",
        metavar="PATH[@REV]",
        help="checkout of ROCm/aiter whose code runs; without REV the one that SOURCE is built with, where that is known; "
        "without a checkout the newest built-in release",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; the exit code of its verdict."""
    from concurrent.futures import ThreadPoolExecutor

    from backend.aiter.codefiles import open_source
    from backend.case import Arch
    from backend.codec import to_plain
    from backend.devices.registry import open_device
    from backend.real.frameworks.scenarios import HEADS, KV_DTYPES
    from backend.real.frameworks.session import SourceSession
    from backend.revision.revision import host_of
    from fuzz.compiling import announced
    from fuzz.gate.decide import Decided, decide, lines, verdict
    from fuzz.gate.which_aiter import which_aiter
    from reprod.folder import prepare_file

    prepare_file("--json", arguments.json)
    chosen = which_aiter(arguments.source, arguments.aiter)
    code = open_source(chosen.aiter) if chosen.aiter is not None else None
    device = open_device("model", code)

    def rows(source: str) -> list[Decided]:
        with SourceSession(source, aiter=chosen.aiter, release=chosen.release) as session:
            arch = arguments.arch or Arch.GFX950
            return decide(session, device, arch, arguments.heads or HEADS, KV_DTYPES, host_of(code))

    sources = [arguments.source, *([arguments.base] if arguments.base else [])]
    with announced(), ThreadPoolExecutor(len(sources)) as pool:
        tables = list(pool.map(rows, sources))
    print(chosen.why)
    for line in lines(tables[0], tables[1] if arguments.base else None):
        print(line)
    basis = host_of(code).warning() if code is not None else None
    if basis is not None:
        print(basis)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(to_plain(tables[0]), indent=1) + "\n", encoding="utf-8")
    found = verdict(tables[0], tables[1] if arguments.base else None)
    for question in found.open_questions:
        print(f"open: {question}")
    return found.exit_code
