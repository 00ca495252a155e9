"""What README and docs/ tell people to type is what the command line takes, and no command is left out of README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fuzz.cli import FORMER, parser

ROOT = Path(__file__).parents[1]
TYPED = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?aiterfuzz (.+)$")


def subcommands() -> set[str]:
    (choices,) = (action.choices for action in parser()._actions if action.choices)
    return set(choices)


def typed() -> list[tuple[str, str]]:
    """Every command of a fenced block, with the lines that it goes on in: file and what follows `aiterfuzz`."""
    found = []
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if (given := TYPED.match(line)) is not None:
                    found.append((file.name, given[1].partition(" #")[0].strip()))
    return found


@pytest.mark.parametrize(("file", "command"), typed())
def test_a_command_of_the_documents_is_one(file: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        parser().parse_args(shlex.split(command))
    except SystemExit:
        pytest.fail(f"{file}: aiterfuzz {command}: {capsys.readouterr().err}")


def test_make_s_targets_name_files_that_are_there() -> None:
    named = re.findall(r"(?<![\w/])(?:tests|benchmarks|fuzz)/[\w./]+", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert named
    assert not [file for file in named if not (ROOT / file).exists()]


def test_readme_names_every_command_and_no_other() -> None:
    named = set(re.findall(r"^\| `aiterfuzz ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == subcommands() - {*FORMER}
