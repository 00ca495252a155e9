"""Integer operations on constants against the ISA's arithmetic, and the normal form of expressions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.cdna.expression import (
    ZERO,
    Carry,
    Evaluation,
    Expression,
    ExpressionNames,
    LaunchValues,
    Symbol,
    Word,
    atom,
    constant,
    whole_pointer,
)
from backend.cdna.symbolic import CARRYING, FUNCTIONS, bitwise_or, comparison, scalar_field, shifted_right, shifted_right_signed

RESULTS = [
    # operation, sources, result modulo 2^32 by the ISA's definition
    ("add_u32", (7, 5), 12),
    ("sub_u32", (7, 5), 2),
    ("subrev_u32", (7, 5), -2),
    ("addc_u32", (7, 5, 1), 13),
    ("subb_u32", (7, 5, 1), 1),
    ("subbrev_co_u32", (7, 5, 1), -3),
    ("add3_u32", (1, 2, 3), 6),
    ("mul_i32", (-3, 5), -15),
    ("mul_hi_u32", (1 << 31, 6), 3),
    ("mad_u32_u24", (3, 5, 7), 22),
    ("lshl_b32", (3, 4), 48),
    ("lshlrev_b32", (4, 3), 48),
    ("lshl_add_u32", (3, 4, 5), 53),
    ("add_lshl_u32", (3, 4, 5), 224),
    ("lshl_or_b32", (3, 4, 5), 53),
    ("lshl3_add_u32", (3, 4), 28),
    ("lshr_b32", (-16, 4), 0x0FFFFFFF),
    ("lshrrev_b32", (4, -16), 0x0FFFFFFF),
    ("ashr_i32", (-16, 4), -1),
    ("ashrrev_i32", (1, 9), 4),
    ("and_b32", (12, 10), 8),
    ("or_b32", (12, 10), 14),
    ("and_or_b32", (12, 10, 1), 9),
    ("bfe_u32", (0xABCD, 4, 8), 0xBC),
    ("min_u32", (3, 9), 3),
    ("max_i32", (-3, 9), 9),
    ("xor_b32", (12, 10), 6),
    ("movk_i32", (0xFFF0,), -16),
    ("addk_i32", (20, 0xFFFF), 19),
    ("mulk_i32", (20, 0xFFFE), -40),
]

NOTHING_LOADED = Evaluation(LaunchValues(0, (0, 0, 0), lambda address, size: None))


def number(expression: Expression) -> int:
    value = NOTHING_LOADED.number(expression)
    assert value is not None
    return value


@pytest.mark.parametrize(("name", "sources", "result"), RESULTS, ids=[case[0] for case in RESULTS])
def test_results(name: str, sources: tuple[int, ...], result: int) -> None:
    assert (number(FUNCTIONS[name](tuple(map(constant, sources)))) - result) % (1 << 32) == 0


CARRIES = [
    ("add_u32", (0xFFFFFFFF, 1), 1),
    ("add_u32", (0xFFFFFFFE, 1), 0),
    ("addc_u32", (0xFFFFFFFE, 1, 1), 1),
    ("sub_u32", (3, 4), 1),
    ("sub_u32", (4, 4), 0),
    ("subb_u32", (4, 4, 1), 1),
    ("subrev_co_u32", (4, 3), 1),
]


@pytest.mark.parametrize(("name", "sources", "result"), CARRIES)
def test_carries_and_borrows(name: str, sources: tuple[int, ...], result: int) -> None:
    assert number(CARRYING[name](tuple(map(constant, sources)))) == result


@pytest.mark.parametrize(
    ("name", "left", "right", "holds"),
    [
        ("cmp_lt_u32", 3, 4, 1),
        ("cmp_lg_i32", 3, 3, 0),
        ("cmpk_ge_i32", -1, -1, 1),
        ("cmp_ne_u32", 3, 4, 1),
        ("cmp_gt_i32", 3, 4, 0),
    ],
)
def test_comparisons(name: str, left: int, right: int, holds: int) -> None:
    compared = comparison(name, (constant(left), constant(right)))
    assert compared is not None
    assert number(compared) == holds


def test_float_comparisons_are_not_computed() -> None:
    assert comparison("cmp_lt_f32", (ZERO, ZERO)) is None
    assert comparison("cmp_class_f32", (ZERO, ZERO)) is None


def test_packed_bit_field() -> None:
    assert number(scalar_field((constant(0xABCD), constant(8 << 16 | 4)))) == 0xBC


X, Y = atom(Symbol("x")), atom(Symbol("y"))


def test_normal_form_and_text() -> None:
    names = ExpressionNames()
    assert names.text((X + Y) * (X - Y) + Y * Y - X * X) == "0"
    assert names.text(X * Y.scaled(4) - constant(8)) == "x * y * 4 - 8"
    assert names.text(-X) == "-x"
    assert (X + Y + X).divided(2) is None
    assert (X.scaled(4) + constant(8)).divided(4) == X + constant(2)


def test_shifts_divide_where_that_is_exact() -> None:
    assert shifted_right(X.scaled(8), constant(3)) == X
    assert shifted_right_signed(X.scaled(8), constant(2)) == X.scaled(2)
    assert ExpressionNames().text(shifted_right(X.scaled(2), constant(3))) == "((x * 2) >> 3)"


def test_or_is_a_sum_only_where_bits_cannot_meet() -> None:
    assert bitwise_or(X.scaled(16), constant(5)) == X.scaled(16) + constant(5)
    assert ExpressionNames().text(bitwise_or(X.scaled(4), constant(5))) == "((x * 4) | 5)"


def test_two_words_side_by_side_are_a_pointer() -> None:
    low, high = atom(Word("kernarg", constant(16))), atom(Word("kernarg", constant(20)))
    assert whole_pointer(low + X, high + atom(Carry(low + X))) == atom(Word("kernarg", constant(16), 8)) + X
    apart = whole_pointer(low, atom(Word("kernarg", constant(24))))
    assert len(apart.terms) == 2


integers = st.integers(-(1 << 40), 1 << 40)


@given(integers, integers, integers, integers)
def test_expressions_are_a_ring(a: int, b: int, x: int, y: int) -> None:
    """Evaluating the normal form gives what evaluating the parts gives."""
    launch = LaunchValues(0, (x, y, 0), lambda address, size: None)
    left = atom(Symbol("workgroup_x")).scaled(a) + constant(b)
    right = atom(Symbol("workgroup_y")) - atom(Symbol("workgroup_x"))
    assert Evaluation(launch).number(left * right - left) == (a * x + b) * (y - x) - (a * x + b)
