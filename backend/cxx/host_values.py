"""Values of host code as Python objects: what a class's members give, conversions, and expressions of objects.

Numbers are Python numbers of their C++ type's range. Everything else is an object that the caller provides: a tensor, a
string (str), a pointer (the object that it points to, None for null), an optional (its value or None).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.cxx.statements import Statements
from backend.cxx.syntax import Node, Unit, children, text
from backend.cxx.types import BOOL, STRING, ULONG, Array, Float, Int, Opaque, Pointer, Record, Tuple
from backend.cxx.values import Value, constant


@dataclass(frozen=True, slots=True)
class Class:
    """What is known of a class that the caller provides: types of what its methods give and of its members.

    code: Python for a method that is no method of the object, or for an operator such as `operator<<`, whose result is the
    object; with `{0}` for it and `{1}` ... for arguments.
    element: what a range over it gives.
    """

    methods: Mapping[str, Any] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    element: Any = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What host code finds besides its own text.

    functions: full name -> Python expression of a callable, and the type that it gives. constants: full name -> (Python,
    type). classes: by type name. made: type name -> Python that makes one without arguments; with some it is called.
    types: names of types. ignored: types of variables that do nothing, such as a guard's.
    """

    functions: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    constants: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    classes: Mapping[str, Class] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()


STANDARD = {
    "std::string": Class(
        {"find": ULONG, "empty": BOOL, "size": ULONG, "length": ULONG, "c_str": STRING},
        code={
            "find": "({0}.find({1}) & 0xFFFFFFFFFFFFFFFF)",
            "empty": "(not {0})",
            "size": "len({0})",
            "length": "len({0})",
            "c_str": "{0}",
        },
    ),
}


