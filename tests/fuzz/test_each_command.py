"""Every command, read from the parser: a value that cannot be is 2 or 3, and so is an answer that nobody gets; never 0 or 1.

A command that is added without a row in each_command.py fails; ways not to run are in test_ways_not_to_run.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import io
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from each_command import LEAVES, NO_SUCH, WORKS, not_run, typed

from fuzz.cli import main
from fuzz.machine_facts import FactState

FLAGS = {
    "--out": (f"{NO_SUCH}/x",),
    "--json": (f"{NO_SUCH}/x",),
    "--markdown": (f"{NO_SUCH}/x",),
    "--seconds": ("0", "-1", "nan", "inf", "soon"),
    "--device": ("no-such", ""),
    "--devices": ("model,no-such", "model,model"),
    "--aiter": (NO_SUCH, "{empty}@HEAD", "{repository}@no-such"),
    "--base-aiter": (NO_SUCH, "{empty}@HEAD"),
    "--backend": ("no-such", "{empty}/rule.py"),
    "--backends": ("no-such", "{empty}/rule.py"),
    "--recorded": (NO_SUCH, "{garbage}"),
    "--release": ("1999-01",),
    "--releases": ("1999-01",),
    "--cases": ("0", "-1", "x"),
}
"""Values that no command takes, by flag."""


def test_each_command_has_its_row() -> None:
    assert set(WORKS) == set(LEAVES)


LONG = ("--device rocm", "model,rocm", "--heads 7", "{leaves}", "/rule.py")
"""What takes seconds: torch is imported, a rule's process is started again and again."""


def marked(*row: str) -> object:
    """A row, which is for a slow run where it takes long; of what takes long, `run` and `explain` do it always."""
    line = " ".join(row)
    always = row[0] in ("run", "explain") and "rocm" not in line
    return pytest.param(*row, id=line, marks=() if always or not any(each in line for each in LONG) else pytest.mark.slow)


def flags_of(command: str) -> Iterator[tuple[str, str]]:
    names = {name for action in LEAVES[command]._actions for name in action.option_strings}
    yield from ((flag, value) for flag, values in FLAGS.items() if flag in names for value in values)


FLAGGED = [marked(command, flag, value) for command in LEAVES for flag, value in flags_of(command)]


@pytest.mark.parametrize(("command", "flag", "value"), FLAGGED)
def test_a_value_that_cannot_be_is_refused(
    command: str,
    flag: str,
    value: str,
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    line = WORKS[command].replace("--print-config", "--cases 3 --address 127.0.0.1:9")
    words = typed(command, line, places, tmp_path)
    for at in [at for at, word in enumerate(words) if word == flag]:
        del words[at : at + 2]
    not_run(main([*words, f"{flag}={value.format(**places)}"]), capfd.readouterr())


SHORT = sorted(set(LEAVES) - {"scout", "decide", "selftest accuracy kernels", "selftest agree"})
"""The others print in the same way, after seconds of work."""


@pytest.mark.parametrize("command", SHORT)
def test_a_full_stdout_is_no_answer(
    command: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = typed(command, WORKS[command], places, tmp_path)
    full = open("/dev/full", "w")  # noqa: SIM115  (what it holds cannot be written when it is closed)
    monkeypatch.setattr("sys.stdout", full)
    assert main(words) in (2, 3)


WRITES = ("corpus add", "corpus mark", "corpus nightly-test", "corpus write", "gate", "merge", "report", "rule new", "run")
"""Commands that write files here; the others that do (campaign, diagnose, scout, gsm8k) need Ray, a checkout or a server."""


@pytest.mark.parametrize("command", WRITES)
def test_a_full_disk_is_3(command: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written goes to a disk that takes nothing more: no file can grow."""
    monkeypatch.chdir(tmp_path)
    words = typed(command, WORKS[command], places, tmp_path)
    if command == "gate":
        words += ["--out", str(tmp_path / "out")]
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", open(os.devnull, "w"))  # noqa: SIM115  (pytest's own files cannot grow either)
    monkeypatch.setattr("sys.stderr", said)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        code = main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, "Traceback" in said.getvalue()) == (3, False), said.getvalue()


ENDS = (
    SystemExit(0), SystemExit(None), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), MemoryError(), RecursionError(),
    BrokenPipeError(), OSError(errno.EIO, "I/O"), OSError(errno.ENOSPC, "full"), StopIteration(), AssertionError(),
)  # fmt: skip


@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_whatever_a_command_raises_is_3(end: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the one place that all commands end in; python's own exit code for it would be 0 or 1."""

    def command(arguments: argparse.Namespace) -> int:
        del arguments
        raise end

    monkeypatch.setattr("fuzz.commands.version.run", command)
    monkeypatch.setattr("sys.stdout", io.StringIO())  # pytest's own would be turned to nowhere by an error of the disk
    assert main(["version"]) == 3


def test_a_machine_that_cannot_run_cases_is_3(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz import machine_facts

    first = next(iter(machine_facts.facts()))
    needed = dataclasses.replace(first, state=FactState.NEEDED)
    monkeypatch.setattr(machine_facts, "facts", lambda: iter([needed]))
    assert main(["doctor"]) == 3
