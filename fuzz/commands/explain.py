"""`aiterfuzz explain`: one case, stage by stage, as people can read it."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UsageError
from fuzz.commands.arguments import WHAT_IT_IS, add_aiter, number
from fuzz.commands.flags import add_case_flags, given_case_fields
from fuzz.commands.printing import add_lengths, print_text

if TYPE_CHECKING:
    from backend.aiter.codefiles import CodeSource
    from backend.case import Case
    from backend.devices.device import Device
    from backend.outcome import Outcome


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "explain",
        help="show what one case leads to",
        description="Prints decision, plan, launch, accesses and findings of one case: of a finding, of fields given here, or "
        "of a finding with some fields changed. Exits 1 where it shows a fault.",
    )
    command.add_argument("case", nargs="?", type=Path, metavar="FINDING", help=WHAT_IT_IS)
    fields = command.add_argument_group("fields of the case")
    add_case_flags(fields)
    command.add_argument("--items", type=number("--items", 0), default=12, metavar="N", help="work items shown (12)")
    command.add_argument(
        "--hazards",
        action="store_true",
        help="device cdna: look for LDS races, missing waits and bytes that two workgroups write (slow)",
    )
    command.add_argument(
        "--numbers", action="store_true", help="device cdna: run the whole kernel on drawn values and judge its output (slow)"
    )
    command.add_argument(
        "--device", default="model", metavar="D", help="runs the case: model (default), cdna, both, rocm, cuda"
    )
    command.add_argument("--ranks", type=number("--ranks", 1), default=1, metavar="N", help="on N GPUs at once (rocm, cuda)")
    add_aiter(command)
    add_lengths(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the explanation; 1 where the case shows a fault, 3 where it did not run."""
    from backend.aiter.codefiles import open_source
    from backend.devices.kinds import notice
    from backend.path import Path as CasePath
    from backend.revision.revision import host_of
    from fuzz.compiling import announced
    from reprod.explain import bases_line, explain, found_lines
    from reprod.known import known_as
    from reprod.text import one_line

    case = _case(arguments)
    source = open_source(arguments.aiter) if arguments.aiter is not None else None
    path = CasePath(host_of(source), _device(arguments, source))
    with announced():
        outcome = path.run(case)
    known = known_as(outcome)
    worth = [f"known: {known.titled}"] if known is not None else []
    if source is not None and outcome.decision is not None:
        worth.append(f"rests on {path.host.label}: " + bases_line(path.host.bases(outcome.decision)))
    worth.append(notice(path.device.name))
    lines = itertools.chain(explain(outcome, arguments.items, known=known), worth)
    print_text(arguments, lines, (*found_lines(outcome, known), *worth), _plain(outcome, notice(path.device.name)))
    if outcome.faulty:
        return 1
    if outcome.observation is not None:
        return 0
    print(f"aiterfuzz: did not run: {one_line(str(outcome.reason))}", file=sys.stderr)
    return 3


def _plain(outcome: Outcome, notice: str) -> dict[str, object]:
    """What became of the case, as JSON has it; cause: signature of the finding that explains the others, null for none."""
    cause = outcome.cause if outcome.faulty else None
    return {
        "case": outcome.case,
        "fate": outcome.fate,
        "reason": outcome.reason,
        "cause": cause.signature if cause is not None else None,
        "findings": outcome.findings,
        "notice": notice,
    }


def _device(arguments: argparse.Namespace, source: CodeSource | None) -> Device:
    from backend.devices.kinds import DEVICES, Opening, device_kind, open_device

    if not arguments.hazards:
        return open_device(arguments.device, source, ranks=arguments.ranks, numbers=arguments.numbers)
    open_with_hazards = device_kind(arguments.device).open_with_hazards
    if open_with_hazards is None:
        having = ", ".join(kind.name for kind in DEVICES.values() if kind.open_with_hazards is not None)
        raise UsageError.not_allowed("--hazards on device", arguments.device, f"{having}, which runs instructions")
    return open_with_hazards(Opening(source, record=False, ranks=1, numbers=arguments.numbers))


def _case(arguments: argparse.Namespace) -> Case:
    from backend.case import FIELDS, Case
    from backend.case_fields import REQUIRED
    from fuzz.campaign.rule import rule_of_a_person
    from reprod.entry import given_case

    given = given_case_fields(arguments)
    if "backend" in given:
        rule_of_a_person(given["backend"])
    if arguments.case is not None:
        return given_case(arguments.case).replace(**given)
    missing = [field.formerly or field.flag for field in FIELDS if field.neutral is REQUIRED and field.name not in given]
    if missing:
        raise UsageError(f"explain: no case given; give {WHAT_IT_IS}, or at least {' and '.join(missing)}")
    return Case(**given)
