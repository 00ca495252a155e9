"""How commands are named, how much they say, and what a shell may complete: one grammar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.cli import FORMER, main, parser

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


def test_a_faulty_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--backend", "sglang-before-27188", "--shapes", "tp2", "--cases", "5", "--repeats", "1"]
    assert main(["run", *flags, "--json", "--out", str(tmp_path)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == 1
    assert report["findings"][0]["kind"] == "head-width"


def test_report_of_several_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores = [str(tmp_path / name) for name in ("a", "b")]
    for seed, store in enumerate(stores):
        assert main(["run", *SEARCH, "--seed", str(seed), "--out", store]) == 0
    assert main(["report", *stores]) == 2
    assert "give --out" in capsys.readouterr().err
    assert main(["report", *stores, "--out", str(tmp_path / "both")]) == 0
    counts = json.loads((tmp_path / "both" / "report.json").read_text())["counts"]
    assert counts["clean"] + counts["refused"] == 20


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
