"""`aiterfuzz agree`: random cases on several devices, and who disagrees on what."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import UsageError
from backend.words import counted
from fuzz.commands.arguments import add_aiter, names, number, seconds
from fuzz.commands.flags import add_flags, given
from fuzz.commands.printing import add_amounts, print_report

if TYPE_CHECKING:
    from backend.aiter.codefiles import CodeSource
    from backend.devices.device import Device
    from fuzz.agree import Agreement, Written
    from fuzz.space import CaseSpace

DEFAULT_BACKENDS = ("direct", "sglang-before-27188")
"""Every mode, page size and ragged lengths; and a rule that is known to be wrong, so that devices have something to see."""

SMALL: dict[str, Any] = {"max_batch": 16, "max_kv_len": 1024}
"""Sizes unless others are asked for: a device that runs machine code takes seconds a case."""

EPILOG = """\
Cases are a function of the flags and the seed; every case that AITER launches counts. With --out each case is written with
what each device saw, and --recorded compares with such a file, whose cases are run instead of new ones: so a GPU on another
machine is held against devices here. Exit codes: 0 all agree, 1 some differ, 2 wrong usage, 3 what was asked for never ran or
was never compared: a device, two of them, a backend, a value of a flag."""

MOST_IDLE = 2000
"""Cases in a row without a launch, after which none is expected any more."""

SHOWN = 100
"""Characters of each side in the table; the file has everything."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    from fuzz.spec import Spec

    command = commands.add_parser(
        "agree",
        help="compare devices with each other",
        description="Runs random cases on several devices and tells who differs from whom: violations by tensor, direction "
        "and bytes outside; bytes touched, where both record them; results against the float64 reference on GPUs.",
        epilog=EPILOG,
    )
    command.add_argument(
        "--devices", type=names, default=("model", "cdna"), metavar="D,D", help="model,cdna (default), cuda, ..."
    )
    command.add_argument("--cases", type=number("--cases", 1), default=200, metavar="N", help="cases that are launched (200)")
    command.add_argument("--seconds", type=seconds, metavar="S", help="stop after S seconds, whatever the cases")
    command.add_argument("--seed", type=number("--seed", 0), default=0, metavar="N", help="of the cases (0)")
    command.add_argument(
        "--backends", "--backend", type=names, default=DEFAULT_BACKENDS, metavar="B[,B]", help=",".join(DEFAULT_BACKENDS)
    )
    add_flags(command, Spec, without=("backend",), defaults=SMALL)
    add_aiter(command)
    command.add_argument("--out", type=Path, metavar="FILE", help="every case with what each device saw, JSON lines")
    command.add_argument(
        "--recorded", type=Path, metavar="FILE", help="such a file of another machine: its cases, its devices too"
    )
    add_amounts(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Compares; prints the tables."""
    from backend.aiter.codefiles import open_source
    from backend.codec import dumps
    from backend.devices.kinds import open_device
    from fuzz.agree import Agreement, AgreementAsked
    from fuzz.compiling import announced
    from fuzz.report.agreement import report
    from fuzz.spec import Spec
    from reprod.folder import prepare_file

    prepare_file("--out", arguments.out)
    if len(set(arguments.devices)) + (arguments.recorded is not None) < 2:
        raise UsageError.not_allowed("--devices", ",".join(arguments.devices), "at least two different devices")
    source = open_source(arguments.aiter) if arguments.aiter is not None else None
    agreement = Agreement()
    with ExitStack() as stack:
        devices = [open_device(name, source, record=True) for name in dict.fromkeys(arguments.devices)]
        for device in devices:
            close = getattr(device, "close", None)
            if close is not None:
                stack.callback(close)
        out = stack.enter_context(arguments.out.open("w", encoding="utf-8", buffering=1)) if arguments.out else None
        stack.enter_context(announced())
        for written in _examined(arguments, devices, source, agreement):
            if out is not None:
                print(dumps(written), file=out)
            if agreement.cases % 50 == 0:
                print(f"{counted(agreement.cases, 'case')}", file=sys.stderr)
    asked = AgreementAsked(tuple(device.name for device in devices))
    if arguments.recorded is None:
        cases = None if arguments.seconds is not None else arguments.cases
        asked = dataclasses.replace(asked, cases=cases, backends=tuple(arguments.backends), spec=Spec(**given(arguments, Spec)))
    made = report(agreement, asked, arguments.seed, SHOWN)
    print_report(arguments, made)
    return made.verdict.exit_code


def _examined(
    arguments: argparse.Namespace, devices: Sequence[Device], source: CodeSource | None, agreement: Agreement
) -> Iterator[Written]:
    """Each case as it has been run; stops where the budget is spent."""
    import time

    from backend.call import Call
    from backend.path import Path as CasePath
    from backend.revision.revision import host_of
    from fuzz.agree import drawn_calls, examine
    from fuzz.campaign.rule import rule_of_a_person

    ends = None if arguments.seconds is None else time.monotonic() + arguments.seconds
    if arguments.recorded is not None:
        path = CasePath(host_of(source))
        given = ((path.launched(each.case), each.seen) for each in _read(arguments.recorded))
    else:
        for backend in arguments.backends:
            rule_of_a_person(backend)
        spaces = [_space(arguments, backend, source) for backend in arguments.backends]
        given = ((made, {}) for made in drawn_calls(spaces, arguments.seed, source))
    idle = 0
    for made, before in given:
        late = ends is not None and time.monotonic() >= ends
        if agreement.cases >= arguments.cases or late or idle >= MOST_IDLE:
            return
        idle = 0 if isinstance(made, Call) else idle + 1
        if not isinstance(made, Call):
            agreement.launched_nothing(made)
            continue
        mine = {device.name for device in devices}
        yield examine(made, devices, {name: seen for name, seen in before.items() if name not in mine}, agreement)


def _read(path: Path) -> Iterator[Written]:
    from backend.codec import from_plain
    from backend.file_text import json_of, text_of
    from fuzz.agree import Written

    for place, line in enumerate(text_of(path, "a file that --out wrote").splitlines(), 1):
        yield from_plain(Written, json_of(line, f"{path}:{place}"), f"{path}:{place}")


def _space(arguments: argparse.Namespace, backend: str, source: CodeSource | None) -> CaseSpace:
    from backend.aiter.release import nearest_release
    from backend.devices.kinds import device_kind
    from fuzz.space import space
    from fuzz.spec import DEFAULT_RELEASE, Spec

    asked = SMALL | given(arguments, Spec) | {"backend": backend}
    if backend != "direct":
        asked.pop("modes", None)  # a rule decides the mode; forcing it is for a direct caller
    if "releases" not in asked:
        from_wheel = any(device_kind(name).runs_code_objects for name in arguments.devices)
        of_wheel = WHEEL_RELEASE if from_wheel else DEFAULT_RELEASE
        asked["releases"] = (of_wheel if source is None else nearest_release(source).name,)
    return space(Spec(**asked))


WHEEL_RELEASE = "2025-11"
"""Release of the code objects that are run where no checkout is given."""