class HostValues(Statements):
    """Lowers expressions of host code."""

    def __init__(self, unit: Unit, around: Surroundings) -> None:
        super().__init__(unit, dict(around.types))
        self.around = around
        self.statics = {}
        self.lines: list[str] = []
        self.depth = 1
        self.cells: list[tuple[str, Value]] | None = None
        self._count = 0

    def emit(self, line: str) -> None:
        """One line at the present depth."""
        self.lines.append("    " * self.depth + line)

    def fresh(self, hint: str) -> str:
        """A Python name that nothing else has."""
        self._count += 1
        return f"{hint}_{self._count}"

    def class_of(self, of: Any) -> Class | None:
        """What is known of an object's class; of a pointer or an optional, that of what is behind it."""
        while isinstance(of, Pointer):
            of = of.to
        name = of.name if isinstance(of, Opaque) else None
        if name is None:
            return None
        bare = name.partition("<")[0]
        return self.around.classes.get(name) or STANDARD.get(name) or self.around.classes.get(bare)

    def read(self, place: Any) -> Value:
        if isinstance(place, Value):
            return Value(place.code, place.type, const=place.const, place=place.place or place, simple=place.simple)
        raise AssertionError(place)

    def static_value(self, node: Node, name: str) -> Value:
        of = self.type_of(node.child_by_field_name("type"))
        return self.convert(self.value_of(node.child_by_field_name("default_value")), of, node)

    def _named(self, name: str, node: Node) -> Value:
        found = self.scope.find(name)
        if found is None and name in self.around.constants:
            code, of = self.around.constants[name]
            return Value(code, of, simple=True, place=None)
        if found is None and name == "nullptr":
            return self._null(node)
        if found is None and name == "__func__":
            return constant(self.function_name, STRING)
        return super()._named(name, node)

    function_name = ""

    def _qualified_identifier(self, node: Node) -> Value:
        name = "".join(text(node).split())
        scope, inner = node.child_by_field_name("scope"), node.child_by_field_name("name")
        if name == "std::nullopt":
            return self._null(node)
        if name.startswith("std::is_same_v<"):
            first, second = (self.type_of(each) for each in children(inner.child_by_field_name("arguments")))
            return constant(first == second, BOOL)
        if scope is not None and scope.type == "decltype" and text(inner) == "value":  # of a std::integral_constant
            return self.value_of(children(scope)[0])
        if name in self.around.constants:
            return self._named(name, node)
        return super()._qualified_identifier(node)

    def _null(self, node: Node) -> Value:
        return Value("None", Pointer(Opaque("void")))

    # Conversions

    def wrap(self, code: str, to: Int) -> str:
        return super().wrap(code, to)

    def not_null(self, value: Value, node: Node) -> Value:
        return Value(f"({value.code} is not None)", BOOL)

    def convert_other(self, value: Value, to: Any, node: Node) -> Value:
        if value.code == "None" or to == value.type:
            return Value(value.code, to, place=value.place)
        if isinstance(to, Pointer) and value.const == 0 and isinstance(value.type, Int):
            return Value("None", to)
        if isinstance(to, Record) and isinstance(value.type, Tuple):
            return self._record_from(value, to, node)
        if isinstance(to, Array) and isinstance(value.type, Tuple) and len(value.type.of) == to.length:
            parts = [self.convert(each, to.of, node).code for each in (value.parts or {}).values()]
            return Value(f"({', '.join(parts)},)", to)
        numbers = (Int, Float)
        if isinstance(to, numbers) or isinstance(value.type, numbers):
            if isinstance(to, Opaque) and to.name.startswith("std::optional"):
                return Value(value.code, to)
            raise self.unknown(node, f"a conversion of {value.type} to {to} in")
        if isinstance(to, Record) and isinstance(value.type, Record) and to is not value.type:
            raise self.unknown(node, f"a conversion of {value.type.name} to {to.name} in")
        return Value(value.code, to, place=value.place)

    def integer_from(self, value: Value, to: Int, node: Node) -> Value:
        known = self.around.classes.get(getattr(value.type, "name", ""))
        if known is not None and "as integer" in known.code:
            return Value(known.code["as integer"].format(value.code), to)
        return super().integer_from(value, to, node)

    def _record_from(self, value: Value, to: Record, node: Node) -> Value:
        names = [each.name for each in to.fields]
        parts = list((value.parts or {}).values())
        if to.is_union or len(parts) > len(names):
            raise self.unknown(node, "the list for a record in")
        given = [
            f"{name}={self.convert(part, each.type, node).code}"
            for name, part, each in zip(names, parts, to.fields, strict=False)
        ]
        return Value(f"{self.record_class(to)}.zero({', '.join(given)})", to)

    def record_class(self, of: Record) -> str:
        """Python name of a record's class, which is written beside the functions."""
        raise NotImplementedError

    def copied(self, value: Value) -> Value:
        """A record that is another object than the one it was read from."""
        return (
            Value(f"{value.code}.copy()", value.type) if isinstance(value.type, Record) and value.place is not None else value
        )

    # Expressions

    def binary_other(self, operator: str, left: Value, right: Value, node: Node) -> Value:
        if operator in ("==", "!="):
            for value, other in ((left, right), (right, left)):
                if other.code == "None":
                    return Value(f"({value.code} is {'not ' if operator == '!=' else ''}None)", BOOL)
            if not isinstance(left.type, Record) and not isinstance(right.type, Record):
                return Value(f"({left.code} {operator} {right.code})", BOOL)
        known = self.class_of(left.type)
        if known is not None and f"operator{operator}" in known.code:
            return Value(known.code[f"operator{operator}"].format(left.code, right.code), left.type)
        if operator == "+" and left.type == STRING and right.type == STRING:
            return Value(f"({left.code} + {right.code})", STRING)
        return super().binary_other(operator, left, right, node)

    def chosen_other(self, condition: Value, first: Value, second: Value, node: Node) -> Value:
        of = second.type if first.code == "None" else first.type
        if isinstance(first.type, (Int, Float)) or isinstance(second.type, (Int, Float)):
            return super().chosen_other(condition, first, second, node)
        return Value(f"({first.code} if {condition.code} else {second.code})", of)

    def _initializer_list(self, node: Node) -> Value:
        parts = {str(place): self.value_of(each) for place, each in enumerate(children(node))}
        listed = ", ".join(each.code for each in parts.values())
        return Value(
            f"({listed}{',' if len(parts) == 1 else ''})", Tuple(tuple(each.type for each in parts.values())), parts=parts
        )

    def _compound_literal_expression(self, node: Node) -> Value:
        base = node.child_by_field_name("type")
        if text(base).startswith("std::integral_constant<"):
            arguments = children(base.child_by_field_name("name").child_by_field_name("arguments"))
            return self.convert(self.value_of(arguments[1]), self.type_of(arguments[0]), node)
        of = self.type_of(base)
        value = self._initializer_list(node.child_by_field_name("value"))
        if isinstance(of, (Int, Float)):
            return self.convert(next(iter((value.parts or {}).values()), constant(0)), of, node)
        if not isinstance(of, Record):
            raise self.unknown(node, "the object")
        return self._record_from(value, of, node)

    def _field_expression(self, node: Node) -> Value:
        owner = self.value_of(node.child_by_field_name("argument"))
        name = text(node.child_by_field_name("field"))
        of = owner.type
        while isinstance(of, Pointer):
            of = of.to
        if isinstance(of, Record):
            found = of.field(name)
            if found is None:
                raise self.unknown(node, "the member")
            return Value(f"{owner.code}.{name}", found.type, place=MemberTarget(owner.code, name, found.type))
        known = self.class_of(of)
        if known is not None and name in known.members:
            return Value(f"{owner.code}.{name}", known.members[name], place=MemberTarget(owner.code, name, known.members[name]))
        raise self.unknown(node, "the member")

    def _subscript_expression(self, node: Node) -> Value:
        owner = self.value_of(node.child_by_field_name("argument"))
        index = self.value_of(children(node.child_by_field_name("indices"))[0])
        if isinstance(owner.type, Array):
            return Value(f"element({owner.code}, {index.code})", owner.type.of)
        known = self.class_of(owner.type)
        if known is None or known.element is None or isinstance(owner.type, Pointer):
            raise self.unknown(node, "the index")
        return Value(f"{owner.code}[{index.code}]", known.element, place=None)

    def _pointer_expression(self, node: Node) -> Value:
        inner = self.value_of(node.child_by_field_name("argument"))
        if text(node.child_by_field_name("operator")) == "*":
            of = inner.type.to if isinstance(inner.type, Pointer) else inner.type
            if isinstance(of, (Int, Float)):
                raise self.unknown(node, "the pointer")
            return Value(inner.code, of, place=inner.place)
        if not isinstance(inner.type, (Int, Float)):
            return Value(inner.code, Pointer(inner.type))
        if self.cells is None:
            raise self.unknown(node, "the address of a number in")
        name = self.fresh("cell")
        self.emit(f"{name} = Cell({inner.code})")
        self.cells.append((name, inner))
        return Value(name, Pointer(inner.type))

    def float_to_integer(self, code: str, to: Int, node: Node) -> str:
        return self.wrap(f"int({code})", to)

    def division(self, operator: str, of: Int, left: Value, right: Value, node: Node) -> Value:
        if right.const and right.const > 0 and not of.signed:
            return self._derived(f"({left.code} {'//' if operator == '/' else '%'} {right.const})", of, left)
        return super().division(operator, of, left, right, node)


@dataclass(frozen=True, slots=True)
class MemberTarget:
    """A data member as the target of an assignment."""

    owner: str
    name: str
    type: Any
