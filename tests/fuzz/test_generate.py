"""Cases depend on the space and the seed alone: not on what is imported, not on the process, not on how many are asked for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import fields
from itertools import islice

import pytest

from backend.codec import dumps
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases, drawn_cases, generator, pick, simplest, uniform

SPACE = space(Spec("direct"))


def test_one_seed_gives_the_same_cases_and_another_seed_or_chunk_others() -> None:
    first = chunk_cases(SPACE, 7, 0, 50)
    assert chunk_cases(SPACE, 7, 0, 50) == first
    assert len(set(first)) > 40
    for others in (chunk_cases(SPACE, 8, 0, 50), chunk_cases(SPACE, 7, 1, 50)):
        assert others[0] == first[0]  # the simplest
        assert not set(others[1:]) & set(first[1:])


@pytest.mark.parametrize(
    ("backend", "digest"), [("direct", "c7614de18152336a"), ("sglang-27188", "f9092ef8c45ee638"), ("vllm", "c3d6d464b88dc0ee")]
)
def test_a_seed_gives_the_cases_that_it_gave_before(backend: str, digest: str) -> None:
    """Of most cases a store holds seed and position alone. A field that is new and neutral is no change."""
    cases = [case for chunk in range(2) for case in chunk_cases(space(Spec(backend)), 11, chunk, 60)]
    said = [{f.name: getattr(case, f.name) for f in fields(case) if getattr(case, f.name) != f.default} for case in cases]
    assert hashlib.sha256("".join(map(dumps, said)).encode()).hexdigest()[:16] == digest


def test_another_process_with_other_modules_gives_the_same() -> None:
    program = (
        "import email.mime.text\nfrom backend.codec import dumps\nfrom fuzz.strategies import chunk_cases\n"
        "from fuzz.space import space\nfrom fuzz.spec import Spec\n"
        "print(*map(dumps, chunk_cases(space(Spec('direct')), 7, 3, 50)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == " ".join(map(dumps, chunk_cases(SPACE, 7, 3, 50)))


def test_a_case_is_made_when_it_is_asked_for_and_the_same_however_many_are() -> None:
    assert list(islice(drawn_cases(SPACE, 7, 3), 10)) == chunk_cases(SPACE, 7, 3, 50)[:10]


def test_a_small_space_repeats_itself() -> None:
    few = space(Spec("sglang-27188", heads=(32,), max_batch=1, max_kv_len=8))
    cases = chunk_cases(few, 0, 0, 500)
    assert len(cases) == 500
    assert len(set(cases)) < 400


def test_choices_are_spread_evenly() -> None:
    draw = uniform(generator("even"))
    drawn = [draw(10) for _ in range(900)]
    counts = [drawn.count(value) for value in range(10)]
    assert min(counts) >= 60
    assert max(counts) <= 130  # 90 expected, 9.5 of standard deviation


def test_a_choice_of_one_takes_no_number() -> None:
    one, other = uniform(generator("some")), uniform(generator("some"))
    assert [pick(one, "a"), pick(one, range(1000))] == ["a", pick(other, range(1000))]
    assert pick(simplest, "abc") == "a"
