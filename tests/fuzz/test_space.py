"""Flags make a space within what a backend sends, or a complaint that says what is allowed."""

from __future__ import annotations

import pytest

from backend.case import Arch, Case, DType, MetadataMode
from backend.errors import UsageError
from backend.serving.bounds import DIRECT, OWN_POLICY, SGLANG, VLLM
from backend.serving.registry import bounds_of
from fuzz.space import heads_of, space
from fuzz.spec import Spec


@pytest.mark.parametrize(
    ("model", "shape", "heads"),
    [
        ("deepseek-r1", "tp1", 128),
        ("deepseek-r1", "tp2", 64),
        ("deepseek-r1", "tp8", 16),
        ("kimi-k2", "tp4", 16),
        ("kimi-k3", "tp2", 48),
    ],
)
def test_heads_a_rank(model: str, shape: str, heads: int) -> None:
    assert heads_of(model, shape) == heads
    assert space(Spec("sglang-27188", model=model, shapes=(shape,))).heads == (heads,)


def test_heads_come_on_top_of_shapes_sorted_once_each() -> None:
    assert space(Spec("sglang-27188", shapes=("tp4", "tp2"), heads=(64, 48))).heads == (32, 48, 64)


def test_without_wishes_it_is_what_the_backend_sends() -> None:
    made = space(Spec("sglang-27188"))
    assert (made.heads, made.tensor_types, made.page_sizes) == (SGLANG.heads, SGLANG.tensor_types, (1,))
    assert not made.empty_requests
    assert [bounds_of(name) for name in ("vllm-before-31282", "direct", "mine.py")] == [VLLM, DIRECT, OWN_POLICY]


def test_tensor_types_go_together() -> None:
    """sglang quantises q on gfx950 only, so fp8 q leaves no gfx942."""
    both_fp8 = space(Spec("sglang-27188", q_dtype=DType.FP8, kv_dtype=DType.FP8))
    assert both_fp8.tensor_types == ((Arch.GFX950, DType.FP8, DType.FP8),)
    bf16 = space(Spec("sglang-27188", kv_dtype=DType.BF16))
    assert bf16.tensor_types == ((Arch.GFX950, DType.BF16, DType.BF16), (Arch.GFX942, DType.BF16, DType.BF16))


def test_a_combination_that_is_not_sent_must_be_named_wholly() -> None:
    with pytest.raises(UsageError, match=r"given arch gfx942, q fp8, KV any; backend sglang-27188 sends: .*name all of"):
        space(Spec("sglang-27188", archs=(Arch.GFX942,), q_dtype=DType.FP8))
    forced = space(Spec("sglang-27188", archs=(Arch.GFX942,), q_dtype=DType.FP8, kv_dtype=DType.FP8))
    assert forced.tensor_types == ((Arch.GFX942, DType.FP8, DType.FP8),)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (Spec("vllm", shapes=("tp3",)), r"shape: given 'tp3'; allowed: tp1, tp2, tp4, tp8; or give --heads"),
        (Spec("vllm", shapes=("tp2",), model="gpt"), r"model: given 'gpt'; allowed: deepseek-r1, "),
        (Spec("vllm", releases=("2020-01",)), "case field release: given '2020-01'; allowed: 2025-11"),
        (Spec("vllm", heads=(0,)), "case field num_head: given 0; allowed: 1..1024"),
        (Spec("vllm", query_rows=(65,)), "case field max_seqlen_q: given 65; allowed: 1..64"),
        (Spec("vllm", max_batch=70_000), r"largest batch of the search: given 70000; allowed: 1..65536"),
        (Spec("sglang-27188", max_kv_len=7), r"longest kv of the search: given 7; allowed: 8.."),
    ],
)
def test_impossible_wishes(spec: Spec, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        space(spec)


def test_a_space_holds_what_was_asked_for_at_any_size() -> None:
    tp2 = space(Spec("sglang-27188", shapes=("tp2",), q_dtype=DType.FP8, kv_dtype=DType.FP8))
    inside = Case(num_head=64, kv_lens=(1,) * 999)
    assert tp2.holds(inside)
    for change in (
        {"num_head": 32},
        {"arch": Arch.GFX942},
        {"q_dtype": DType.BF16},
        {"page_size": 16},
        {"max_seqlen_q": 9},
        {"mode": MetadataMode.FAST},
        {"kv_lens": (1, 0)},
    ):
        assert not tp2.holds(inside.replace(**change)), change
