"""A dimension of a Case is one row: one line put into backend/case.py, and search, shrinker, texts and flags have it.

A process, and those that it starts, import backend.case with one more row in it; the rest is the source as it stands. What
the row brings about is a rule's own: more than FINE groups, and it plans as sglang did before #27188.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROW = '    groups: int = row(1, "groups that a test makes up", least=1, most=9)\n'

FINE = 2

PROGRAM = f"""
import importlib.abc, importlib.machinery, importlib.util, pathlib, sys

class OneMoreRow(importlib.machinery.SourceFileLoader):
    def get_data(self, path):
        data = super().get_data(path)
        if path.endswith("case.py"):
            before, mark, after = data.partition(b"    def __post_init__")
            assert mark
            data = before.rstrip(b" ") + {ROW.encode()!r} + mark + after
        return data
    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)  # nothing cached, neither read nor written

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "backend.case":
            return None
        place = {str(ROOT / "backend" / "case.py")!r}
        return importlib.util.spec_from_file_location(name, place, loader=OneMoreRow(name, place))

sys.meta_path.insert(0, Finder())
"""

RULE = f"""
from backend.serving.sglang import SGLANG_27188, SGLANG_BEFORE_27188

def policy(case):
    rule = SGLANG_27188 if case.groups <= {FINE} else SGLANG_BEFORE_27188
    return rule(case.replace(groups=1))
"""


def run(program: str, *argv: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(PROGRAM, encoding="utf-8")  # which every Python begins with
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, str(ROOT)])}
        command = [sys.executable, "-c", "import sys\n" + program, *argv]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)


def cli(*argv: str) -> subprocess.CompletedProcess[str]:
    return run("from fuzz.cli import main\nsys.exit(main(sys.argv[1:]))", *argv)


@pytest.fixture(scope="module")
def rule(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rule") / "rule.py"
    path.write_text(RULE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def search(rule: Path) -> tuple[str, dict[str, object], Path]:
    """(standard output, smallest case, folder) of a search over the field."""
    out = rule.parent / "found"
    asked = ["--heads", "64", "--q-dtype", "fp8", "--kv-dtype", "fp8", "--groups", "1,2,3,4,5,6,7"]
    ran = cli("run", "--backend", str(rule), *asked, "--cases", "40", "--max-batch", "4", "--max-kv", "300", "--out", str(out))
    assert ran.returncode == 1, ran.stderr
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    cases = [(json.loads((path / "case.json").read_text(encoding="utf-8")), path) for path in folders]
    assert cases
    # With more query rows AITER plans, which is where the overrun is, and then has no kernel.
    case, folder = min(cases, key=lambda each: int(each[0]["max_seqlen_q"]))
    return ran.stdout, case, folder


def test_it_is_drawn_and_made_as_small_as_the_fault_allows(search: tuple[str, dict[str, object], Path]) -> None:
    _, case, _ = search
    assert case["groups"] == FINE + 1


def test_it_is_told_where_it_is_not_neutral(search: tuple[str, dict[str, object], Path], rule: Path) -> None:
    _, _, folder = search
    text = (folder / "explain.txt").read_text(encoding="utf-8")
    assert "groups 3" in text.splitlines()[0]
    asked = ["explain", str(folder / "case.json"), "--groups", "1", "--backend", str(rule)]
    again = cli(*asked)
    assert again.returncode == 0, again.stderr
    assert "groups" not in again.stdout.splitlines()[0]


def test_it_is_a_flag_and_a_field_of_a_campaign(rule: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("groups = [2, 4]\n", encoding="utf-8")
    printed = cli("campaign", "--config", str(config), "--print-config")
    assert printed.returncode == 0, printed.stderr
    assert "groups = [2, 4]" in printed.stdout
    assert "# groups that a test makes up" in printed.stdout
    assert "groups that a test makes up" in cli("explain", "--help").stdout
    assert cli("explain", "--heads", "64", "--kv-lens", "1", "--groups", "10").returncode == 2
    refused = cli("run", "--backend", str(rule), "--groups", "10", "--out", str(tmp_path / "out"))
    assert (refused.returncode, "case field groups: given 10; allowed: 1..9" in refused.stderr) == (2, True), refused.stderr


def test_a_framework_that_does_not_use_it_refuses_it() -> None:
    told = cli("explain", "--heads", "16", "--kv-lens", "1", "--groups", "2", "--backend", "vllm").stdout
    assert "refused by vllm: groups: vLLM leaves it at 1" in told


def test_it_is_mutated_and_taken_over_from_other_parents() -> None:
    program = """
from random import Random
from fuzz.campaign.mutate import Mutator
from fuzz.strategies import chunk_cases
from fuzz.space import space
from fuzz.spec import Spec

made = space(Spec("direct", groups=(1, 4, 6)))
cases = chunk_cases(made, 0, 0)
assert {case.groups for case in cases} == {1, 4, 6}
mutator, random = Mutator(made), Random(1)
parents = [case for case in cases if case.groups == 1]
children = [mutator.mutate(random.choice(parents), lambda: random.choice(parents), random) for _ in range(400)]
assert {case.groups for case in children} == {1, 4, 6}
plain = space(Spec("direct"))
assert {case.groups for case in chunk_cases(plain, 0, 0)} == {1}, "not asked for: neutral"
"""
    ran = run(program)
    assert ran.returncode == 0, ran.stderr
