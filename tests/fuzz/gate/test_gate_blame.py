"""Who is blamed between sglang 0.5.12.post1 and 0.5.13 where the one file shows a fault first that the other has mended."""

from __future__ import annotations

import dataclasses
import functools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.case import Arch, DType
from backend.real.frameworks.fetch import LENT, open_source
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from fuzz.gate.comparison import Comparison, FaultStanding, compared
from fuzz.gate.gate import EVERY_RELEASE, Examination, Examined, GatePlan, Stack
from fuzz.gate.judge import Sighting
from fuzz.gate.known import Known
from fuzz.gate.life import EVERYTHING, under
from fuzz.gate.run import cut_down, live
from fuzz.gate.sweep import Tensors

pytestmark = pytest.mark.usefixtures("sources_kept_open")

OLD, NEW = "sglang==0.5.12.post1", "sglang==0.5.13"
BF16 = Tensors(Arch.GFX950, DType.BF16, DType.BF16)
PLAN = GatePlan((BF16,), (80,), lives=3)


def paged(heads: int, kv_lens: tuple[int, ...] = (400,)) -> Scenario:
    """A replay in pages of 64, for which 0.5.12.post1 allocates too few indices (S2)."""
    config = BackendConfig(heads, DType.BF16, DType.BF16, page_size=64, graph_batches=(1,))
    return Scenario("paged replay", (config,), (Step(StepKind.DECODE, kv_lens, graph=True),), release=EVERY_RELEASE)


@functools.cache
def ran(source: str, scenario: Scenario) -> Examined:
    with Examination(Stack(source, release=EVERY_RELEASE), PLAN, workers=1) as one:
        one.run([scenario])
        return one.examined()


def beside(change: str, scenario: Scenario) -> Comparison:
    known = Known()
    return compared(ran(change, scenario), ran(OLD, scenario), known.reference, known.is_open)


def test_a_fault_behind_one_that_the_change_mends_is_in_the_base_too() -> None:
    """O1, of which only the replay's sighting is looked at: the base's replay shows S2 first."""
    old, new = ran(OLD, paged(80)), ran(NEW, paged(80))
    replayed = [each for each in new.sightings if each.phase == "replay"]
    assert {each.signature.split("/")[0] for each in replayed} == {"head-width"}
    assert {each.signature.split("/")[0] for each in old.sightings if each.phase == "replay"} == {"bad-indptr"}
    (judged,) = old.swept
    assert {(each.signature, each.behind.split("/")[0]) for each in judged.behind} == {(replayed[0].signature, "bad-indptr")}


def without_32_heads(folder: Path) -> str:
    """0.5.13 with 32 heads in bf16 taken out of the fast mode."""
    text = open_source(NEW).target.text
    assert text.count("in (32, 64, 128)") == 1
    file = folder / "mine.py"
    file.write_text(text.replace("in (32, 64, 128)", "in (64, 128)"))
    return f"{file}{LENT}{NEW}"


@pytest.mark.slow(guard="test_a_fault_behind_one_that_the_change_mends_is_in_the_base_too")
def test_the_same_fault_is_blamed_on_a_change_that_brings_it_there(tmp_path: Path) -> None:
    """In a file that mends S2 in the same step."""
    found = beside(without_32_heads(tmp_path), paged(32))
    assert [(fault.signature.split("/")[0], fault.standing) for fault in found.blamed] == [("head-width", FaultStanding.NEW)]
    assert not beside(NEW, paged(32)).faults


def blamed(change: Examined, base: Examined | None) -> list[Sighting]:
    known = Known()
    return [fault.smallest for fault in compared(change, base, known.reference, known.is_open).blamed]


@pytest.mark.slow(guard="fuzz/gate/test_gate_lives.py::test_a_planted_fault_shrinks_to_the_minimum")
def test_the_worst_fault_of_a_sweep_is_cut_down_while_there_is_time_and_only_as_far_as_the_change_is_to_blame(
    tmp_path: Path,
) -> None:
    """What a comment has as a script."""
    config = BackendConfig(32, DType.BF16, DType.BF16, page_size=64)
    steps = tuple(Step(StepKind.DECODE, lens, backend=at) for at, lens in ((1, (9,)), (0, (90, 30)), (1, (5, 7))))
    life = Scenario("several things", (config, config), steps, release=EVERY_RELEASE)
    change, base = Stack(without_32_heads(tmp_path), release=EVERY_RELEASE), Stack(NEW, release=EVERY_RELEASE)
    with (
        ThreadPoolExecutor(2) as both,
        Examination(change, PLAN, workers=1) as mine,
        Examination(base, PLAN, workers=1) as theirs,
    ):
        for side in (mine, theirs):
            side.run([life])
        cut_down((mine, theirs), both, blamed, until=0.0)
        assert [each.scenario for each in mine.examined().swept] == [life]
        cut_down((mine, theirs), both, blamed, until=math.inf)
        seen, before = mine.examined(), theirs.examined()
    (_, smallest), (_, beside_it) = ([each.scenario for each in side.swept] for side in (seen, before))
    assert beside_it == smallest
    assert smallest.steps == (Step(StepKind.DECODE, (1,)),)
    assert smallest.backends == (BackendConfig(32, DType.BF16, DType.BF16),)
    (worst,) = blamed(seen, before)
    assert worst.scenario == smallest
    assert worst.signature.startswith("head-width")


