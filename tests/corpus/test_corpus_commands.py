"""From a finding to what others keep, by one command each: an entry, a nightly test for sglang, a folder."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from backend.case import Arch, Case, DType
from backend.codec import dumps
from backend.path import Path as CasePath
from fuzz.cli import main
from reprod.corpus import OpenPaths, ReplayStatus, load_corpus, load_entry, replay
from reprod.entry import entry_text
from reprod.folder import CASE, ISSUE, RANKS_SCRIPT, SCRIPT
from reprod.known import KnownFaults
from reprod.life import LifeOfFind, LifeStage
from reprod.reference import KnownReference
from reprod.script import NIGHTLY_SUITES

CORPUS = Path(__file__).parents[2] / "corpus"

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")


@pytest.fixture
def finding(tmp_path: Path) -> Path:
    folder = tmp_path / "bug"
    folder.mkdir()
    (folder / CASE).write_text(dumps(FOUNDING), encoding="utf-8")
    return folder


def test_a_finding_becomes_an_entry_that_behaves(finding: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    command = ["corpus", "add", str(finding), "--id", "F99", "--title", "64 heads, by command", "--corpus", str(corpus)]
    assert main([*command, "--reference", "ROCm/aiter#3496"]) == 0
    (entry,) = load_corpus(corpus)
    assert (entry.id, entry.references) == ("F99", ("ROCm/aiter#3496",))
    assert [path.name for path in corpus.iterdir()] == ["F99-64-heads-by-command.json"]
    assert replay(entry, OpenPaths()).status is ReplayStatus.FOUND
    assert main(command) == 2
    assert "F99" in capsys.readouterr().err


def test_what_shows_nothing_is_no_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = tmp_path / "case.json"
    case.write_text(dumps(FOUNDING.replace(backend="sglang-27188")), encoding="utf-8")
    for part in (["add", str(case), "--id", "F99", "--title", "x"], ["nightly-test", str(case)], ["write", str(case)]):
        assert main(["corpus", *part]) == 2
        assert "the case shows no fault" in capsys.readouterr().err


def registered(text: str) -> list[dict[str, object]]:
    """Registrations as sglang's own CI reads them off the syntax tree: literals only."""
    calls = [
        statement.value
        for statement in ast.parse(text).body
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    ]
    assert all(isinstance(keyword.value, ast.Constant) for call in calls for keyword in call.keywords)
    return [{keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords} for call in calls]  # type: ignore[misc]


def has_main_block(text: str) -> bool:
    return any(
        isinstance(statement, ast.If)
        and ast.unparse(statement.test) == "__name__ == '__main__'"
        and "main()" in ast.unparse(statement)
        for statement in ast.parse(text).body
    )


STUBS = """
import sys, types, unittest
import torch
sys.path.insert(0, {tests!r})
import fake_gpu
for name in ("sglang", "sglang.test", "sglang.test.ci", "sglang.test.ci.ci_register", "sglang.test.test_utils"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["sglang.test.ci.ci_register"].register_amd_ci = lambda **_: None
sys.modules["sglang.test.test_utils"].CustomTestCase = unittest.TestCase
code, output = fake_gpu.run("2026-06", {behaviour!r}, {script!r}, [])
print(output)
sys.exit(code)
"""


def run_nightly(script: Path, behaviour: str) -> tuple[int, str]:
    tests = str(Path(__file__).parents[1] / "reprod")
    program = STUBS.format(tests=tests, behaviour=behaviour, script=str(script))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_finding_becomes_a_nightly_test(finding: Path, tmp_path: Path) -> None:
    script = tmp_path / "test_mla_decode.py"
    assert main(["corpus", "nightly-test", str(finding), "--out", str(script)]) == 0
    text = script.read_text(encoding="utf-8")
    assert registered(text) == [{"est_time": 300, "suite": NIGHTLY_SUITES[FOUNDING.arch], "nightly": True}]
    assert has_main_block(text)
    assert "FAST_MODE = True" in text  # the remedy's arguments
    assert "#:" not in text
    assert max(map(len, text.splitlines())) <= 128
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "E,F,I,B,SIM",
        "--line-length",
        "128",
        str(script),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert run_nightly(script, "right")[0] == 0
    code, output = run_nightly(script, "overrun")
    assert code != 0
    assert "bytes written outside of a tensor" in output
    assert main(["corpus", "nightly-test", str(finding), "--out", str(script)]) == 2


