"""Intervals and tests against textbook values and against their own definitions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from fuzz.accuracy.verdict import at_least, fisher, interval, mcnemar, questions_needed


def exact_at_least(right: int, asked: int, p: Fraction) -> Fraction:
    return sum((math.comb(asked, k) * p**k * (1 - p) ** (asked - k) for k in range(right, asked + 1)), Fraction(0))


@pytest.mark.parametrize(("right", "asked"), [(0, 7), (1, 7), (7, 7), (93, 100), (189, 200), (1240, 1319)])
def test_each_tail_of_the_interval_is_two_and_a_half_percent(right: int, asked: int) -> None:
    low, high = interval(right, asked)
    assert low <= right / asked <= high
    if right:
        assert float(exact_at_least(right, asked, Fraction(low))) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0
    if right < asked:
        assert 1 - float(exact_at_least(right + 1, asked, Fraction(high))) == pytest.approx(0.025, rel=1e-6)
    else:
        assert high == 1


def test_intervals_of_the_literature() -> None:
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I: the exact interval of 81/263, 15/148, 0/20 and 1/29."""
    for counts, wanted in {
        (81, 263): (0.2527, 0.3676),
        (15, 148): (0.0578, 0.1617),
        (0, 20): (0.0, 0.1684),
        (1, 29): (0.0009, 0.1776),
    }.items():
        assert interval(*counts) == pytest.approx(wanted, abs=5e-5)


def test_fisher_is_that_of_the_tea_tasting_lady() -> None:
    """Fisher (1935): 4 cups of each kind, 3 told right: 0.4857 two-sided; all right: 2 / 70."""
    assert fisher(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert fisher(4, 4, 0, 4) == pytest.approx(2 / 70)
    assert fisher(5, 10, 5, 10) == pytest.approx(1.0)


def test_fisher_does_not_care_who_is_first_or_what_is_right() -> None:
    assert fisher(189, 200, 193, 200) == pytest.approx(fisher(193, 200, 189, 200))
    assert fisher(189, 200, 193, 200) == pytest.approx(fisher(11, 200, 7, 200))


def test_945_and_965_are_not_told_apart_by_200_questions() -> None:
    assert fisher(189, 200, 193, 200) > 0.05
    needed = questions_needed(0.945, 0.965)
    assert needed is not None
    assert fisher(round(0.945 * needed), needed, round(0.965 * needed), needed) < 0.05


def test_the_same_questions_say_more() -> None:
    """4 questions of 200 lost and none won: as counts no difference, as pairs still 0.125; 8 lost and none won is one."""
    assert mcnemar(0, 4) == pytest.approx(2 / 16)
    assert mcnemar(0, 8) == pytest.approx(2 / 256)
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize("p", [0.5, 0.93, 0.001])
def test_tails_equal_sums_of_fractions(p: float) -> None:
    for asked in (1, 5, 40):
        for right in range(asked + 1):
            assert at_least(right, asked, p) == pytest.approx(float(exact_at_least(right, asked, Fraction(p))), rel=1e-9)


def test_equal_rates_are_never_told_apart() -> None:
    assert questions_needed(0.9, 0.9) is None
