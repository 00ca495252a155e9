"""Policies decide as their backends do: the table of sglang's constructor, refusals, padding, a user's own policy."""

from __future__ import annotations

from itertools import product
from pathlib import Path as FilePath

import pytest

from backend.case import Case, DType, MetadataMode
from backend.decision import Decision, Refused
from backend.errors import UsageError
from backend.fate import Fate
from backend.path import Path
from backend.serving.backends import BACKENDS
from backend.serving.own_rule import OwnRule
from backend.serving.policy import decide
from backend.serving.registry import named_policy, policy
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases
from reprod.shrink import steps

NON_PS, FAKE, FAST = MetadataMode.NON_PERSISTENT, MetadataMode.FAKE, MetadataMode.FAST

TABLE = [
    # heads, fp8 before, fp8 after, bf16 before, bf16 after sglang#27188
    (4, FAKE, FAKE, NON_PS, NON_PS),
    (8, FAKE, FAKE, NON_PS, NON_PS),
    (16, FAKE, FAKE, NON_PS, NON_PS),
    (32, FAST, FAST, FAST, FAST),
    (64, FAKE, FAST, FAKE, FAST),
    (48, FAKE, FAKE, FAKE, FAKE),
    (80, FAKE, FAKE, FAKE, FAKE),
    (96, FAKE, FAKE, FAKE, FAKE),
    (112, FAKE, FAKE, FAKE, FAKE),
    (128, FAST, FAST, NON_PS, NON_PS),
]


def decided(case: Case) -> Decision:
    decision = decide(policy(case.backend), case)
    assert isinstance(decision, Decision)
    return decision


@pytest.mark.parametrize(("heads", "fp8_before", "fp8_after", "bf16_before", "bf16_after"), TABLE)
def test_sglang_table(
    heads: int, fp8_before: MetadataMode, fp8_after: MetadataMode, bf16_before: MetadataMode, bf16_after: MetadataMode
) -> None:
    found = [
        decided(Case(num_head=heads, kv_lens=(9,), q_dtype=kv, kv_dtype=kv, backend=backend)).mode
        for kv in (DType.FP8, DType.BF16)
        for backend in ("sglang-before-27188", "sglang-27188")
    ]
    assert found == [fp8_before, fp8_after, bf16_before, bf16_after]


@pytest.mark.parametrize(("heads", "padded", "repeat"), [(4, 16, 4), (8, 16, 2), (16, 16, 1), (48, 48, 1)])
def test_sglang_repeats_small_head_counts(heads: int, padded: int, repeat: int) -> None:
    decision = decided(Case(num_head=heads, kv_lens=(9,)))
    assert (decision.decode.num_head, decision.head_repeat) == (padded, repeat)


@pytest.mark.parametrize("heads", [1, 12, 24, 144])
def test_sglang_refuses_head_counts_it_raises_for(heads: int) -> None:
    assert isinstance(decide(policy("sglang-27188"), Case(num_head=heads, kv_lens=(9,))), Refused)


def test_sglang_split_cap_is_lower_under_speculation() -> None:
    caps = [decided(Case(num_head=32, kv_lens=(9,), max_seqlen_q=q)).planning for q in (1, 4)]
    assert [plan.max_split_per_batch for plan in caps if plan is not None] == [64, 32]


def test_graph_padding_rows_carry_the_fill() -> None:
    after = decided(Case(num_head=32, kv_lens=(9, 8), max_seqlen_q=4, graph_batch=4))
    before = decided(Case(num_head=32, kv_lens=(9, 8), max_seqlen_q=4, graph_batch=4, backend="sglang-before-20841"))
    assert after.kv_lens == (9, 8, 8, 8), "the draft tokens as sequence length, and verification's draft tokens on top"
    assert before.kv_lens == (9, 8, 1, 1)
    assert after.sizing is not None
    assert after.sizing.batch == 4


