"""`aiterfuzz explain`: one case, stage by stage, as people can read it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UsageError
from fuzz.commands.arguments import (
    number,
    numbers,
    read_arch,
    read_kv_dtype,
    read_mode,
    read_q_dtype,
)

if TYPE_CHECKING:
    from backend.aiter.codefiles import CodeSource
    from backend.case import Case
    from backend.devices.registry import Device

FIELDS = {
    "heads": "num_head",
    "kv_lens": "kv_lens",
    "qlen": "max_seqlen_q",
    "query_lens": "query_lens",
    "page_size": "page_size",
    "q_dtype": "q_dtype",
    "kv_dtype": "kv_dtype",
    "arch": "arch",
    "cus": "num_cu",
    "release": "release",
    "backend": "backend",
    "mode": "mode",
    "graph_batch": "graph_batch",
    "max_batch": "max_batch",
    "first_page": "first_page",
    "lse": "return_lse",
}
"""Argument -> field of a Case."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    command = commands.add_parser(
        "explain",
        help="show what one case leads to",
        description="Prints decision, plan, launch, accesses and findings of one case: of a file, of fields given here, or "
        "of a file with some fields changed. Exits 1 where it shows a fault.",
    )
    command.add_argument("case", nargs="?", type=Path, metavar="CASE.json", help="a case, as a finding's folder holds it")
    fields = command.add_argument_group("fields of the case")
    fields.add_argument("--heads", type=number("--heads", 1), metavar="N", help="query heads a rank")
    fields.add_argument("--kv-lens", type=numbers("--kv-lens"), metavar="N[,N]", help="KV tokens of each request")
    fields.add_argument("--qlen", type=number("--qlen", 1), metavar="N", help="query rows a request")
    fields.add_argument(
        "--query-lens", type=numbers("--query-lens"), metavar="N[,N]", help="rows of each request, where ragged"
    )
    fields.add_argument("--page-size", type=number("--page-size", 1), metavar="N", help="tokens a page")
    fields.add_argument("--q-dtype", type=read_q_dtype, metavar="T", help="bf16, fp8")
    fields.add_argument("--kv-dtype", type=read_kv_dtype, metavar="T", help="bf16, fp8")
    fields.add_argument("--arch", type=read_arch, metavar="A", help="gfx942, gfx950")
    fields.add_argument("--cus", type=number("--cus", 0), metavar="N", help="compute units; 0: the whole GPU")
    fields.add_argument("--release", metavar="R", help="release of AITER")
    fields.add_argument("--backend", metavar="NAME", help="whose rule decides")
    fields.add_argument("--mode", type=read_mode, metavar="M", help="force a metadata mode")
    fields.add_argument("--graph-batch", type=number("--graph-batch", 1), metavar="N", help="captured batch it is replayed in")
    fields.add_argument("--max-batch", type=number("--max-batch", 1), metavar="N", help="batch that buffers are allocated for")
    fields.add_argument("--first-page", type=number("--first-page", 0), metavar="N", help="first physical page held")
    fields.add_argument("--lse", action="store_true", default=None, help="ask for the log-sum-exp of each row too")
    command.add_argument("--items", type=number("--items", 0), default=12, metavar="N", help="work items shown (12)")
    command.add_argument(
        "--hazards",
        action="store_true",
        help="device cdna: look for LDS races, missing waits and bytes that two workgroups write (slow)",
    )
    command.add_argument(
        "--numbers", action="store_true", help="device cdna: run the whole kernel on drawn values and judge its output (slow)"
    )
    command.add_argument("--device", default="model", metavar="D", help="model (default); see aiterfuzz version")
    command.add_argument("--ranks", type=number("--ranks", 1), default=1, metavar="N", help="on N GPUs at once (rocm, cuda)")
    command.add_argument("--aiter", metavar="PATH[@REV]", help="code objects and kernel table of a checkout of ROCm/aiter")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the explanation; 1 where the case shows a fault."""
    from backend.aiter.codefiles import open_source
    from backend.host import BuiltIn
    from backend.path import Path as CasePath
    from fuzz.compiling import announced
    from fuzz.page.devices import notice
    from reprod.explain import explain

    case = _case(arguments)
    source = open_source(arguments.aiter) if arguments.aiter is not None else None
    path = CasePath(BuiltIn(source), _device(arguments, source))
    with announced():
        outcome = path.run(case)
    for line in explain(outcome, arguments.items):
        print(line)
    print(notice(path.device.name))
    return 1 if outcome.faulty else 0


def _device(arguments: argparse.Namespace, source: CodeSource | None) -> Device:
    from backend.devices.registry import open_device

    if not arguments.hazards:
        return open_device(arguments.device, source, ranks=arguments.ranks, numbers=arguments.numbers)
    if arguments.device != "cdna":
        raise UsageError.not_allowed("--hazards on device", arguments.device, "cdna, which runs instructions")
    from backend.devices.cdna.device import CdnaDevice

    return CdnaDevice(source, hazards=True, numbers=arguments.numbers)


def _case(arguments: argparse.Namespace) -> Case:
    from backend.case import Case
    from backend.codec import read_file

    given = {field: getattr(arguments, name) for name, field in FIELDS.items() if getattr(arguments, name) is not None}
    if arguments.case is not None:
        return read_file(Case, arguments.case).replace(**given)
    missing = [option for option, field in (("--heads", "num_head"), ("--kv-lens", "kv_lens")) if field not in given]
    if missing:
        raise UsageError(f"explain: no case given; give a CASE.json, or at least {' and '.join(missing)}")
    return Case(**given)
