"""action.yml's steps as a runner executes them: bash with the variables that GitHub sets, in a workspace of no checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tiers import one_of_each

ROOT = Path(__file__).parents[1]

RULE = """[fp8]
default = "fake"
32 = "fast"
64 = "{mode}"
"""

PYTHON = """#!/bin/bash
echo "python $*" >> "$RUNNER_TEMP/called"
mkdir -p "$3/bin"
printf '#!/bin/bash\\necho "pip $*" >> "$RUNNER_TEMP/called"\\n' > "$3/bin/pip"
chmod +x "$3/bin/pip"
"""
"""In the place of a Python that makes an environment: what it and its pip are asked for."""


class Runner:
    """One job: a workspace, and the files that its steps write for GitHub."""

    def __init__(self, folder: Path) -> None:
        self.action: dict[str, Any] = pytest.importorskip("yaml").safe_load((ROOT / "action.yml").read_text())
        self.workspace, self.temp = folder / "workspace", folder / "temp"
        for each in (self.workspace, self.temp):
            each.mkdir()
        self.output, self.summary = self.temp / "output", self.temp / "summary"

    def step(self, name: str, **given: str) -> int:
        """The exit code of a step. given: inputs; the others have their defaults."""
        (step,) = (each for each in self.action["runs"]["steps"] if each["name"] == name)
        assert step["shell"] == "bash"
        inputs = {key: value.get("default", "") for key, value in self.action["inputs"].items()} | given
        own = {key: self._filled(value, inputs) for key, value in step["env"].items()}
        github = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "RUNNER_TEMP": str(self.temp),
        }
        script = self.temp / "step.sh"
        script.write_text(self._filled(step["run"], inputs))
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
        return subprocess.run(command, cwd=self.workspace, env={**os.environ, **github, **own}, check=False).returncode

    def files(self, **given: str) -> Mapping[str, Path]:
        """Outputs that are files, by name."""
        inputs = {key: value.get("default", "") for key, value in self.action["inputs"].items()} | given
        told = {key: each["value"] for key, each in self.action["outputs"].items() if "steps." not in each["value"]}
        return {key: self.workspace / self._filled(value, inputs) for key, value in told.items()}

    def _filled(self, text: str, inputs: Mapping[str, str]) -> str:
        return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], text)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """With an environment in which this project is installed."""
    made = Runner(tmp_path)
    installed = made.temp / "aiterfuzz" / "bin" / "aiterfuzz"
    installed.parent.mkdir(parents=True)
    installed.write_text(
        f"#!/bin/bash\nexec {sys.executable} -c 'from fuzz.cli import main; raise SystemExit(main())' \"$@\"\n"
    )
    installed.chmod(0o755)
    return made


def test_install_makes_an_environment_of_its_own_with_the_pinned_versions(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    assert runner.step("Install", source="x", python=str(python)) == 0
    assert (runner.temp / "called").read_text().splitlines() == [
        f"python -m venv {runner.temp}/aiterfuzz",
        f"pip install --quiet -c {ROOT}/constraints.txt torch {ROOT}",
    ]


@pytest.mark.parametrize(("mode", "code"), one_of_each([("fake", 1), ("fast", 0)]))
def test_gate_fails_for_a_fault_and_leaves_what_github_shows(runner: Runner, mode: str, code: int) -> None:
    """In a workspace whose own settings have no say, with a name that a shell would take apart."""
    (runner.workspace / "my rule.toml").write_text(RULE.format(mode=mode))
    (runner.workspace / "base rule.toml").write_text(RULE.format(mode="fast"))
    (runner.workspace / "aiterfuzz.toml").write_text("[gate]\nheads = 'none'\n")
    given = {"source": "my rule.toml", "base": "base rule.toml", "seconds": "3"}
    assert runner.step("Gate", **given) == code
    assert runner.output.read_text() == f"exit-code={code}\n"
    assert ("FAULTY" in runner.summary.read_text()) == bool(code)
    sarif = json.loads(runner.files(**given)["sarif"].read_text())
    assert sarif["version"] == "2.1.0"
    assert bool([each for run in sarif["runs"] for each in run["results"] if each["level"] == "error"]) == bool(code)


def test_a_gate_that_could_not_run_says_so_in_the_summary(runner: Runner) -> None:
    assert runner.step("Gate", source="not there/aiter_backend.py") in (2, 3)
    assert re.fullmatch(r"exit-code=[23]\n", runner.output.read_text())
    assert "could not run" in runner.summary.read_text()