@pytest.mark.parametrize("heads", [1, 3, 8, 12, 15])
@pytest.mark.parametrize("mode", [FAST, FAKE, NON_PS])
def test_heads_that_a_direct_caller_pads(heads: int, mode: MetadataMode) -> None:
    """AITER is told of 16 in all three calls, and refuses twelve in its words."""
    padded = Case(heads, (40, 7), backend="direct", mode=mode, padded_heads=16, release="2026-08")
    decision = decided(padded)
    told = [decision.decode.num_head]
    if decision.sizing is not None and decision.planning is not None:
        told += [decision.sizing.num_head, decision.planning.num_heads_per_head_k]
    assert set(told) == {16}
    assert Path().run(padded).fate is Path().run(padded.replace(num_head=16, padded_heads=0)).fate is Fate.CLEAN
    assert decided(padded.replace(num_head=48)).decode.num_head == 48  # it is a least
    if heads == 12:
        assert Path().run(padded.replace(padded_heads=0)).fate is Fate.REFUSED


@pytest.mark.parametrize("name", ["vllm", "sglang-27188"])
def test_a_framework_pads_by_its_own_rule(name: str) -> None:
    assert isinstance(decide(policy(name), Case(16, (40,), backend=name, padded_heads=32)), Refused)


def test_padded_heads_are_drawn_by_their_flag_and_made_smaller() -> None:
    drawn = chunk_cases(space(Spec(backend="direct", heads=(12, 48), padded_heads=(0, 16, 64))), 1, 0, 120)
    assert {(case.num_head, case.padded_heads) for case in drawn} == set(product((12, 48), (0, 16, 64)))
    tried = {case.padded_heads for case in steps(Case(12, (40,), backend="direct", padded_heads=64))}
    assert {0, 16, 48} <= tried


def test_vllm_hands_no_metadata_below_16_heads() -> None:
    assert decided(Case(num_head=8, kv_lens=(9,), q_dtype=DType.BF16, kv_dtype=DType.BF16, backend="vllm")).mode is NON_PS


def test_vllm_index_tensor_is_as_long_as_it_was_allocated() -> None:
    case = Case(num_head=16, kv_lens=(9,) * 32, max_batch=16, backend="vllm-before-41016")
    assert len(decided(case).decode.kv_indptr) == 17
    assert len(decided(case.replace(backend="vllm")).decode.kv_indptr) == 33


def test_every_backend_is_named_and_decides() -> None:
    for name in BACKENDS:
        assert isinstance(decide(policy(name), Case(num_head=64, kv_lens=(9,), backend=name)), Decision)


OWN_POLICY = """
from backend.serving.sglang import AiterMlaBackend
policy = AiterMlaBackend(fast_heads=frozenset({16}))
other = 3
"""


def test_own_policy_from_a_file(tmp_path: FilePath) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_POLICY)
    case = Case(num_head=16, kv_lens=(9,), backend=str(file))
    with pytest.raises(UsageError, match="is not run; give --backend"):
        decided(case)
    named_policy(str(file))
    assert decided(case).mode is FAST
    with pytest.raises(UsageError, match="no function 'other'"):
        named_policy(f"{file}:other")


def test_own_policy_from_a_module() -> None:
    own = named_policy("backend.serving.sglang:SGLANG_27188")
    assert isinstance(own, OwnRule)
    case = Case(num_head=64, kv_lens=(9, 4), max_seqlen_q=3)
    assert own(case) == BACKENDS["sglang-27188"].rule(case)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sglang-27199", "allowed: sglang-27188"),
        ("nowhere.py", "no such file"),
        ("no_such_module_here:policy", "cannot be imported"),
        ("backend.serving.sglang:nothing", "no function 'nothing'"),
    ],
)
def test_unknown_backends_say_what_is_allowed(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        named_policy(name)


def test_policy_file_that_raises_is_named(tmp_path: FilePath) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        named_policy(str(file))
