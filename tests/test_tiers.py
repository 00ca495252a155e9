"""What is slow leaves a quick test of its kind to every run, and names it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.tiers import one_of_each

TESTS = Path(__file__).parent


def functions(file: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def guards() -> Iterator[tuple[Path, str]]:
    """(file, test) of each `pytest.mark.slow(guard="FILE::TEST")`, or "TEST" of the same file."""
    for file in sorted(TESTS.rglob("test_*.py")):
        if 'slow(guard="' not in file.read_text(encoding="utf-8"):
            continue
        for function in functions(file).values():
            for mark in function.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.slow":
                    (guard,) = [word.value.value for word in mark.keywords if isinstance(word.value, ast.Constant)]
                    named, _, test = str(guard).rpartition("::")
                    yield TESTS / named if named else file, test


def test_guards_are_there_and_quick() -> None:
    found = list(guards())
    assert len(found) > 10
    for file, test in found:
        marks = [ast.unparse(mark) for mark in functions(file)[test].decorator_list]
        assert not [mark for mark in marks if mark.startswith(("pytest.mark.slow", "pytest.mark.checkout"))], (file, test)


def test_the_first_row_of_each_kind_always_runs() -> None:
    rows = one_of_each(["a1", "a2", "b1", "a3", "b2"], lambda row: row[0], lambda row: f"<{row}>")
    assert [(row.values, row.id) for row in rows if not row.marks] == [(("a1",), "<a1>"), (("b1",), "<b1>")]
    assert [row.values for row in rows if row.marks] == [("a2",), ("a3",), ("b2",)]
    assert {mark.name for row in rows for mark in row.marks} == {"slow"}
    assert [row.values for row in one_of_each([(1, 2), (3, 4)])] == [(1, 2), (3, 4)]
