"""Names and calls of a GPU kernel: every function is inlined where it is called, templates with their arguments, and the
operations between the lanes of a wave are loops over its lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backend.cxx.kernel_values import LANES, KernelValues
from backend.cxx.names import changes, parameters_of
from backend.cxx.syntax import Node, check_syntax, children, declared_name, has_word, of_type, text
from backend.cxx.types import BOOL, INT, UINT, UNKNOWN, Int, Opaque, Record, Tuple, promoted
from backend.cxx.values import Aggregate, Lambda, Scope, Value, constant

_DEEPEST = 40

Builtin = Callable[["KernelCalls", Node, list[Node]], Value]


class KernelCalls(KernelValues):
    """Names and calls. builtins: by the full name that a kernel uses, such as `min`. uniform: functions whose
    result is the same for all lanes although their text does not show it, as after a butterfly of shuffles."""

    builtins: dict[str, Builtin]
    uniform: frozenset[str] = frozenset()
    prologue: list[str]

    def body(self, statements: list[Node], node: Node, returns: Any) -> Value | None:
        """Lower a function's statements; what it returns."""
        raise NotImplementedError

    def static_value(self, node: Node, name: str) -> Value:
        of = self.type_of(node.child_by_field_name("type"))
        before = self.depth, self.mask, self.phase
        self.depth, self.mask, self.phase = 1, None, -1
        value, lines = self.captured(lambda: self.convert(self.value_of(node.child_by_field_name("default_value")), of, node))
        self.depth, self.mask, self.phase = before
        self.prologue += lines
        if value.const is not None or value.simple:
            return Value(value.code, of, const=value.const, simple=True)
        kept = self.fresh(name)
        self.prologue.append(f"    {kept} = {value.code}")
        return Value(kept, of, simple=True)

    # Calls

    def _call_expression(self, node: Node) -> Value:
        made = self.call(node)
        if made is None:
            raise self.unknown(node, "the value of a function without one,")
        return made

    def call(self, node: Node) -> Value | None:
        """A call; None where it returns nothing."""
        cast = self.cast_of(node)
        if cast is not None:
            return cast
        function = node.child_by_field_name("function")
        arguments = children(node.child_by_field_name("arguments"))
        template = None
        name = text(function)
        if function.type == "lambda_expression":
            return self.inlined(function, self.scope, arguments, node, self.file)
        if function.type == "field_expression":
            return self._method_call(function, arguments, node)
        if function.type == "template_function" or (
            function.type == "qualified_identifier" and function.child_by_field_name("name").type == "template_function"
        ):
            inner = function if function.type == "template_function" else function.child_by_field_name("name")
            template = inner.child_by_field_name("arguments")
            bare = text(inner.child_by_field_name("name"))
            name = name[: name.index("<")] if function.type != "template_function" else bare
        found = self.scope.find(name)
        if isinstance(found, Lambda):
            return self.inlined(found.node, found.scope, arguments, node, found.file)
        if name in self.builtins:
            return self.builtins[name](self, node, arguments)
        if function.type == "qualified_identifier":
            record = self._record_named(function.child_by_field_name("scope"))
            if record is not None:
                return self._static_call(record, text(function.child_by_field_name("name")), arguments, node)
        return self._function_call(name.rpartition("::")[2], template, arguments, node)

    def _function_call(self, name: str, template: Node | None, arguments: list[Node], node: Node) -> Value | None:
        member = next((s.record for s in self.scope.chain() if s.record is not None and self.method_of(s.record, name)), None)
        if member is not None:
            return self._static_call(member, name, arguments, node)
        declaration = self.declared_function(name, len(arguments), node)
        check_syntax(declaration)
        values = [self.value_of(each) for each in arguments]
        names = self.bound_names(declaration, template, values, node)
        made = self.inlined(declaration.node, Scope(names=names), values, node, declaration.file)
        return self._same(made, node) if made is not None and name in self.uniform and self.mask is None else made

    def _same(self, value: Value, node: Node) -> Value:
        """A value that is the same for all lanes, which is checked when it is there; the kernel ends with 1 where it is not."""
        if value.parts is not None:
            parts = {name: self._same(self.read(each), node) for name, each in value.parts.items()}
            return Value("", value.type, parts=parts)
        if not value.varying:
            return value
        kept = self.array("same", "np.int64")
        self.lanes(f"{kept}[lane] = {value.code}")
        with self.block(f"for lane in range(1, {LANES}):"), self.block(f"if {kept}[lane] != {kept}[0]:"):
            self.emit("return 1")
        made = self.variable("agreed", value.type, node)
        made.key = (*made.key, kept)
        self.assign(made, Value(f"{kept}[0]", value.type), node)
        return self.read(made)

    def _method_call(self, function: Node, arguments: list[Node], node: Node) -> Value | None:
        owner = self.value_of(function.child_by_field_name("argument"))
        name = text(function.child_by_field_name("field"))
        if not isinstance(owner.type, Record) or not isinstance(owner.place, Aggregate):
            raise self.unknown(node, "the method")
        method = self.method_of(owner.type, name)
        if method is None:
            raise self.unknown(node, "the method")
        scope = Scope(self.static_scope(owner.type), dict(owner.place.members), owner.type)
        values = [self.value_of(each) for each in arguments]
        return self.inlined(method, scope, values, node, owner.type.declaration.file)

    def _static_call(self, record: Record, name: str, arguments: list[Node], node: Node) -> Value | None:
        method = self.method_of(record, name)
        if method is None:
            raise self.unknown(node, "the function")
        around = next((s for s in self.scope.chain() if s.record is record and s.names), None)
        values = [self.value_of(each) for each in arguments]
        return self.inlined(method, around or self.static_scope(record), values, node, record.declaration.file)

    def constructed(self, record: Record, values: list[Value], name: str, node: Node) -> Aggregate:
        """An object made by a constructor that initialises its members by a list."""
        constructor = self.method_of(record, record.name)
        if constructor is None:
            raise self.unknown(node, "an object without a constructor,")
        made = Aggregate(record, {})
        scope = Scope(self.static_scope(record), record=record)
        parameters = parameters_of(constructor)
        if len(parameters) != len(values) or children(constructor.child_by_field_name("body")):
            raise self.unknown(node, "the constructor of")
        for parameter, value in zip(parameters, values, strict=True):
            scope.names[text(declared_name(parameter.child_by_field_name("declarator")))] = value
        fields = {each.name: each.type for each in record.fields}
        for each in next(iter(of_type(constructor, "field_initializer_list"))).named_children:
            member = text(children(each)[0])
            given = children(children(each)[1])[0]
            value = self.in_file(record.declaration, scope, self.value_of, given)
            made.members[member] = self.variable(f"{name}_{member}", fields[member], node)
            made.members[member].constant = True
            self.assign(made.members[member], value, node)
        return made

    def inlined(self, function: Node, around: Scope, arguments: list[Any], node: Node, file: str) -> Value | None:
        """A function's or lambda's body in place of its call. arguments: values, or syntax in the present scope."""
        if len(self.path) > _DEEPEST:
            raise self.unknown(node, "a recursion in")
        values = [each if isinstance(each, Value) else self.value_of(each) for each in arguments]
        scope = Scope(around)
        before = self.file, self.scope, self.path
        self.path = (*self.path, (self.file, node.start_byte))
        self.file, self.scope = file, Scope(around)
        try:
            self._bind(function, values, scope, node)
            self.scope = scope
            returns = UNKNOWN
            of = function.child_by_field_name("type")
            if of is not None and function.type == "function_definition":
                returns = self.declared_type(of, _outer(function.child_by_field_name("declarator")))
            return self.body(children(function.child_by_field_name("body")), function, returns)
        finally:
            self.file, self.scope, self.path = before

    def _bind(self, function: Node, values: list[Value], scope: Scope, node: Node) -> None:
        parameters = parameters_of(function)
        body = text(function.child_by_field_name("body"))
        for place, parameter in enumerate(parameters):
            declarator = parameter.child_by_field_name("declarator")
            if declarator is None:
                continue
            name = text(declared_name(declarator))
            default = parameter.child_by_field_name("default_value")
            if place >= len(values) and default is None:
                raise self.unknown(node, f"a call without its argument {name},")
            value = values[place] if place < len(values) else self.value_of(default)
            scope.names[name] = self._bound_argument(parameter, declarator, name, value, body)

    def _bound_argument(self, parameter: Node, declarator: Node, name: str, value: Value, body: str) -> Any:
        if declarator.type == "reference_declarator" and value.place is not None:
            return value.place
        of = self.declared_type(parameter.child_by_field_name("type"), declarator)
        if isinstance(of, (Record, Opaque, Tuple)) or value.target is not None or value.is_null:
            return value.place if value.place is not None else value
        changed = not has_word(parameter, "const") and changes(body, name)
        if (value.const is not None or value.simple) and not changed:
            return self.convert(value, of, parameter)
        made = self.variable(name, of, parameter)
        made.constant = not changed
        self.assign(made, value, parameter)
        return made


