"""A step that the file under test ends on purpose is told from one that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.real.frameworks.process import refuses

SOURCE = """
def no(heads):
    if heads < 16:
        raise RuntimeError("needs 16 heads")

def wrong(heads):
    return [1, 2][heads]

def calls(heads):
    return max(heads)
"""


@pytest.mark.parametrize(("name", "expected"), [("no", True), ("wrong", False), ("calls", False)])
def test_a_raise_statement_refuses(tmp_path: Path, name: str, expected: bool) -> None:
    file = tmp_path / "backend_file.py"
    file.write_text(SOURCE, encoding="utf-8")
    names: dict[str, object] = {}
    exec(compile(SOURCE, str(file), "exec"), names)
    function = names[name]
    assert callable(function)
    with pytest.raises((RuntimeError, IndexError, TypeError)) as raised:
        function(4)
    assert refuses(raised.value, str(file)) is expected
    assert not refuses(raised.value, "another_file.py")
