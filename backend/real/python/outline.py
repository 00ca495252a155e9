"""What a module is made of, line by line: its executable lines, its functions, its calls into a package. Executes nothing.

What was executed is held against this. Knows no framework and no AITER.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType

from backend.real.python.slicing import parse, whole_module
from backend.real.python.trees import ModuleSource


@dataclass(frozen=True, slots=True)
class FunctionLines:
    """A function or method. name: with the classes around it; first: its `def` line, or its first decorator's.

    lines: executable lines of its body, those of lambdas and comprehensions in it included and of nested functions not.
    """

    name: str
    first: int
    lines: frozenset[int]


@dataclass(frozen=True, slots=True, order=True)
class PackageCall:
    """A call of a function that the module takes from the package. line: of the call; name: as the package has it."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Outline:
    """lines: all with code, those of the module's own level too; calls: in the order of their lines."""

    lines: frozenset[int]
    functions: tuple[FunctionLines, ...]
    calls: tuple[PackageCall, ...]


def outline(source: ModuleSource, package: str) -> Outline:
    """Of a module that compiles; CannotRunError names file and line of a syntax error."""
    functions: list[FunctionLines] = []
    top = whole_module(source)
    lines = _own_lines(top, functions) | {line for each in functions for line in each.lines}
    functions.sort(key=lambda each: each.first)
    return Outline(frozenset(lines), tuple(functions), tuple(sorted(_calls(parse(source), package))))


def _own_lines(code: CodeType, functions: list[FunctionLines]) -> set[int]:
    """Lines of a code object without the functions in it, which are added to `functions`."""
    lines = {line for _, _, line in code.co_lines() if line}
    for constant in code.co_consts:
        if not isinstance(constant, CodeType):
            continue
        own = _own_lines(constant, functions)
        is_function = bool(constant.co_flags & inspect.CO_OPTIMIZED) and not constant.co_name.startswith("<")
        if is_function:
            body = frozenset(own - {constant.co_firstlineno})
            functions.append(FunctionLines(constant.co_qualname.replace(".<locals>", ""), constant.co_firstlineno, body))
        else:
            lines |= own
    return lines


def _calls(tree: ast.Module, package: str) -> Iterator[PackageCall]:
    """Calls of names that are imported from the package, of attributes of its modules, of its operators
    (`torch.ops.package.name`), of what a module named after it offers (`from vllm._aiter_ops import operators`), and of
    attributes that hold such a name or are called like one (`self.decode = decode`, `operators.decode(...)`)."""
    names: dict[str, str] = {}
    modules: set[str] = set()
    offering: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_below(node.module or "", package) and not node.level:
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").endswith(f".{_OFFERS.format(package)}"):
            offering |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.asname or package for alias in node.names if _is_below(alias.name, package)}
    held = {name: name for name in names.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in names:
            held |= {target.attr: names[node.value.id] for target in node.targets if isinstance(target, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.value if isinstance(node.func, ast.Subscript) else node.func
        if isinstance(called, ast.Name) and called.id in names:
            yield PackageCall(node.lineno, names[called.id])
        elif isinstance(called, ast.Attribute) and ast.unparse(called.value) == f"torch.ops.{package}":
            yield PackageCall(node.lineno, called.attr)
        elif isinstance(called, ast.Attribute) and (_root(called) in modules or called.attr in held):
            yield PackageCall(node.lineno, held.get(called.attr, called.attr))
        elif isinstance(called, ast.Attribute) and _root(called) in offering and not _asks(called.attr):
            yield PackageCall(node.lineno, called.attr)


_OFFERS = "_{}_ops"
"""Name of vLLM's module in front of the package."""


def _asks(name: str) -> bool:
    """Whether a function says what there is, and runs nothing of the package (is_enabled, mla_decode_supports_...)."""
    return name.startswith("is_") or "_supports_" in name


def _is_below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


@dataclass(frozen=True, slots=True)
class TextChange:
    """What differs between two texts. lines: of the new one that the old one lacks; removed: of the old one, gone without a
    replacement, with the line of the new one that stands there now."""

    lines: frozenset[int]
    removed: Mapping[int, int]


@functools.lru_cache(maxsize=2)
def text_change(old: str, new: str) -> TextChange:
    """Of two texts that Python takes; line numbers from 1. A comment is no change, another indentation is one."""
    lines: set[int] = set()
    removed: dict[int, int] = {}
    matcher = difflib.SequenceMatcher(None, _without_comments(old), _without_comments(new), autojunk=False)
    for what, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if what in ("replace", "insert"):
            lines |= set(range(new_from + 1, new_to + 1))
        elif what == "delete":
            removed |= dict.fromkeys(range(old_from + 1, old_to + 1), new_from + 1)
    return TextChange(frozenset(lines), removed)


def _without_comments(text: str) -> list[str]:
    """The text's lines, cut before a comment."""
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            lines[number - 1] = lines[number - 1][:column]
    return [line.rstrip() for line in lines]
