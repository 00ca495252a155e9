"""The benchmarks are run by hand and rarely: each can be imported, so that what it uses is still there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import benchmarks

NAMES = sorted(path.stem for path in Path(benchmarks.__path__[0]).glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_benchmark_uses_is_there(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{name}").main)
