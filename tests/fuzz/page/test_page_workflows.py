"""The example workflows say what the command line takes, and show the night's page whatever became of the night."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from fuzz import cli
from fuzz.commands.campaign import run as campaign
from fuzz.commands.report import run as report

FOLDER = Path(__file__).parents[3] / "examples" / "workflows"

GIVEN = {"DEVICE": "rocm", "night": "nightly/one", "SECONDS_OF_SEARCH": "60"}
"""Variables that only a run knows."""


def workflow(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return read


def commands(job: dict[str, Any]) -> list[list[str]]:
    """Each call of aiterfuzz, its variables filled in."""
    values = {name: str(value) for name, value in job["env"].items()} | GIVEN
    found = []
    for step in job["steps"]:
        for line in step.get("run", "").replace("\\\n", " ").splitlines():
            if line.strip().startswith("aiterfuzz "):
                filled = re.sub(r"\$(\w+)", lambda name: values[name[1]], line.partition("||")[0])
                found.append(shlex.split(filled)[1:])
    return found


@pytest.mark.parametrize("name", ["nightly-cpu.yml", "nightly-mi35x.yml"])
def test_the_command_line_takes_what_a_workflow_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = workflow(name)["jobs"]["nightly"]
    parsed = [cli.parser().parse_args(each) for each in commands(job) if each != ["version"]]
    assert [each.command for each in parsed] == [campaign, report]
    typed = next(each for each in commands(job) if each[:2] == ["campaign", "--nightly"])
    assert cli.main([*typed, "--print-config"]) == 0
    assert 'shapes = ["tp2", "tp4"]' in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nightly-cpu.yml", "nightly-mi35x.yml"])
def test_the_report_is_written_whatever_became_of_the_night(name: str) -> None:
    steps = workflow(name)["jobs"]["nightly"]["steps"]
    searched = next(i for i, step in enumerate(steps) if step.get("name") == "Search")
    assert "continue-on-error" not in steps[searched]
    assert all(step["if"] == "always()" for step in steps[searched + 1 :])
    assert "GITHUB_STEP_SUMMARY" in steps[searched + 1]["run"]


def test_a_gpu_is_used_where_there_is_one_and_missed_aloud() -> None:
    steps = workflow("nightly-mi35x.yml")["jobs"]["nightly"]["steps"]
    choice = next(step["run"] for step in steps if step.get("id") == "device")
    assert "name=rocm" in choice
    assert "::warning::" in choice
