"""Every command, read from the parser: what does not run is 3, bad input is 2, neither is ever 0 or 1.

A command that is added without a row here fails. Rules that do not answer and sources that do not run are in
test_not_run_is_never_clean.py; what a campaign survives is in campaign/.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import io
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from fuzz.cli import FORMER, main, parser
from fuzz.machine_facts import FactState

LOGS = Path(__file__).parents[1] / "data" / "logs"
CORPUS = Path(__file__).parents[2] / "corpus"

NO_SUCH = "/proc/no/such"


def leaves(of: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command with its parts, by what is typed."""
    parts = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    if not parts:
        yield name, of
    for action in parts:
        for word, part in action.choices.items():
            yield from leaves(part, f"{name} {word}".strip())


ALL_LEAVES = dict(leaves(parser()))


def called_now(name: str) -> str:
    """The part of a command that a name of earlier versions is; of what became something else, the name."""
    first, *rest = name.split()
    now = " ".join((FORMER.get(first, first), *rest))
    return now if " " in now and now in ALL_LEAVES else name


LEAVES = {name: leaf for name, leaf in ALL_LEAVES.items() if called_now(name) == name}
"""Without the old names of what is a part of a command now: they are the same parsers."""

WORKS = {
    "run": "--cases 3 --shapes tp2 --out {out}",
    "campaign": "--print-config",
    "nightly": "--print-config",
    "report": "{store} --out {out}",
    "merge": "{store} --out {out}",
    "corpus replay": "{entry}",
    "explain": "{case}",
    "diagnose": "{log} --no-script",
    "decide": "sglang==0.5.13 --heads 16",
    "gate": "sglang-27188 --heads 16 --kv-dtype fp8 --seconds 0.1",
    "scout": "sglang==0.5.13 --heads 16 --seconds 1 --aiter {repository}@HEAD",
    "bisect": "{case} --aiter {repository} --good HEAD --bad HEAD",
    "corpus add": "{fault} --id Z9 --title x --corpus {out}",
    "corpus nightly-test": "{fault} --out {out}/test_x.py",
    "corpus write": "{fault} --out {out} --no-verify",
    "corpus mark": "{found} written-up --corpus {copied}",
    "rule new": "{out}.py",
    "selftest agree": "--devices model,cdna --cases 1 --max-batch 1 --max-kv 16 --heads 16 --backend direct --modes fast "
    "--q-dtype fp8 --kv-dtype fp8 --query-rows 1 --page-sizes 1",
    "selftest accuracy kernels": "--heads 16 --kv-lens 3",
    "selftest accuracy gsm8k": "--url http://127.0.0.1:9 --data {questions} --out {out}/answers --retries 0 --questions 1",
    "verify": "{script}",
    "takes": "{repository} HEAD~1..HEAD",
    "doctor": "",
    "version": "",
}
"""A short use of each, which comes as far as printing something where the machine has what it needs."""

