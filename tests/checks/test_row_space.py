"""What each row of a launch must attend to, against the same said request by request; and what is kept beside the arguments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from backend.aiter.arguments import BufferSizes
from backend.call import Call
from backend.case import ORDINARY, Case, MetadataMode
from backend.checks.coverage import row_space
from backend.path import Path

CASES = {
    "folded": Case(64, (5, 700, 1), backend="sglang-before-27188"),
    "folded, two rows each": Case(48, (5, 700, 2), max_seqlen_q=2, mode=MetadataMode.FAKE),
    "pages, ragged rows": Case(
        16, (65, 640), max_seqlen_q=4, query_lens=(1, 4), page_size=64, mode=MetadataMode.FAST, backend="direct"
    ),
    "replayed": Case(128, (100,), graph_batch=4, backend="vllm"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_are_those_of_each_request(case: Case) -> None:
    call = Path().launched(case)
    assert isinstance(call, Call), call
    page, expected, start = call.decode.page_size, [], 0
    for length, queries in zip(call.decision.kv_lens, call.decision.query_lens, strict=True):
        pages = -(-length // page)
        for _ in range(call.launched.fold):
            for row in range(queries):
                seen = max(length - (queries - 1 - row), 0)
                expected.append((start, start + -(-seen // page), start + pages))
        start += pages
    rows = row_space(call)
    assert list(zip(rows.begin.tolist(), rows.least.tolist(), rows.most.tolist(), strict=True)) == expected


def test_a_call_with_other_metadata_is_otherwise_the_same() -> None:
    call = Path().launched(CASES["folded"])
    assert isinstance(call, Call)
    given = call.decision.decode
    assert given.named_pages == (0, 705)
    sizes = BufferSizes(1, 2, 3, 4, 5)
    made, replaced = given.with_metadata(sizes), dataclasses.replace(given, metadata=sizes)
    assert given.metadata is None
    for field in dataclasses.fields(given):
        assert getattr(made, field.name) is getattr(replaced, field.name)
    assert dataclasses.replace(made, kv_indices=np.array([7, 3], np.int32)).named_pages == (3, 7)


def test_options_of_a_case_are_the_fields_that_are_not_neutral() -> None:
    assert Case(16, (1,)).options() == ()
    given = Case(16, (1,), return_lse=True, spare_indices=3)
    assert given.options() == tuple(each for each in ORDINARY if each.name in ("return_lse", "spare_indices"))
