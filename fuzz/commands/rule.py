"""`aiterfuzz rule`: a rule of one's own to begin with. Runs none."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_FILE = Path("my_rule.py")

EPILOG = """\
A rule is a function from a Case to a Choice. `--backend FILE` of run, campaign and explain asks it, and `gate FILE` holds it
against another. It runs in a process of its own behind the fence; one that raises, returns something else or does not come back
is said to be the rule's own error, with file and line, exit code 3."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its part."""
    command = commands.add_parser(
        "rule",
        help="begin a rule of one's own",
        description="Writes what a rule of one's own begins with.",
        epilog=EPILOG,
    )
    parts = command.add_subparsers(title="parts", metavar="PART", required=True)
    part = parts.add_parser(
        "new",
        help="write a commented rule that runs",
        description="Writes a commented rule that runs as it stands: sglang's head gate, in thirty lines.",
        epilog=EPILOG,
    )
    part.add_argument("file", nargs="?", type=Path, default=DEFAULT_FILE, metavar="FILE", help=f"a new file ({DEFAULT_FILE})")
    part.set_defaults(command=new)


def new(arguments: argparse.Namespace) -> int:
    """Writes the file, and says what to do with it. Raises UsageError where it is there already or is no Python file's name."""
    import shlex
    from importlib import resources
    from string import Template

    from backend.errors import UsageError
    from reprod.folder import unwritable

    file: Path = arguments.file
    if file.suffix != ".py":
        raise UsageError.not_allowed("FILE", str(file), "a name that ends in .py")
    text = Template(resources.files("backend.serving").joinpath("new_rule.py.txt").read_text(encoding="utf-8"))
    named = shlex.quote(str(file))
    try:
        with file.open("x", encoding="utf-8") as made:
            made.write(text.substitute(file=named.replace("\\", "\\\\").replace('"', '\\"')))
    except FileExistsError:
        raise UsageError(f"{file}: is there already; remove it, or give another name") from None
    except OSError as error:
        raise unwritable("FILE", file, error, "file") from error
    print(f"rule: {file}\nnext: aiterfuzz run --backend {named} --shapes tp2,tp4 --q-dtype fp8 --kv-dtype fp8")
    return 0