def _outer(declarator: Node) -> Node | None:
    """What stands around a function's declarator: `*` of a returned pointer."""
    return None if declarator.type == "function_declarator" else declarator


# Operations of a wave, and what every kernel may call


def lane_number(unsigned: bool) -> Builtin:
    """The lane's number; some libraries give it without a sign."""
    return lambda kernel, node, arguments: Value("lane", UINT if unsigned else INT, varying=True, linear=True)


def wave_size(kernel: KernelCalls, node: Node, arguments: list[Node]) -> Value:
    """Lanes of a wave."""
    return constant(LANES, INT)


def shuffle(kernel: KernelCalls, node: Node, arguments: list[Node]) -> Value:
    """The value of another lane; its number wraps around."""
    value, index = (kernel.value_of(each) for each in arguments[:2])
    return _gathered(kernel, node, value, index, f"{index.code} & {LANES - 1}")


def shuffle_up(kernel: KernelCalls, node: Node, arguments: list[Node]) -> Value:
    """The value of the lane `delta` below; where there is none, the lane's own."""
    value, delta = (kernel.value_of(each) for each in arguments[:2])
    lane = Value("lane", INT, varying=True)
    return _gathered(kernel, node, value, lane, f"(lane - {delta.code} if lane >= {delta.code} else lane)")


