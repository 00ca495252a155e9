"""Requests that have no query row in a step: what comes of them, by model and machine code; drawn, mutated, made smaller."""

from __future__ import annotations

import itertools
import random
from pathlib import Path as FilePath

import pytest

from backend.aiter.codefiles import installed_wheel, open_source
from backend.call import Call
from backend.case import Arch, Case, DType, MetadataMode
from backend.cxx.memory import Spaces
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model.device import ModelDevice
from backend.devices.two_devices import differences
from backend.errors import UnmodelledError, UsageError
from backend.fate import Fate
from backend.findings import FindingKind
from backend.host import BuiltIn
from backend.path import Path
from fuzz.campaign.mutate import Mutator
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases
from reprod.script import script_text
from reprod.shrink import measure, steps

SOME = Case(16, (40, 20, 70, 5), 2, query_lens=(2, 0, 2, 1), release="2025-11", backend="direct", mode=MetadataMode.FAST)


@pytest.mark.parametrize("mode", [MetadataMode.FAST, MetadataMode.GREEDY])
@pytest.mark.parametrize("query_lens", [(2, 0, 2, 1), (0, 0, 2, 2), (2, 2, 0, 0), (0, 1, 0, 0)])
def test_model_and_machine_see_the_same_of_them(mode: MetadataMode, query_lens: tuple[int, ...]) -> None:
    host = BuiltIn(installed_wheel())
    call = Path(host).call(SOME.replace(mode=mode, query_lens=query_lens, num_cu=8))
    assert isinstance(call, Call)
    assert call.decode.q_rows == sum(query_lens)
    assert rows_sent(call) == query_lens
    seen = CdnaDevice(installed_wheel(), record=True).observe(call)
    assert differences(seen, ModelDevice(record=True).observe(call)) == []


@pytest.mark.parametrize(
    ("arch", "dtype", "queries"),
    [
        (Arch.GFX942, DType.FP8, 1),  # a kernel that finds a request's rows by its number, and takes it to have one
        (Arch.GFX942, DType.BF16, 1),
        (Arch.GFX950, DType.FP8, 1),
        (Arch.GFX950, DType.FP8, 4),  # one that fetches the KV of a request without rows, and stores nothing
    ],
)
def test_without_metadata_too(arch: Arch, dtype: DType, queries: int) -> None:
    """Kernels that were measured with requests of rows alone were taken to leave such a request alone."""
    case = SOME.replace(arch=arch, q_dtype=dtype, kv_dtype=dtype, mode=MetadataMode.NON_PERSISTENT)
    for rows, lens in (((queries, 0), (40, 33)), ((0, queries), (600, 33))):
        call = Path(BuiltIn(installed_wheel())).call(case.replace(max_seqlen_q=queries, kv_lens=lens, query_lens=rows))
        assert isinstance(call, Call)
        seen = CdnaDevice(installed_wheel(), record=True).observe(call)
        assert differences(seen, ModelDevice(record=True).observe(call)) == []


def rows_sent(call: Call) -> tuple[int, ...]:
    """Rows of each request, by the tensor that AITER gets."""
    starts = call.decode.qo_indptr.tolist()
    return tuple(end - begin for begin, end in itertools.pairwise(starts))


def test_their_numbers_are_attention() -> None:
    device = CdnaDevice(installed_wheel(), numbers=True)
    outcome = Path(BuiltIn(installed_wheel()), device).run(SOME.replace(query_lens=(2, 0, 2, 2)))  # others: entry F8
    assert (outcome.fate, outcome.findings) == (Fate.CLEAN, ())


@pytest.mark.checkout
def test_rows_that_a_fold_leaves_over_have_numbers_too(aiter_checkout: FilePath) -> None:
    """mla_decode_fwd's reshape infers its last dimension, into which they go."""
    left_over = SOME.replace(num_head=32, kv_lens=(40, 20), query_lens=(1, 2), q_dtype=DType.BF16, release="2026-08")
    source = open_source(f"{aiter_checkout}@e4048607a5")
    outcome = Path(BuiltIn(source), CdnaDevice(source, numbers=True)).run(left_over)
    assert outcome.observation is not None
    assert outcome.observation.numbers is not None
    assert outcome.observation.numbers.compared == 3 * 32
    assert outcome.cause is not None
    assert outcome.cause.kind is FindingKind.PLANNER_READ


@pytest.mark.parametrize(("num_head", "fate"), [(32, Fate.CLEAN), (64, Fate.CLEAN), (96, Fate.UNMODELLED)])
def test_a_plan_cut_in_tiles_never_gets_past_a_request_of_none(num_head: int, fate: Fate) -> None:
    """96 heads are cut, one query a tile. The planner gave out work until memory was over."""
    outcome = Path().run(SOME.replace(num_head=num_head, release="2026-08"))
    assert outcome.fate is fate
    assert ("a request of no query row has no tile" in str(outcome.reason)) == (fate is Fate.UNMODELLED)


def test_stray_reads_without_end_are_not_followed() -> None:
    spaces = Spaces([0], [16])
    spaces.strays[0, 0] = 1 << 30
    with pytest.raises(UnmodelledError, match="reads 1073741824 words that nobody wrote"):
        spaces.grown()


def test_a_batch_without_any_row_is_no_case() -> None:
    with pytest.raises(UsageError, match="not all of them 0"):
        SOME.replace(query_lens=(0, 0, 0, 0))


def test_they_are_drawn_mutated_and_made_smaller() -> None:
    asked = space(Spec(backend="direct", query_rows=(2, 4)))
    cases = chunk_cases(asked, 1, 0, 300)
    assert any(case.query_lens is not None and 0 in case.query_lens for case in cases)
    framework = chunk_cases(space(Spec(backend="vllm")), 1, 0, 300)
    assert not any(case.query_lens is not None and 0 in case.query_lens for case in framework)
    mutator, chance = Mutator(asked), random.Random(3)
    assert any(0 in (mutator.mutate(case, lambda: SOME, chance).query_lens or ()) for case in cases)
    tried = list(steps(SOME))
    assert {case.query_lens for case in tried} >= {None, (2, 2, 1), (1, 0, 1, 1)}
    assert all(measure(case) < measure(SOME) for case in tried)


def test_the_script_hands_them_over() -> None:
    assert "QUERY_LENS = [2, 0, 2, 1]" in script_text(Path().run(SOME), None)
