"""Declarations of a translation unit: functions, templates, records, enumerations, constants and aliases, by name.

The parser is tree-sitter's; a syntax error matters where it lies in something that is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tree_sitter
import tree_sitter_cpp

from backend.cxx.errors import CxxError
from backend.cxx.preprocess import preprocess

Node = Any


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a template. kind: "type", "value" or "template"; type and default: syntax, of a value parameter."""

    name: str
    kind: str
    type: Node | None
    default: Node | None


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """Something with a name. kind: "function", "record", "enum", "alias", "variable"; template: None for a plain one."""

    kind: str
    name: str
    file: str
    node: Node
    template: tuple[Parameter, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A translation unit: every declaration by name (without its namespace), in order."""

    named: dict[str, list[Declaration]] = field(default_factory=dict)
    enumerators: dict[str, tuple[Declaration, Node]] = field(default_factory=dict)

    def find(self, name: str, *kinds: str) -> Declaration | None:
        """The last declaration of that name with a body or value, of one of `kinds`."""
        found = [each for each in self.named.get(name, ()) if not kinds or each.kind in kinds]
        return found[-1] if found else None

    def all(self, name: str, kind: str) -> list[Declaration]:
        """All declarations of that name and kind: overloads."""
        return [each for each in self.named.get(name, ()) if each.kind == kind]


def parse_unit(files: Iterable[tuple[str, str]], given: Iterable[str] = ()) -> Unit:
    """The declarations of files (name, text) that are compiled together, in order; given: macros, see `preprocess`."""
    listed = list(files)
    unit = Unit()
    for (file, _), text in zip(listed, preprocess(listed, given), strict=True):
        tree = _parser().parse(text.encode())
        for node in tree.root_node.named_children:
            try:
                _collect(unit, file, node, None)
            except (AttributeError, RecursionError) as error:  # a node without what its kind has; blocks in blocks
                raise CxxError(file, line(node), "a declaration that is cut short or nested so deeply") from error
    return unit


@cache
def _parser() -> tree_sitter.Parser:
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_cpp.language()))


def text(node: Node) -> str:
    """A node's source text."""
    return str(node.text.decode())


def line(node: Node) -> int:
    """A node's first line, from 1."""
    return int(node.start_point[0]) + 1


def children(node: Node) -> list[Node]:
    """Named children that are no comments."""
    return [each for each in node.named_children if each.type != "comment"]


def of_type(node: Node, *types: str) -> list[Node]:
    """Children of these types."""
    return [each for each in node.named_children if each.type in types]


def has_word(node: Node, word: str) -> bool:
    """Whether one of a node's children is exactly that word: static, constexpr, const."""
    return any(
        text(each) == word for each in node.children if each.child_count == 0 or each.type.endswith(("specifier", "qualifier"))
    )


def first_error(node: Node) -> Node | None:
    """The first syntax error below a node."""
    if node.type == "ERROR" or node.is_missing:
        return node
    return next(
        (found for each in node.children if each.has_error or each.is_missing for found in [first_error(each)] if found), None
    )


def check_syntax(declaration: Declaration) -> None:
    """Raises CxxError where what is about to be used did not parse."""
    if declaration.node.has_error:
        wrong = first_error(declaration.node)
        at = wrong if wrong is not None else declaration.node
        raise CxxError(declaration.file, line(at), f"the syntax of {text(at)[:60]!r} in {declaration.name}")


def declared_name(node: Node) -> Node | None:
    """The identifier that a declarator declares."""
    while node is not None and node.type not in (
        "identifier",
        "field_identifier",
        "type_identifier",
        "operator_name",
        "qualified_identifier",
    ):
        inner = node.child_by_field_name("declarator")
        if inner is None:
            named = children(node)
            inner = named[-1] if named else None
        node = inner
    return node


def _collect(unit: Unit, file: str, node: Node, template: tuple[Parameter, ...] | None) -> None:
    if node.type in ("namespace_definition", "linkage_specification"):
        body = node.child_by_field_name("body")
        for each in _members(body):
            _collect(unit, file, each, None)
    elif node.type == "template_declaration":
        parameters = tuple(_parameters(node.child_by_field_name("parameters")))
        for each in children(node)[1:]:
            _collect(unit, file, each, parameters)
    elif node.type == "function_definition":
        name = declared_name(node.child_by_field_name("declarator"))
        if name is not None:
            _add(unit, Declaration("function", text(name).split("::")[-1], file, node, template))
    elif node.type in ("struct_specifier", "class_specifier", "union_specifier"):
        name = node.child_by_field_name("name")
        if name is not None and node.child_by_field_name("body") is not None:
            _add(unit, Declaration("record", text(name), file, node, template))
    elif node.type == "enum_specifier":
        _collect_enum(unit, file, node)
    elif node.type in ("alias_declaration", "type_definition"):
        _collect_alias(unit, file, node, template)
    elif node.type == "declaration":
        _collect_variables(unit, file, node, template)


def _members(body: Node | None) -> Iterator[Node]:
    if body is not None:
        yield from (children(body) if body.type == "declaration_list" else [body])


def _collect_alias(unit: Unit, file: str, node: Node, template: tuple[Parameter, ...] | None) -> None:
    if node.type == "type_definition":
        inner = node.child_by_field_name("type")
        if inner.type.endswith("_specifier") and inner.child_by_field_name("body") is not None:
            _collect(unit, file, inner, None)
            name = declared_name(node.child_by_field_name("declarator"))
            if inner.child_by_field_name("name") is None and name is not None:
                kind = "enum" if inner.type == "enum_specifier" else "record"
                _add(unit, Declaration(kind, text(name), file, inner, template))
            return
        name = declared_name(node.child_by_field_name("declarator"))
    else:
        name = node.child_by_field_name("name")
    if name is not None:
        _add(unit, Declaration("alias", text(name), file, node, template))


def _collect_enum(unit: Unit, file: str, node: Node) -> None:
    name = node.child_by_field_name("name")
    made = Declaration("enum", text(name) if name is not None else "", file, node)
    if name is not None:
        _add(unit, made)
    body = node.child_by_field_name("body")
    for each in of_type(body, "enumerator") if body is not None else []:
        unit.enumerators.setdefault(text(each.child_by_field_name("name")), (made, each))


def _collect_variables(unit: Unit, file: str, node: Node, template: tuple[Parameter, ...] | None) -> None:
    inner = node.child_by_field_name("type")
    if inner is not None and inner.type.endswith("_specifier"):
        _collect(unit, file, inner, template)
    for each in node.children_by_field_name("declarator"):
        if each.type == "init_declarator":
            name = declared_name(each.child_by_field_name("declarator"))
            if name is not None:
                _add(unit, Declaration("variable", text(name), file, node, template))


def _add(unit: Unit, made: Declaration) -> None:
    unit.named.setdefault(made.name, []).append(made)


def _parameters(node: Node) -> Iterator[Parameter]:
    for each in children(node):
        names = [n for n in children(each) if n.type in ("type_identifier", "identifier")]
        if each.type in ("type_parameter_declaration", "optional_type_parameter_declaration"):
            default = each.child_by_field_name("default_type")
            yield Parameter(text(names[0]) if names else "", "type", None, default)
        elif each.type in ("parameter_declaration", "optional_parameter_declaration"):
            declarator = each.child_by_field_name("declarator")
            name = text(declared_name(declarator)) if declarator is not None else ""
            yield Parameter(name, "value", each.child_by_field_name("type"), each.child_by_field_name("default_value"))
        else:
            yield Parameter("", "template", None, None)


def otherwise(node: Node) -> Node | None:
    """The else branch of an if statement; None where it has none."""
    found = node.child_by_field_name("alternative")
    return children(found)[0] if found is not None and children(found) else None


def has_return(node: Node) -> bool:
    """Whether a statement has a return of the function that it stands in."""
    if node.type == "return_statement":
        return True
    return node.type != "lambda_expression" and any(has_return(each) for each in node.named_children)


def always_returns(node: Node) -> bool:
    """Whether no path leads past a statement."""
    if node.type == "return_statement":
        return True
    if node.type == "compound_statement":
        return any(always_returns(each) for each in children(node))
    if node.type == "if_statement":
        no = otherwise(node)
        return no is not None and always_returns(node.child_by_field_name("consequence")) and always_returns(no)
    return False
