"""The one rule from counts to exit code: clean is said of what ran, all of it, and of nothing else."""

from __future__ import annotations

import pytest

from fuzz.verdict import Conclusion, Counts, Verdict

ALL_RAN = Counts(asked=3, drawn=3, ran=3, refused=0, not_run=0, faulty=0)
NOTHING = Counts(asked=3, drawn=0, ran=0, refused=0, not_run=0, faulty=0)
REFUSED = Counts(asked=3, drawn=3, ran=0, refused=3, not_run=0, faulty=0)
FAULTY = Counts(asked=3, drawn=3, ran=3, refused=0, not_run=0, faulty=2)


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


@pytest.mark.parametrize("counts", [(3, 3, 2, 0, 0, 0), (3, 3, 3, 0, 0, 4), (3, 3, 4, -1, 0, 0)])
def test_counts_that_contradict_each_other_are_refused(counts: tuple[int, int, int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not add up"):
        Counts(*counts)
