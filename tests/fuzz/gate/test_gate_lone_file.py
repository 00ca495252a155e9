"""A copied backend file that lies in no package is gated in the base's: all around it is the base's."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import CannotRunError
from backend.real.frameworks.fetch import LENT, lies_alone, open_source
from fuzz.cli import main

pytestmark = pytest.mark.usefixtures("sources_kept_open")

BASE = "sglang==0.5.13"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(open_source(BASE).target.text)
    return file


def test_a_copy_is_told_from_a_rule_and_from_a_file_in_its_package(copied: Path) -> None:
    rule = copied.with_name("rule.py")
    rule.write_text("def policy(case):\n    return None\n")
    package = copied.parent / "sglang/srt/layers/attention/aiter_backend.py"
    package.parent.mkdir(parents=True)
    package.write_text(copied.read_text())
    assert [lies_alone(str(file)) for file in (copied, rule, package)] == [True, False, False]


def test_a_copy_without_a_base_is_no_rule_and_says_what_it_lacks(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--table"]):
        assert main(["gate", str(copied), *more]) == 2
        assert "give a changed file a --base" in capsys.readouterr().err


def test_the_base_lends_what_is_around_it(copied: Path) -> None:
    copied.write_text(copied.read_text() + "# edited\n")
    opened = open_source(f"{copied}{LENT}{BASE}")
    assert opened.target.text.endswith("# edited\n")
    copied.write_text("x = 1\n")
    with pytest.raises(CannotRunError, match="has no class AiterAttnBackend"):
        open_source(f"{copied}{LENT}{BASE}")


@pytest.mark.slow(guard="fuzz/gate/test_gate_command.py::test_decide_prints_the_table_and_what_differs")
def test_the_table_of_a_copy_shows_what_it_decides_otherwise(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied.write_text(copied.read_text().replace("in (32, 64, 128)", "in (32, 128)"))
    asked = ["--table", "--base", BASE, "--heads", "64,128", "--kv-dtype", "fp8"]
    assert main(["gate", str(copied), *asked]) == 1
    told = capsys.readouterr().out
    assert " 64 " in told
    assert " 128 " not in told
