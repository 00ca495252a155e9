"""KV splits that the caller asks for reach the launch, the reduction's room and the script."""

from __future__ import annotations

import pytest

from backend.case import Case, MetadataMode
from backend.path import Path as CasePath

BASE = Case(16, (700, 330), backend="direct", release="2026-08", mode=MetadataMode.NON_PERSISTENT)


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_a_non_persistent_launch_has_as_many(splits: int) -> None:
    outcome = CasePath().run(BASE.replace(num_kv_splits=splits))
    assert outcome.call is not None
    launch = outcome.call.launched
    assert (launch.num_kv_splits, launch.grid[2]) == (splits, splits)


def test_none_asked_for_is_aiters_own_choice() -> None:
    outcome = CasePath().run(BASE)
    assert outcome.call is not None
    assert outcome.call.decode.num_kv_splits is None


def test_a_reduction_makes_room_for_them() -> None:
    fast = BASE.replace(mode=MetadataMode.FAST)
    outcome = CasePath().run(fast.replace(num_kv_splits=400))
    assert outcome.call is not None
    assert outcome.call.launched.second_stage.max_splits == 400
    usual = CasePath().run(fast).call
    assert usual is not None
    assert usual.launched.second_stage.max_splits == 256


def test_a_framework_that_chooses_them_itself_refuses() -> None:
    refused = CasePath().run(BASE.replace(backend="vllm", num_kv_splits=3, mode=None)).refused
    assert refused == "num_kv_splits: vLLM leaves it at 0"
