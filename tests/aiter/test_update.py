"""A plan brought up to the next step: what each kind of work item becomes."""

from __future__ import annotations

import numpy as np
import pytest

from backend.aiter.planners.update import heads_apart, updated
from backend.case import Arch, DType

FP8, BF16 = DType.FP8, DType.BF16


def words(*items: tuple[int, ...]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int32]]]:
    """A plan of two tiles: the first one's two pieces are merged from partial rows 0 and 4."""
    held = {
        "work_indptr": [0, len(items)],
        "work_info_set": [word for item in items for word in item],
        "reduce_indptr": [0, 2, 2],
        "reduce_final_map": [0, 4, 4, 8],
        "reduce_partial_map": [0, 4],
    }
    return {role: np.array(content, np.int32) for role, content in held.items()}


SPLIT = (0, 0, 0, 4, 0, 60, 44, 0), (0, 4, 0, 4, 60, 104, 0, 0), (1, -1, 4, 8, 104, 112, 0, 0)


def test_tiles_of_several_rows_become_one_row_and_end_where_the_request_does() -> None:
    """Requests of 104 and 8 tokens, four rows each, of which two and none were rejected: 103 and 9 in the next step."""
    made = updated(words(*SPLIT), np.array([0, 103, 112], np.int32), 1, np.array([2, 0], np.int32))
    assert made["work_info_set"].reshape(-1, 8).tolist() == [
        [0, 0, 0, 1, 0, 60, 43, 0],
        [0, 1, 0, 1, 60, 103, 0, 0],
        [1, -1, 1, 2, 103, 112, 0, 0],
    ]
    assert made["reduce_partial_map"].tolist() == [0, 1]
    assert made["reduce_final_map"].tolist() == [0, 1, 4, 8]


def test_items_of_one_row_are_kept_as_rows() -> None:
    """What a plan has for each row of a request stays, though the step has one: the fault of whoever updates such a plan."""
    made = updated(words((0, -1, 0, 1, 0, 9, 1, 0), (1, -1, 1, 2, 0, 10, 0, 0)), np.array([0, 11, 22], np.int32), 1, None)
    assert made["work_info_set"].reshape(-1, 8)[:, 2:6].tolist() == [[0, 1, 0, 9], [1, 2, 11, 22]]


@pytest.mark.parametrize(
    ("heads", "dtypes", "rows", "apart"),
    [
        (16, (BF16, BF16), 1, 1),
        (8, (FP8, FP8), 1, 1),
        (32, (FP8, FP8), 4, 1),
        (32, (FP8, FP8), 2, 2),
        (128, (BF16, BF16), 1, 8),
    ],
)
def test_heads_that_a_plan_has_apart(heads: int, dtypes: tuple[DType, DType], rows: int, apart: int) -> None:
    assert heads_apart(heads, Arch.GFX950, dtypes, rows) == apart
