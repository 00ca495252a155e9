"""Exact statistics of right and wrong answers: interval of a proportion, two proportions, the same questions asked twice.

No approximation is used where counts are given; only `questions_needed` is one, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

CONFIDENCE = 0.95
POWER = 0.8
"""Usual: a true difference is seen in four of five runs."""

_TIE = 1 + 1e-9
"""Tables as likely as the one seen differ from it by rounding only."""


def interval(right: int, asked: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper-Pearson: every p for which neither tail of the count seen has less than half of 1 - confidence."""
    tail = (1 - confidence) / 2
    low = 0.0 if right == 0 else _root(lambda p: at_least(right, asked, p) - tail)
    high = 1.0 if right == asked else _root(lambda p: tail - at_least(asked - right, asked, 1 - p))
    return low, high


def at_least(right: int, asked: int, p: float) -> float:
    """Chance of `right` or more of `asked` right answers where each is right with chance p in (0, 1)."""
    return math.fsum(_chances(asked, p)[right:])


def fisher(right: int, asked: int, other_right: int, other_asked: int) -> float:
    """Two-sided p value of Fisher's exact test: two servers that are equally good differ as much as this or more."""
    total = right + other_right
    logs = [
        _log_choose(asked, k) + _log_choose(other_asked, total - k)
        for k in range(max(0, total - other_asked), min(asked, total) + 1)
    ]
    seen = _log_choose(asked, right) + _log_choose(other_asked, other_right)
    top = max(logs)
    every = [math.exp(log - top) for log in logs]
    limit = math.exp(seen - top) * _TIE
    return min(1.0, math.fsum(one for one in every if one <= limit) / math.fsum(every))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p value where the same questions were asked: of those that one answered right and the other did not."""
    differing = only_first + only_second
    if not differing:
        return 1.0
    return min(1.0, 2 * at_least(max(only_first, only_second), differing, 0.5))


def questions_needed(first: float, second: float, confidence: float = CONFIDENCE, power: float = POWER) -> int | None:
    """Questions that each of two runs must ask to tell such rates apart, by the normal approximation; None for equal rates."""
    if first == second:
        return None
    normal = NormalDist()
    z = normal.inv_cdf(1 - (1 - confidence) / 2) + normal.inv_cdf(power)
    return math.ceil(z * z * (first * (1 - first) + second * (1 - second)) / (first - second) ** 2)


def _chances(asked: int, p: float) -> Sequence[float]:
    log_p, log_q = math.log(p), math.log1p(-p)
    return [math.exp(_log_choose(asked, k) + k * log_p + (asked - k) * log_q) for k in range(asked + 1)]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _root(rising) -> float:  # type: ignore[no-untyped-def]
    """Where a function that rises over (0, 1) is zero."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2
