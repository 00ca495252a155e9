"""Stand-in packages: a meta-path finder that owns whole roots and answers every name out of definition slices.

`VirtualPackages` owns roots such as `sglang`, `vllm`, `aiter`. Importing any module below them gives an empty
LazyModule; a name asked of it is resolved in this order:
  1. an explicit fake, keyed by bare name within its root (paths move between releases, names do not);
  2. the real definition, sliced from the root's tree;
  3. the module's own `__getattr__`;
  4. a submodule;
  5. poison, which may be carried around but decides nothing.
Only `execute` runs a module whole: the file under test. Nothing outside the owned roots is touched, and `close` takes
every module back out. This module knows neither torch nor any framework.
"""

from __future__ import annotations

import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.errors import CannotRunError
from backend.real.python.poison import Poison, Undecidable, probing_builtins
from backend.real.python.slicing import Cut, IndexedTree, ModuleIndex, register_lines, whole_module
from backend.real.python.trees import ModuleSource

_ABSENT: Any = object()


@dataclass(slots=True)
class Root:
    """One owned top-level package.

    tree: where its real definitions are, None: it has none. fakes: values by bare name, in front of everything.
    modules: modules by full name that exist beside the tree's, with values of theirs. refuse_calls: a poison of this root
    that is called ends the run (an op of aiter that nobody serves must not pass as one that did nothing). absent: modules
    that must fail to import, as optional ones do on a machine without them. wrappers: put around the function of that name
    where it is defined.
    """

    name: str
    tree: IndexedTree | None
    fakes: Mapping[str, Any] = field(default_factory=dict)
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refuse_calls: bool = False
    absent: frozenset[str] = frozenset()
    wrappers: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


class Namespace(dict[str, Any]):
    """Globals of a sliced module: a missing name is resolved on first use, then kept."""

    def __init__(self, resolve: Callable[[str], Any]) -> None:
        super().__init__()
        self._resolve = resolve

    def __missing__(self, name: str) -> Any:
        value = self._resolve(name)
        if value is _ABSENT:
            raise KeyError(name)
        return value


