"""Which environment variables a backend file reads, and what else than what it is each may be set to: by the text alone.

The file itself, and the modules beside it that it imports. Knows no framework, and runs nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from backend.errors import CannotRunError
from backend.real.frameworks.fetch import BackendSource
from backend.real.python.slicing import parse
from backend.real.python.trees import module_source

PREFIXES = ("SGLANG_", "SGL_", "VLLM_", "ATOM_", "AITER_")
"""How the names of variables begin that steer the frameworks, or AITER below them."""

TRUE, FALSE = frozenset({"1", "true", "yes", "y", "on"}), frozenset({"0", "false", "no", "n", "off", "", "none"})

OTHER_KINDS = ("int", "float", "tuple", "json", "list", "dict", "path")
"""Parts of the name of a variable's type that say that it is no switch."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A variable of the framework's that turns something. values: what it is without is none of them, where that is known."""

    name: str
    values: tuple[str, ...]


def switches_of(source: BackendSource) -> tuple[Switch, ...]:
    """The switches that the file under test reads, then those that modules of its own folder that it imports do, in order.

    Numbers, lists and paths are no switches, nor is what a variable's declaration says to be none.
    """
    trees = [parse(source.target), *_beside(source)]
    found: dict[str, Switch] = {}
    for tree in trees:
        words, declared = _compared(tree), _declared(source, tree)
        for name, default in _read(tree):
            kind, there = declared.get(name, ("", None))
            known = there if default is None else default
            values = tuple(each for each in words.get(name, ("0", "1")) if not _same(each, known))
            if values and not any(part in kind.lower() for part in OTHER_KINDS):
                found.setdefault(name, Switch(name, values))
    return tuple(found.values())


def _same(value: str, default: str | None) -> bool:
    if default is None:
        return False
    one, other = value.lower(), default.lower()
    return one == other or any({one, other} <= alike for alike in (TRUE, FALSE))


def _beside(source: BackendSource) -> Iterator[ast.Module]:
    """Modules of the folder of the file under test that it imports."""
    folder = source.target.name.rpartition(".")[0] + "."
    for module in dict.fromkeys(_imported(parse(source.target), source.target.name)):
        found = module_source(source.tree.tree, module) if module.startswith(folder) else None
        if found is not None:
            try:
                yield parse(found)
            except CannotRunError:  # whoever needs it says so
                continue


def _imported(tree: ast.Module, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = ".".join(module.split(".")[: -node.level]) if node.level else ""
            yield ".".join(part for part in (above, node.module) if part)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _read(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Name and default of each variable that is read, in the order of the text; None where no default stands there."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Call, ast.Attribute, ast.Subscript))]
    for node in sorted(nodes, key=lambda each: (each.lineno, each.col_offset)):
        name = _name_read(node)
        if name.startswith(PREFIXES):
            default = node.args[1] if isinstance(node, ast.Call) and len(node.args) > 1 else None
            yield name, _word(default)


def _name_read(node: ast.AST) -> str:
    """Of `envs.NAME`, `environ["NAME"]`, `getenv("NAME", ...)` and their like; "" for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr if isinstance(node.value, ast.Name) and "env" in node.value.id.lower() else ""
    if isinstance(node, ast.Subscript):
        return _word(node.slice) or "" if "environ" in ast.unparse(node.value) else ""
    if isinstance(node, ast.Call) and node.args and "env" in ast.unparse(node.func).lower():
        return _word(node.args[0]) or ""
    return ""


def _word(node: ast.AST | None) -> str | None:
    return str(node.value) if isinstance(node, ast.Constant) and node.value is not None else None


def _compared(tree: ast.Module) -> dict[str, tuple[str, ...]]:
    """By variable, the words that what is made of it is compared with, each once, in order."""
    holders: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            names = {name for part in ast.walk(node.value) if (name := _name_read(part)).startswith(PREFIXES)}
            if len(names) == 1:
                holders[ast.unparse(node.targets[0])] = names.pop()
    words: dict[str, dict[str, None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            name = holders.get(ast.unparse(node.left)) or next(filter(None, map(_name_read, ast.walk(node.left))), "")
            for other in node.comparators:
                parts = other.elts if isinstance(other, (ast.Tuple, ast.List, ast.Set)) else [other]
                said = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                if name and said:
                    words.setdefault(name, {}).update(dict.fromkeys(said))
    return {name: tuple(said) for name, said in words.items() if not all(_is_flag(word) for word in said)}


def _is_flag(word: str) -> bool:
    return word.lower() in TRUE | FALSE


def _declared(source: BackendSource, tree: ast.Module) -> dict[str, tuple[str, str | None]]:
    """Type and default of variables, by the module that `envs` is taken from: NAME = EnvBool(True), NAME: bool = True."""
    made: dict[str, tuple[str, str | None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                if (alias.asname or alias.name).rpartition(".")[2] != "envs":
                    continue
                base = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                for module in dict.fromkeys((f"{base}.{alias.name}".strip("."), base)):
                    found = module_source(source.tree.tree, module) if module else None
                    if found is not None and not made:
                        made |= dict(_declarations(parse(found)))
    return made


def _declarations(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str | None]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call):
            default = _word(node.value.args[0]) if node.value.args else None
            yield node.targets[0].id, (ast.unparse(node.value.func), default)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, (ast.unparse(node.annotation), _word(node.value))
