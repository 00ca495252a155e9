"""A release is a value: another one is the built-in one with other rules in it, and nothing asks for its name."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path

import pytest
from planner_cases import MI355X, planning, sizing

from backend.aiter.arguments import BufferSizes, DecodeArguments, PlanArguments, SizingArguments, TargetGpu
from backend.aiter.fold import DecodeHeads, FoldedHeads
from backend.aiter.launch import Launch, Refusal, launch
from backend.aiter.planners import Plan, PlannerName, plan
from backend.aiter.release import release
from backend.aiter.sizing import buffer_sizes, refusal
from backend.aiter.splits import SplitsAsked, choose_splits
from backend.case import RELEASES, DType

ROOT = Path(__file__).parents[2]

CALL = planning(PlannerName.V1_2, 64, [100, 30])

ASKED = SplitsAsked(num_cu=256, requested=None, batch=1, total_kv=4096, num_head=16, max_seqlen_q=1, q_dtype=DType.BF16)


def decoding(metadata: BufferSizes | None) -> DecodeArguments:
    return DecodeArguments(
        q_rows=2, num_head=64, kv_pages=130, page_size=1, q_dtype=DType.FP8, kv_dtype=DType.FP8, qo_indptr=CALL.qo_indptr,
        kv_indptr=CALL.kv_indptr, kv_indices=CALL.kv_indptr, kv_last_page_lens=CALL.kv_last_page_lens, max_seqlen_q=1,
        metadata=metadata, num_kv_splits=None, intra_batch_mode=False,
    )  # fmt: skip


def test_every_rule_of_a_made_up_release_is_asked() -> None:
    """One value, made of one that is there: sizing, planner, fold and splits are the made-up ones at once."""
    sizes = BufferSizes(257, 80, 11, 20, 10)

    def sized(device: TargetGpu, arguments: SizingArguments) -> BufferSizes | str:
        return "a batch of 3" if arguments.batch == 3 else sizes

    def planned(device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> Plan:
        return Plan(planner=PlannerName.V1_2, rejected="made up", buffers={})

    def folded(heads: DecodeHeads) -> FoldedHeads:
        return FoldedHeads(native=False, fold=heads.num_head // 16, heads_in_kernel=16)

    known = release("2026-06")
    made_up = dataclasses.replace(
        known, name="made up", sizing=sized, planners=planned, fold=folded, splits=lambda asked: asked.batch + 6
    )
    assert buffer_sizes(made_up.sizing, MI355X, sizing(CALL)) is sizes
    assert refusal(made_up.sizing, MI355X, sizing(CALL, batch=3)) == "a batch of 3"
    assert plan(made_up.planners, MI355X, CALL, sizes).rejected == "made up"
    assert choose_splits(made_up.splits, ASKED) == 7
    made, built_in = (launch(each, MI355X, decoding(sizes)) for each in (made_up, known))
    assert isinstance(made, Launch)
    assert isinstance(built_in, Launch)
    assert (made.fold, made.heads_in_kernel, made.release.name) == (4, 16, "made up")
    assert (built_in.fold, built_in.heads_in_kernel) == (1, 64)


def test_one_line_of_the_launcher_is_one_value() -> None:
    """A revision that differs from a release in one kernarg (7d604afe5 says out_16_nosplit where there is one split)."""
    known = release("2026-06")
    revision = dataclasses.replace(
        known,
        splits=lambda asked: 1,
        launcher=dataclasses.replace(known.launcher, out_16_nosplit=release("2026-08").launcher.out_16_nosplit),
    )
    arguments = dataclasses.replace(decoding(None), q_dtype=DType.BF16, kv_dtype=DType.BF16)
    as_released = launch(dataclasses.replace(known, splits=lambda asked: 1), MI355X, arguments)
    as_revised = launch(revision, MI355X, arguments)
    assert not isinstance(as_released, Refusal)
    assert not isinstance(as_revised, Refusal)
    before, after = ({field.name: field.value for field in made.kernargs} for made in (as_released, as_revised))
    assert {name for name in after if after[name] != before[name]} == {"out_16_nosplit"}


def test_names_are_those_that_a_case_may_have() -> None:
    assert [release(name).name for name in RELEASES] == list(RELEASES)


def test_a_changed_release_is_not_pickled_as_the_one_that_it_was_made_of() -> None:
    known = release("2026-06")
    assert pickle.loads(pickle.dumps(known)) is known
    with pytest.raises(TypeError, match="not built in"):
        pickle.dumps(dataclasses.replace(known, splits=lambda asked: 1))


def test_nobody_asks_for_a_release_by_its_name() -> None:
    """What differs by release is a value of Release; a comparison of names would leave every other revision out."""
    asking = re.compile(r"""release(\.name)? *(==|!=|in) *\(?["']20""")
    sources = [path for room in ("backend", "fuzz", "reprod") for path in (ROOT / room).rglob("*.py")]
    assert sources
    assert [str(path) for path in sources if asking.search(path.read_text(encoding="utf-8"))] == []
