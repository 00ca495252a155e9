"""Which lines of the file under test ran, wherever its tree keeps it; a file that is called alike is another."""

from __future__ import annotations

from typing import Any

import pytest

from backend.real.frameworks.worker import ExecutedLines
from backend.real.python.trees import ModuleSource

TEXT = "def taken(x):\n    if x:\n        return 1\n    return 2\n"


@pytest.mark.parametrize(
    ("filename", "lines"),
    [
        ("/tree/python/pack/one.py", (1, 2, 3)),
        ("a-1-py3-none-any.whl/pack/one.py", (1, 2, 3)),
        ("0123456789ab:python/pack/one.py", (1, 2, 3)),
        ("0123456789ab:pack/one.py", (1, 2, 3)),
        ("/tree/other/one.py", ()),
        ("0123456789ab:other/one.py", ()),
    ],
)
def test_lines_of_the_file_wherever_it_is(filename: str, lines: tuple[int, ...]) -> None:
    target = ModuleSource("pack.one", TEXT, filename, False)
    names: dict[str, Any] = {}

    def run() -> Any:
        exec(compile(TEXT, filename, "exec"), names)
        return names["taken"](5)

    assert ExecutedLines(target).during(run) == (1, lines)
