"""What a sweep does first when time is short: one of everything, then what executed a changed line."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from backend.case import DType
from backend.real.frameworks.record import DecisionRow
from backend.real.frameworks.scenarios import Scenario, Step, StepKind
from fuzz.gate.order import (
    AHEAD,
    batches,
    decided_otherwise,
    everything,
    first_of_each,
    in_words,
    likely_first,
    otherwise_first,
    touched_first,
    what,
)
from fuzz.gate.scenarios import random_lives
from fuzz.gate.sweep import GFX950, HEADS, scenarios

ASKED = everything(GFX950, HEADS, "2026-08")


def test_the_first_of_each_has_everything_that_is_done() -> None:
    """And is no longer for more heads."""
    first = first_of_each(ASKED)
    assert {what(each) for each in first} == {what(each) for each in ASKED}
    assert len({what(each) for each in first}) == len(first)
    one, all_heads = (tuple(scenarios(GFX950[:1], heads, "2026-08")) for heads in (HEADS[:1], HEADS))
    assert len(first_of_each(all_heads)) == len(first_of_each(one)) < len(all_heads)
    assert {"decode", "verify 2 rows", "prefill", "draft model"} <= {what(each) for each in first}
    assert not any("heads" in what(each) and "draft" not in what(each) for each in ASKED if not each.name.startswith("S"))


@pytest.mark.parametrize("num_head", [1, 7, 65, 127, 1024])
def test_any_number_of_heads_can_be_asked_for(num_head: int) -> None:
    """Those of ordinary attention are a multiple of its key heads."""
    asked = everything(GFX950, (num_head,), "2026-08")
    assert {each.num_head for scenario in asked for each in scenario.backends} == {num_head}


def test_what_touches_the_change_comes_first_and_nothing_is_lost() -> None:
    ordered = touched_first(ASKED, {"prefill"})
    assert sorted(ordered, key=ASKED.index) == list(ASKED)
    kinds = [what(each) == "prefill" for each in ordered]
    assert kinds == sorted(kinds, reverse=True)
    assert touched_first(ASKED, ()) == ASKED


def test_shapes_that_are_decided_otherwise_stand_for_what_is_done() -> None:
    """An edit of the constructor's gate is executed by all; the shapes that it turns are what time is spent on."""
    rows = [DecisionRow(heads, DType.FP8, True, True, False, 1, None, None) for heads in (16, 64)]
    turned = [rows[0], dataclasses.replace(rows[1], fast_mode=False)]
    assert decided_otherwise(turned, rows) == ((rows[1], turned[1]),)
    assert decided_otherwise(rows, rows) == decided_otherwise(rows, ()) == ()
    ordered = otherwise_first(ASKED, {(64, DType.FP8)})
    assert sorted(ordered, key=ASKED.index) == list(ASKED)
    first = first_of_each(ordered)
    assert {what(each) for each in first} == {what(each) for each in ASKED}
    (decode,) = [each for each in first if what(each) == "decode"]
    assert [(one.num_head, one.kv_dtype) for one in decode.backends] == [(64, DType.FP8)]
    assert otherwise_first(ASKED, ()) == ASKED


def test_lives_that_do_what_touches_the_change_come_first_and_none_is_lost() -> None:
    """The change is in what data parallel attention does: of each AHEAD lives, those first that have it."""
    lives = list(itertools.islice(random_lives(GFX950, HEADS, "2026-08", 0), 2 * AHEAD))
    ran = {each: any(one.dp_attention for one in each.backends) for each in ASKED}
    ordered = list(likely_first(lives, ran))
    assert set(ordered[:AHEAD]) == set(lives[:AHEAD])
    assert set(ordered[AHEAD:]) == set(lives[AHEAD:])
    parallel = [any(one.dp_attention for one in each.backends) for each in ordered[:AHEAD]]
    assert 0 < sum(parallel) < AHEAD
    assert parallel == sorted(parallel, reverse=True)
    assert list(likely_first(lives, dict.fromkeys(ASKED, False))) == list(likely_first(lives, {})) == lives


def test_batches_are_the_whole_in_order() -> None:
    made = list(batches(ASKED, 2))
    assert [each for batch in made for each in batch] == list(ASKED)


def test_what_was_left_out_is_named_once() -> None:
    prefill = [each for each in ASKED if what(each) == "prefill"]
    assert in_words(prefill, 100) == f"{len(prefill)} of 100 scenarios: prefill"
    assert in_words([], 100) == ""
    kinds = list(dict.fromkeys(map(what, ASKED)))
    assert in_words(ASKED, 900).endswith(f": {', '.join(kinds[:4])}, and {len(kinds) - 4} kinds more")


@pytest.mark.parametrize("kind", [StepKind.DECODE, StepKind.TARGET_VERIFY])
@pytest.mark.parametrize("graph", [False, True])
def test_all_requests_fill_the_context_at_once(kind: StepKind, graph: bool) -> None:
    """Buffers sized in pages, or for one request less, have room for whatever ends before."""

    def fills(scenario: Scenario, step: Step) -> bool:
        config = scenario.backends[step.backend]
        whole = {length + (kind is StepKind.TARGET_VERIFY) * (config.draft_tokens or 0) for length in step.kv_lens}
        return whole == {scenario.context} and len(step.kv_lens) == config.max_requests and config.page_size > 1

    assert any(
        fills(scenario, step) for scenario in ASKED for step in scenario.steps if (step.kind, step.graph) == (kind, graph)
    )