def test_a_finding_without_a_remedy_is_tested_as_found(tmp_path: Path) -> None:
    case, script = tmp_path / "case.json", tmp_path / "test_it.py"
    case.write_text(dumps(Case(num_head=16, kv_lens=(17,), backend="sglang-27188", arch="gfx942")), encoding="utf-8")  # type: ignore[arg-type]
    assert main(["corpus", "nightly-test", str(case), "--out", str(script)]) == 0
    text = script.read_text(encoding="utf-8")
    assert 'suite="nightly-amd-1-gpu"' in text
    if "Runs as found" not in text:
        assert "Runs with fast_mode=True" in text


def test_the_folder_of_one_case(finding: Path, tmp_path: Path) -> None:
    notes = tmp_path / "cause.md"
    notes.write_text("* the gate has no 64\n", encoding="utf-8")
    command = ["corpus", "write", str(finding), "--out", str(tmp_path / "out"), "--name", "bug-x", "--cause", str(notes)]
    assert main([*command, "--ranks", "2", "--no-verify"]) == 0
    folder = tmp_path / "out" / "bug-x"
    issue = (folder / ISSUE).read_text(encoding="utf-8")
    assert "\n\n* the gate has no 64\n\n" in issue
    assert "repro_ranks.py" not in issue  # it is no step: what it shows depends on how memory lies
    assert "RANKS = 2" in (folder / RANKS_SCRIPT).read_text(encoding="utf-8")
    assert "RANKS" not in (folder / SCRIPT).read_text(encoding="utf-8")
    assert main([*command[:-1], str(tmp_path / "absent.md")]) == 2
    assert main([*command, "--for", "rocm", "--no-verify"]) == 2
    assert main([*command, "--for", "aiter", "--no-verify"]) == 0
    assert (folder / ISSUE).read_text(encoding="utf-8").startswith("# [Issue]: MLA decode")


def test_a_mark_is_written_into_the_entry_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    file = corpus / "O3-gfx942-tail-of-17-to-20-tokens.json"
    file.write_text((CORPUS / file.name).read_text(encoding="utf-8"), encoding="utf-8")
    mark = ["corpus", "mark", "O3", "--corpus", str(corpus)]
    assert main([*mark, "filed", "--issue", "ROCm/aiter#1"]) == 0
    assert load_entry(file).titled.endswith(" (filed as ROCm/aiter#1)")
    seventeen = Case(16, (17,), q_dtype=DType.BF16, arch=Arch.GFX942, backend="sglang-27188", release="2026-08")
    cause = CasePath().run(seventeen).cause
    assert cause is not None
    known = KnownFaults(corpus).reference(cause, seventeen)
    assert known is not None
    assert known.where == "O3: ROCm/aiter#1"
    assert main([*mark, "mended", "--commit", "1234abc", "--release", "2026-08"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "O3: mended (ROCm/aiter#1) by 1234abc since 2026-08"
    assert entry_text(load_entry(file)) == file.read_text(encoding="utf-8")
    assert KnownFaults(corpus).reference(cause, seventeen) is None


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["O3", "filed"], "give --issue"),
        (["O3", "mended"], "give --commit"),
        (["O3", "done"], "STAGE"),
        (["O99", "new"], "ID"),
        (["O3", "filed", "--issue", "1"], "OWNER/REPO#N"),
        (["O3", "mended", "--commit", "1234abc", "--release", "v1"], "release"),
    ],
)
def test_a_mark_that_lacks_something_is_refused(given: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in CORPUS.glob("O*.json")}
    assert main(["corpus", "mark", "--corpus", str(CORPUS), *given]) == 2
    assert complaint in capsys.readouterr().err
    assert {file: file.read_bytes() for file in CORPUS.glob("O*.json")} == before


def test_a_find_that_a_release_mends_is_news_there_and_known_before(tmp_path: Path) -> None:
    """The night and the page name an entry with how it stands; where it is mended, whoever meets the fault has a new one."""
    entry = load_entry(CORPUS / "O3-gfx942-tail-of-17-to-20-tokens.json")
    outcome = CasePath().run(next(entry.faulty[0].cases()))
    cause = outcome.cause
    assert cause is not None

    def known(stage: LifeStage, **more: str) -> KnownReference | None:
        text = entry_text(dataclasses.replace(entry, life=LifeOfFind(stage, **more)))
        (tmp_path / "O3-it.json").write_text(text, encoding="utf-8")
        return KnownFaults(tmp_path).reference(cause, outcome.case)

    filed = known(LifeStage.FILED, issue="ROCm/aiter#1")
    assert filed is not None
    assert filed.title.endswith("(filed as ROCm/aiter#1)")
    assert known(LifeStage.MENDED, commit="1234abc") is not None
    assert known(LifeStage.MENDED, commit="1234abc", release=outcome.case.release) is None
    assert known(LifeStage.INVALID) is None
