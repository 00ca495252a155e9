"""Rules broken on purpose: the search must meet something on each that it does not meet on the rule as it is.

First the mutations that bring publicly reported bugs back, then others of the same classes in planner, sizing and caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from types import ModuleType

import pytest
from hunting import Rewritten, choosing, signatures, use_rule

from backend import host
from backend.aiter import rules, sizing
from backend.aiter.planners import run, v1_0, v1_1, v1_2
from backend.aiter.planning import BuiltInPlanning
from backend.aiter.release import release
from backend.case import Arch, Case, DType, MetadataMode
from backend.serving.policy import Choice, LastPageLens, Policy
from backend.serving.sglang import SGLANG_27188, AiterMlaBackend
from fuzz.spec import Spec

CASES = 500

FP8 = DType.FP8
SGLANG = "sglang-27188"
SERVED = Spec(SGLANG, shapes=("tp1", "tp2", "tp4"), q_dtype=FP8, kv_dtype=FP8, max_batch=64)
FAKE = Spec(SGLANG, heads=(8, 16, 48, 96), q_dtype=FP8, kv_dtype=FP8, max_batch=32)
GREEDY = Spec(SGLANG, heads=(16, 128), modes=(MetadataMode.GREEDY,), q_dtype=FP8, kv_dtype=FP8, max_batch=32)
EMPTY_REQUESTS = Spec(
    "direct", heads=(16,), modes=(MetadataMode.FAKE,), query_rows=(1,), page_sizes=(1,), archs=(Arch.GFX950,),
    q_dtype=FP8, kv_dtype=FP8, max_batch=32,
)  # fmt: skip


@cache
def unbroken(spec: Spec) -> frozenset[str]:
    """Signatures met with every rule as it is."""
    return frozenset(signatures(spec, CASES))


def meets(spec: Spec, kind: str, before: frozenset[str] = frozenset()) -> bool:
    """Whether a search meets a fault of that kind that it does not meet on the rules as they are."""
    return any(signature.startswith(kind) and signature not in before for signature in signatures(spec, CASES))


@pytest.mark.parametrize("spec", [SERVED, FAKE, GREEDY], ids=["served", "fake", "greedy"])
def test_the_rules_as_they_are_are_silent(spec: Spec) -> None:
    assert not unbroken(spec)


def under_dp_attention(rule: Policy) -> Policy:
    """sglang lowers the split cap to what a batch leaves a request of the GPU, for sizing and planning alike."""

    def lowered(case: Case) -> Choice:
        choice = rule(case)
        if choice.max_split_per_batch is None:
            return choice
        share = -(-case.compute_units // choice.sizing_batch)
        return dataclasses.replace(choice, max_split_per_batch=min(share, choice.max_split_per_batch))

    return lowered


CALLERS: dict[str, tuple[Spec, Policy, str]] = {
    "drop 64 from the gate": (SERVED, AiterMlaBackend(frozenset({32, 128})), "head-width"),
    "drop 32 from the gate": (SERVED, AiterMlaBackend(frozenset({64, 128})), "head-width"),
    "size for one query row": (SERVED, choosing(SGLANG, sizing_max_seqlen_q=1), "buffer-too-small"),
    "size by the requests, not by the graph": (SERVED, choosing(SGLANG, sizing_batch=lambda c, _: c.batch), "buffer-too-small"),
    "metadata told that KV is bf16": (SERVED, choosing(SGLANG, metadata_kv_dtype=DType.BF16), "head-width"),
    "last page lengths are sequence lengths": (
        SERVED,
        choosing(SGLANG, last_page_lens=LastPageLens.WHOLE_SEQUENCE),
        "bad-last-page-len",
    ),
    "padding rows of one token under MTP": (SERVED, choosing(SGLANG, padding_kv_len=1), "short-sequence"),
    "index tensors for the requests, not for the graph": (
        SERVED,
        choosing(SGLANG, index_batch=lambda case, _: case.batch),
        "buffer-too-small",
    ),
    "fake mode for all heads": (SERVED, choosing(SGLANG, mode=MetadataMode.FAKE), "head-width"),
    "greedy mode for all heads": (SERVED, choosing(SGLANG, mode=MetadataMode.GREEDY), "head-width"),
    "granularity of one token": (SERVED, choosing(SGLANG, kv_granularity=1), "short-piece"),
    "page size told to the kernel, not to the planner": (SERVED, choosing(SGLANG, kernel_page_size=16), "not-covered"),
}


@pytest.mark.parametrize("name", CALLERS)
def test_a_broken_caller_is_met(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, rule, kind = CALLERS[name]
    before = unbroken(spec)
    use_rule(monkeypatch, spec.backend, rule)
    assert meets(spec, kind, before)


def test_128_dropped_from_the_gate_is_met_under_dp_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it breaks nothing: v1_0 plans 128 heads as they are. Under DP attention sglang lowers the split cap that the
    buffers are sized by, and v1_0 on gfx942 cuts into 16 pieces whatever the cap (sglang#20399)."""
    spec = Spec(SGLANG, heads=(128,), archs=(Arch.GFX942,), q_dtype=FP8, kv_dtype=FP8)
    use_rule(monkeypatch, SGLANG, under_dp_attention(SGLANG_27188))
    assert not set(signatures(spec, CASES))
    use_rule(monkeypatch, SGLANG, under_dp_attention(AiterMlaBackend(frozenset({32, 64}))))
    assert meets(spec, "planner-overrun")


