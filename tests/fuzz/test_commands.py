"""The commands as a person or a job uses them: exit codes, what is printed where, what is left on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backend.case import Case, DType
from backend.codec import dumps, from_plain, read_file
from fuzz.cli import main
from fuzz.space import CaseSpace, space
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases
from tests.tiers import one_of_each

BEFORE = ("run", "--backend", "sglang-before-27188", "--shapes", "tp2", "--q-dtype", "fp8", "--kv-dtype", "fp8")
AFTER = ("run", "--backend", "sglang-27188", "--shapes", "tp2,tp4", "--q-dtype", "fp8", "--kv-dtype", "fp8")


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_the_historic_fault_is_found_shrunk_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BEFORE, "--cases", "60", "--seed", "5", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "head-width/planner v1_0" in printed.out
    assert "64 heads, fp8/fp8, qlen 1, kv [1], gfx950, 2026-06" in printed.out
    assert "seed 5" in printed.err
    lines = records(tmp_path)
    found = next(line for line in lines if line["event"] == "found" and line["signature"].startswith("head-width"))
    smallest = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")
    assert from_plain(Case, found["smallest"]) == smallest
    assert read_file(Case, Path(found["folder"]) / "case.json") == smallest
    assert {path.name for path in Path(found["folder"]).iterdir()} == {
        "case.json",
        "explain.txt",
        "repro.py",
        "issue.md",
        "request.md",
    }
    assert "--seed 5" in (Path(found["folder"]) / "explain.txt").read_text()
    assert {line["event"] for line in lines} >= {"run", "started", "fault", "found", "finished"}
    assert lines[-1]["faults"][found["signature"]] == sum(line.get("signature") == found["signature"] for line in lines) - 1


def test_the_fixed_backend_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*AFTER, "--cases", "500", "--out", str(tmp_path)]) == 0
    assert "No memory fault on TP2 and TP4 in" in capsys.readouterr().out
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_every_case_can_be_drawn_again_from_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*AFTER, "--cases", "30", "--seed", "9", "--out", str(tmp_path)])
    run, *lines = records(tmp_path)
    assert run["seed"] == 9
    assert run["provenance"]["device"] == "model"
    assert set(run["provenance"]["releases"]) == {"2026-06"}
    assert {"numpy", "numba"} <= set(run["provenance"]["versions"])
    bounds = from_plain(CaseSpace, run["space"])
    assert bounds == space(Spec("sglang-27188", shapes=("tp2", "tp4"), q_dtype=DType.FP8, kv_dtype=DType.FP8))
    started = [line for line in lines if line["event"] == "started"]
    assert [line["number"] for line in started] == list(range(1, 31))
    drawn = chunk_cases(bounds, 9, started[7]["chunk"], 30)
    capsys.readouterr()
    place = f"{started[7]['chunk']}/{started[7]['position']}"
    assert main(["campaign", "--case", place, "--out", str(tmp_path)]) == 0
    assert from_plain(Case, json.loads(capsys.readouterr().out)) == drawn[started[7]["position"]]


def test_two_runs_of_one_seed_leave_the_same_results(tmp_path: Path) -> None:
    def left(out: Path) -> list[dict[str, Any]]:
        main([*BEFORE, "--cases", "40", "--out", str(out)])
        return [{k: v for k, v in line.items() if k not in ("seconds", "folder")} for line in records(out)]

    assert left(tmp_path / "a") == left(tmp_path / "b")


ELSEWHERE = {
    "hash seed": {"PYTHONHASHSEED": "7"},
    "locale": {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"},
    "time zone": {"TZ": "Pacific/Kiritimati"},
    "folder": {},
}


@pytest.mark.slow(guard="test_two_runs_of_one_seed_leave_the_same_results")
def test_results_are_those_of_the_seed_wherever_it_runs(tmp_path: Path) -> None:
    """Line by line, but for how long it took and what tells of the machine."""

    def left(name: str, **environment: str) -> list[dict[str, Any]]:
        out = tmp_path / name
        argv = [*BEFORE, "--cases", "40", "--out", str(out)]
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONHASHSEED"}
        here = Path("/") if name == "folder" else tmp_path
        path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])}
        done = process(*argv, env=kept | {"PYTHONHASHSEED": "0"} | path | environment, cwd=here)
        done.communicate()
        assert done.returncode == 1
        return [{k: v for k, v in line.items() if k not in ("seconds", "folder")} for line in records(out)]

    usual = left("as usual")
    assert len(usual) > 40
    for name, environment in ELSEWHERE.items():
        assert left(name, **environment) == usual, name


def test_only_refusals_confirm_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--heads", "12", "--cases", "5", "--out", str(tmp_path)]) == 3
    printed = capsys.readouterr().out
    assert "12 heads a rank: sglang takes 4, 8 or a multiple of 16" in printed
    assert printed.count("no case ran: 5 refused") == 1


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text("from backend.serving.sglang import SGLANG_BEFORE_27188\npolicy = SGLANG_BEFORE_27188\n")
    flags = ["--heads", "64", "--arch", "gfx950", "--q-dtype", "fp8", "--kv-dtype", "fp8", "--cases", "20"]
    assert main(["run", "--backend", str(rule), *flags, "--out", str(tmp_path / "out")]) == 1


def process(*argv: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fuzz.cli", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for_cases(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        results = out / "results.jsonl"
        if results.exists() and results.read_text().count('"started"') >= count:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not start")


def test_ctrl_c_stops_with_everything_written(tmp_path: Path) -> None:
    running = process(*AFTER, "--seconds", "120", "--out", str(tmp_path))
    wait_for_cases(tmp_path, 10)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 3  # interrupted before anything was found
    assert "stopping when this case is done" in err
    assert "the campaign did not run to its end" in out.splitlines()[-3]  # where it stands and how it goes on follow
    assert "less ran than was asked for" in out
    last = records(tmp_path)[-1]
    assert last["event"] == "finished"
    assert last["interrupted"] is True


@pytest.mark.parametrize(("backend", "code"), one_of_each([("sglang-before-27188", 1), ("sglang-27188", 0)]))
def test_the_verdict_stays_where_the_reader_goes_away(backend: str, code: int) -> None:
    """`| head -1`, under pipefail too."""
    command = (
        f"{sys.executable} -m fuzz.cli explain --backend {backend} --heads 64 --kv-lens 1 | head -c 14; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == f"case: 64 heads{code}\n"
    assert "Traceback" not in done.stderr


def test_nobody_need_listen() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m fuzz.cli explain --heads 64 --kv-lens 1 >&-"], capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("explain", "--heads", "64", "--kv-lens", "1"), marks=pytest.mark.slow),  # as with a fault
        ("explain", "--heads", "64", "--kv-lens", "1", "--backend", "sglang-before-27188"),
        ("explain", "no-such-file.json"),
        ("version",),
    ],
)
def test_output_that_cannot_be_written_is_no_fault_found(arguments: tuple[str, ...]) -> None:
    """On a full disk neither the result nor the complaint can be written; exit code 1 would say that faults were found."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "fuzz.cli", *arguments], stdout=full, stderr=full, check=False)
    assert done.returncode in ((2,) if "no-such-file.json" in arguments else (3,))


