"""A framework's dataclasses are compiled once for all processes, and dataclasses are Python's own again afterwards."""

from __future__ import annotations

import dataclasses
from typing import Any

from backend.real.frameworks import process

SOURCE = """
@dataclasses.dataclass(order=True)
class Batch:
    size: int
    name: str = "none"
"""


def _made() -> Any:
    names: dict[str, Any] = {"dataclasses": dataclasses}
    exec(SOURCE, names)
    return names["Batch"]


def test_a_class_that_is_made_again_compiles_nothing() -> None:
    with process._dataclasses_compiled_once():
        first = _made()
        compiled = process._of_text.cache_info().misses
        second = _made()
        assert process._of_text.cache_info().misses == compiled
    assert "exec" not in vars(dataclasses)
    plain = _made()
    for made in (first, second, plain):
        assert (made(1) < made(2), made(3, "x") == made(3, "x"), repr(made(4))) == (True, True, "Batch(size=4, name='none')")
    assert first.__init__ is not second.__init__
