"""A backend is one row: its rule, what is drawn for it and what an issue says of it are found there."""

from __future__ import annotations

import dataclasses

import pytest

from backend.case import Arch, Case, DType
from backend.path import Path
from backend.serving import bounds
from backend.serving.backends import BACKENDS, OWN_GIVES, Backend
from backend.serving.direct import direct
from backend.serving.frameworks import FRAMEWORKS
from backend.serving.registry import bounds_of, policy
from fuzz.commands.gate import _is_policy
from fuzz.provenance import provenance
from fuzz.space import Spec, space
from reprod.write import ISSUE, finding_files

THIRD = Backend(
    name="third",
    rule=direct,
    bounds=dataclasses.replace(bounds.DIRECT, heads=(24,), tensor_types=((Arch.GFX942, DType.BF16, DType.BF16),)),
    gives="as the third one gives them",
)


@pytest.fixture
def _third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, THIRD.name, THIRD)


@pytest.mark.usefixtures("_third")
def test_a_third_backend_is_one_row() -> None:
    assert policy("third") is direct
    assert bounds_of("third") is THIRD.bounds
    assert _is_policy("third")
    drawn = space(Spec(backend="third"))
    assert (drawn.heads, drawn.tensor_types) == ((24,), THIRD.bounds.tensor_types)
    faulty = Path().run(Case(num_head=64, kv_lens=(1,), backend="third", max_batch=1, graph_batch=3))
    assert faulty.call is not None
    assert "; arguments as the third one gives them. " in finding_files(faulty, provenance("model", ("2026-06",), None))[ISSUE]


def test_of_a_user_s_own_rule_nothing_is_assumed() -> None:
    assert bounds_of("mine.py") is bounds.OWN_POLICY
    assert all(backend.gives and backend.gives != OWN_GIVES for backend in BACKENDS.values())


def test_names_are_the_rows_own() -> None:
    assert all(backend.name == name for name, backend in BACKENDS.items())
    assert all(framework.name == name for name, framework in FRAMEWORKS.items())
