"""What is right stays silent: a search that cries wolf is not read a second time."""

from __future__ import annotations

import dataclasses

import pytest
from hunting import search, search_within

from backend.case import Arch, DType, MetadataMode
from fuzz.space import space
from fuzz.spec import Spec

FP8 = DType.FP8


@pytest.mark.parametrize("model", ["deepseek-r1", "kimi-k2"])
def test_c2_the_fixed_gate_on_tp2_and_tp4(model: str) -> None:
    tally = search(Spec("sglang-27188", model=model, shapes=("tp2", "tp4"), q_dtype=FP8, kv_dtype=FP8), 1500)
    assert tally.faults == {}
    assert tally.ran > 700


def test_c1_eight_heads_of_two_rows() -> None:
    """aiter#5040, closed as invalid: gfx942, 8 heads, bf16, two rows, persistent. A direct call, as sglang repeats 8 heads.

    Pools stay below 4 GiB: beyond, the kernel's page addresses wrap (aiter#4341), which is another fault.
    """
    bounds = space(
        Spec(
            "direct",
            heads=(8,),
            query_rows=(2,),
            archs=(Arch.GFX942,),
            q_dtype=DType.BF16,
            kv_dtype=DType.BF16,
            page_sizes=(1,),
            modes=(MetadataMode.FAST,),
        )
    )
    tally = search_within(dataclasses.replace(bounds, ragged_rows=False, empty_requests=False, far_pools=False), 500)
    assert tally.faults == {}
    assert tally.ran == 500
