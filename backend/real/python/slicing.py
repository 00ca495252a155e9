"""Definition slices: of a large module, execute only the statements that bind the names asked for.

A framework's module imports half a framework; the one function wanted of it needs five names. `ModuleIndex` parses a
module once and knows, for every name, the top-level statements that bind it (through if, try and with); `cut` gives them
as code with their original file name and line numbers, so that tracebacks, inspect.getsource and Triton's interpreter
see the real file. This module executes nothing and imports nothing.

What counts as binding a name: def, class, assignment (`TABLE[k] = v` too: it completes TABLE), import, one alias of a
`from x import a, b`, a loop or `with` target. `X.attr = v` does not bind X. Blocks under `if TYPE_CHECKING:` are
skipped; every other condition stays in the slice and is evaluated with the real values.
"""

from __future__ import annotations
import __future__

import ast
import functools
import linecache
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType

from backend.errors import CannotRunError
from backend.real.python.trees import ModuleSource, Tree, module_source


@dataclass(slots=True)
class Cut:
    """Code that binds one name, and the names that must be resolved before it runs.

    eager: names read by class bodies, bases, decorators and defaults; Python looks those up without asking a mapping's
    __missing__, so they have to be there.
    """

    code: CodeType
    eager: tuple[str, ...]


@dataclass(slots=True)
class ModuleIndex:
    """Top-level bindings of one module. `stars`: modules of `from x import *`, in order, as written (with level)."""

    source: ModuleSource
    future_flags: int = 0
    stars: list[tuple[str, int]] = field(default_factory=list)
    _bound: dict[str, list[ast.stmt]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: ModuleSource) -> ModuleIndex:
        """Parse a module; CannotRunError names file and line of a syntax error."""
        tree = parse(source)
        index = cls(source, future_flags(tree))
        for statement in tree.body:
            index._add(statement)
        register_lines(source)
        return index

    @property
    def names(self) -> frozenset[str]:
        """Names bound at the top level, stars not followed."""
        return frozenset(self._bound)

    def __contains__(self, name: str) -> bool:
        return name in self._bound

    def line_of(self, name: str) -> int:
        """Line of the first statement that binds the name."""
        return self._bound[name][0].lineno

    def defines(self, name: str) -> bool:
        """Whether a def or class of the name stands at the top level (it is not imported or assigned)."""
        return any(isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) for s in self._bound[name])

    def cut(self, name: str) -> Cut:
        """The statements that bind `name`, in source order; KeyError where it is not bound."""
        body = [statement for whole in self._bound[name] for statement in _narrow(whole, name)]
        module = ast.fix_missing_locations(ast.Module(body=body, type_ignores=[]))
        lazily_annotated = bool(self.future_flags & __future__.annotations.compiler_flag)
        code = compile(module, self.source.filename, "exec", flags=self.future_flags, dont_inherit=True)
        eager = _EagerNames(lazily_annotated)
        eager.visit(module)
        return Cut(code, tuple(sorted(eager.names - {name})))

    def _add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.ImportFrom) and any(alias.name == "*" for alias in statement.names):
            self.stars.append((statement.module or "", statement.level))
            return
        for name in _names_bound(statement, self.stars):
            self._bound.setdefault(name, []).append(statement)


class IndexedTree:
    """A tree with the indices and cuts made of it so far; kept from case to case, since parsing is most of the cost."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._indices: dict[str, ModuleIndex | None] = {}
        self._cuts: dict[tuple[str, str], Cut] = {}

    def index(self, module: str) -> ModuleIndex | None:
        """The module's index; None where the tree has no such module."""
        if module not in self._indices:
            source = module_source(self.tree, module)
            self._indices[module] = None if source is None else ModuleIndex.of(source)
        return self._indices[module]

    def cut(self, module: str, name: str) -> Cut:
        """The code that binds a name of a module that is in the tree."""
        key = (module, name)
        if key not in self._cuts:
            index = self.index(module)
            assert index is not None
            self._cuts[key] = index.cut(name)
        return self._cuts[key]


def parse(source: ModuleSource) -> ast.Module:
    """The syntax tree; a syntax error becomes CannotRunError with file, line and text."""
    try:
        with _one_parser():
            return ast.parse(source.text, source.filename)
    except SyntaxError as error:
        line = (error.text or "").strip()
        where = f"{source.filename}:{error.lineno}"
        raise CannotRunError(f"{where}: syntax error: {error.msg}: {line!r}; the file must parse as Python") from error


_PARSING = threading.Lock()


@contextmanager
def _one_parser() -> Iterator[None]:
    """Nobody else of this process parses: before 3.11.5, Python fails when two threads do at once (python/cpython#106905).

    numba parses while it compiles, and holds a lock of its own for that.
    """
    with _PARSING:
        if "numba.core.compiler_lock" not in sys.modules:
            yield
            return
        with sys.modules["numba.core.compiler_lock"].global_compiler_lock:
            yield


@functools.lru_cache(maxsize=8)
def whole_module(source: ModuleSource) -> CodeType:
    """Code of the whole module, kept for the next time: the file under test is executed anew for every case."""
    tree = parse(source)
    code: CodeType = compile(tree, source.filename, "exec", flags=future_flags(tree), dont_inherit=True)
    return code