def test_native_heads_whatever_the_dtype_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule of one release: a value of it with another function in its place."""
    spec, known = Spec(SGLANG, shapes=("tp2", "tp4")), release("2026-06")
    assert isinstance(known.planners, BuiltInPlanning)
    built_in = known.planners.rules
    assert isinstance(built_in.fast, rules.FastRules)
    before = unbroken(spec)
    fast = dataclasses.replace(built_in.fast, native=lambda device, arguments: rules.heads(arguments) in (16, 32, 64, 128))
    broken = dataclasses.replace(known, planners=BuiltInPlanning(dataclasses.replace(built_in, fast=fast)))
    monkeypatch.setattr(host, "release", lambda name: broken)
    assert meets(spec, "head-width", before)


RULES: dict[str, tuple[Spec, str, Callable[..., object], str]] = {
    "nothing is folded by v1_2": (SERVED, "fold_by_native", lambda release, device, arguments: 1, "head-width"),
    "v1_0 folds into half as many groups": (FAKE, "fold_by_head_count", lambda heads: max(1, heads // 32), "not-covered"),
    "tail threshold 0": (SERVED, "tail_threshold", lambda arguments: 0, "short-piece"),
    "own end for each query of every head count": (FAKE, "plans_per_query_ends", lambda *_: True, ""),
}


@pytest.mark.parametrize("name", RULES)
def test_a_broken_rule_of_the_planners_is_met(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, rule, broken, kind = RULES[name]
    before = unbroken(spec)
    monkeypatch.setattr(rules, rule, broken)
    assert meets(spec, kind, before)


def planner(module: ModuleType, old: str, new: str) -> Rewritten:
    return Rewritten(module, f"plan_{module.__name__.rpartition('.')[2]}", run, old, new)


def sizes(old: str, new: str) -> Rewritten:
    return Rewritten(sizing, "words", sizing, old, new)


SOURCES: dict[str, tuple[Spec, Rewritten]] = {
    "v1_0: kv_end without its floor of one token": (
        EMPTY_REQUESTS,
        planner(v1_0, "return max(end + causal_tail, begin + 1)", "return end + causal_tail"),
    ),
    "v1_0: a piece ends past its sequence": (
        FAKE,
        planner(v1_0, "kv_end = min(kv_begin + piece_tokens, end)", "kv_end = kv_begin + piece_tokens"),
    ),
    "v1_0: pieces written straight to o": (
        FAKE,
        planner(v1_0, "partial = -1 if pieces == 1 else item * row_queries", "partial = -1"),
    ),
    "v1_0: whole rows written to logits": (
        FAKE,
        planner(v1_0, "partial = -1 if pieces == 1 else item * row_queries", "partial = item * row_queries"),
    ),
    "v1_0: partial rows by item, not by query": (
        FAKE,
        planner(v1_0, "partial = -1 if pieces == 1 else item * row_queries", "partial = -1 if pieces == 1 else item"),
    ),
    "v1_0: pieces a block too short": (
        FAKE,
        planner(v1_0, "lds[2 * rows + row] = piece_blocks", "lds[2 * rows + row] = piece_blocks - 1"),
    ),
    "v1_0: final rows not moved on": (FAKE, planner(v1_0, "q_begin = row * row_queries", "q_begin = 0")),
    "v1_1: the next sequence's KV": (
        GREEDY,
        planner(
            v1_1, "else load(kv_indptr, sequence, strays, KV_INDPTR)", "else load(kv_indptr, sequence + 1, strays, KV_INDPTR)"
        ),
    ),
    "v1_1: split tiles written straight to o": (
        GREEDY,
        planner(v1_1, "place = partial if found.split[dealt] else -1", "place = -1"),
    ),
    "v1_2: shares without overhead": (
        SERVED,
        planner(v1_2, "divide_up(blocks, task.shares) + task.overhead", "divide_up(blocks, task.shares)"),
    ),
    "v1_2: a piece ends past its sequence": (
        SERVED,
        planner(v1_2, "end = min(begin + length, kv_end - distance)", "end = begin + length"),
    ),
    "v1_2: sequences overlap by a token": (
        SERVED,
        planner(
            v1_2, "kv_begin + task.topk if task.topk >= 0 else kv_end", "kv_begin + task.topk if task.topk >= 0 else kv_end - 1"
        ),
    ),
    "v1_2: the last piece is not merged": (
        SERVED,
        planner(v1_2, "reduced, pieces + 1, partial", "reduced, pieces, partial"),
    ),
    "v1_2: causal end one token early": (SERVED, planner(v1_2, "return max(distance, 0)", "return distance + 1")),
    "sizing: one tile a sequence": (
        FAKE,
        sizes("tiles = rule.tiles(device.arch, arguments)", "tiles = 1"),
    ),
    "sizing: reduce_indptr without its last entry": (FAKE, sizes("all_tiles + 1, 2 * all_tiles", "all_tiles, 2 * all_tiles")),
    "sizing: work items of fast mode without those that compute units add": (
        SERVED,
        sizes("work_items = rule.fast_work_items(batch, tiles, units)", "work_items = batch * tiles"),
    ),
    "sizing: half of the split cap": (FAKE, sizes("(arguments.num_kv_splits or 0)", "((arguments.num_kv_splits or 0) // 2)")),
    "sizing: work_indptr without its last entry": (FAKE, sizes("BufferSizes(units + 1,", "BufferSizes(units,")),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_broken_line_is_met(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, rewritten = SOURCES[name]
    before = unbroken(spec)
    rewritten.use(monkeypatch)
    assert meets(spec, "", before)
