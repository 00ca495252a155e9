"""What is refused and what is a fault does not depend on who asks: `run`, the gate, a script's watcher, decide."""

from __future__ import annotations

import dataclasses
from typing import NoReturn

import numpy as np
import pytest

from backend.aiter.arguments import BufferSizes, DecodeArguments, PlanArguments, TargetGpu
from backend.aiter.launch import Launch, Refusal
from backend.aiter.planners import Plan
from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.decision import Decision
from backend.devices.model.device import ModelDevice
from backend.fate import Fate
from backend.host import BuiltIn
from backend.path import Path, judge
from backend.real.frameworks.record import Phase, RecordedStep, Recording
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.steps import RECORDED, PassedBuffers, decision_of, outcome_of
from backend.real.noted_call import PassedBuffer
from backend.serving.policy import decide
from backend.serving.registry import policy
from fuzz.gate.judge import Judge, Judged
from tests.scenes import BUFFER_ROLES

REJECTED = Case(8, (9, 40), max_seqlen_q=4, backend="direct", mode=MetadataMode.FAKE)
"""8 heads with 4 rows: v1_0 refuses to plan; its launch by itself would go through and leave rows unwritten."""


def recorded(case: Case) -> RecordedStep:
    """The step of a backend file that asks AITER for just what the policy of a case asks for."""
    decision = decide(policy(case.backend), case)
    assert isinstance(decision, Decision)
    made = Path().call(case)
    assert isinstance(made, Call)
    assert made.allocated is not None
    sizes = made.allocated
    passed = tuple(
        PassedBuffer(role, tag, 0, words, words, "int32")
        for tag, role in enumerate(BUFFER_ROLES)
        if (words := getattr(sizes, role, 2 if role == "work_metadata" else 0))
    )
    return RecordedStep(
        scenario="plain",
        step=0,
        call=0,
        phase=Phase.EAGER,
        kind=StepKind.DECODE,
        backend=0,
        release=case.release,
        device=made.device,
        num_head=case.num_head,
        kv_lens=case.kv_lens,
        query_lens=decision.query_lens,
        padded=0,
        padded_kv_len=0,
        slots=decision.decode.kv_indices,
        sizing=decision.sizing,
        planning=decision.planning,
        decode=made.decode,
        planning_buffers=passed,
        decode_buffers=passed,
        lines={},
        ignored=(),
        strays=(),
        q_dtype_name="",
        kv_dtype_name="",
    )


def test_a_plan_that_aiter_rejects_is_refused_for_everyone() -> None:
    """The judge of the gate said: silent, a row is not written."""
    ran = Path().run(REJECTED)
    assert (ran.fate, ran.faulty) == (Fate.REFUSED, False)
    step = recorded(REJECTED)
    again = outcome_of(step, ModelDevice())
    assert (again.fate, again.reason) == (Fate.REFUSED, ran.reason)
    scenario = Scenario("plain", (BackendConfig(8),), (Step(StepKind.DECODE, (1,)),))
    gate = Judge(ModelDevice())
    judged = gate.judged(scenario, Recording("plain", (step,), ()))
    assert [sighting.did_not_run for sighting in judged.sightings] == [True]
    assert (judged.ran.total(), judged.fates) == (0, {Fate.REFUSED: 1})


def judged(step: RecordedStep) -> Judged:
    scenario = Scenario("plain", (BackendConfig(step.num_head),), (Step(StepKind.DECODE, (1,)),))
    return Judge(ModelDevice()).judged(scenario, Recording("plain", (step,), ()))


def bf16(heads: int, mode: MetadataMode) -> RecordedStep:
    return recorded(Case(heads, (9, 700), q_dtype=DType.BF16, kv_dtype=DType.BF16, backend="direct", mode=mode))


