"""What was asked for by name and never ran is said, with what became of its cases instead."""

from __future__ import annotations

import pytest

from fuzz.asked import never_ran
from fuzz.spec import Spec


@pytest.mark.parametrize(
    ("drawn", "refused", "said"),
    [
        (0, 0, "none was drawn"),
        (154, 154, "154 were refused"),
        (20, 0, "20 came to no end or are not modelled"),
        (20, 8, "8 were refused and 12 came to no end or are not modelled"),
    ],
)
def test_a_shape_of_which_no_case_ran_is_named_with_what_became_of_them(drawn: int, refused: int, said: str) -> None:
    assert list(never_ran(Spec("sglang-27188", shapes=("tp2",)), {}, {64: drawn}, {64: refused})) == [
        f"no case of TP2 (64 heads) ran: {said}"
    ]


def test_a_value_is_asked_for_whether_or_not_a_shape_is_named() -> None:
    spec = Spec("sglang-27188", releases=("2025-11", "2026-06"))
    assert list(never_ran(spec, {64: ["release 2026-06"]}, {}, {})) == ["no case with release 2025-11 ran"]
