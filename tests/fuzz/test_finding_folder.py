"""A finding's folder is what explain, replay, verify and bisect take, beside the file in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.cli import main

FINDING = Path(__file__).parents[2] / "examples" / "finding"
SIGNATURE = "head-width/planner v1_0/planner folds finer, gfx950 fp8/fp8"


@pytest.mark.parametrize("given", [FINDING, FINDING / "case.json"])
def test_explain_and_replay(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(given)]) == 1
    assert SIGNATURE in capsys.readouterr().out
    assert main(["replay", str(given)]) == 1
    assert capsys.readouterr().out.startswith(f"found  {SIGNATURE}  64 heads")


def test_explain_and_replay_of_what_was_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mended = tmp_path / "case.json"
    mended.write_text((FINDING / "case.json").read_text().replace("sglang-before-27188", "sglang-27188"))
    assert main(["explain", str(tmp_path)]) == 0
    assert main(["replay", str(tmp_path), str(FINDING)]) == 1
    assert main(["replay", str(tmp_path)]) == 0
    assert [line[:16] for line in capsys.readouterr().out.splitlines()[-2:]] == ["silent  64 heads", "1 clean"]


def test_replay_takes_findings_or_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(FINDING), "--matrix"]) == 2
    assert "leave out --matrix" in capsys.readouterr().err
    assert main(["replay", str(tmp_path)]) == 2  # an empty folder is no finding


def test_verify_of_a_folder_without_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "issue.md").write_text("# quotes none\n")
    assert main(["verify", str(tmp_path)]) == 2
    assert "repro.py" in capsys.readouterr().err


def test_verify_of_a_folder_runs_the_script_that_its_issue_quotes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    issue = "<details><summary>repro.py</summary>\n\n```python\nimport torch\nprint('```', torch.ones(2, device='cuda'))\n```\n"
    (tmp_path / "issue.md").write_text(issue)
    assert main(["verify", str(tmp_path)]) == 3  # it calls no kernel of AITER's
    assert "``` CudaTensor([1., 1.], device='cuda:0')" in capfd.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["issue.md"]
