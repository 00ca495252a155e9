"""Faults planted in sglang's real file are blamed on it; known faults of the frameworks show where their entries say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from backend.case import Arch
from backend.devices.kinds import open_device
from backend.errors import NoSuchStepError, UsageError
from backend.real.frameworks.fetch import open_source
from benchmarks.gate_mutants import EVERY_MUTANT, SOURCE, Mutation
from fuzz.gate.frameworks import framework_faults
from fuzz.gate.judge import Judge, Sighting
from reprod.corpus import shipped_corpus
from tests.kept_sources import KeptSources
from tests.tiers import one_of_each


@pytest.mark.slow(guard="test_some_mutants_are_blamed")
def test_every_mutant_is_one_change_of_the_real_file() -> None:
    original = open_source(SOURCE).target.text
    texts = [mutant.text(original) for mutant in EVERY_MUTANT]
    assert len(set(texts)) == len(texts) >= 20
    assert original not in texts
    for text in texts:
        compile(text, "mutant", "exec")
    assert {mutant.area for mutant in EVERY_MUTANT} >= {
        *("gate", "padding", "splits", "sizes", "indptrs", "lengths", "buffers", "dtypes", "granularity")
    }


def test_some_mutants_are_blamed(kept_sources: KeptSources, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind of evidence: a stray write, another batch's lengths, a plan left over, buffers too small."""
    names = (
        "o of the heads before padding",
        "kv_indptr not summed",
        "replays launch without their plan",
        "half of work_info_set",
    )
    chosen = [mutant for mutant in EVERY_MUTANT if mutant.name in names]
    assert len(chosen) == len(names)
    monkeypatch.setattr("benchmarks.gate_mutants.SourceSession", kept_sources.open)
    with Mutation(heads=(8, 64), lives=0) as mutation:
        assert {mutant.name for mutant in chosen if not mutation.verdict(mutant).killed} == set()


@pytest.mark.slow(guard="test_some_mutants_are_blamed")
def test_nine_of_ten_mutants_are_blamed() -> None:
    with Mutation() as mutation:
        verdicts = [mutation.verdict(mutant) for mutant in EVERY_MUTANT]
    survivors = {v.mutant.name for v in verdicts if not (v.killed or v.by_random)}
    assert survivors == {mutant.name for mutant in EVERY_MUTANT if mutant.survives}
    assert len(survivors) <= len(EVERY_MUTANT) // 10


WHEELS = ("0.5.12.post1", "0.5.13", "0.5.23")
HAVE = {
    "S1": WHEELS,
    "S2": WHEELS[:1],
    "S3": WHEELS[:2],
    "S4": (),
    "S5": WHEELS[:2],
    "S6": WHEELS,
    "S7": WHEELS,
    "S8": (),
    "S9": (),
    "S10": WHEELS,
}
"""Releases of sglang that have each fault: S2 was mended in 0.5.13, the mode of S3 went with 0.5.14, S4 is vLLM's, S5 went with
0.5.23; S8 and S9 are of another file."""


@pytest.mark.parametrize("wheel", one_of_each(WHEELS))
def test_framework_entries_show_where_they_say(wheel: str, kept_sources: KeptSources) -> None:
    entries = framework_faults(shipped_corpus())
    assert {entry.id for entry in entries} == set(HAVE)
    seen: set[str] = set()
    with kept_sources.open(f"sglang=={wheel}") as session:
        for entry in entries:
            for scenario in entry.scenarios:
                judge = Judge(open_device("model", None))
                try:
                    sightings = judge.judged(scenario, session.run(scenario)).sightings
                except NoSuchStepError:
                    continue
                if any(sighting.signature.startswith("head-width") for sighting in sightings):
                    continue  # 64 heads before #27188: a cause that hides the others
                assert all(entry.is_it(sighting) for sighting in sightings)
                if sightings:
                    seen.add(entry.id)
    assert seen == {name for name, wheels in HAVE.items() if wheel in wheels}


@pytest.mark.parametrize(
    ("version", "heads", "shows"),
    one_of_each([("0.27.0", 32, True), ("0.27.0", 64, False), ("0.20.0", 32, False)], lambda row: row[2]),
)
def test_vllm_plans_padded_replays_of_folded_heads_by_lengths_of_nobody(
    version: str, heads: int, shows: bool, kept_sources: KeptSources
) -> None:
    """S4; heads that are not folded, and the release that passed one length for all requests, do without."""
    (entry,) = [entry for entry in framework_faults(shipped_corpus()) if entry.id == "S4"]
    (scenario,) = entry.scenarios
    scenario = dataclasses.replace(scenario, backends=(dataclasses.replace(scenario.backends[0], num_head=heads),))
    with kept_sources.open(f"vllm=={version}") as session:
        sightings = Judge(open_device("model", None)).judged(scenario, session.run(scenario)).sightings
    assert any(entry.is_it(sighting) for sighting in sightings) is shows


def test_an_entry_is_a_fault_of_its_own_kind_of_life_only() -> None:
    (splits,) = [entry for entry in framework_faults(shipped_corpus()) if entry.id == "S1"]
    scenario = splits.scenarios[0]
    alone = dataclasses.replace(scenario, backends=(dataclasses.replace(scenario.backends[0], dp_attention=False),))
    assert splits.life.fits(scenario)
    assert not splits.life.fits(alone)
    blank = Sighting("buffer-too-small/recorded/sized for another num_kv_splits", *(None,) * 8, scenario)  # type: ignore[arg-type]
    assert splits.is_it(blank)
    assert not splits.is_it(dataclasses.replace(blank, scenario=alone))
    assert not splits.is_it(dataclasses.replace(blank, signature="buffer-too-small/recorded/sized for another batch"))


def test_an_entry_of_one_gpu_is_none_on_another() -> None:
    (pieces,) = [entry for entry in framework_faults(shipped_corpus()) if entry.id == "S7"]
    there = pieces.scenarios[0]
    elsewhere = dataclasses.replace(there, arch=Arch.GFX950)
    blank = Sighting("planner-overrun/planner v1_0/work_info_set/past the end", *(None,) * 8, there)  # type: ignore[arg-type]
    assert pieces.is_it(blank)
    assert not pieces.is_it(dataclasses.replace(blank, scenario=elsewhere))


def test_an_entry_of_one_file_is_none_in_another() -> None:
    (pool,) = [entry for entry in framework_faults(shipped_corpus()) if entry.id == "S8"]
    shown = Sighting("plan-mismatch/recorded/requests of kv_indptr", *(None,) * 8, pool.scenarios[0])  # type: ignore[arg-type]
    for line, expected in (("tree/dsa_backend.py:888", True), ("tree/aiter_backend.py:888", False), (None, False)):
        assert pool.is_it(dataclasses.replace(shown, line=line)) is expected


def test_a_broken_entry_is_named(tmp_path: Path) -> None:
    corpus = shipped_corpus()
    assert corpus is not None
    (tmp_path / "frameworks").mkdir()
    text = (corpus / "frameworks" / "S1-splits-of-a-smaller-batch.json").read_text()
    (tmp_path / "frameworks" / "S99-other.json").write_text(text)
    with pytest.raises(UsageError, match=r"S99-other\.json: id"):
        framework_faults(tmp_path)
    (tmp_path / "frameworks" / "S99-other.json").unlink()
    wrong = text.replace('"graph_batches": [40, 64], "dp_attention": true', '"graph_batches": [40, 64]')
    (tmp_path / "frameworks" / "S1-x.json").write_text(wrong)
    with pytest.raises(UsageError, match=r"S1-x\.json: scenarios"):
        framework_faults(tmp_path)