def test_an_error_of_our_own_is_not_taken_for_a_fault(tmp_path: Path) -> None:
    rule = tmp_path / "broken.py"
    rule.write_text("def policy(case):\n    raise ZeroDivisionError('in my own rule')\n")
    running = process("run", "--backend", str(rule), "--cases", "5", "--out", str(tmp_path / "out"))
    out = running.communicate(timeout=60)[0]
    assert running.returncode == 3
    assert f"rule {rule}: raises ZeroDivisionError: in my own rule; at {rule}:2 (policy)" in out


def test_explain_of_a_file_with_a_field_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "case.json"
    file.write_text(dumps(Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")))
    assert main(["explain", str(file)]) == 1
    assert "planner v1_0 plans rows of 16 heads" in capsys.readouterr().out
    assert main(["explain", str(file), "--backend", "sglang-27188"]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_replay_says_found_silent_and_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Path(__file__).parents[2] / "corpus"
    assert main(["replay", str(next(corpus.glob("F1-*.json"))), str(next(corpus.glob("C2-*.json")))]) == 0
    printed = capsys.readouterr().out
    assert "F1    found" in printed
    assert "C2    silent" in printed
    assert printed.endswith("1 found, 1 silent: all as recorded\n")
    entry = json.loads(next(corpus.glob("F1-*.json")).read_text())
    entry["faulty"][0]["case"]["backend"] = "sglang-27188"  # nothing to be found any more
    (tmp_path / "F1.json").write_text(json.dumps(entry))
    assert main(["replay", str(tmp_path)]) == 1
    assert "changed" in capsys.readouterr().out


def test_explain_and_replay_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    finding = Path(__file__).parents[2] / "examples" / "finding"

    def told(*arguments: str) -> Any:
        return main([*arguments, "--json"]), json.loads(capsys.readouterr().out)

    cause = "head-width/planner v1_0/planner folds finer, gfx950 fp8/fp8"
    code, shown = told("explain", str(finding))
    assert (code, shown["fate"], shown["cause"]) == (1, "faulty", cause)
    assert from_plain(Case, shown["case"]) == read_file(Case, finding / "case.json")
    assert "head-width" in {found["kind"] for found in shown["findings"]}
    code, shown = told("explain", "--heads", "64", "--kv-lens", "9", "--qlen", "6")
    assert (code, shown["fate"], shown["cause"]) == (3, "refused", None)
    assert "qSeqLen" in shown["reason"]
    code, rows = told("replay", str(finding))
    assert (code, [(row["fate"], row["signature"]) for row in rows]) == (1, [("faulty", cause)])
    code, rows = told("replay", "F1")
    assert (code, [(row["entry"], row["status"]) for row in rows]) == (0, [("F1", "found")])
    assert main(["replay", "F1", "--matrix", "--json"]) == 2
    assert "leave out --json" in capsys.readouterr().err


def test_a_known_fault_is_named_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["replay", "f1"]) == 0
    assert capsys.readouterr().out.startswith("F1    found")
    assert main(["explain", "F1"]) == 1
    assert "head-width" in capsys.readouterr().out
    assert main(["replay", "F99"]) == 2
    assert "given 'F99'" in capsys.readouterr().err
    assert main(["replay", "S1"]) == 2
    assert "aiterfuzz gate SOURCE" in capsys.readouterr().err
    (tmp_path / "F1").mkdir()
    assert main(["replay", "F1"]) == 2, "a folder of that name is what was given"


def test_version_names_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    printed = capsys.readouterr().out
    assert main(["version", "--json"]) == 0
    assert all(f"{what} " in printed and value in printed for what, value in json.loads(capsys.readouterr().out).items())
    for part in ("2988812e134a", "sglang-before-27188", "model", "numba"):
        assert part in printed


def test_help_loads_nothing_slow() -> None:
    program = (
        "import sys\nfrom fuzz.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'numba', 'rich', 'torch', 'ray'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


COMPILES = """
from numba import njit
from fuzz.compiling import announced

@njit(cache=True)
def first(n):
    return n + 1

@njit(cache=True)
def second(n):
    return n * 2

with announced():
    print(first(1), second(2))
"""


def test_compiling_is_said_once_and_only_when_it_happens(tmp_path: Path) -> None:
    """With an empty cache the first start says so, the second does not."""
    program = tmp_path / "compiles.py"
    program.write_text(COMPILES)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "2 4\n"
        said.append(done.stderr)
    assert said == ["compiling planners, first start only ...\n", ""]
