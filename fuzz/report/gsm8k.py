"""What a served model's answers to GSM8K come to, as a Report: the rate with its interval, the threshold, a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backend.words import counted, noun
from fuzz.accuracy.gsm8k import Answer
from fuzz.accuracy.verdict import CONFIDENCE, POWER, Baseline, fisher, interval, mcnemar, questions_needed
from fuzz.report.report import Report, Result, Section, Test
from fuzz.verdict import Counts, Verdict


def report(answers: Sequence[Answer], lost: int, threshold: float, baseline: Baseline | None, about: str) -> Report:
    """For people and machines. lost: questions that got no answer: while there are any, the threshold is not judged."""
    asked, right = len(answers), sum(answer.right for answer in answers)
    missing = (
        (f"{counted(lost, 'question')} got no answer and {noun(lost, 'is', 'are')} not counted; the same command asks again",)
        if lost
        else ()
    )
    missed = right < threshold * asked
    headline = _against_threshold(right, asked, threshold) if answers else "no question got an answer"
    return Report(
        title="aiterfuzz selftest accuracy gsm8k",
        verdict=Verdict(Counts(clean=right, faulty=asked - right, not_run=lost), int(missed and not lost), missing),
        headline=headline,
        notice="of the questions asked, at temperature 0",
        about=(about,),
        sections=(Section("", (), tuple((line,) for line in _figures(answers, baseline))),) if answers else (),
        explained=(),
        notes=(),
        tests=(Test("threshold", "gsm8k", Result.ERROR if lost else Result.FAILURE if missed else Result.PASSED, headline),),
        data={"right": right, "asked": asked, "threshold": threshold},
    )


def _against_threshold(right: int, asked: int, threshold: float) -> str:
    low, high = interval(right, asked)
    settled = not low <= threshold <= high
    carries = (
        "the interval is clear of it"
        if settled
        else f"{counted(asked, 'question does', 'questions do')} not settle it: the interval holds it"
    )
    return f"threshold {threshold:g}: {'met' if right >= threshold * asked else 'NOT met'}; {carries}"


def _figures(answers: Sequence[Answer], baseline: Baseline | None) -> Iterator[str]:
    """The result, and how far it carries."""
    asked, right = len(answers), sum(answer.right for answer in answers)
    low, high = interval(right, asked)
    of = f"{right} of {asked} right; {CONFIDENCE:.0%} interval (Clopper-Pearson) {low:.3f} to {high:.3f}"
    yield f"accuracy {right / asked:.3f}: {of}"
    for what, count in (
        ("stopped at the token limit", sum(answer.truncated for answer in answers)),
        ("hold no number", sum(answer.number is None for answer in answers)),
        ("took more than one try", sum(answer.tries > 1 for answer in answers)),
    ):
        if count:
            yield f"  {count} answers {what}"
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
        test = (
            f"exact McNemar test, the same {counted(len(both), 'question')}: {only_now} right only now, {only_then} only then"
        )
    apart = p < 1 - CONFIDENCE
    apart_or_not = "told apart" if apart else "NOT told apart: the difference may be chance"
    yield f"  {first:.3f} and {second:.3f} are {apart_or_not} (p = {p:.3g}, {test})"
    needed = questions_needed(first, second)
    if not apart and needed is not None:
        yield f"  to tell such rates apart in {POWER:.0%} of runs takes about {counted(needed, 'question')} in each"
