"""Slices hold exactly the statements that bind a name, with their lines."""

from __future__ import annotations

import inspect
import textwrap

import pytest

from backend.errors import CannotRunError
from backend.real.python.slicing import ModuleIndex
from backend.real.python.trees import ModuleSource


def index(text: str, filename: str = "tree/module.py") -> ModuleIndex:
    return ModuleIndex.of(ModuleSource("module", textwrap.dedent(text), filename, False))


def run(made: ModuleIndex, name: str, **given: object) -> dict[str, object]:
    namespace: dict[str, object] = dict(given)
    exec(made.cut(name).code, namespace)
    return namespace


def test_only_what_binds_the_name_runs() -> None:
    made = index("""
        import not_installed
        raise_here = 1 / 0
        def wanted():
            return 7
        1 / 0
        """)
    assert run(made, "wanted")["wanted"]() == 7  # type: ignore[operator]


def test_one_alias_of_an_import() -> None:
    made = index("""
        from collections import OrderedDict as first, missing_name
        import os.path, not_installed
        """)
    assert run(made, "first")["first"].__name__ == "OrderedDict"  # type: ignore[attr-defined]
    assert run(made, "os")["os"].__name__ == "os"  # type: ignore[attr-defined]
    assert {"first", "missing_name", "os", "not_installed"} == made.names


@pytest.mark.parametrize(("flag", "expected"), [(True, "then"), (False, "otherwise")])
def test_conditions_are_evaluated(flag: bool, expected: str) -> None:
    made = index("""
        if flag:
            1 / 1
            value = "then"
            other = 1 / 0
        else:
            value = "otherwise"
        """)
    assert run(made, "value", flag=flag)["value"] == expected


def test_type_checking_is_skipped() -> None:
    made = index("""
        if TYPE_CHECKING:
            from nowhere import Name
        else:
            Name = 3
        """)
    assert run(made, "Name")["Name"] == 3
    assert "Other" not in index("if typing.TYPE_CHECKING:\n    Other = 1\n")


def test_try_keeps_its_handlers() -> None:
    made = index("""
        try:
            from not_installed_anywhere import thing, other
            unrelated = 1 / 0
        except ImportError:
            print_something = 1
            thing = None
        """)
    assert run(made, "thing")["thing"] is None


def test_later_statements_complete_a_table() -> None:
    made = index("""
        TABLE = {}
        TABLE["a"] = 1
        OTHER = 2
        TABLE["b"] = OTHER + 1
        TABLE.attribute = 5
        """)
    assert run(made, "TABLE", OTHER=2)["TABLE"] == {"a": 1, "b": 3}


def test_setting_an_attribute_binds_nothing() -> None:
    assert index("X = object()\nX.attribute = 1\n").names == {"X"}


def test_loops_and_unpacking_bind() -> None:
    made = index("""
        a, (b, *c) = 1, (2, 3, 4)
        for item in (1, 2):
            last = item
        with open("x") as handle:
            inside = 1
        annotated: int
        given: int = 4
        """)
    assert {"a", "b", "c", "item", "last", "handle", "inside", "given"} == made.names
    assert run(made, "c")["c"] == [3, 4]
    assert run(made, "last")["last"] == 2


def test_names_that_python_looks_up_eagerly() -> None:
    made = index("""
        class Wanted(Base):
            field: Annotation = default
            def method(self, argument=preset):
                return inside
        """)
    assert set(made.cut("Wanted").eager) >= {"default", "preset", "Annotation"}
    assert "inside" not in made.cut("Wanted").eager


def test_future_annotations_hold_in_slices() -> None:
    made = index("from __future__ import annotations\nclass W:\n    x: Unknown\n")
    assert run(made, "W")["W"].__annotations__ == {"x": "Unknown"}  # type: ignore[attr-defined]
    assert "Unknown" not in made.cut("W").eager


def test_lines_and_source_are_those_of_the_file() -> None:
    made = index("""
        skipped = 1

        def failing():
            return 1 / 0
        """)
    function = run(made, "failing")["failing"]
    assert inspect.getsource(function).startswith("def failing")  # type: ignore[arg-type]
    assert function.__code__.co_firstlineno == 4  # type: ignore[attr-defined]
    assert function.__code__.co_filename == "tree/module.py"  # type: ignore[attr-defined]


def test_stars_are_kept_in_order() -> None:
    made = index("from .a import *\nif x:\n    from b.c import *\n")
    assert made.stars == [("a", 1), ("b.c", 0)]


def test_definition_or_import() -> None:
    made = index("from m import f\ndef g(): ...\n")
    assert made.defines("g")
    assert not made.defines("f")


def test_syntax_error_is_named() -> None:
    with pytest.raises(CannotRunError, match=r"tree/module\.py:3: syntax error: .*'def broken\('"):
        index("\nx = 1\ndef broken(\n")
