"""Chaos: campaigns of which everything is killed, stopped or starved for ten minutes come out as undisturbed ones.

AITERFUZZ_CHAOS_SECONDS and AITERFUZZ_CHAOS_SEED make it shorter and another one. Each round runs to its end and is compared
with the same cases run without workers, Ray or a store.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from disturbed import CLOCK, ENDING, Soak
from stored_outcomes import stored
from undisturbed import outcomes
from weather import everywhere

from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.read_summary import load_summary

SECONDS = float(os.environ.get("AITERFUZZ_CHAOS_SECONDS", "600"))
SEED = int(os.environ.get("AITERFUZZ_CHAOS_SEED", "1"))

KINDS = ("child", "child", "child", "stopped", "actor", "actor", "driver", "disk", "clock", "gcs", "raylet")

ROUNDS = {
    "cdna": CampaignConfig(
        "weather-calm", cases=60, chunk_cases=5, generation_chunks=4, device="cdna", max_kv_len=300, max_batch=4
    ),
    "model": CampaignConfig("weather-calm", cases=2000, chunk_cases=50, generation_chunks=8),
}


@pytest.mark.slow(guard="fuzz/campaign/test_campaign_worker.py::test_a_kill_from_outside_leaves_no_trace_in_the_results")
@pytest.mark.parametrize("device", ROUNDS)
def test_chaos_leaves_no_trace_in_the_results(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLOCK, str(tmp_path / "clock"))
    random, ends, done = Random(SEED), time.monotonic() + SECONDS, Counter[str]()
    to_come: list[str] = []
    with everywhere():
        for number in range(1000):
            if time.monotonic() >= ends and {kill.split()[0] for kill in done} >= {*KINDS}:
                break
            config = ROUNDS[device].replace(seed=number)
            soak = Soak(_flags(config), tmp_path / f"round-{number}", random, KINDS, to_come=to_come)
            code = soak.run(SECONDS / 2, (1.0, 8.0), limit=SECONDS + 1200)
            done += Counter(soak.kills)
            print(f"round {number} ({config.device}): exit {code}, {soak.kills}, ends {soak.ends}", flush=True)
            _compared(soak, config, code)
    print(f"{done.total()} disturbances: {dict(done)}")
    assert {kill.split()[0] for kill in done} >= {*KINDS}


def _compared(soak: Soak, config: CampaignConfig, code: int) -> None:
    said = soak.folder.with_suffix(".log").read_text()
    assert set(soak.ends) <= {3, -9}, (soak.ends, soak.kills)
    assert len(soak.ends) <= sum(kill.split()[0] in ENDING for kill in soak.kills)
    summary = load_summary(soak.folder)
    assert summary.complete, said
    assert not summary.lost_chunks
    wanted = outcomes(config)
    found = stored(soak.folder)
    # A child that was killed twice at the same case is told of; the case has its outcome all the same.
    assert len(summary.not_reproduced) <= sum(kill.startswith(("child", "stopped")) for kill in soak.kills) // 2
    assert found == wanted
    faulty = Counter(label.text for labels in wanted.values() for label in labels if label.fate == "faulty")
    assert {finding.signature: finding.count for finding in summary.findings} == dict(faulty)
    assert not summary.counts.died
    assert code == (1 if faulty else summary.exit_code), said
    assert "Traceback" not in said, said


def _flags(config: CampaignConfig) -> list[str]:
    limits = ["--cases", str(config.cases), "--chunk-cases", str(config.chunk_cases), "--seed", str(config.seed)]
    limits += ["--generation-chunks", str(config.generation_chunks), "--workers", "2", "--no-verify", "--repeats", "1"]
    sizes = ["--max-kv", str(config.max_kv_len), "--max-batch", str(config.max_batch)]
    slow = "weather-takes_its_time" if config.device == "model" else config.backend
    return ["--backend", slow, "--device", config.device, *limits, *sizes, "--shrink-tries", "10", "--case-seconds", "30"]