def _gathered(kernel: KernelCalls, node: Node, value: Value, index: Value, lane: str) -> Value:
    if not value.varying:
        return Value(value.code, value.type, reads=value.reads)
    kept = kernel.array("shuffled", "np.int64")
    kernel.lanes(f"{kept}[lane] = {value.code}")
    made = kernel.variable("remote", value.type, node)
    kernel.assign(made, Value(f"{kept}[{lane}]", value.type, varying=index.varying), node)
    return kernel.read(made)


def wave_sum(kernel: KernelCalls, node: Node, arguments: list[Node]) -> Value:
    """The sum of a value over all lanes of the wave."""
    value = kernel.value_of(arguments[0])
    if kernel.mask is not None or not isinstance(value.type, Int):
        raise kernel.unknown(node, "a sum over some lanes, or not of integers,")
    if not value.varying:
        return Value(kernel.wrap(f"({value.code} * {LANES})", value.type), value.type, reads=value.reads)
    total = kernel.variable("total", value.type, node)
    kernel.assign(total, constant(0, value.type), node)
    kernel.lanes(f"{total.code} = {kernel.wrap(f'({total.code} + {value.code})', value.type)}")
    return kernel.read(total)


def thread_number(kernel: KernelCalls, node: Node) -> Value:
    """threadIdx.x of a block of one dimension."""
    return Value(f"(wave * {LANES} + lane)", UINT, varying=True, linear=True)


def _extreme(name: str) -> Builtin:
    def made(kernel: KernelCalls, node: Node, arguments: list[Node]) -> Value:
        first, second = (kernel.value_of(each) for each in arguments)
        of = kernel.common_type(first, second)
        if not isinstance(of, Int) or len(arguments) != 2:
            raise kernel.unknown(node, f"the {name} of")
        kernel._ordered("<", of, node)
        first, second = kernel.convert(first, of, node), kernel.convert(second, of, node)
        return kernel._derived(f"{name}({first.code}, {second.code})", of, first, second)

    return made


def _trailing_zeros(kernel: KernelCalls, node: Node, arguments: list[Node]) -> Value:
    value = kernel.convert(kernel.value_of(arguments[0]), UINT, node)
    if value.const:
        return constant((value.const & -value.const).bit_length() - 1)
    return kernel._derived(f"trailing_zeros({value.code})", INT, value)


def _make_tuple(kernel: KernelCalls, node: Node, arguments: list[Node]) -> Value:
    parts = {str(place): kernel.value_of(each) for place, each in enumerate(arguments)}
    return Value("", Tuple(tuple(promoted(each.type) if each.type != BOOL else BOOL for each in parts.values())), parts=parts)


COMMON: dict[str, Builtin] = {
    **{f"{space}min": _extreme("min") for space in ("", "std::", "ck_tile::", "opus::")},
    **{f"{space}max": _extreme("max") for space in ("", "std::", "ck_tile::", "opus::")},
    "__builtin_ctz": _trailing_zeros,
    "std::make_tuple": _make_tuple,
}
"""What any kernel may call."""
