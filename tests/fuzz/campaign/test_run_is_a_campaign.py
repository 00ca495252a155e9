"""`run` is a campaign of one worker on this machine: the same cases, signatures and smallest cases, without Ray."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from complaints import one_complaint
from stored_outcomes import stored
from undisturbed import outcomes
from weather import everywhere

from backend.case import Case
from backend.errors import UsageError
from fuzz.campaign.pool import Local
from fuzz.campaign.read_summary import load_summary
from fuzz.cli import main
from tests.tiers import one_of_each

BROKEN_RULES = {
    "exit": "def policy(case):\n    raise SystemExit(0)\n",
    "os-exit": "import os\ndef policy(case):\n    os._exit(0)\n",
    "raises": "def policy(case):\n    raise ZeroDivisionError('in my own rule')\n",
}
LEAVES_WHEN_LOADED = {"exit": "raise SystemExit(0)\n", "os-exit": "import os\nos._exit(0)\n"}


def smallest(store: Path) -> dict[str, Case]:
    return {finding.signature: finding.smallest for finding in load_summary(store).findings}


@pytest.mark.parametrize(
    ("cases", "narrow"),
    [
        ("60", ["--q-dtype", "fp8", "--kv-dtype", "fp8", "--query-rows", "1"]),
        pytest.param("60", [], marks=pytest.mark.slow),
        pytest.param("1000", [], marks=pytest.mark.slow),
    ],
    ids=["60 of one kind", "60", "1000"],
)
def test_both_find_the_same(cases: str, narrow: list[str], tmp_path: Path) -> None:
    flags = ["--backend", "sglang-before-27188", "--shapes", "tp2", "--cases", cases, "--seed", "3", *narrow]
    assert main(["run", *flags, "--out", str(tmp_path / "run")]) == 1
    assert main(["campaign", *flags, "--workers", "1", "--no-verify", "--out", str(tmp_path / "campaign")]) == 1
    assert smallest(tmp_path / "run") == smallest(tmp_path / "campaign")
    ran, campaigned = (stored(tmp_path / name) for name in ("run", "campaign"))
    assert ran == campaigned == outcomes(load_summary(tmp_path / "run").members[0].config)
    assert load_summary(tmp_path / "run").counts.cases == int(cases)
    # A page is made of a run as of any campaign.
    assert main(["report", str(tmp_path / "run")]) == 1
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_run_asks_nothing_of_ray_and_its_process_runs_no_case(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom fuzz.cli import main\n"
        f"code = main(['run', '--backend', 'sglang-27188', '--heads', '32', '--cases', '5', '--out', {str(tmp_path)!r}])\n"
        "print(code, sorted({m.split('.')[0] for m in sys.modules} & {'numba', 'torch', 'ray'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith(" []"), done.stdout


@pytest.mark.parametrize("name", one_of_each(BROKEN_RULES))
def test_a_rule_that_leaves_is_no_normal_end(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text(BROKEN_RULES[name])
    assert main(["run", "--backend", str(rule), "--cases", "3", "--repeats", "1", "--out", str(tmp_path / "out")]) == 3
    printed = capsys.readouterr()
    assert "3 of 3 cases were not run: rule" in printed.out
    assert "no memory fault" not in printed.out.lower()
    assert not re.search(r"^finding:|[1-9] finding", printed.out, re.MULTILINE), "0 findings, a slow run says as it goes on"
    assert not list((tmp_path / "out").glob("bug-*")), "a broken rule is no find"


@pytest.mark.parametrize("name", one_of_each(LEAVES_WHEN_LOADED))
@pytest.mark.parametrize("command", [["run"], ["campaign", "--workers", "1"]])
def test_a_rule_that_leaves_when_it_is_loaded_cannot_run(
    command: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text(LEAVES_WHEN_LOADED[name])
    assert main([*command, "--backend", str(rule), "--cases", "3", "--out", str(tmp_path / "out")]) == 3
    assert one_complaint(capsys.readouterr().err).startswith(("aiterfuzz: backend", "aiterfuzz: rule"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow(guard="fuzz/campaign/test_campaign_worker.py::test_the_case_that_did_it_is_named_and_the_others_go_on")
def test_a_case_that_kills_its_process_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a device may do: here the process is killed at its 8th case, and again when that is run alone."""
    flags = ["--heads", "32", "--cases", "9", "--repeats", "1", "--shrink-tries", "1", "--out", str(tmp_path)]
    with everywhere():
        assert main(["run", "--backend", "weather-kills_at_its_eighth", *flags]) == 1
    assert "died/device model/SIGKILL" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines if line["event"] == "started"] == list(range(1, 10))


def test_a_rule_that_leaves_now_and_then_ends_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text(
        "import os\nfrom backend.serving.sglang import SGLANG_27188\nasked = []\ndef policy(case):\n"
        "    asked.append(case)\n    if len(asked) > 5:\n        os._exit(0)\n    return SGLANG_27188(case)\n"
    )
    assert main(["run", "--backend", str(rule), "--cases", "300", "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"rule {rule}: its process ended with exit status 0; after 24 cases it is not asked any more" in said


@pytest.mark.slow(guard="test_a_run_writes_into_no_folder_that_holds_something")
def test_each_run_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--backend", "sglang-before-27188", "--shapes", "tp2", "--cases", "30", "--shrink-tries", "50", "--repeats", "1"]
    assert main(["run", *flags]) == main(["run", *flags, "--seed", "1"]) == 1
    folders = sorted(Path("findings").iterdir())
    assert [load_summary(folder).members[0].seed for folder in folders] == [0, 1]
    printed = capsys.readouterr().out
    for folder in folders:
        assert f"results: {folder}/results.jsonl" in printed
        found = sorted(folder.glob("bug-*"))
        assert found
        assert all(f"  {each}" in printed for each in found)  # where one stands, and no other run's


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("bug-old", "this one holds bug-old"),
        ("results.jsonl", "this one holds results.jsonl"),
        ("campaign.sqlite", "holds a campaign already"),
    ],
)
def test_a_run_writes_into_no_folder_that_holds_something(
    left: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / left).write_text("mine")
    assert main(["run", "--heads", "32", "--cases", "3", "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_local_pool_has_so_many_workers() -> None:
    pool = Local(2)
    assert (pool.workers(0), pool.workers(1), pool.free()) == (2, 1, 2)
    with pytest.raises(UsageError, match=r"given 3; allowed: 1\.\.2"):
        pool.workers(3)
