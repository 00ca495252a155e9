"""Expressions of arithmetic types as Python, by C++'s rules of conversion. Names, calls and memory are the lowerings' own.

Python code of an integer always gives a value of its type: what may leave the type is wrapped. Known values are folded.
"""

from __future__ import annotations

import ast
import operator as operators
import re
from collections.abc import Callable
from typing import Any

from backend.cxx.resolve import Resolver
from backend.cxx.syntax import Node, Parameter, children, text
from backend.cxx.types import (
    BOOL,
    DOUBLE,
    FLOAT,
    INT,
    LONG,
    STRING,
    UINT,
    ULONG,
    UNKNOWN,
    Float,
    Int,
    Opaque,
    Pointer,
    common,
    promoted,
    size_of,
)
from backend.cxx.values import TypeName, Value, constant

_CASTS = ("static_cast", "reinterpret_cast", "const_cast")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)([uUlLzZ]*)$")


class Expressions(Resolver):
    """Lowers expressions. A subclass says what names, members, elements, calls and assignments are."""

    def value_of(self, node: Node) -> Value:
        """The value of any expression; raises CxxError for what is not provided for."""
        method = getattr(self, f"_{node.type}", None)
        if method is None:
            raise self.unknown(node, f"the expression ({node.type})")
        made: Value = method(node)
        return made

    def converted(self, parameter: Parameter, given: Any, names: dict[str, Any]) -> Any:
        if parameter.kind != "value" or not isinstance(given, Value) or parameter.type is None:
            return given
        bound = names.get(text(parameter.type))
        wanted = bound.type if isinstance(bound, TypeName) else self.type_of(parameter.type)
        return self.convert(given, wanted, parameter.type)

    # Conversions

    def convert(self, value: Value, to: Any, node: Node) -> Value:
        """`value` as type `to`."""
        if to == value.type or to is UNKNOWN:
            return value
        if isinstance(to, Int):
            return self._to_integer(value, to, node)
        if isinstance(to, Float) and isinstance(value.type, (Int, Float)):
            if value.const is not None and to == DOUBLE:
                return constant(float(value.const), to)
            return self._derived(f"f32({value.code})" if to == FLOAT else f"float({value.code})", to, value)
        return self.convert_other(value, to, node)

    def convert_other(self, value: Value, to: Any, node: Node) -> Value:
        """A conversion that is not between numbers."""
        if isinstance(to, Pointer) and value.const == 0 and isinstance(value.type, Int):
            return Value("0", to)
        if isinstance(to, Pointer) and isinstance(value.type, Pointer):
            return Value(value.code, to, varying=value.varying, space=value.space, target=value.target)
        raise self.unknown(node, f"a conversion of {value.type} to {to} in")

    def _to_integer(self, value: Value, to: Int, node: Node) -> Value:
        of = value.type
        if isinstance(of, Int):
            if value.const is not None:
                return constant(bool(value.const) if to == BOOL else value.const, to)
            if to == BOOL:
                return self._derived(f"({value.code} != 0)", to, value)
            if of == BOOL:
                return self._derived(f"int({value.code})", to, value)
            kept = value if to.holds(of) else self._derived(self.wrap(value.code, to), to, value)
            return Value(kept.code, to, varying=value.varying, reads=value.reads, linear=value.linear, simple=kept.simple)
        if isinstance(of, Float) and to == BOOL:
            return self._derived(f"({value.code} != 0.0)", to, value)
        if isinstance(of, Float):
            return self._derived(self.float_to_integer(value.code, to, node), to, value)
        if isinstance(of, Pointer) and to == BOOL:
            return self.not_null(value, node)
        return self.integer_from(value, to, node)

    def not_null(self, value: Value, node: Node) -> Value:
        """Whether a pointer is none to nothing."""
        raise self.unknown(node, "a pointer as a condition")

    def integer_from(self, value: Value, to: Int, node: Node) -> Value:
        """An integer made of something that is no number."""
        raise self.unknown(node, f"a conversion of {value.type} to an integer in")

    def float_to_integer(self, code: str, to: Int, node: Node) -> str:
        """Truncation of a float."""
        return self.wrap(f"int({code})", to)

    def wrap(self, code: str, to: Int) -> str:
        """Code that reduces any integer to the type."""
        if to.bits in (32, 64):
            return f"{'i' if to.signed else 'u'}{to.bits}({code})"
        return f"wrapped({code}, {to.bits}, {to.signed})"

    def condition(self, node: Node) -> Value:
        """An expression as bool."""
        return self.convert(self.value_of(node), BOOL, node)

    def _derived(self, code: str, of: Any, *sources: Value) -> Value:
        return Value(code, of, varying=any(each.varying for each in sources), reads=any(each.reads for each in sources))

    # Literals

    def _number_literal(self, node: Node) -> Value:
        written = text(node).replace("'", "")
        if written[0] in "+-":  # the parser takes a sign along
            value = self._number(written[1:], node)
            return value if written[0] == "+" else self._negative(value)
        return self._number(written, node)

    def _negative(self, value: Value) -> Value:
        if value.const is None:
            return self._derived(f"(-{value.code})", value.type, value)
        return constant(-value.const, value.type)

    def _number(self, written: str, node: Node) -> Value:
        found = _NUMBER.match(written)
        if found is None:
            if re.fullmatch(r"[\d.]*(?:\d[eE][+-]?\d+)?[fF]?", written) is None:
                raise self.unknown(node, "the number")
            number = float(written.rstrip("fF"))
            if written[-1] in "fF":
                return Value(f"f32({number!r})", FLOAT, simple=True)
            return constant(number, DOUBLE)
        digits, suffix = found.group(1), found.group(2).lower()
        octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xXbB"
        value = int(digits, 8 if octal else 0)
        return constant(value, _literal_type(value, suffix, digits[0] == "0" and len(digits) > 1))

    def _true(self, node: Node) -> Value:
        return constant(1, BOOL)

    def _false(self, node: Node) -> Value:
        return constant(0, BOOL)

    def _null(self, node: Node) -> Value:
        return Value("0", Pointer(Opaque("void")))

    def _string_literal(self, node: Node) -> Value:
        try:
            return constant(ast.literal_eval(text(node)), STRING)
        except (SyntaxError, ValueError) as error:
            raise self.unknown(node, "the string") from error

    def _concatenated_string(self, node: Node) -> Value:
        return constant("".join(self._string_literal(each).const for each in children(node)), STRING)

    def _parenthesized_expression(self, node: Node) -> Value:
        return self.value_of(children(node)[0])

    def _condition_clause(self, node: Node) -> Value:
        return self.value_of(node.child_by_field_name("value"))

    # Operators

    def _binary_expression(self, node: Node) -> Value:
        operator = text(node.child_by_field_name("operator"))
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        if operator in ("&&", "||"):
            return self.logical(operator, left, right)
        return self.binary(operator, self.value_of(left), self.value_of(right), node)

    def logical(self, operator: str, left: Node, right: Node) -> Value:
        """`&&` and `||`: the right side only where it is asked for."""
        first = self.condition(left)
        if first.const is not None and bool(first.const) == (operator == "||"):
            return first
        second = self.condition(right)
        if first.const is not None:
            return second
        return self._derived(f"({first.code} {'and' if operator == '&&' else 'or'} {second.code})", BOOL, first, second)

    def binary(self, operator: str, left: Value, right: Value, node: Node) -> Value:
        """An operator of two values."""
        of = common(left.type, right.type)
        if of is None:
            return self.binary_other(operator, left, right, node)
        if operator in ("<<", ">>"):
            return self._shift(operator, left, right, node)
        first, second = self.convert(left, of, node), self.convert(right, of, node)
        if operator in _ORDERED:
            if first.const is not None and second.const is not None:
                return constant(_ORDERED[operator](first.const, second.const), BOOL)
            self._ordered(operator, of, node)
            return self._derived(f"({first.code} {operator} {second.code})", BOOL, first, second)
        if isinstance(of, Float):
            return self._float_operation(operator, of, first, second, node)
        return self._integer_operation(operator, of, first, second, node)

    def _ordered(self, operator: str, of: Any, node: Node) -> None:
        """Whether values of a type can be put in order; a lowering that keeps them otherwise says where not."""

    def binary_other(self, operator: str, left: Value, right: Value, node: Node) -> Value:
        """An operator of values that are not both numbers."""
        raise self.unknown(node, f"the operator {operator} of {left.type} and {right.type} in")

    def _float_operation(self, operator: str, of: Float, left: Value, right: Value, node: Node) -> Value:
        if operator not in ("+", "-", "*", "/"):
            raise self.unknown(node, f"the operator {operator} of floats in")
        code = f"({left.code} {operator} {right.code})"
        return self._derived(f"f32{code}" if of == FLOAT else code, of, left, right)

    def _integer_operation(self, operator: str, of: Int, left: Value, right: Value, node: Node) -> Value:
        if left.const is not None and right.const is not None and (operator not in "/%" or right.const != 0):
            return constant(_computed(operator, left.const, right.const), of)
        if operator in ("/", "%"):
            return self.division(operator, of, left, right, node)
        if operator not in ("+", "-", "*", "&", "|", "^"):
            raise self.unknown(node, f"the operator {operator} in")
        code = f"({left.code} {operator} {right.code})"
        return self._derived(code if operator in "&|^" else self.wrap(code, of), of, left, right)

    def division(self, operator: str, of: Int, left: Value, right: Value, node: Node) -> Value:
        """`/` and `%`, which truncate."""
        name = "divide" if operator == "/" else "remainder"
        return self._derived(f"{name}({left.code}, {right.code})", of, left, right)

    def _shift(self, operator: str, left: Value, right: Value, node: Node) -> Value:
        of = promoted(left.type)
        first, second = self.convert(left, of, node), self.convert(right, promoted(right.type), node)
        if not isinstance(of, Int):
            raise self.unknown(node, f"the operator {operator} in")
        if second.const is not None and not 0 <= second.const < of.bits:
            raise self.unknown(node, "a shift by more bits than there are in")
        if first.const is not None and second.const is not None:
            value = first.const << second.const if operator == "<<" else first.const >> second.const
            return constant(value, of)
        self._ordered(operator, of, node)
        count = second.code if second.const is not None else f"({second.code} & {of.bits - 1})"
        code = f"({first.code} {operator} {count})"
        return self._derived(self.wrap(code, of) if operator == "<<" else code, of, first, second)

    def _unary_expression(self, node: Node) -> Value:
        operator = text(node.child_by_field_name("operator"))
        argument = node.child_by_field_name("argument")
        if operator in ("!", "not"):
            value = self.condition(argument)
            return (
                constant(not value.const, BOOL)
                if value.const is not None
                else self._derived(f"(not {value.code})", BOOL, value)
            )
        value = self.value_of(argument)
        if isinstance(value.type, Float) and operator in "+-":
            return self._derived(f"({operator}{value.code})", value.type, value)
        if not isinstance(value.type, Int) or operator not in "+-~":
            raise self.unknown(node, f"the operator {operator} in")
        value = self.convert(value, promoted(value.type), node)
        if value.const is not None:
            return constant({"+": value.const, "-": -value.const, "~": ~value.const}[operator], value.type)
        code = f"({operator}{value.code})"
        return self._derived(code if operator == "+" else self.wrap(code, value.type), value.type, value)

    def _conditional_expression(self, node: Node) -> Value:
        condition = self.condition(node.child_by_field_name("condition"))
        yes, no = node.child_by_field_name("consequence"), node.child_by_field_name("alternative")
        if condition.const is not None:
            return self.value_of(yes if condition.const else no)
        return self.conditional(condition, yes, no, node)

    def conditional(self, condition: Value, yes: Node, no: Node, node: Node) -> Value:
        """`?:` of a condition that is not known."""
        return self.chosen(condition, self.value_of(yes), self.value_of(no), node)

    def chosen(self, condition: Value, first: Value, second: Value, node: Node) -> Value:
        """One of two values, of their common type."""
        of = first.type if first.type == second.type else common(first.type, second.type)
        if of is None:
            return self.chosen_other(condition, first, second, node)
        first, second = self.convert(first, of, node), self.convert(second, of, node)
        return self._derived(f"({first.code} if {condition.code} else {second.code})", of, condition, first, second)

    def chosen_other(self, condition: Value, first: Value, second: Value, node: Node) -> Value:
        """One of two values without a common arithmetic type."""
        raise self.unknown(node, f"a choice of {first.type} or {second.type} in")

    def _cast_expression(self, node: Node) -> Value:
        return self.cast(self.value_of(node.child_by_field_name("value")), self.type_of(node.child_by_field_name("type")), node)

    def cast(self, value: Value, to: Any, node: Node) -> Value:
        """Lowers an explicit conversion."""
        return self.convert(value, to, node)

    def _sizeof_expression(self, node: Node) -> Value:
        of = node.child_by_field_name("type")
        if of is not None:
            size = size_of(self.type_of(of))
        else:
            inner = node.child_by_field_name("value")
            size = size_of(self.sized(children(inner)[0] if inner.type == "parenthesized_expression" else inner))
        if size is None:
            raise self.unknown(node, "the size in")
        return constant(size, ULONG)

    def sized(self, node: Node) -> Any:
        """The type of what stands in sizeof(...), a type's name or an expression."""
        if node.type in ("identifier", "qualified_identifier"):
            made = self.type_of(node)
            if size_of(made) is not None:
                return made
        return self.value_of(node).type

    def cast_of(self, node: Node) -> Value | None:
        """The value of a call that is a cast: static_cast<T>(x), or T(x) of a number type; None where it is no cast."""
        function = node.child_by_field_name("function")
        arguments = children(node.child_by_field_name("arguments"))
        if function.type == "template_function" and text(function.child_by_field_name("name")) in _CASTS:
            of = children(function.child_by_field_name("arguments"))[0]
            return self.cast(self.value_of(arguments[0]), self.type_of(of), node)
        if function.type in ("primitive_type", "sized_type_specifier", "identifier", "type_identifier") and len(arguments) == 1:
            found = self.scope.find(text(function))
            of = found.type if isinstance(found, TypeName) else self._aliases.get(text(function)) if found is None else None
            if isinstance(of, (Int, Float)):
                return self.cast(self.value_of(arguments[0]), of, node)
        return None


def _literal_type(value: int, suffix: str, other_base: bool) -> Int:
    """The type of an integer literal: the first that holds it."""
    candidates = [INT, UINT, LONG, ULONG]
    if "u" in suffix:
        candidates = [UINT, ULONG]
    elif not other_base:
        candidates = [INT, LONG]
    if "l" in suffix or "z" in suffix:
        candidates = [each for each in candidates if each.bits == 64]
    return next((each for each in candidates if each.wrapped(value) == value), ULONG)


_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "==": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    ">": operators.gt,
    "<=": operators.le,
    ">=": operators.ge,
}


def _computed(operator: str, left: int, right: int) -> int:
    if operator in "/%":
        quotient = abs(left) // abs(right)
        quotient = quotient if (left < 0) == (right < 0) else -quotient
        return quotient if operator == "/" else left - quotient * right
    return {"+": left + right, "-": left - right, "*": left * right, "&": left & right, "|": left | right, "^": left ^ right}[
        operator
    ]
