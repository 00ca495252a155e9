"""Examples depend on the seed alone: not on what is imported, not on the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import strategies as st

from fuzz.generate import examples

PAIRS = st.tuples(st.sampled_from(range(1000)), st.sampled_from(range(1 << 20)))


def test_one_seed_gives_the_same_examples_and_another_seed_others() -> None:
    first = examples(PAIRS, 50, 7)
    assert examples(PAIRS, 50, 7) == first
    assert examples(PAIRS, 50, 8) != first
    assert len(set(first)) > 40


def test_another_process_with_other_modules_gives_the_same() -> None:
    program = (
        "import email.mime.text, backend.case, fuzz.space\n"
        "from hypothesis import strategies as st\nfrom fuzz.generate import examples\n"
        "print(examples(st.tuples(st.sampled_from(range(1000)), st.sampled_from(range(1 << 20))), 50, 7))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(examples(PAIRS, 50, 7))


def test_there_are_as_many_as_asked_for_the_simplest_first() -> None:
    drawn = examples(st.sampled_from(range(5)), 100, 0)
    assert len(drawn) == 100  # a small space repeats itself
    assert drawn[0] == 0
    assert set(drawn) == {0, 1, 2, 3, 4}


def test_choices_are_spread_evenly() -> None:
    drawn = examples(st.tuples(*[st.sampled_from(range(10))] * 3), 900, 1)
    for position in range(3):
        counts = [sum(example[position] == value for example in drawn) for value in range(10)]
        assert min(counts) >= 60
        assert max(counts) <= 130  # 90 expected, 9.5 of standard deviation


def test_a_strategy_that_draws_what_is_not_served_is_an_error() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        examples(st.floats(), 5, 0)
    assert raised.group_contains(NotImplementedError, match="draws a float")
