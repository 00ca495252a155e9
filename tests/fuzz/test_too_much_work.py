"""A case that would take gigabytes or minutes is not begun: its estimate is said, exit code 3, by whatever command meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.case import MAX_KV_LEN, Case
from backend.errors import UnmodelledError
from backend.serving.policy import MOST_ENTRIES, MOST_ROWS, require_feasible
from fuzz.cli import main

HUGE = {
    "long requests": {"num_head": 16, "kv_lens": [MAX_KV_LEN] * 600},
    "longer ones in pages": {"num_head": 16, "kv_lens": [MAX_KV_LEN] * 65536, "page_size": 64},
    "long lists": {"num_head": 16, "kv_lens": [9] * 3_000_000, "topk": 2048, "backend": "direct", "mode": "fast"},
    "many requests": {"num_head": 64, "kv_lens": [1] * 100_000, "max_seqlen_q": 64, "backend": "direct", "mode": "fast"},
}


@pytest.mark.parametrize("device", ["model", "cdna"])
@pytest.mark.parametrize("name", HUGE)
def test_it_is_not_begun(name: str, device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "case.json"
    file.write_text(json.dumps(HUGE[name]))
    assert main(["explain", str(file), "--device", device]) == 3
    printed = capsys.readouterr()
    (said,) = [line for line in printed.err.splitlines() if line.startswith("aiterfuzz: ")]
    assert "too much work" in said
    assert " GB; up to " in said


def test_one_in_a_corpus_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Path(__file__).parents[2] / "corpus"
    entry = json.loads(next(corpus.glob("F1-*.json")).read_text())
    entry["faulty"][0]["case"]["kv_lens"] = [MAX_KV_LEN] * 600
    (tmp_path / "F1.json").write_text(json.dumps(entry))
    assert main(["replay", str(tmp_path)]) == 3
    assert "too much work" in capsys.readouterr().out


def test_what_a_rule_chooses_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text(
        "import dataclasses\nfrom backend.serving.sglang import SGLANG_27188\n"
        "def policy(case):\n    return dataclasses.replace(SGLANG_27188(case), sizing_batch=10**12)\n"
    )
    assert main(["explain", "--backend", str(rule), "--heads", "32", "--kv-lens", "9"]) == 3
    assert "too much work" in capsys.readouterr().err


def test_what_is_drawn_is_small_enough() -> None:
    """The bounds are no narrower than what serving sends: a full batch of long requests is run."""
    require_feasible(Case(32, (163_840,) * 512), 1, 0, MOST_ROWS)
    require_feasible(Case(32, (MAX_KV_LEN,) * 65_536), 1 << 40, 0, 0)
    with pytest.raises(UnmodelledError, match="too much work"):
        require_feasible(Case(32, (MAX_KV_LEN,) * (MOST_ENTRIES // MAX_KV_LEN + 1)), 1, 0, 0)


def test_the_machine_takes_less_than_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["explain", "--heads", "16", "--kv-lens", ",".join([str(MAX_KV_LEN)] * 5)]
    assert main(asked) in (0, 1)
    assert main([*asked, "--device", "cdna"]) == 3
    assert "too much work: 20,971,520 KV tokens would take about 3 minutes" in capsys.readouterr().err
