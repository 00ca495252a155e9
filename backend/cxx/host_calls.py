"""Functions, lambdas and calls of host code as Python: a function that is called is written once for its template's types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.cxx.host_values import HostValues, Surroundings
from backend.cxx.kernel import TemplateShape
from backend.cxx.names import parameters_of
from backend.cxx.syntax import Declaration, Node, Unit, check_syntax, children, declared_name, has_word, text
from backend.cxx.types import BOOL, INT, UINT, UNKNOWN, VOID, Float, Int, Opaque, Pointer, Record, size_of
from backend.cxx.values import Lambda, Scope, TypeName, Value

_BIT_COUNTS = {"__builtin_ctz": "trailing_zeros", "__builtin_clz": "leading_zeros"}


@dataclass(slots=True, eq=False)
class Frame:
    """A Python function that is being written: names that are its own, those of functions around it that it assigns."""

    own: set[str]
    outer: set[str]
    returns: Any


@dataclass(slots=True)
class Inferred:
    """The type of a lambda, by its first return."""

    types: list[Any]


class HostCalls(HostValues):
    """Writes functions and calls. launched: kernels that are launched, with the shapes of their template's arguments."""

    def __init__(self, unit: Unit, around: Surroundings) -> None:
        super().__init__(unit, around)
        self.waiting: list[tuple[Declaration, dict[str, Any], list[str], str]] = []
        self.launched: list[tuple[str, tuple[TemplateShape, ...]]] = []
        self.frames: list[Frame] = []
        self.loops: list[Callable[[], None] | None] = []
        self._functions: dict[Any, tuple[str, Any]] = {}
        self._classes: dict[int, tuple[str, Record]] = {}

    def function(self, declaration: Declaration, bound: dict[str, Any]) -> tuple[str, Any]:
        """Python name of a function with its template's types, and the type that it returns.

        A template's values, and those of a record that it is given, are parameters: `leading` has what is passed for them.
        """
        inside: dict[str, Any] = {}
        parameters: list[str] = []
        for each, given in bound.items():
            inside[each] = self._parameter_of(each, given, parameters)
        types = tuple((name, each.type) for name, each in inside.items() if isinstance(each, TypeName))
        key = (id(declaration), types)
        if key not in self._functions:
            name = self.fresh(declaration.name)
            of = declaration.node.child_by_field_name("type")
            around = declaration.node.child_by_field_name("declarator")
            returns = VOID
            if of is not None:
                outer = None if around.type == "function_declarator" else around
                returns = self.in_file(declaration, Scope(names=inside), lambda: self.declared_type(of, outer))
            self._functions[key] = (name, returns)
            self.waiting.append((declaration, inside, parameters, name))
        return self._functions[key]

    def _parameter_of(self, name: str, given: Any, parameters: list[str]) -> Any:
        """A template's argument as a function sees it; its values are parameters, named into `parameters`."""
        if isinstance(given, Value):
            parameters.append(name)
            return Value(name, given.type, simple=True)
        if isinstance(given, TypeName) and isinstance(given.type, Record) and given.type.arguments:
            inner = {
                each: self._parameter_of(f"{name}_{each}", value, parameters) for each, value in given.type.arguments.items()
            }
            return TypeName(self.record(given.type.declaration, inner))
        return given

    def leading(self, bound: Mapping[str, Any]) -> Iterator[str]:
        """What is passed for a template's values, in their order."""
        for given in bound.values():
            if isinstance(given, Value):
                yield given.code
            elif isinstance(given, TypeName) and isinstance(given.type, Record):
                yield from self.leading(given.type.arguments or {})

    def write_function(self, declaration: Declaration, bound: dict[str, Any], values: list[str], name: str) -> None:
        check_syntax(declaration)
        scope = Scope(Scope(names=bound))

        def body() -> None:
            given = [*values, *self._parameters(declaration.node)]
            self.function_name = declaration.name
            self._python_function(name, given, declaration.node, self._type_of_function(name))

        self.in_file(declaration, scope, body)

    def _type_of_function(self, name: str) -> Any:
        return next(of for each, of in self._functions.values() if each == name)

    def _parameters(self, function: Node, given: Sequence[Value] = ()) -> list[str]:
        """Python parameters of a function, its names bound in the present scope. given: those of a call, for `auto`."""
        made = []
        for place, each in enumerate(parameters_of(function)):
            declarator = each.child_by_field_name("declarator")
            of = self.declared_type(each.child_by_field_name("type"), declarator)
            of = given[place].type if of is UNKNOWN and place < len(given) else of
            name = self.fresh(text(declared_name(declarator)) if declarator is not None else "unnamed")
            made.append(name)
            if declarator is not None:
                self.scope.names[text(declared_name(declarator))] = Value(name, of)
        return made

    def _python_function(self, name: str, parameters: list[str], function: Node, returns: Any) -> None:
        before, self.lines = self.lines, []
        loops, self.loops = self.loops, []
        frame = Frame(set(parameters), set(), returns)
        self.frames.append(frame)
        self.depth += 1
        for each in children(function.child_by_field_name("body")):
            self.statement(each)
        self.depth -= 1
        self.frames.pop()
        self.loops = loops
        body, self.lines = self.lines, before
        at = self.depth if self.frames else 0
        self.lines.append("    " * at + f"def {name}({', '.join(parameters)}):")
        if frame.outer:
            self.lines.append("    " * (at + 1) + f"nonlocal {', '.join(sorted(frame.outer))}")
        shift = "    " * (self.depth - at) if at != self.depth else ""
        self.lines += [each.removeprefix(shift) for each in body] or ["    " * (at + 1) + "pass"]

    def nested(self, node: Node, hint: str, given: Sequence[Value] = ()) -> tuple[str, Any]:
        """A lambda as a nested Python function; its name, and the type that it returns. given: arguments of a call of a
        generic one."""
        before, self.scope = self.scope, Scope(self.scope)
        name = self.fresh(hint)
        frame_types: list[Any] = []
        self._lambda_types = frame_types
        self._python_function(name, self._parameters(node, given), node, Inferred(frame_types))
        self.scope = before
        self.frames[-1].own.add(name)
        return name, frame_types[0] if frame_types else VOID

    def class_lines(self) -> Iterator[str]:
        for name, of in self._classes.values():
            zeros = ", ".join(f"{each.name!r}: {_zero(each.type)}" for each in of.fields if _zero(each.type) is not None)
            offsets = ", ".join(f"{each.name!r}: ({each.offset}, {size_of(each.type)})" for each in of.fields)
            yield f"class {name}(RecordObject):"
            yield f"    zeros = {{{zeros}}}"
            yield f"    offsets = {{{offsets}}}"
            yield f"    size = {of.size}"
            yield ""

    def record_class(self, of: Record) -> str:
        if id(of) not in self._classes:
            self._classes[id(of)] = (self.fresh(of.name), of)
        return self._classes[id(of)][0]

    # Calls

    def _call_expression(self, node: Node) -> Value:
        cast = self.cast_of(node)
        if cast is not None:
            return cast
        function = node.child_by_field_name("function")
        arguments = children(node.child_by_field_name("arguments"))
        if function.type == "lambda_expression":
            name, of = self.nested(function, "made")
            return Value(f"{name}()", of)
        if function.type == "field_expression":
            return self._method(function, arguments, node)
        template, name = _split(function)
        found = self.scope.find(name)
        if isinstance(found, Lambda):
            values = [self.value_of(each) for each in arguments]
            known = found.scope.names.get("()")
            code, of = known if known is not None else self.nested(found.node, name, values)
            return Value(f"{code}({', '.join(each.code for each in values)})", of)
        if name == "__check_failed":
            return self._failed_check(arguments, node)
        if arguments and text(arguments[0]).startswith("__launch("):
            return self._launch(name, template, arguments, node)
        if name in self.around.functions:
            code, of = self.around.functions[name]
            return Value(f"{code}({', '.join(self.value_of(each).code for each in arguments)})", of)
        return self._own_function(name, template, arguments, node, function)

    def _own_function(self, name: str, template: Node | None, arguments: list[Node], node: Node, function: Node) -> Value:
        record = self._record_named(function.child_by_field_name("scope")) if function.type == "qualified_identifier" else None
        if record is not None:
            return self._static_method(record, name.rpartition("::")[2], arguments, node)
        if name in self.around.made:
            return Value(f"{self.around.made[name]}({', '.join(self.value_of(each).code for each in arguments)})", Opaque(name))
        if name.rpartition("::")[2] in ("min", "max") and len(arguments) == 2:
            return self._extreme(name[-3:], arguments, node)
        if name in _BIT_COUNTS:
            value = self.convert(self.value_of(arguments[0]), UINT, node)
            return Value(f"{_BIT_COUNTS[name]}({value.code})", INT)
        declaration = self.declared_function(name.rpartition("::")[2], len(arguments), node)
        values = [self.value_of(each) for each in arguments]
        bound = self.bound_names(declaration, template, values, node)
        code, of = self.function(declaration, bound)
        passed = [*self.leading(bound), *self._passed(declaration, values, bound, node)]
        return Value(f"{code}({', '.join(passed)})", of)

    def _passed(self, declaration: Declaration, values: list[Value], bound: dict[str, Any], node: Node) -> list[str]:
        """Arguments as the parameters' types, defaults filled in."""
        made = []

        def default(parameter: Node) -> Value:
            return self.value_of(parameter.child_by_field_name("default_value"))

        for place, parameter in enumerate(parameters_of(declaration.node)):
            declarator = parameter.child_by_field_name("declarator")
            base = parameter.child_by_field_name("type")
            scope = Scope(names=bound)
            of = self.in_file(declaration, scope, self.declared_type, base, declarator)
            value = values[place] if place < len(values) else self.in_file(declaration, scope, default, parameter)
            reference = declarator is not None and declarator.type == "reference_declarator"
            if reference and not has_word(parameter, "const") and isinstance(of, (Int, Float)):
                raise self.unknown(node, "a reference to a number, given to")
            value = self.convert(value, of, node)
            made.append((value if reference else self.copied(value)).code)
        return made

    def _static_method(self, record: Record, name: str, arguments: list[Node], node: Node) -> Value:
        method = self.method_of(record, name)
        body = children(method.child_by_field_name("body")) if method is not None else []
        if arguments or len(body) != 1 or body[0].type != "return_statement" or method is None:
            raise self.unknown(node, "the function")
        of = self.in_file(record.declaration, self.static_scope(record), self.type_of, method.child_by_field_name("type"))
        value = self.in_file(record.declaration, self.static_scope(record), self.value_of, children(body[0])[0])
        return self.convert(value, of, node)

    def _extreme(self, name: str, arguments: list[Node], node: Node) -> Value:
        first, second = (self.value_of(each) for each in arguments)
        chosen = self.chosen(Value("True", BOOL), first, second, node).type
        return Value(f"{name}({self.convert(first, chosen, node).code}, {self.convert(second, chosen, node).code})", chosen)

    def _method(self, function: Node, arguments: list[Node], node: Node) -> Value:
        owner = self.value_of(function.child_by_field_name("argument"))
        field = function.child_by_field_name("field")
        name = text(field.child_by_field_name("name")) if field.type == "template_method" else text(field)
        given = [self._argument(each) for each in arguments]
        if name in ("has_value", "value", "value_or") and _is_optional(owner.type):
            return self._optional(owner, name, given)
        if _is_optional(owner.type) and text(function.child_by_field_name("operator")) == "->":
            owner = Value(f"engaged({owner.code})", self.optional_type(owner.type))
        known = self.class_of(owner.type)
        if known is None or name not in known.methods:
            raise self.unknown(node, f"the method of {owner.type}")
        of = known.methods[name]
        if name in known.code:
            return Value(known.code[name].format(owner.code, *given), of)
        return Value(f"{owner.code}.{name}({', '.join(given)})", of)

    def _argument(self, node: Node) -> str:
        if node.type == "lambda_expression":
            return self.nested(node, "made")[0]
        return self.value_of(node).code

    def _optional(self, owner: Value, name: str, given: list[str]) -> Value:
        inner = self.optional_type(owner.type)
        if name == "has_value":
            return Value(f"({owner.code} is not None)", BOOL)
        if name == "value":
            return Value(f"engaged({owner.code})", inner)
        return Value(f"({owner.code} if {owner.code} is not None else {given[0]})", inner)

    def optional_type(self, of: Opaque) -> Any:
        """The type inside of std::optional<...>."""
        name = of.name[of.name.index("<") + 1 : of.name.rindex(">")].strip()
        return self._aliases.get(name) or self._by_name(name)

    def _by_name(self, name: str) -> Any:
        declaration = self.unit.find(name.rpartition("::")[2], "record", "alias", "enum")
        if declaration is not None and declaration.template is None:
            return self._declared_as(declaration.name, declaration.node)
        return Opaque(name)

    def _failed_check(self, arguments: list[Node], node: Node) -> Value:
        parts = ", ".join(self._shown(self.value_of(each)) for each in arguments)
        return Value(f"check_failed({parts})", VOID)

    @staticmethod
    def _shown(value: Value) -> str:
        return f"int({value.code})" if value.type == BOOL else value.code

    def _launch(self, name: str, template: Node | None, arguments: list[Node], node: Node) -> Value:
        declaration = self.unit.find(name, "function")
        if declaration is None:
            raise self.unknown(node, "the kernel")
        given = self.template_arguments(template, declaration) if template is not None else []
        bound = self.bound(declaration, given)
        values: list[str] = []
        shapes = tuple(self._shape(each, values) for each in bound.values())
        if (name, shapes) not in self.launched:
            self.launched.append((name, shapes))
        number = self.launched.index((name, shapes))
        grid = [self.value_of(each).code for each in children(arguments[0].child_by_field_name("arguments"))]
        passed = [self.copied(self.value_of(each)).code for each in arguments[1:]]
        listed = f"({', '.join(values)}{',' if values else ''}), ({', '.join(passed)},), {', '.join(grid)}"
        return Value(f"launch_kernel({number}, {listed})", VOID)

    def _shape(self, argument: Any, values: list[str]) -> TemplateShape:
        if isinstance(argument, Value):
            values.append(argument.code)
            return TemplateShape("value", type=argument.type)
        of = argument.type
        if isinstance(of, Record):
            return TemplateShape("record", of.name, tuple(self._shape(each, values) for each in of.arguments.values()))
        return TemplateShape("type", type=of)


def is_generic(node: Node) -> bool:
    """Whether a lambda has a parameter of type `auto`, so that each call makes a function of its own."""
    return any(each.child_by_field_name("type").type == "placeholder_type_specifier" for each in parameters_of(node))


def _is_optional(of: Any) -> bool:
    return isinstance(of, Opaque) and of.name.startswith("std::optional")


def _split(function: Node) -> tuple[Node | None, str]:
    """Template arguments and full name of what is called."""
    inner = function.child_by_field_name("name") if function.type == "qualified_identifier" else function
    name = "".join(text(function).split())
    if inner.type != "template_function":
        return None, name
    bare = "".join(text(inner.child_by_field_name("name")).split())
    return inner.child_by_field_name("arguments"), name[: name.index("<")] if inner is not function else bare


def _zero(of: Any) -> str | None:
    if isinstance(of, (Int, Float)):
        return "False" if of == BOOL else "0"
    return "None" if isinstance(of, (Pointer, Opaque)) else None