def with_indices_kept(folder: Path) -> str:
    """0.5.13 that keeps the KV rows of a batch by its lengths, whoever holds them."""
    text = open_source(NEW).target.text
    made = """                    kv_indices = self._get_kv_indices_scratch(
                        forward_batch.seq_lens_sum, forward_batch.seq_lens.device
                    )
"""
    last = """                        self.req_to_token.stride(0),
                    )
                else:
                    max_q_len = 1
"""
    begin = text.index(made)
    at = text.index(last, begin)
    kept = last.replace(
        "                else",
        """                    kept = self.__dict__.setdefault("_kept", {})
                    kv_indices = kept.setdefault(
                        tuple(forward_batch.seq_lens.tolist()), kv_indices.clone()
                    )
                else""",
    )
    file = folder / "mine.py"
    file.write_text(text[:at] + kept + text[at + len(last) :])
    return f"{file}{LENT}{NEW}"


def test_a_life_is_run_by_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random one, of the file beside itself."""
    monkeypatch.setattr(Examination, "settings", ())
    plan = dataclasses.replace(PLAN, heads=(16,), lives=1)
    with (
        ThreadPoolExecutor(2) as both,
        Examination(Stack(NEW, release=EVERY_RELEASE), plan, workers=1) as mine,
        Examination(Stack(NEW, release=EVERY_RELEASE), plan, workers=1) as theirs,
    ):
        live((mine, theirs), both, blamed, plan, math.inf)
        seen, before = mine.examined(), theirs.examined()
    assert seen.random == before.random == 1
    assert seen.counts == before.counts
    assert seen.counts.clean + seen.counts.faulty > 0
    assert blamed(seen, before) == []


@pytest.mark.slow(guard="test_a_life_is_run_by_both_sides")
def test_lives_find_what_a_request_leaves_to_the_next_one_and_cut_it_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scenario of a sweep has requests that come and go: with their rows in order, the plant is no fault."""
    monkeypatch.setattr(Examination, "settings", ())
    fp8 = Tensors(Arch.GFX950, DType.FP8, DType.FP8)
    plan = dataclasses.replace(PLAN, tensors=(fp8,), heads=(16,), seed=10, lives=1)
    change, base = Stack(with_indices_kept(tmp_path), release=EVERY_RELEASE), Stack(NEW, release=EVERY_RELEASE)
    with (
        ThreadPoolExecutor(2) as both,
        Examination(change, plan, workers=1) as mine,
        Examination(base, plan, workers=1) as theirs,
    ):
        live((mine, theirs), both, blamed, plan, math.inf)
        seen, before = mine.examined(), theirs.examined()
    assert seen.random == before.random == 1
    (found,) = blamed(seen, before)
    assert found.signature == "contradiction/kv_indices"
    one, other = found.scenario.steps
    assert one.kv_lens == other.kv_lens == (2,), "one token would have its KV where the last one had it"
    assert one.requests != other.requests


SMALL = 'get_bool_env_var("SGLANG_AITER_MLA_SMALL")'
"""A variable that no release of sglang's reads."""


def under_a_variable(folder: Path) -> str:
    """0.5.13 that allocates half of work_info_set while a variable of its own is set."""
    text = open_source(NEW).target.text
    room = "            work_info_set_size,\n            dtype"
    assert text.count(room) == 1
    half = f"            (work_info_set_size[0] // (2 if {SMALL} else 1), 8),\n            dtype"
    file = folder / "mine.py"
    file.write_text(text.replace(room, half))
    return f"{file}{LENT}{NEW}"


@pytest.mark.slow(guard="fuzz/gate/test_gate_lives.py::test_a_variable_is_kept_where_the_fault_needs_it")
def test_a_variable_that_the_change_alone_reads_is_set(tmp_path: Path) -> None:
    """The smallest life keeps it; what the base reads too is tried where a life is under it."""
    fp8 = Tensors(Arch.GFX950, DType.FP8, DType.FP8)
    plan = dataclasses.replace(PLAN, tensors=(fp8,), heads=(16,), lives=0)
    change, base = Stack(under_a_variable(tmp_path), release=EVERY_RELEASE), Stack(NEW, release=EVERY_RELEASE)
    with (
        ThreadPoolExecutor(2) as both,
        Examination(change, plan, workers=1) as mine,
        Examination(base, plan, workers=1) as theirs,
    ):
        live((mine, theirs), both, blamed, plan, math.inf)
        seen, before = mine.examined(), theirs.examined()
    (found,) = blamed(seen, before)
    assert found.signature.startswith("buffer-too-small")
    assert found.scenario.environment == (("SGLANG_AITER_MLA_SMALL", "1"),)
    assert found.scenario.steps == (), "a capture shows it"
    assert ("SGLANG_AITER_MLA_PERSIST", "0") in theirs.settings


def test_no_life_is_under_a_variable_under_which_a_lone_file_is_not_right() -> None:
    """MLA reads another row of KV than the request holds where sglang is told to use its unified attention."""
    fp8 = Tensors(Arch.GFX950, DType.FP8, DType.FP8)
    plan = dataclasses.replace(PLAN, tensors=(fp8,), heads=(16,))
    asked = ("SGLANG_USE_AITER_UNIFIED_ATTN", "1"), ("SGLANG_AITER_UNIFIED_VERIFY", "0")
    with Examination(Stack(NEW, release=EVERY_RELEASE), plan, workers=1) as one:
        others = [each for each in one.asked if each.flags or any(name.startswith("VLLM_") for name, _ in each.environment)]
        assert one.asked
        assert not others, "what other files do is not asked of this one, nor missed where time is over"
        seen = [one.alone(under(setting, fp8, 16, EVERY_RELEASE, EVERYTHING)) for setting in asked]
        assert [one.can_be_under(*each, needs_to_be_right=True) for each in zip(asked, seen, strict=True)] == [False, True]
        assert one.examined().no_life_under == {asked[0]: "contradiction/kv_indices"}
        assert one.can_be_under(asked[0], seen[0], needs_to_be_right=False), "beside a base it is compared"
        assert not one.examined().sightings
