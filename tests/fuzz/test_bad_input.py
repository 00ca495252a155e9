"""What is given wrongly is answered by one line (given, allowed, what to do), exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from complaints import one_complaint

from backend.case import Case
from backend.codec import dumps, to_plain
from fuzz.cli import main

GOOD_CASE = to_plain(Case(num_head=64, kv_lens=(1,)))


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that must exit 2 and print nothing else."""
    code = main(argv)
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    line = one_complaint(printed.err)
    assert line.startswith("aiterfuzz: ")
    return line


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--backend", "trt"], ["'trt'", "sglang-27188", "vllm", "module:name"]),
        (["--backend", "no_such_module:f"], ["no_such_module", "cannot be imported"]),
        (["--backend", "os:no_such_rule"], ["no function 'no_such_rule'"]),
        (["--backend", "nowhere.py"], ["no such file", "nowhere.py"]),
        (["--release", "2020-01"], ["2020-01", "2025-11, 2026-06, 2026-08"]),
        (["--arch", "gfx90a"], ["'gfx90a'", "gfx942, gfx950"]),
        (["--shapes", "tp3"], ["'tp3'", "tp1, tp2, tp4, tp8", "--heads"]),
        (["--shapes", "tp2,,tp4"], ["'tp2,,tp4'", "single commas"]),
        (["--shapes", "tp2", "--model", "gpt-2"], ["'gpt-2'", "deepseek-r1, deepseek-v3.2, kimi-k2, kimi-k3"]),
        (["--heads", "many"], ["--heads", "'many'", "whole numbers"]),
        (["--heads", "0"], ["num_head", "0", "1..1024"]),
        (["--mode", "faster"], ["'faster'", "non-persistent, fake, greedy, fast"]),
        (["--qlen", "65"], ["max_seqlen_q", "65", "1..64"]),
        (["--page-size", "3"], ["page_size", "3", "power of two"]),
        (["--q-dtype", "fp16"], ["'fp16'", "bf16, fp8"]),
        (["--arch", "gfx942", "--q-dtype", "fp8"], ["gfx942", "sends:", "name all of"]),
        (["--cases", "0"], ["--cases", "'0'", "at least 1"]),
        (["--cases", "1e9"], ["--cases", "'1e9'", "whole number"]),
        (["--seconds", "-1"], ["--seconds", "'-1'", "above 0"]),
        (["--seconds", "inf"], ["--seconds", "'inf'", "above 0"]),
        (["--seed", "-1"], ["--seed", "'-1'", "at least 0"]),
        (["--max-batch", "100000"], ["largest batch", "100000", "1..65536"]),
        (["--max-kv", "1"], ["longest kv", "1", "8.."]),
        (["--device", "tpu"], ["'tpu'", "model"]),
        (["--aiter", "/no/such/checkout"], ["/no/such/checkout", "clone ROCm/aiter"]),
        (["--no-such-flag"], ["--no-such-flag", "--help"]),
        (["--seed"], ["--seed", "expected one argument", "aiterfuzz run --help"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_run(argv: list[str], told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = complaint(capsys, "run", "--out", str(out), *argv)
    for part in told:
        assert part in line
    assert not out.exists()


def test_a_policy_file_that_raises_or_lacks_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text("def other(case): ...\n")
    assert "no function 'policy'" in complaint(capsys, "run", "--out", str(tmp_path / "out"), "--backend", str(rule))
    rule.write_text("1 / 0\n")
    assert "ZeroDivisionError" in complaint(capsys, "run", "--out", str(tmp_path / "out"), "--backend", str(rule))
    assert not (tmp_path / "out").exists()


def test_no_command_and_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "COMMAND" in complaint(capsys)
    assert "'fuzz'" in complaint(capsys, "fuzz")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", ["not JSON", "line 1"]),
        ("[]", ["an object"]),
        (json.dumps({**GOOD_CASE, "color": 1}), ["unknown field", "'color'", "num_head"]),
        (json.dumps({"kv_lens": [1]}), ["'num_head' is missing"]),
        (json.dumps({**GOOD_CASE, "num_head": "64"}), ["num_head", "'64'", "int"]),
        (json.dumps({**GOOD_CASE, "kv_lens": [1, None]}), ["kv_lens[1]", "None"]),
        (json.dumps({**GOOD_CASE, "kv_lens": []}), ["kv_lens", "at least one request"]),
        (json.dumps({**GOOD_CASE, "kv_lens": [-1]}), ["kv_lens", "-1", "0.."]),
        (json.dumps({**GOOD_CASE, "arch": "gfx1100"}), ["arch", "'gfx1100'", "gfx942, gfx950"]),
        (json.dumps({**GOOD_CASE, "release": "2019-01"}), ["release", "'2019-01'", "2025-11"]),
        (json.dumps({**GOOD_CASE, "backend": "trt"}), ["backend", "'trt'", "sglang-27188"]),
        (json.dumps({**GOOD_CASE, "graph_batch": 0}), ["graph_batch", "0", "1..65536"]),
        (json.dumps({**GOOD_CASE, "kv_lens": [1, 1], "graph_batch": 1}), ["graph_batch", "1", ">= batch 2"]),
        (b"\xff\xfe", ["cannot be read"]),
    ],
)
def test_explain_of_a_broken_file(
    content: str | bytes, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "case.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = complaint(capsys, "explain", str(file))
    for part in told:
        assert part in line


def test_explain_of_impossible_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = "a finding's folder, its case.json, a corpus entry or its id (F1), or at least --heads and --kv-lens"
    assert f"give {allowed}" in complaint(capsys, "explain")
    assert "at least --kv-lens" in complaint(capsys, "explain", "--heads", "64")
    assert "query_lens" in complaint(capsys, "explain", "--heads", "64", "--kv-lens", "5", "--query-lens", "1,2")
    assert "missing.json" in complaint(capsys, "explain", str(tmp_path / "missing.json"))
    file = tmp_path / "case.json"
    file.write_text(dumps(Case(num_head=64, kv_lens=(1,))))
    assert "page_size" in complaint(capsys, "explain", str(file), "--page-size", "5")


def test_replay_of_no_corpus_and_of_a_broken_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "corpus" in complaint(capsys, "replay", str(tmp_path))
    (tmp_path / "F1.json").write_text('{"id": "F1"}')
    line = complaint(capsys, "replay", str(tmp_path))
    assert "F1.json" in line
    assert "missing" in line


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_a_folder_that_cannot_be_written_to(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("mine")
    out = blocker if what == "a file" else blocker / "below"
    line = complaint(capsys, "run", "--out", str(out))
    assert "--out" in line
    assert str(out) in line
    assert "give another folder" in line
    assert blocker.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in complaint(capsys, "run", "--out", str(tmp_path / "out"))


def test_the_installed_command_answers_so_too(tmp_path: Path) -> None:
    """As a shell sees it: a process, its exit code, its streams."""
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.cli", "run", "--shapes", "tp3", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "aiterfuzz: shape: given 'tp3'; allowed: tp1, tp2, tp4, tp8; or give --heads\n"


@pytest.mark.parametrize(
    ("argv", "meant", "whose"),
    [
        (["runn"], "run", "aiterfuzz --help"),
        (["corpus", "ad"], "add", "aiterfuzz corpus --help"),
        (["run", "--casess", "3"], "--cases", "aiterfuzz run --help"),
        (["run", "--casess=3"], "--cases", "aiterfuzz run --help"),
        (["accuracy", "kernels", "--hed", "16"], "--heads", "aiterfuzz accuracy kernels --help"),
    ],
)
def test_a_slip_of_the_pen(argv: list[str], meant: str, whose: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, *argv)
    assert f"; did you mean {meant}?" in said
    assert said.rstrip().endswith(f"see {whose}")


def test_what_is_like_nothing_is_not_guessed_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in complaint(capsys, "run", "--zzz")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([flag])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"aiterfuzz {metadata.version('aiterfuzz')}\n"