def future_flags(tree: ast.Module) -> int:
    """Compiler flags of the module's `from __future__ import ...`."""
    flags = 0
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            for alias in statement.names:
                flags |= getattr(__future__, alias.name).compiler_flag
    return flags


def register_lines(source: ModuleSource) -> None:
    """Make the text known to linecache under its file name, which need not exist on disk (wheel, git)."""
    lines = source.text.splitlines(keepends=True)
    linecache.cache[source.filename] = (len(source.text), None, lines, source.filename)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """Nested blocks that are narrowed with the name; a loop is taken whole and has none."""
    if isinstance(statement, ast.If):
        return [statement.orelse] if _is_type_checking(statement.test) else [statement.body, statement.orelse]
    if isinstance(statement, ast.Try):
        return [statement.body, *(handler.body for handler in statement.handlers), statement.orelse, statement.finalbody]
    if isinstance(statement, ast.With):
        return [statement.body]
    return []


def _names_bound(statement: ast.stmt, stars: list[tuple[str, int]]) -> list[str]:
    names: list[str] = []
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        names.append(statement.name)
    elif isinstance(statement, ast.Import):
        names += [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    elif isinstance(statement, ast.ImportFrom):
        if any(alias.name == "*" for alias in statement.names):
            stars.append((statement.module or "", statement.level))
        names += [alias.asname or alias.name for alias in statement.names if alias.name != "*"]
    elif isinstance(statement, ast.Assign):
        names += [name for target in statement.targets for name in _target_names(target)]
    elif isinstance(statement, (ast.AugAssign, ast.For, ast.AsyncFor)) or (
        isinstance(statement, ast.AnnAssign) and statement.value is not None
    ):
        names += _target_names(statement.target)
    if isinstance(statement, (ast.For, ast.AsyncFor, ast.While)):
        names += [name for inner in (*statement.body, *statement.orelse) for name in _names_bound(inner, stars)]
    elif isinstance(statement, ast.With):
        names += [name for item in statement.items if item.optional_vars for name in _target_names(item.optional_vars)]
    for block in _blocks(statement):
        names += [name for inner in block for name in _names_bound(inner, stars)]
    return list(dict.fromkeys(names))


def _target_names(target: ast.expr) -> list[str]:
    if isinstance(target, ast.Name):
        return [target.id]
    if isinstance(target, (ast.Tuple, ast.List)):
        return [name for element in target.elts for name in _target_names(element)]
    if isinstance(target, ast.Starred):
        return _target_names(target.value)
    if isinstance(target, ast.Subscript):
        return _target_names(target.value) if isinstance(target.value, ast.Name) else []
    return []


def _narrow(statement: ast.stmt, name: str) -> list[ast.stmt]:
    """The part of a statement that binds `name`: one alias of an import, a block without its other statements."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        kept = [a for a in statement.names if (a.asname or a.name.partition(".")[0]) == name]
        if isinstance(statement, ast.ImportFrom):
            kept = [a for a in statement.names if (a.asname or a.name) == name]
            made: ast.stmt = ast.ImportFrom(module=statement.module, names=kept, level=statement.level)
        else:
            made = ast.Import(names=kept)
        return [ast.copy_location(made, statement)]
    if not _blocks(statement):
        return [statement]
    return _narrow_compound(statement, name)


def _narrow_compound(statement: ast.stmt, name: str) -> list[ast.stmt]:
    def block(body: list[ast.stmt]) -> list[ast.stmt]:
        return [part for inner in body if name in _names_bound(inner, []) for part in _narrow(inner, name)]

    def filled(body: list[ast.stmt], at: ast.AST) -> list[ast.stmt]:
        return block(body) or [ast.copy_location(ast.Pass(), at)]

    if isinstance(statement, ast.If):
        if _is_type_checking(statement.test):
            return block(statement.orelse)
        made: ast.stmt = ast.If(statement.test, filled(statement.body, statement), block(statement.orelse))
    elif isinstance(statement, ast.Try):
        handlers = [ast.copy_location(ast.ExceptHandler(h.type, h.name, filled(h.body, h)), h) for h in statement.handlers]
        made = ast.Try(filled(statement.body, statement), handlers, block(statement.orelse), block(statement.finalbody))
        if not handlers and not made.finalbody:
            made.finalbody = [ast.copy_location(ast.Pass(), statement)]
    else:
        assert isinstance(statement, ast.With)
        made = ast.With(statement.items, filled(statement.body, statement))
    return [ast.copy_location(made, statement)]


class _EagerNames(ast.NodeVisitor):
    """Names that are looked up while a class body or a definition's header runs: not those inside function bodies."""

    def __init__(self, lazily_annotated: bool) -> None:
        self.names: set[str] = set()
        self._lazily_annotated = lazily_annotated
        self._in_class = 0

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and self._in_class:
            self.names.add(node.id)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._in_class += 1
        self.generic_visit(node)
        self._in_class -= 1

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)):
            self.visit(part)
        if not self._lazily_annotated:
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            for annotation in (*(a.annotation for a in arguments if a is not None), node.returns):
                if annotation is not None:
                    self.visit(annotation)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if not self._lazily_annotated:
            self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)):
            self.visit(default)