NOT_RUN: Mapping[str, Sequence[str]] = {
    "run": ("--backend {refuses} --cases 9", "--backend {leaves} --cases 9", "--device rocm --cases 3", "--heads 7 --cases 3"),
    "campaign": ("--address 127.0.0.1:9 --cases 3", "--resume --out {empty}", "--case 0/0 --out {empty}", "--config {garbage}"),
    "nightly": ("--address 127.0.0.1:9 --cases 3", "--config {garbage}"),
    "report": ("{refused}", "{empty}", "{garbage}", "{damaged}"),
    "merge": ("{refused}", "{store} {refused}", "{empty}", "{damaged}"),
    "corpus replay": ("{empty}", "{garbage}", "{entry} --aiter {repository}@HEAD", "{entry} --aiter {empty}@HEAD"),
    "explain": ("{garbage}", "--backend {refuses} {case}", "{case} --device rocm", "{case} --device cdna --release 2026-08"),
    "diagnose": ("/dev/null", "{garbage}", "{empty}"),
    "decide": ("{empty}", "{garbage}", "sglang==0.5.13 --heads 7", "{repository}@HEAD"),
    "gate": ("{empty}", "{garbage}", "{refuses} --seconds 0.1", "sglang-27188 --device rocm --seconds 0.1",
             "sglang-27188 --heads 7 --seconds 0.1", "{repository}@HEAD"),
    "scout": ("{empty} --aiter {repository}@HEAD", "sglang==0.5.13 --heads 16 --aiter {repository}@HEAD~1..HEAD"),
    "bisect": ("{case} --aiter {repository} --good HEAD~1 --bad HEAD", "{garbage} --aiter {repository} --good HEAD --bad HEAD",
               "{case} --backend-sources {empty} {empty}"),
    "corpus add": ("{case} --id Z9 --title x", "{garbage} --id Z9 --title x"),
    "corpus nightly-test": ("{case}", "{garbage}"),
    "corpus write": ("{case}", "{garbage}", "{fault} --device rocm"),
    "corpus mark": ("Z99 fixed-upstream", "{found} no-such"),
    "rule new": ("{script}", "x.txt", "{empty}/no/x.py"),
    "selftest agree": ("--devices model,rocm --cases 1", "--devices model,cdna --seconds 0.000001",
              "--devices model,cdna --backends {refuses} --seconds 1", "--devices model,cdna --recorded {garbage}",
              "--devices model,cdna --recorded /dev/null"),
    "selftest accuracy kernels": ("--device rocm", "--device model", "--heads 7 --kv-lens 3"),
    "selftest accuracy gsm8k": (WORKS["selftest accuracy gsm8k"], "--url http://127.0.0.1:9 --data {garbage}"),
    "verify": ("{script}", "{garbage}", "{empty}", "{broken}", "{forks}"),
    "takes": ("{empty}", "{repository} HEAD..HEAD", "{repository} no..such"),
    "doctor": (),
    "version": (),
}  # fmt: skip
"""Ways of a command to run nothing, or less than was asked for. doctor has a test of its own, version judges nothing."""

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


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands for the names in braces above."""
    root = tmp_path_factory.mktemp("places")
    files = {
        "case": ("case.json", '{"num_head": 64, "kv_lens": [5, 3]}'),
        "fault": ("fault.json", '{"num_head": 64, "kv_lens": [1], "backend": "sglang-before-27188"}'),
        "garbage": ("garbage", "\0\x01{[" * 50),
        "refuses": (
            "refuses.py",
            "from backend.serving.policy import CaseRefused\ndef policy(case):\n    raise CaseRefused('no')\n",
        ),
        "leaves": ("leaves.py", "import os\ndef policy(case):\n    os._exit(0)\n"),
        "script": ("script.py", "print('nothing is launched')\n"),
        "broken": ("broken.py", "def\n"),
        "forks": ("forks.py", "import os\nif os.fork() == 0:\n    os._exit(0)\nos.wait()\nos._exit(0)\n"),
        "questions": ("q.jsonl", "\n".join(json.dumps({"question": "1+1?", "answer": "#### 2"}) for _ in range(7))),
    }
    for name, text in files.values():
        (root / name).write_text(text)
    made = {key: str(root / name) for key, (name, _) in files.items()}
    for name in ("empty", "repository"):
        (root / name).mkdir()
        made[name] = str(root / name)
    (root / "repository" / "README").write_text("no AITER\n")
    git = ("git", "-C", made["repository"], "-c", "user.name=x", "-c", "user.email=x@x.org")
    subprocess.run([*git, "init", "-q"], check=True)
    for number in range(2):
        (root / "repository" / f"{number}").touch()
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", f"{number}"], check=True)
    shutil.copytree(CORPUS, root / "copied")
    entries = sorted(path for path in CORPUS.glob("*.json") if "life" in json.loads(path.read_text()))
    made |= {"copied": str(root / "copied"), "found": entries[0].name.split("-")[0], "log": str(LOGS / "no_kernel.log")}
    made["entry"] = str(next(CORPUS.glob("F1-*.json")))
    for name, backend in (("store", "sglang-27188"), ("refused", made["refuses"])):
        main(["run", "--backend", backend, "--heads", "16", "--cases", "3", "--out", str(root / name)])
        made[name] = str(root / name)
    shutil.copytree(root / "store", root / "damaged")
    with (root / "damaged" / "campaign.sqlite").open("r+b") as file:
        file.truncate(5000)
    return made | {"damaged": str(root / "damaged")}


def typed(command: str, line: str, places: Mapping[str, str], tmp_path: Path) -> list[str]:
    out = tmp_path / "out"
    return [*command.split(), *(word.format(**places, out=out) for word in line.split())]


def not_run(code: int, printed: pytest.CaptureResult[str], allowed: tuple[int, ...] = (2, 3)) -> None:
    assert code in allowed, (code, printed)
    assert "Traceback" not in printed.err, printed.err
    assert "error of aiterfuzz itself" not in printed.err
    assert (printed.err + printed.out).strip(), "it is said why"
    assert not any(line.startswith(("clean", "No memory fault")) for line in printed.out.splitlines())


def test_each_command_has_its_rows() -> None:
    assert set(WORKS) == set(LEAVES)
    assert set(NOT_RUN) == set(LEAVES)
    assert {name for name, ways in NOT_RUN.items() if not ways} == {"doctor", "version"}


LONG = ("--device rocm", "model,rocm", "--heads 7", "{leaves}", "/rule.py")
"""What takes seconds: torch is imported, a rule's process is started again and again."""


def marked(*row: str) -> object:
    """A row, which is for a slow run where it takes long; of what takes long, `run` and `explain` do it always."""
    line = " ".join(row)
    always = row[0] in ("run", "explain") and "rocm" not in line
    return pytest.param(*row, id=line, marks=() if always or not any(each in line for each in LONG) else pytest.mark.slow)


WAYS = [marked(command, way) for command, ways in NOT_RUN.items() for way in ways]


@pytest.mark.parametrize(("command", "way"), WAYS)
def test_what_does_not_run_is_3_or_wrong_usage(
    command: str,
    way: str,
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    needs_out = any("--out" in action.option_strings and action.required for action in LEAVES[command]._actions)
    not_run(main(typed(command, way + (" --out {out}" if needs_out else ""), places, tmp_path)), capfd.readouterr())


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
    assert main(["version"]) == 3


def test_a_machine_that_cannot_run_cases_is_3(monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz import machine_facts

    first = next(iter(machine_facts.facts()))
    needed = dataclasses.replace(first, state=FactState.NEEDED)
    monkeypatch.setattr(machine_facts, "facts", lambda: iter([needed]))
    assert main(["doctor"]) == 3
