"""What a number of right answers says, and what it does not: interval, threshold, and against a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.errors import UsageError
from fuzz.accuracy.binomial import CONFIDENCE, POWER, fisher, interval, mcnemar, questions_needed
from fuzz.accuracy.gsm8k_answers import Answer, Asked, read_answers


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


def lines(answers: Sequence[Answer], lost: int, threshold: float, baseline: Baseline | None) -> Iterator[str]:
    """The result, and how far it carries."""
    asked, right = len(answers), sum(answer.right for answer in answers)
    rate = right / asked
    low, high = interval(right, asked)
    yield f"accuracy {rate:.3f}: {right} of {asked} right; {CONFIDENCE:.0%} interval (Clopper-Pearson) {low:.3f} to {high:.3f}"
    for what, count in (
        ("stopped at the token limit", sum(answer.truncated for answer in answers)),
        ("hold no number", sum(answer.number is None for answer in answers)),
        ("took more than one try", sum(answer.tries > 1 for answer in answers)),
    ):
        if count:
            yield f"  {count} answers {what}"
    if lost:
        yield f"  {lost} questions got no answer and are not counted; the same command asks them again"
    verdict = "met" if rate >= threshold else "NOT met"
    settled = not low <= threshold <= high
    carries = "the interval is clear of it" if settled else f"{asked} questions do not settle it: the interval holds it"
    yield f"threshold {threshold:g}: {verdict}; {carries}"
    if baseline is not None:
        yield from _against(answers, baseline)


def _against(answers: Sequence[Answer], baseline: Baseline) -> Iterator[str]:
    asked, right = len(answers), sum(answer.right for answer in answers)
    first, second = right / asked, baseline.right / baseline.asked
    low, high = interval(baseline.right, baseline.asked)
    counts = f"{baseline.right} of {baseline.asked}" + (", taken as of as many questions" if baseline.assumed else "")
    yield f"baseline {baseline.label}: {second:.3f}, {counts}; interval {low:.3f} to {high:.3f}"
    p = fisher(right, asked, baseline.right, baseline.asked)
    test = "Fisher's exact test"
    both = [] if baseline.answers is None else [a for a in answers if a.index in baseline.answers]
    if both and baseline.answers is not None:
        only_now = sum(a.right and not baseline.answers[a.index] for a in both)
        only_then = sum(baseline.answers[a.index] and not a.right for a in both)
        p = mcnemar(only_now, only_then)
        test = f"exact McNemar test, the same {len(both)} questions: {only_now} right only now, {only_then} only then"
    apart = p < 1 - CONFIDENCE
    apart_or_not = "told apart" if apart else "NOT told apart: the difference may be chance"
    yield f"  {first:.3f} and {second:.3f} are {apart_or_not} (p = {p:.3g}, {test})"
    needed = questions_needed(first, second)
    if not apart and needed is not None:
        yield f"  to tell such rates apart in {POWER:.0%} of runs takes about {needed:,} questions in each"
