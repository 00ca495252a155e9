"""sglang's paths besides its usual one: ordinary attention, variables that switch; their calls into AITER fit the batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.errors import NoSuchStepError
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import Scenario, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.python.outline import outline
from fuzz.gate.executed import PACKAGE, Executed
from fuzz.gate.sweep import GFX950, scenarios
from tests.kept_sources import KeptSources

SOURCE = "sglang==0.5.13"


NOBODY_SETS_THEM = {
    ("mha_batch_prefill_func", longest, StepKind.DRAFT_EXTEND, Phase.EAGER) for longest in ("max_seqlen_q", "max_seqlen_k")
}
"""Of 0.5.13: max_q_len and max_kv_len of indices_updater_prefill are 0 since its constructor, and are handed over."""


def other_paths() -> list[Scenario]:
    """Of sglang's file: ranks of a context-parallel group are driven of vLLM's alone."""
    alone = [s for s in scenarios(GFX950, (16,), "2026-06") if all(backend.context_parallel == 1 for backend in s.backends)]
    return [each for each in alone if any(each.path(at) for at in range(len(each.backends)))]


@pytest.fixture(scope="module")
def session(kept_sources: KeptSources) -> Iterator[SourceSession]:
    with kept_sources.open(SOURCE) as opened:
        yield opened


def test_every_call_into_aiter_is_reached(session: SourceSession) -> None:
    lines: set[int] = set()
    names: set[str] = set()
    faults: set[tuple[str, str, StepKind, Phase]] = set()
    for scenario in (*other_paths(), next(scenarios(GFX950, (8,), "2026-06"))):
        made = session.run(scenario)
        assert (made.refused, made.failed) == (None, ()), scenario.name
        faults |= {(call.name, fault.subject, call.kind, call.phase) for call in made.checked for fault in call.faults}
        lines |= set(made.executed)
        names |= {call.name for call in made.checked}
    target = session.source.target
    ran = Executed(target.filename, target.text, outline(target, PACKAGE), frozenset(lines))
    assert ran.calls_not_run == ()
    assert faults == NOBODY_SETS_THEM
    assert {"paged_attention_ragged", "unified_attention", "mha_batch_prefill_func", "extend_attention_fwd"} <= names


def test_a_page_table_of_another_batch_is_blamed(session: SourceSession) -> None:
    """The table is kept from the step before, whatever the batch."""
    text = session.source.target.text
    planted = text.replace("block_table=page_table,", "block_table=page_table[:1],")
    assert planted != text
    wanted = next(each for each in other_paths() if "UNIFIED_ATTN" in each.path(0) and each.steps[-1].kind is StepKind.DECODE)
    session.use(planted)
    made = session.run(wanted)
    session.use(None)
    assert {fault.subject for call in made.checked for fault in call.faults} == {"block_table"}


@pytest.mark.slow(guard="test_every_call_into_aiter_is_reached")
def test_vllm_has_none_of_them(kept_sources: KeptSources) -> None:
    with kept_sources.open("vllm==0.27.0") as opened:
        for scenario in other_paths():
            with pytest.raises(NoSuchStepError):
                opened.run(scenario)