class LazyModule(types.ModuleType):
    """A module of an owned root; names come into being when asked for."""

    def __init__(self, name: str, packages: VirtualPackages, root: Root) -> None:
        super().__init__(name)
        self.__dict__["_packages"] = packages
        self.__dict__["_root"] = root
        self.__dict__["_names"] = Namespace(self._own)
        self.__dict__["_resolving"] = set()
        self.__dict__["_index"] = _ABSENT

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._packages.lookup(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """A name set from outside is seen by the module's own functions too, as in any module.

        The import system sets submodules on their package; those are found by `lookup`, after what the package itself binds.
        """
        if name.startswith("__"):
            self.__dict__[name] = value
        elif not (isinstance(value, LazyModule) and value.__name__ == f"{self.__name__}.{name}"):
            self._names[name] = value

    def _own(self, name: str) -> Any:
        return self._packages.resolve_in(self, name)

    @property
    def _module_index(self) -> ModuleIndex | None:
        if self.__dict__["_index"] is _ABSENT:
            tree = self._root.tree
            self.__dict__["_index"] = tree.index(self.__name__) if tree is not None else None
        found: ModuleIndex | None = self.__dict__["_index"]
        return found


class VirtualPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The finder and loader of the owned roots; use as a context manager, or call `install` and `close`.

    failures: slices that could not be executed, by full name, with the reason: what to look at when poison decides.
    called: unknown functions that were called all the same, and did nothing. probes: undeclared fields that were asked for
    by hasattr or getattr, as Declared notes them.
    """

    def __init__(self, roots: Sequence[Root]) -> None:
        self.roots = {root.name: root for root in roots}
        self.failures: dict[str, str] = {}
        self.called: dict[str, None] = {}
        self.probes: list[str] = []
        self._probing = probing_builtins()
        self._shadowed: dict[str, types.ModuleType] = {}

    def __enter__(self) -> VirtualPackages:
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def install(self) -> None:
        """Take over the roots: modules already loaded under them are put aside until `close`."""
        for name in self._loaded():
            self._shadowed[name] = sys.modules.pop(name)
        sys.meta_path.insert(0, self)

    def _loaded(self) -> list[str]:
        """Modules under the roots that are loaded, of thousands."""
        begins = tuple(self.roots)
        return [name for name in sys.modules if name.startswith(begins) and name.partition(".")[0] in self.roots]

    def close(self) -> None:
        """Give the roots back and drop every module made, with what it holds (they form reference cycles)."""
        sys.meta_path.remove(self)
        for name in self._loaded():
            module = sys.modules.pop(name)
            if isinstance(module, LazyModule):
                module._names.clear()
                module.__dict__.clear()
        sys.modules.update(self._shadowed)
        self._shadowed.clear()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Every module below an owned root exists, save those declared absent."""
        root = self.roots.get(name.partition(".")[0])
        if root is None:
            return None
        if any(name == gone or name.startswith(f"{gone}.") for gone in root.absent):
            raise ModuleNotFoundError(f"No module named {name!r} (declared absent)", name=name)
        spec = importlib.machinery.ModuleSpec(name, self, is_package=True)
        spec.submodule_search_locations = []
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Makes an empty LazyModule."""
        root = self.roots[spec.name.partition(".")[0]]
        return LazyModule(spec.name, self, root)

    def exec_module(self, module: types.ModuleType) -> None:
        """Give the namespace what a module's globals have; nothing of the module runs."""
        assert isinstance(module, LazyModule)
        index = module._module_index
        filename = index.source.filename if index is not None else f"<{module.__name__}: not in the tree>"
        package = module.__name__ if index is None or index.source.is_package else module.__name__.rpartition(".")[0]
        module.__dict__["__file__"] = filename
        module._names.update(
            __name__=module.__name__, __file__=filename, __package__=package, __builtins__=_builtins(), **self._probing
        )
        for name, value in module._root.modules.get(module.__name__, {}).items():
            setattr(module, name, value)
        if index is not None:
            _bind_typing_markers(module, index)

    def lookup(self, module: LazyModule, name: str) -> Any:
        """A name asked of a module from outside; poison where it cannot be had."""
        value = self.resolve_in(module, name, from_outside=True)
        if value is not _ABSENT:
            return value
        full = f"{module.__name__}.{name}"
        if full in sys.modules or self._is_module(module._root, full):
            return importlib.import_module(full)
        where = "its module is not in the tree" if module._module_index is None else "the module does not bind it"
        return self._poison(module, name, where)

    def resolve_in(self, module: LazyModule, name: str, from_outside: bool = False) -> Any:
        """Fake, slice, star imports, then (from outside) the module's __getattr__; _ABSENT where none has it."""
        names = module._names
        if name in names:
            return dict.__getitem__(names, name)
        if name in module._root.fakes:
            names[name] = module._root.fakes[name]
            return names[name]
        index = module._module_index
        if index is None:
            return _ABSENT
        if name in index:
            return self._slice(module, index, name)
        for target, level in reversed(index.stars):
            found = self._from_star(module, target, level, name)
            if found is not _ABSENT:
                names[name] = found
                return found
        if from_outside and "__getattr__" in index:
            try:
                return names["__getattr__"](name)
            except AttributeError:
                return _ABSENT
        return _ABSENT

    def _slice(self, module: LazyModule, index: ModuleIndex, name: str) -> Any:
        names = module._names
        if name in module._resolving:
            if self._is_module(module._root, f"{module.__name__}.{name}"):  # a package's `from . import name`
                return importlib.import_module(f"{module.__name__}.{name}")
            return self._poison(module, name, "its definition needs itself")
        module._resolving.add(name)
        try:
            cut = self._cut(module, name)
            for needed in cut.eager:
                if needed not in names:
                    self.resolve_in(module, needed)
            exec(cut.code, names)
            wrapper = module._root.wrappers.get(name)
            if wrapper is not None and index.defines(name):
                names[name] = wrapper(names[name])
            if name not in names:
                raise NameError(f"the branch that binds {name} is not taken")
            return names[name]
        except Exception as error:
            reason = f"{index.source.filename}:{index.line_of(name)}: {type(error).__name__}: {error}"
            self.failures[f"{module.__name__}.{name}"] = reason
            names[name] = self._poison(module, name, reason)
            return names[name]
        finally:
            module._resolving.discard(name)

    @staticmethod
    def _is_module(root: Root, full: str) -> bool:
        return full in root.modules or (root.tree is not None and root.tree.index(full) is not None)

    @staticmethod
    def _cut(module: LazyModule, name: str) -> Cut:
        tree: IndexedTree | None = module._root.tree
        assert tree is not None
        return tree.cut(module.__name__, name)

    def _from_star(self, module: LazyModule, target: str, level: int, name: str) -> Any:
        package = module._names["__package__"]
        full = importlib.util.resolve_name("." * level + target, package) if level else target
        if name.startswith("_"):
            return _ABSENT
        try:
            imported = importlib.import_module(full)
        except ModuleNotFoundError:
            return _ABSENT
        if isinstance(imported, LazyModule):
            key = f"*{name}"
            if key in imported._resolving:
                return _ABSENT
            imported._resolving.add(key)
            try:
                return self.resolve_in(imported, name)
            finally:
                imported._resolving.discard(key)
        return getattr(imported, name, _ABSENT)

    def _poison(self, module: LazyModule, name: str, reason: str) -> Poison:
        return Poison(f"{module.__name__}.{name}", reason, _refuse_call if module._root.refuse_calls else self._note_call)

    def _note_call(self, poison: Poison) -> None:
        self.called[poison.poison_reason] = None

    def execute(self, source: ModuleSource) -> LazyModule:
        """Run a whole module: the file under test, as it is. Its earlier incarnation is dropped.

        Raises CannotRunError for a syntax error; what the file itself raises comes through.
        """
        code = whole_module(source)
        register_lines(source)
        sys.modules.pop(source.name, None)
        spec = self.find_spec(source.name)
        if spec is None:
            raise CannotRunError(f"{source.name}: not below an owned root ({', '.join(self.roots)})")
        module = importlib.util.module_from_spec(spec)
        assert isinstance(module, LazyModule)
        package = source.name if source.is_package else source.name.rpartition(".")[0]
        module.__dict__.update(_index=None, __file__=source.filename)
        module._names.update(
            __name__=source.name, __file__=source.filename, __package__=package, __builtins__=_builtins(), **self._probing
        )
        importlib.import_module(package)
        sys.modules[source.name] = module
        exec(code, module._names)
        return module


def _builtins() -> dict[str, Any]:
    return __builtins__ if isinstance(__builtins__, dict) else vars(__builtins__)


def _refuse_call(poison: Poison) -> None:
    raise Undecidable(f"{poison.poison_reason} is called, and nothing serves it; declare a handler for it")


_TYPING_MARKERS = {
    "ClassVar": typing.ClassVar,
    "typing": typing,
    "InitVar": dataclasses.InitVar,
    "KW_ONLY": dataclasses.KW_ONLY,
    "dataclasses": dataclasses,
}


def _bind_typing_markers(module: LazyModule, index: ModuleIndex) -> None:
    """dataclasses looks for ClassVar and InitVar in sys.modules[cls.__module__].__dict__, behind our resolution."""
    module.__dict__.update({name: value for name, value in _TYPING_MARKERS.items() if name in index})
