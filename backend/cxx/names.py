"""Names in scope, members of records, and templates whose arguments follow from a call. Shared by both lowerings."""

from __future__ import annotations

import re
from typing import Any

from backend.cxx.expressions import Expressions
from backend.cxx.syntax import Declaration, Node, children, declared_name, has_word, of_type, text
from backend.cxx.types import INT, Opaque, Pointer, Record
from backend.cxx.values import Aggregate, Lambda, Scope, TypeName, Value, Variable, constant


class Names(Expressions):
    """Finds what a name stands for. A subclass says how a variable is read and how a static member's value is made."""

    statics: dict[Any, Value]

    def read(self, place: Any) -> Value:
        """The value of what a name stands for."""
        raise NotImplementedError

    def static_value(self, node: Node, name: str) -> Value:
        """The value of a static data member, by its declaration."""
        raise NotImplementedError

    def static_scope(self, record: Record) -> Scope:
        """Names that a record's static members see."""
        return Scope(names=dict(record.arguments), record=record)

    def _identifier(self, node: Node) -> Value:
        return self._named(text(node), node)

    _field_identifier = _identifier
    _type_identifier = _identifier  # a template's argument that the parser takes for a type

    def _this(self, node: Node) -> Value:
        raise self.unknown(node, "a use of")

    def _named(self, name: str, node: Node) -> Value:
        for scope in self.scope.chain():
            if name in scope.names:
                found = scope.names[name]
                if isinstance(found, (Value, Variable, Aggregate)):
                    return self.read(found)
                if isinstance(found, Lambda):
                    return Value("", Opaque("lambda"), place=found)
                raise self.unknown(node, "the name")
            if scope.record is not None and (static := self.static_member(scope.record, name)) is not None:
                return static
        if name in self.unit.enumerators:
            return self.enumerator(name, node)
        declaration = self.unit.find(name, "variable")
        if declaration is None:
            raise self.unknown(node, "the name")
        return self._global(declaration, node)

    def enumerator(self, name: str, node: Node) -> Value:
        """The value of an enumerator: its own, or one more than the one before."""
        declaration, _ = self.unit.enumerators[name]
        value = -1
        for each in of_type(declaration.node.child_by_field_name("body"), "enumerator"):
            given = each.child_by_field_name("value")
            value = value + 1 if given is None else self.in_file(declaration, Scope(), self.value_of, given).const
            if text(each.child_by_field_name("name")) == name:
                return constant(value, INT)
        raise self.unknown(node, "the enumerator")

    def _global(self, declaration: Declaration, node: Node) -> Value:
        def made() -> Value:
            base = declaration.node.child_by_field_name("type")
            for each in declaration.node.children_by_field_name("declarator"):
                declarator = each.child_by_field_name("declarator")
                if text(declared_name(declarator)) == declaration.name:
                    value = self.value_of(each.child_by_field_name("value"))
                    return self.convert(value, self.declared_type(base, declarator), each)
            raise self.unknown(node, "the name")

        value: Value = self.in_file(declaration, Scope(), made)
        if value.const is None:
            raise self.unknown(node, "a variable of the file that is no constant,")
        return value

    def _qualified_identifier(self, node: Node) -> Value:
        scope = node.child_by_field_name("scope")
        inner = node.child_by_field_name("name")
        record = self._record_named(scope)
        if record is not None:
            found = self.static_member(record, text(inner))
            if found is not None:
                return found
        if text(inner) in self.unit.enumerators:
            return self.enumerator(text(inner), node)
        raise self.unknown(node, "the name")

    def _record_named(self, scope: Node | None) -> Record | None:
        if scope is None:
            return None
        if scope.type == "template_type":
            made = self.type_of(scope)
        else:
            found = self.scope.find(text(scope))
            declaration = self.unit.find(text(scope), "record")
            if isinstance(found, TypeName):
                made = found.type
            elif declaration is not None and declaration.template is None:
                made = self.record(declaration, {})
            else:
                made = next(
                    (each.record for each in self.scope.chain() if each.record is not None and each.record.name == text(scope)),
                    None,
                )
        return made if isinstance(made, Record) else None

    def static_member(self, record: Record, name: str) -> Value | None:
        """A static constant of a record; None where it has none of that name."""
        key = (id(record), name)
        if key not in self.statics:
            node = next(
                (
                    each
                    for each in self._member_nodes(record)
                    if each.type == "field_declaration"
                    and has_word(each, "static")
                    and text(declared_name(each.child_by_field_name("declarator"))) == name
                ),
                None,
            )
            if node is None:
                return None
            self.statics[key] = self.in_file(record.declaration, self.static_scope(record), self.static_value, node, name)
        return self.statics[key]

    @staticmethod
    def _member_nodes(record: Record) -> list[Node]:
        body = record.declaration.node.child_by_field_name("body")
        return children(body) if body is not None else []

    def declared_function(self, name: str, count: int, node: Node) -> Declaration:
        """The last function of that name that takes `count` arguments; raises CxxError where there is none."""
        found = [each for each in self.unit.all(name, "function") if takes(each.node, count)]
        if not found:
            raise self.unknown(node, "the function")
        return found[-1]

    def bound_names(self, declaration: Declaration, template: Node | None, values: list[Value], node: Node) -> dict[str, Any]:
        """Template arguments of a call by name: those given, and those that follow from the values."""
        if declaration.template is None:
            return {}
        given = self.template_arguments(template, declaration) if template is not None else []
        return self._deduced(declaration, given, values, node)

    def _deduced(self, declaration: Declaration, given: list[Any], values: list[Value], node: Node) -> dict[str, Any]:
        names = self.bound(declaration, given)
        for parameter, value in zip(parameters_of(declaration.node), values, strict=False):
            self._unify(parameter.child_by_field_name("type"), parameter.child_by_field_name("declarator"), value.type, names)
        for each in declaration.template or ():
            if each.name not in names:
                raise self.unknown(node, f"the template parameter {each.name} in")
        return names

    def _unify(self, of: Node, declarator: Node | None, given: Any, names: dict[str, Any]) -> None:
        """Bind the template parameters that a parameter's type names, by an argument's type."""
        while declarator is not None and declarator.type not in ("identifier",):
            if declarator.type == "pointer_declarator":
                if not isinstance(given, Pointer):
                    return
                given = given.to
            declarator = declarator.child_by_field_name("declarator") or next(
                (each for each in children(declarator) if each.type.endswith(("declarator", "identifier"))), None
            )
        if of.type == "type_identifier":
            names.setdefault(text(of), TypeName(given))
        elif of.type == "template_type" and isinstance(given, Record):
            listed = children(of.child_by_field_name("arguments"))
            for each, value in zip(listed, given.arguments.values(), strict=False):
                names.setdefault(text(each), value)

    def method_of(self, record: Record, name: str) -> Node | None:
        for each in self._member_nodes(record):
            inner = each
            if inner.type == "function_definition" and text(declared_name(inner.child_by_field_name("declarator"))) == name:
                return inner
        return None


def parameters_of(function: Node) -> list[Node]:
    declarator = function.child_by_field_name("declarator")
    while declarator is not None and declarator.child_by_field_name("parameters") is None:
        declarator = declarator.child_by_field_name("declarator")
    if declarator is None:
        return []
    listed = children(declarator.child_by_field_name("parameters"))
    return [
        each
        for each in listed
        if each.type in ("parameter_declaration", "optional_parameter_declaration") and text(each) != "void"
    ]


def takes(function: Node, count: int) -> bool:
    parameters = parameters_of(function)
    least = sum(1 for each in parameters if each.child_by_field_name("default_value") is None)
    return least <= count <= len(parameters)


def changes(body: str, name: str) -> bool:
    """Whether a function's text may assign to a parameter; true where in doubt."""
    changing = rf"(\+\+|--|&)\s*{name}\b|\b{name}\s*(\+\+|--|(?:[-+*/%&|^]|<<|>>)?=(?!=))"
    return re.search(changing, body) is not None
