"""Poison may be carried around and decides nothing; declared objects tell what was not declared."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest

from backend.real.python.poison import Declared, Poison, Undecidable, probing_builtins


@pytest.fixture
def unknown() -> Poison:
    return Poison("pkg.thing", "not in the tree")


def test_may_be_carried(unknown: Poison) -> None:
    inner = unknown.attribute(1, key=2)["index"]
    assert "pkg.thing.attribute" in repr(inner)
    assert {unknown: 1}[unknown] == 1
    assert isinstance(unknown | None, Poison)


def test_may_be_subclassed(unknown: Poison) -> None:
    class Sub(unknown):  # type: ignore[misc, valid-type]
        value = 3

    assert Sub().value == 3


@pytest.mark.parametrize(
    "use",
    [
        bool,
        len,
        int,
        list,
        lambda p: p == 1,
        lambda p: p != p,
        lambda p: p < 1,
        lambda p: p + 1,
        lambda p: 1 + p,
        lambda p: p | 4,
        lambda p: 3 in p,
        lambda p: isinstance(3, p),
        operator.neg,
        lambda p: range(p),
    ],
)
def test_decides_nothing(unknown: Poison, use: Callable[[Any], Any]) -> None:
    with pytest.raises(Undecidable, match=r"pkg\.thing is unknown here \(not in the tree\)"):
        use(unknown)


def test_is_not_swallowed_by_except_exception(unknown: Poison) -> None:
    def probe() -> bool:
        try:
            return bool(unknown)
        except Exception:
            return False

    with pytest.raises(Undecidable):
        probe()


def test_declared_names_object_and_field() -> None:
    config = Declared("server_args", page_size=16)
    assert config.page_size == 16
    with pytest.raises(Undecidable, match=r"server_args\.dtype is read but not declared; declared: page_size"):
        _ = config.dtype
    config.dtype = "bf16"
    assert config.dtype == "bf16"


def test_probes_are_answered_absent_and_noted() -> None:
    probes: list[str] = []
    config = Declared("layer", probes, tp=1)
    builtin = probing_builtins()
    assert builtin["hasattr"](config, "tp")
    assert not builtin["hasattr"](config, "scale")
    assert builtin["getattr"](config, "scale", 2.0) == 2.0
    assert builtin["getattr"](config, "tp", 2.0) == 1
    assert probes == ["layer.scale", "layer.scale"]
    assert builtin["getattr"]([], "append") is not None