@pytest.mark.parametrize(
    ("step", "behind"),
    [
        (bf16(80, MetadataMode.FAKE), ["head-width/planner v1_0/planner folds finer, gfx950 bf16/bf16"]),
        (bf16(80, MetadataMode.FAST), []),
        (bf16(32, MetadataMode.FAST), []),
    ],
    ids=["O1 behind it", "nothing, another mode", "nothing"],
)
def test_what_a_step_has_behind_index_tensors_of_another_batch(step: RecordedStep, behind: list[str]) -> None:
    short = dataclasses.replace(step.decode, kv_indices=step.decode.kv_indices[:8])
    made = judged(dataclasses.replace(step, decode=short))
    assert [each.signature for each in made.sightings] == ["bad-indptr/recorded/kv_indptr/past kv_indices"]
    assert list(dict.fromkeys(each.signature for each in made.behind)) == behind
    assert {each.behind for each in made.behind} <= {made.sightings[0].signature}


def test_buffers_too_small_are_behind_index_tensors() -> None:
    """What a step has behind both is what it has with buffers that are large enough."""
    step = bf16(80, MetadataMode.FAKE)
    small = tuple(dataclasses.replace(each, words=min(each.words, 16)) for each in step.planning_buffers)
    small_step = dataclasses.replace(step, planning_buffers=small, decode_buffers=small)
    made = judged(small_step)
    assert made.sightings[0].signature.startswith("buffer-too-small")
    assert {each.signature.split("/")[0] for each in made.behind} == {"head-width"}
    short = dataclasses.replace(small_step.decode, kv_indices=small_step.decode.kv_indices[:8])
    both = judged(dataclasses.replace(small_step, decode=short))
    assert both.sightings[0].signature.startswith("bad-indptr")
    assert {each.signature.split("/")[0] for each in both.behind} == {"buffer-too-small", "head-width"}


@pytest.mark.parametrize("ends", [(0, 1, 0), (0, 1)], ids=["descends", "ends before the padding"])
def test_padded_rows_of_a_qo_indptr_that_makes_no_sense_are_judged(ends: tuple[int, ...]) -> None:
    """int64 entries read as words descend; a judge that fell over said nothing."""
    step = bf16(32, MetadataMode.FAST)
    decode = dataclasses.replace(step.decode, qo_indptr=np.asarray(ends, np.int32))
    padded = dataclasses.replace(step, kv_lens=(9,), query_lens=(1,), padded=1, padded_kv_len=700, slots=step.slots[:9])
    made = judged(dataclasses.replace(padded, decode=decode))
    assert made.sightings[0].signature.split("/")[0] in ("bad-indptr", "plan-mismatch")


def test_a_contradiction_that_follows_from_the_first_fault_is_not_behind_it() -> None:
    """A list that is too short does not hold the requests' rows either; one that is long enough and wrong is another fault."""
    step = bf16(32, MetadataMode.FAST)
    short = judged(dataclasses.replace(step, decode=dataclasses.replace(step.decode, kv_indices=step.decode.kv_indices[:8])))
    assert not short.behind
    wrong = judged(dataclasses.replace(step, slots=step.slots + 1))
    assert [each.signature for each in wrong.sightings] == ["contradiction/kv_indices"]


@pytest.mark.parametrize("mode", [None, *MetadataMode])
@pytest.mark.parametrize(("heads", "rows"), [(8, 4), (16, 1), (16, 5), (64, 1), (64, 3)])
def test_a_recorded_step_comes_to_what_its_case_comes_to(heads: int, rows: int, mode: MetadataMode | None) -> None:
    case = Case(heads, (9, 700), max_seqlen_q=rows, backend="direct", mode=mode)
    made = Path().call(case)
    if not isinstance(made, Call) or made.allocated is None:
        pytest.skip("nothing is planned")
    ran, again = judge(made, ModelDevice()), outcome_of(recorded(case), ModelDevice())
    assert (ran.fate, ran.reason) == (again.fate, again.reason)
    assert [f.signature for f in ran.findings] == [f.signature for f in again.findings]


