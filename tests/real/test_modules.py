"""Owned roots answer every name, in the documented order, and leave nothing behind."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.real.python.modules import Root, VirtualPackages
from backend.real.python.poison import Poison, Undecidable
from backend.real.python.slicing import IndexedTree
from backend.real.python.trees import FolderTree, ModuleSource

FILES = {
    "owned/__init__.py": """
        import not_installed_at_all
        from .first import *
        from .second import *
        1 / 0
        """,
    "owned/first.py": "both = 'first'\nonly_first = 1\n_private = 2\n",
    "owned/second.py": "both = 'second'\nhelper = len('abc')\n",
    "owned/uses.py": """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import ClassVar
        from owned import both
        from . import second
        import aiter_like as len
        LIMIT = second.helper + 1
        def add(x):
            return x + LIMIT
        def own_len():
            return len
        class Base:
            size = LIMIT
        @dataclass
        class Batch(Base):
            shared: ClassVar[int] = 9
            rows: int = LIMIT
        counter = 0
        def count():
            global counter
            counter += 1
            return counter
        broken = missing_everywhere + 1
        circular = circular_two
        circular_two = circular
        """,
    "owned/dynamic.py": """
        def __getattr__(name):
            if name == "made":
                return "made up"
            raise AttributeError(name)
        """,
    "owned/stub.py": "def operation(a, b=2):\n    return a\nfrom owned.stub import operation as alias\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> IndexedTree:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return IndexedTree(FolderTree(tmp_path))


def packages(tree: IndexedTree, **root: Any) -> VirtualPackages:
    return VirtualPackages([Root("owned", tree, **root), Root("aiter_like", None)])


def module(name: str) -> Any:
    return importlib.import_module(name)


def test_slices_resolve_across_modules(tree: IndexedTree) -> None:
    with packages(tree):
        uses = module("owned.uses")
        assert uses.add(1) == 5
        assert uses.Batch().rows == 4
        assert uses.Batch.shared == 9
        assert uses.Base.size == 4
        assert uses.own_len().__name__ == "aiter_like", "a module binding goes before a builtin of the same name"


def test_later_star_import_wins_and_private_names_stay(tree: IndexedTree) -> None:
    with packages(tree):
        owned = module("owned")
        assert owned.both == "second"
        assert owned.only_first == 1
        assert isinstance(owned._private, Poison)


def test_global_statements_reach_the_module(tree: IndexedTree) -> None:
    with packages(tree):
        uses = module("owned.uses")
        assert (uses.count(), uses.count(), uses.counter) == (1, 2, 2)


def test_fakes_go_first(tree: IndexedTree) -> None:
    with packages(tree, fakes={"helper": 40}):
        assert module("owned.uses").LIMIT == 41


def test_getattr_and_submodules(tree: IndexedTree) -> None:
    with packages(tree):
        assert module("owned.dynamic").made == "made up"
        assert module("owned").dynamic is module("owned.dynamic")
        assert isinstance(module("owned.dynamic").other, Poison)


def test_failures_become_poison_with_place_and_reason(tree: IndexedTree) -> None:
    with packages(tree) as owned:
        broken = module("owned.uses").broken
        assert isinstance(broken, Poison)
        assert "NameError" in owned.failures["owned.uses.broken"]
        assert "uses.py:" in owned.failures["owned.uses.broken"]
        assert isinstance(module("owned.uses").circular, Poison)
        assert isinstance(module("owned").not_installed_at_all, Poison)
        with pytest.raises(Undecidable, match="missing_everywhere"):
            bool(broken)


def test_modules_without_a_tree_and_refused_calls(tree: IndexedTree) -> None:
    with packages(tree, refuse_calls=True):
        module("aiter_like.anything.below").function(3)
        with pytest.raises(Undecidable, match=r"owned\.nothing.*declare a handler"):
            module("owned").nothing(3)


def test_absent_modules_fail_to_import(tree: IndexedTree) -> None:
    with packages(tree, absent=frozenset({"owned.optional"})):
        with pytest.raises(ModuleNotFoundError) as raised:
            module("owned.optional.part")
        assert raised.value.name == "owned.optional"


def test_wrappers_go_around_definitions_once(tree: IndexedTree) -> None:
    seen: list[str] = []

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            seen.append("called")
            return function(*args)

        return call

    with packages(tree, wrappers={"operation": wrap, "alias": wrap}):
        assert module("owned.stub").alias(3) == 3
    assert seen == ["called"]


def test_execute_runs_the_whole_file_anew(tree: IndexedTree) -> None:
    text = textwrap.dedent("""
        from owned import both
        from owned.second import helper
        state = [helper]
        def grow():
            state.append(both)
            return state
        """)
    source = ModuleSource("owned.target", text, "somewhere/target.py", False)
    with packages(tree) as owned:
        first = owned.execute(source)
        first.grow()
        second = owned.execute(source)
        assert second.grow() == [3, "second"]
        assert sys.modules["owned.target"] is second
        assert second.grow.__code__.co_filename == "somewhere/target.py"


def test_nothing_is_left_behind(tree: IndexedTree) -> None:
    before = dict(sys.modules)
    finders = list(sys.meta_path)
    sys.modules["owned"] = marker = type(sys)("owned")
    with packages(tree):
        assert module("owned") is not marker
    assert sys.modules.pop("owned") is marker
    assert sys.meta_path == finders
    assert {name for name in sys.modules if name.startswith("owned")} == {name for name in before if name.startswith("owned")}
