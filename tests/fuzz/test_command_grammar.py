"""How commands are named, how much they say, and what a shell may complete: one grammar."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import UsageError
from fuzz.cli import FORMER, main, parser
from fuzz.commands.arguments import expected
from fuzz.commands.examples import EXIT_CODES
from reprod.corpus import load_corpus, shipped_corpus
from tests.tiers import one_of_each

EXAMPLE = Path(__file__).parents[2] / "examples" / "finding"

SEARCH = ["--heads", "32", "--archs", "gfx950", "--q-dtype", "fp8", "--kv-dtype", "fp8", "--cases", "10"]


def test_the_forms_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *SEARCH, "--out", str(tmp_path / "a"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["exit_code"], report["findings"]) == ("clean", 0, [])
    assert main(["run", *SEARCH, "--out", str(tmp_path / "b"), "-q"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("No memory fault on 32 heads in ")
    assert main(["run", *SEARCH, "--out", str(tmp_path / "c"), "--verbose"]) == 0
    assert "Not covered" in capsys.readouterr().out
    assert main(["run", *SEARCH, "--json", "-q"]) == 2


WRITES_ALONE = ("corpus add", "corpus nightly-test", "corpus write", "corpus mark", "rule new")
"""Commands whose output is the name of what they wrote."""


def test_whatever_tells_something_does_it_in_the_same_forms() -> None:
    """`--json` and `-q` alike wherever a command says more than where it wrote."""
    listed = {path: made for path, made in leaves(parser()) if path.split()[0] not in FORMER and path not in WRITES_ALONE}
    assert len(listed) > 12
    for path, made in listed.items():
        forms = {option: action for action in made._actions for option in action.option_strings}
        assert {"--json", "-q", "--quiet"} <= {*forms}, path
        assert (forms["--json"].nargs, forms["-q"].nargs) == (0, 0), path


def leaves(made: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """(words, parser) of each command that does something."""
    below = [action for action in made._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path, made
    for name, one in below[0].choices.items() if below else ():
        yield from leaves(one, f"{path} {name}".strip())


def test_the_first_help_fits_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = parser().format_help().splitlines()
    assert len(lines) <= 34
    assert max(map(len, lines)) <= 80
    assert EXIT_CODES in " ".join("".join(f"{line} " for line in lines).split())


def test_the_help_of_each_command_tells_exit_codes_and_shows_how_it_is_called() -> None:
    for path, made in leaves(parser()):
        if path.split()[0] in FORMER:
            continue
        told = made.format_help()
        assert "xit codes:" in told, path
        shown = [line.strip() for line in told.partition("examples:")[2].splitlines() if line.strip()]
        assert shown, path
        for example in shown:
            words = shlex.split(example)
            assert words[: 1 + len(path.split())] == ["aiterfuzz", *path.split()]
            parser().parse_args(words[1:])


@pytest.mark.parametrize(
    ("typed", "meant"),
    one_of_each(
        [
            ("runn", "run"),
            ("corpus repaly", "replay"),
            ("--verison", "--version"),
            ("gate --bsae x", "--base"),
            ("run --case-secnods 3", "--case-seconds"),
            ("run --device modle", "model"),
            ("run --backend sglang-27189", "sglang-27188"),
            ("run --release 2026-6", "2026-06"),
            ("run --archs gfx95", "gfx950"),
            ("run --modes fastt", "fast"),
            ("run --model deepseek-r", "deepseek-r1"),
            ("run --expect F99", "F9"),
            ("explain --heads 64 --kv-lens 1 --page-order sequentail", "sequential"),
            ("selftest agree --devices model,cdan", "cdna"),
        ],
        lambda row: (row[1][:2] == "--", len(row[0].split())),
    ),
)
def test_what_was_meant_is_said(typed: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, "-m", "fuzz.cli", *typed.split()], capture_output=True, text=True, env=environment())
    assert done.returncode == 2, done.stderr
    assert f"did you mean {meant}?" in done.stderr
    assert not any(f" {former}," in done.stderr for former in FORMER)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


FOUNDING = ["--backend", "sglang-before-27188", "--heads", "64", "--kv-lens", "1"]


@pytest.mark.parametrize(
    ("command", "code", "key"),
    [
        (["explain", *FOUNDING], 1, "findings"),
        pytest.param(["verify", str(EXAMPLE)], 1, "findings", marks=pytest.mark.slow),  # explain's form
        pytest.param(["doctor"], 0, None, marks=pytest.mark.slow),
        (["version"], 0, "aiterfuzz"),
        (["corpus", "replay", "F1"], 0, None),
        (["corpus", "replay", str(EXAMPLE)], 1, None),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_the_forms_of_what_is_no_report(
    command: list[str], code: int, key: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """As JSON nothing else is printed; quiet is a part of what is said otherwise."""
    assert main(command) == code
    usual = capfd.readouterr().out.splitlines()
    assert main([*command, "-q"]) == code
    quiet = capfd.readouterr().out.splitlines()
    assert quiet
    assert len(quiet) <= len(usual)
    assert {*quiet} <= {*usual}
    assert main([*command, "--json"]) == code
    told = json.loads(capfd.readouterr().out)
    assert told[key] if key is not None else isinstance(told, list)
    with pytest.raises(UsageError):
        parser().parse_args([*command, "--json", "-q"])


def test_a_diagnosis_in_each_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "server.log"
    log.write_text("nothing that anybody knows\n")
    assert main(["diagnose", str(log), "-q"]) == 3
    assert capsys.readouterr().out == "cannot tell, because nothing in the log is of a form that is known here\n"
    assert main(["diagnose", str(log), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["cannot_tell"] == "nothing in the log is of a form that is known here"
    assert (told["causes"], told["smallest"]) == ([], None)


def test_a_faulty_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--backend", "sglang-before-27188", "--shapes", "tp2", "--cases", "5", "--repeats", "1"]
    assert main(["run", *flags, "--json", "--out", str(tmp_path)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == 1
    assert report["findings"][0]["kind"] == "head-width"


@pytest.mark.parametrize("between", [",", ", "])
def test_what_is_expected_is_told_apart_by_commas(between: str) -> None:
    """Signatures hold commas of their own."""
    entries = load_corpus(shipped_corpus())
    named = [each for entry in entries for each in (entry.id, *(side.signature for side in entry.faulty if side.signature))]
    assert any(", " in each for each in named)
    assert expected(between.join(named)) == tuple(named)


def test_report_of_several_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores = [str(tmp_path / name) for name in ("a", "b")]
    for seed, store in enumerate(stores):
        assert main(["run", *SEARCH, "--seed", str(seed), "--out", store]) == 0
    assert main(["report", *stores]) == 2
    assert "give --out" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["report", *stores, "--out", str(tmp_path / "both"), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert counts["clean"] + counts["refused"] == 20
    assert counts == json.loads((tmp_path / "both" / "report.json").read_text())["counts"]


@pytest.mark.parametrize("name", FORMER)
def test_a_former_name_is_taken_and_not_listed(name: str) -> None:
    assert f"\n    {name} " not in parser().format_help()
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([name, "--help"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*FORMER[name].split(), "--help"])
    assert ended.value.code == 0


def test_a_night_is_a_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["campaign", "--nightly", "--print-config"]) == main(["nightly", "--print-config"]) == 0
    printed = capsys.readouterr().out
    half = len(printed) // 2
    assert printed[:half] == printed[half:]
    assert 'shapes = ["tp2", "tp4"]' in printed
    assert main(["campaign", "--nightly", "--resume"]) == 2


def test_a_shell_completes_commands_and_flags(tmp_path: Path) -> None:
    """As bash asks with argcomplete's function: the line so far in COMP_LINE, the answers in a file."""
    for line, wanted in (("aiterfuzz ru", "run"), ("aiterfuzz explain --kv-l", "--kv-lens")):
        answers = tmp_path / "answers"
        asked = {
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
        }
        command = [sys.executable, "-c", "import sys; from fuzz.cli import main; sys.exit(main())"]
        subprocess.run(command, env={**os.environ, **asked, "_ARGCOMPLETE_IFS": "\n"}, check=False, timeout=60)
        assert wanted in answers.read_text().split()