class Asked(BuiltIn):
    """AITER's host side, as some revision's: keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.planned: list[tuple[str, TargetGpu, BufferSizes]] = []
        self.launched: list[DecodeArguments] = []

    def plan(self, rules: str, device: TargetGpu, planning: PlanArguments, allocated: BufferSizes) -> Plan:
        """Keeps the buffers, and plans."""
        self.planned.append((rules, device, allocated))
        return super().plan(rules, device, planning, allocated)

    def launch(self, decision: Decision, decode: DecodeArguments) -> Launch | Refusal:
        """Keeps the arguments, and launches."""
        self.launched.append(decode)
        return super().launch(decision, decode)


def test_a_recorded_step_goes_through_the_host_with_the_buffers_that_were_passed() -> None:
    """Not through what the host's sizing would have asked for, and not by rules that stand beside the host."""
    case = Case(16, (9, 700), backend="direct", mode=MetadataMode.FAST)
    step = recorded(case)
    smaller = {"work_info_set": 8, "reduce_final_map": 2}
    passed = tuple(dataclasses.replace(each, words=smaller.get(each.role, each.words)) for each in step.planning_buffers)
    metadata = dataclasses.replace(step.decode.metadata, **smaller)
    step = dataclasses.replace(
        step, planning_buffers=passed, decode_buffers=passed, decode=dataclasses.replace(step.decode, metadata=metadata)
    )
    host = Asked()
    made = PassedBuffers(host, step).call(decision_of(step, RECORDED))
    assert host.planned == [(case.release, made.device, metadata)]
    assert [each.metadata for each in host.launched] == [metadata]
    assert made.plan is not None
    assert made.plan.buffers["work_info_set"].allocated == 8
    outcome = outcome_of(step, ModelDevice(), Asked())
    assert outcome.faulty
    assert any(finding.tensor == "work_info_set" for finding in outcome.findings)
    assert not outcome_of(recorded(case), ModelDevice(), Asked()).faulty


@pytest.mark.parametrize("rows", [0, -1, 1, 65, 5000])
def test_as_many_rows_as_no_batch_has_are_judged(rows: int) -> None:
    """A Case of them there is not: the gate ended with what is wrong usage of a person's."""
    step = recorded(Case(32, (9, 700), max_seqlen_q=4, query_lens=(4, 2), backend="direct", mode=MetadataMode.FAST))
    made = judged(dataclasses.replace(step, decode=dataclasses.replace(step.decode, max_seqlen_q=rows)))
    assert made.sightings


def test_index_tensors_that_reach_beyond_any_memory_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of another unit: the gate ended with the model's lack of memory, which it has not for a step that is right."""

    def lacks(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(ModelDevice, "observe", lacks)
    step = bf16(32, MetadataMode.FAST)
    far = dataclasses.replace(step.decode, kv_indptr=step.decode.kv_indptr * 2)
    made = judged(dataclasses.replace(step, decode=far))
    assert [each.signature for each in made.sightings][:1] == ["contradiction/kv_indptr"]
    with pytest.raises(MemoryError):
        judged(step)


@pytest.mark.parametrize("ends", [(0, 9, 2), (0, 9, 1 << 30)], ids=["descends", "is memory that nobody wrote"])
@pytest.mark.parametrize("captured", [False, True])
def test_padding_is_judged_by_a_kv_indptr_that_makes_no_sense(ends: tuple[int, ...], captured: bool) -> None:
    step = bf16(32, MetadataMode.FAST)
    decode = dataclasses.replace(step.decode, kv_indptr=np.asarray(ends, np.int32))
    padded = dataclasses.replace(step, padded=2 if captured else 1, padded_kv_len=ends[-1] - ends[-2], slots=step.slots[:9])
    kv_lens, query_lens = ((), ()) if captured else ((9,), (1,))
    made = judged(dataclasses.replace(padded, decode=decode, kv_lens=kv_lens, query_lens=query_lens))
    assert made.sightings[0].signature.startswith("bad-indptr/recorded/kv_indptr")
