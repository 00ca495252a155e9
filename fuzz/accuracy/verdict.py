"""What a number of right answers says, and what it does not: interval, threshold, and against a baseline.

The statistics are exact (of a proportion, of two, of the same questions asked twice); no approximation is used where counts are
given, only `questions_needed` is one, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from backend.errors import UsageError
from fuzz.accuracy.gsm8k import Asked, read_answers

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


def questions_needed(first: float, second: float) -> int | None:
    """Questions that each of two runs must ask to tell such rates apart, by the normal approximation; None for equal rates."""
    if first == second:
        return None
    normal = NormalDist()
    z = normal.inv_cdf(1 - (1 - CONFIDENCE) / 2) + normal.inv_cdf(POWER)
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


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier result. label: as given. answers: question by question, None where only the count is known."""

    label: str
    right: int
    asked: int
    answers: dict[int, bool] | None = None
    assumed: bool = False


def read_baseline(given: str, asked: Asked, count: int) -> Baseline:
    """`193/200`, `0.965` (taken as of as many questions as are asked now) or a file of answers."""
    right, slash, total = given.partition("/")
    if slash and right.isdecimal() and total.isdecimal() and 0 <= int(right) <= int(total) and int(total):
        return Baseline(given, int(right), int(total))
    try:
        rate = float(given)
    except ValueError:
        rate = -1.0
    if 0 <= rate <= 1:
        return Baseline(given, round(rate * count), count, assumed=True)
    if not Path(given).is_file():
        allowed = "RIGHT/ASKED such as 193/200, a rate in 0..1, or a file that --out wrote"
        raise UsageError.not_allowed("--baseline", given, allowed)
    earlier, answers, _ = read_answers(Path(given))
    by_index = {answer.index: answer.right for answer in answers} if earlier.questions == asked.questions else None
    return Baseline(given, sum(answer.right for answer in answers), len(answers), by_index)
