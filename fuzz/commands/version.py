"""`aiterfuzz version`: what this installation is, for a bug report."""

from __future__ import annotations

import argparse

from backend.words import counted
from fuzz.commands.printing import add_lengths, print_text


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser("version", help="versions, releases of AITER and where code objects are")
    add_lengths(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints version, devices and releases."""
    from backend.aiter.codefiles import installed_wheel
    from backend.aiter.release import release
    from backend.case import RELEASES
    from backend.devices.kinds import DEVICES
    from backend.errors import CannotRunError
    from backend.serving.backends import BACKENDS
    from fuzz.provenance import provenance
    from reprod.corpus import load_corpus, shipped_corpus

    entries = load_corpus(shipped_corpus())
    found = provenance("none", RELEASES, None)
    try:
        code_objects = installed_wheel().label
    except CannotRunError as error:
        code_objects = f"none ({error})"
    lines = {
        "aiterfuzz": f"{found.project}, sources {found.rules}",
        "python": f"{found.python}, {found.system}",
        "packages": ", ".join(f"{name} {version}" for name, version in found.versions.items()),
        "AITER rules": ", ".join(f"{name} ({release(name).commit[:12]})" for name in RELEASES),
        "code objects": code_objects,
        "corpus": f"{counted(len(entries), 'known fault or control', 'known faults and controls')}, {shipped_corpus()}",
        "backends": ", ".join(BACKENDS),
        "devices": ", ".join(DEVICES),
    }
    told = [f"{what:13} {value}" for what, value in lines.items()]
    print_text(arguments, told, told[:1], lines)
    return 0
