"""The one rule from counts to exit code: clean is said of what ran, all of it, and of nothing else."""

from __future__ import annotations

import pytest

from backend.fate import Fate
from fuzz.verdict import Conclusion, Counts, Verdict

ALL_RAN = Counts(clean=3)
NOTHING = Counts()
REFUSED = Counts(refused=3)
FAULTY = Counts(clean=1, faulty=2)


@pytest.mark.parametrize(
    ("verdict", "conclusion", "code"),
    [
        (Verdict(ALL_RAN), Conclusion.CLEAN, 0),
        (Verdict(NOTHING), Conclusion.OPEN, 3),
        (Verdict(REFUSED), Conclusion.OPEN, 3),
        (Verdict(ALL_RAN, missing=("64 heads: refused",)), Conclusion.OPEN, 3),
        (Verdict(FAULTY), Conclusion.CLEAN, 0),  # known or expected: somebody else's
        (Verdict(FAULTY, blamed=1), Conclusion.FAULTY, 1),
        (Verdict(FAULTY, blamed=1, missing=("64 heads: refused",)), Conclusion.FAULTY, 1),
        (Verdict(REFUSED, blamed=1), Conclusion.FAULTY, 1),  # it no longer starts, where it did before
    ],
)
def test_a_conclusion_and_its_exit_code(verdict: Verdict, conclusion: Conclusion, code: int) -> None:
    assert (verdict.conclusion, verdict.exit_code) == (conclusion, code)


def test_what_did_not_run_is_named_whatever_the_conclusion() -> None:
    assert Verdict(FAULTY, 1, ("64 heads: refused",)).open_questions == ("64 heads: refused",)
    assert Verdict(REFUSED).open_questions == ("nothing ran",)
    assert Verdict(ALL_RAN).open_questions == ()


def test_every_fate_is_counted_once() -> None:
    """One case of each fate: two ran, one was refused, and nothing is known of three."""
    counts = Counts.of(dict.fromkeys(Fate, 1))
    assert (counts.cases, counts.ran, counts.refused, counts.unjudged) == (len(Fate), 2, 1, 3)
