"""Types by their syntax: names in scope, records laid out, templates with their arguments. Shared by both lowerings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backend.cxx.errors import CxxError
from backend.cxx.syntax import Declaration, Node, Parameter, Unit, children, declared_name, has_word, line, of_type, text
from backend.cxx.types import BY_NAME, INT, UNKNOWN, Array, Field, Opaque, Pointer, Record, align_of, size_of
from backend.cxx.values import Scope, TemplateName, TypeName, Value

_LONGEST = 200


class Resolver:
    """Finds types. file: of the syntax that is looked at just now; aliases: types that stand for names not declared."""

    def __init__(self, unit: Unit, aliases: dict[str, Any] | None = None) -> None:
        self.unit = unit
        self.file = ""
        self.scope = Scope()
        self._aliases = {**BY_NAME, **(aliases or {})}
        self._records: dict[Any, Record] = {}

    def unknown(self, node: Node, what: str) -> CxxError:
        """The error for a construct at a node, to be raised."""
        shown = " ".join(text(node).split())[:_LONGEST]
        return CxxError(self.file, line(node), f"{what} `{shown}`")

    def value_of(self, node: Node) -> Value:
        """An expression's value; the lowerings say how."""
        raise NotImplementedError

    def type_of(self, node: Node) -> Any:
        """The type that a type's syntax names; UNKNOWN for auto."""
        kind = node.type
        if kind == "type_descriptor":
            return self.declared_type(node.child_by_field_name("type"), node.child_by_field_name("declarator"))
        if kind == "placeholder_type_specifier":
            return UNKNOWN
        if kind in ("decltype", "dependent_type"):
            inner = children(node)[0]
            return self.value_of(inner).type if kind == "decltype" else self.type_of(inner)
        if kind == "template_type":
            return self._template_type(node)
        if kind in ("qualified_identifier", "primitive_type", "type_identifier", "identifier", "sized_type_specifier"):
            return self._named_type(node)
        if kind == "struct_specifier" and node.child_by_field_name("name") is not None:
            return self.type_of(node.child_by_field_name("name"))
        raise self.unknown(node, f"the type ({kind})")

    def declared_type(self, base: Node, declarator: Node | None) -> Any:
        """The type that a declarator makes of a base type; a reference is what it refers to."""
        made = self.type_of(base)
        while declarator is not None:
            kind = declarator.type
            if kind in ("pointer_declarator", "abstract_pointer_declarator"):
                made = Pointer(made)
            elif kind == "array_declarator":
                size = declarator.child_by_field_name("size")
                length = self.value_of(size).const if size is not None else 0
                if length is None:
                    raise self.unknown(declarator, "an array without a constant length")
                made = Array(made, length)
            elif kind in ("function_declarator", "abstract_function_declarator"):
                return Opaque("function")
            inner = declarator.child_by_field_name("declarator")
            if inner is None and kind in ("reference_declarator", "parenthesized_declarator"):
                inner = next(iter(each for each in children(declarator) if each.type != "type_qualifier"), None)
            declarator = inner
        return made

    def _named_type(self, node: Node) -> Any:
        name = " ".join(text(node).split())
        found = self.scope.find(name)
        if isinstance(found, TypeName):
            return found.type
        if name in self._aliases:
            return self._aliases[name]
        if node.type == "qualified_identifier":
            inner = node.child_by_field_name("name")
            if inner.type == "template_type" and not name.startswith("std::"):
                return self._template_type(inner)
            if name.startswith("std::"):
                return Opaque(name)
        return self._declared_as(name.rpartition("::")[2], node) or Opaque(name)

    def _declared_as(self, name: str, node: Node) -> Any:
        declaration = self.unit.find(name, "record", "alias", "enum")
        if declaration is None:
            return None
        if declaration.kind == "enum":
            base = declaration.node.child_by_field_name("base")
            return self.type_of(base) if base is not None else INT
        if declaration.template is not None:
            return self.instance(declaration, [], node)
        if declaration.kind == "record":
            return self.record(declaration, {})
        return self.in_file(declaration, Scope(), self._alias, declaration)

    def _alias(self, declaration: Declaration) -> Any:
        node = declaration.node.child_by_field_name("type")
        return self.declared_type(node, declaration.node.child_by_field_name("declarator"))

    def in_file(self, declaration: Declaration, scope: Scope, run: Any, *arguments: Any) -> Any:
        """`run(*arguments)` while the syntax of a declaration's file is looked at, with `scope`'s names."""
        before = self.file, self.scope
        self.file, self.scope = declaration.file, scope
        try:
            return run(*arguments)
        finally:
            self.file, self.scope = before

    def _template_type(self, node: Node) -> Any:
        name = text(node.child_by_field_name("name"))
        declaration = self.unit.find(name, "record", "alias")
        if declaration is None or declaration.template is None:
            return self._aliases.get(name) or Opaque(" ".join(text(node).split()))
        return self.instance(declaration, self.template_arguments(node.child_by_field_name("arguments"), declaration), node)

    def template_arguments(self, node: Node | None, declaration: Declaration) -> list[Any]:
        """What `<...>` gives to a template, each by the kind of its parameter."""
        given: list[Any] = []
        for place, each in enumerate(children(node) if node is not None else []):
            parameters = declaration.template or ()
            kind = parameters[place].kind if place < len(parameters) else "type"
            if kind == "type":
                given.append(TypeName(self.type_of(each)))
            elif kind == "template":
                given.append(TemplateName(text(each)))
            else:
                inner = each.child_by_field_name("type") if each.type == "type_descriptor" else each
                given.append(self._argument_value(inner if inner is not None else each, each))
        return given

    def _argument_value(self, node: Node, whole: Node) -> Value:
        """A template's value argument, which the parser may have taken for a type."""
        declarator = whole.child_by_field_name("declarator") if whole.type == "type_descriptor" else None
        if declarator is not None:
            raise self.unknown(whole, "the template argument")
        return self.value_of(node)

    def bound(self, declaration: Declaration, given: list[Any]) -> dict[str, Any]:
        """Template parameters with what they stand for, defaults filled in."""
        names: dict[str, Any] = {}
        for place, parameter in enumerate(declaration.template or ()):
            if place < len(given):
                names[parameter.name] = self.converted(parameter, given[place], names)
            elif parameter.default is not None:
                scope = Scope(names=dict(names))
                made: Any = self.in_file(declaration, scope, self._default, parameter)
                names[parameter.name] = self.converted(parameter, made, names)
        return names

    def _default(self, parameter: Parameter) -> Any:
        return TypeName(self.type_of(parameter.default)) if parameter.kind == "type" else self.value_of(parameter.default)

    def converted(self, parameter: Parameter, given: Any, names: dict[str, Any]) -> Any:
        """A template argument as its parameter's type; the lowerings convert values."""
        raise NotImplementedError

    def instance(self, declaration: Declaration, given: list[Any], node: Node) -> Any:
        """A class or alias template with its arguments."""
        names = self.bound(declaration, given)
        if declaration.kind == "alias":
            return self.in_file(declaration, Scope(names=names), self._alias, declaration)
        return self.record(declaration, names)

    def record(self, declaration: Declaration, names: dict[str, Any]) -> Record:
        """A record laid out; the same one for the same arguments."""
        key = (id(declaration), tuple((name, argument_key(each)) for name, each in names.items()))
        found = self._records.get(key)
        if found is None:
            found = self._records[key] = self.in_file(declaration, Scope(names=names), self._laid_out, declaration, names)
        return found

    def _laid_out(self, declaration: Declaration, names: dict[str, Any]) -> Record:
        node = declaration.node
        packed = any("packed" in text(each) for each in of_type(node, "attribute_specifier"))
        is_union = node.type == "union_specifier"
        fields: list[Field] = []
        size = 0
        align = 1
        for base in (each for clause in of_type(node, "base_class_clause") for each in children(clause)):
            if base.type != "access_specifier":
                of = self.type_of(base)
                fields, size, align = list(of.fields), of.size, of.align
        for name, of, inner in self._members(node):
            unit = 1 if packed else align_of(of)
            begin = 0 if is_union else -(-size // unit) * unit
            align = max(align, unit)
            fields += [Field(each.name, each.type, begin + each.offset) for each in inner]
            fields += [Field(name, of, begin)] if name else []
            size = max(size, begin + (size_of(of) or 0))
        return Record(declaration.name, tuple(fields), -(-size // align) * align, align, is_union, declaration, names)

    def _members(self, node: Node) -> Iterator[tuple[str, Any, tuple[Field, ...]]]:
        body = node.child_by_field_name("body")
        for member in of_type(body, "field_declaration") if body is not None else []:
            if has_word(member, "static"):
                continue
            base = member.child_by_field_name("type")
            if base.type in ("struct_specifier", "union_specifier") and base.child_by_field_name("name") is None:
                inner = self._laid_out(Declaration("record", "", self.file, base), {})
                names = member.children_by_field_name("declarator")
                if not names:
                    yield "", inner, inner.fields
                for each in names:
                    yield text(declared_name(each)), inner, ()
                continue
            for each in member.children_by_field_name("declarator"):
                yield text(declared_name(each)), self.declared_type(base, each), ()


def argument_key(argument: Any) -> Any:
    """What tells two template arguments apart."""
    if isinstance(argument, TypeName):
        return id(argument.type) if isinstance(argument.type, Record) else argument.type
    if isinstance(argument, Value):
        return argument.code
    return argument.text
