"""Nothing that any backend can send breaks the path itself, in any release; and a fault keeps one name at every size."""

from __future__ import annotations

import itertools

import pytest
from hunting import PATH

from backend.case import RELEASES
from backend.fate import Fate
from backend.findings import Finding
from backend.serving.backends import BACKENDS
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases
from tests.tiers import one_of_each


def findings(backend: str, release: str, chunk: int) -> list[Finding]:
    found: list[Finding] = []
    for case in chunk_cases(space(Spec(backend, releases=(release,))), 5, chunk):
        outcome = PATH.run(case)
        assert backend == "direct" or outcome.fate is not Fate.UNMODELLED  # what is served is modelled wholly
        found += outcome.findings
    return found


def framework(backend: str) -> str:
    return backend.partition("-")[0]


@pytest.mark.parametrize(
    ("backend", "release"),
    one_of_each(itertools.product(BACKENDS, RELEASES), lambda row: (framework(row[0]), row[1]), lambda row: "-".join(row)),
)
def test_every_case_has_an_outcome(backend: str, release: str) -> None:
    findings(backend, release, 0)


@pytest.mark.parametrize("backend", ["sglang-before-27188", "direct"])
def test_a_signature_names_the_fault_and_not_the_batch(backend: str) -> None:
    """As many cases again bring few findings of a new name; names that tell batches apart would make nearly all new."""
    first, second = ([f.signature for f in findings(backend, "2026-06", chunk)] for chunk in (1, 2))
    assert sum(signature not in set(first) for signature in second) <= len(second) / 5
