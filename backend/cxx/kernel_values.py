"""Variables, members and memory of a GPU kernel while it is lowered.

What is the same for all lanes that reach a statement is one Python variable; what may differ is an array over the wave's
lanes. Which is which is found by lowering again until no assignment contradicts what was assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from backend.cxx.statements import Statements
from backend.cxx.syntax import Node, Unit, children, text
from backend.cxx.types import BOOL, INT, LONG, ULONG, Array, Float, Int, Pointer, Record, Tuple, common, size_of
from backend.cxx.values import Aggregate, Memory, Value, Variable, constant

LANES = 64


class KernelValues(Statements):
    """Emits Python for what a kernel reads and writes. known: keys of variables that differ between lanes, that live across a
    barrier."""

    def __init__(self, unit: Unit, varying: set[Any], crossing: set[Any]) -> None:
        super().__init__(unit)
        self.varying_keys = varying
        self.crossing_keys = crossing
        self.changed = False
        self.lines: list[str] = []
        self.depth = 1
        self.mask: str | None = None
        self.phase = 0
        self.path: tuple[Any, ...] = ()
        self.arrays: dict[str, str] = {}
        self._count = 0

    # Writing Python

    def emit(self, line: str) -> None:
        """One line at the present depth."""
        self.lines.append("    " * self.depth + line)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines below a compound statement's head; `pass` where there are none."""
        self.emit(head)
        self.depth += 1
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self.emit("pass")
        self.depth -= 1

    def captured(self, run: Callable[[], Any]) -> tuple[Any, list[str]]:
        """What `run` gives, and the lines that it would have written."""
        before, self.lines = self.lines, []
        try:
            return run(), self.lines
        finally:
            self.lines = before

    def lanes(self, *lines: str) -> None:
        """Lines for each active lane."""
        with self.block(f"for lane in range({LANES}):"):
            if self.mask is None:
                for line in lines:
                    self.emit(line)
            else:
                with self.block(f"if {self.mask}[lane]:"):
                    for line in lines:
                        self.emit(line)

    def fresh(self, hint: str) -> str:
        """A Python name that nothing else has."""
        self._count += 1
        return f"{hint}_{self._count}"

    def array(self, hint: str, dtype: str, crossing: bool = False) -> str:
        """An array over lanes, allocated at the kernel's start."""
        name = self.fresh(hint)
        self.arrays[name] = f"np.zeros({f'(waves, {LANES})' if crossing else LANES}, {dtype})"
        return name

    # Variables

    def variable(self, name: str, of: Any, node: Node, is_constant: bool = False) -> Variable:
        """A scalar or pointer variable, declared at a node of what is inlined just now."""
        key = (*self.path, node.start_byte, name)
        varying, crossing = key in self.varying_keys, key in self.crossing_keys
        made = Variable(self.fresh(name), key, of, varying, crossing, self.mask, self.phase, is_constant)
        if varying:
            made.name = self.array(name, _dtype(of), crossing)
        elif crossing:
            self.arrays[made.name] = f"np.zeros(waves, {_dtype(of)})"
        return made

    def held(self, name: str, of: Any, node: Node, is_constant: bool = False) -> Any:
        """A variable of any type: records, arrays and tuples member by member."""
        if isinstance(of, (Int, Float, Pointer)):
            return self.variable(name, of, node, is_constant)
        if isinstance(of, (Record, Array, Tuple)):
            listed = self.member_types(of, node)
            return Aggregate(of, {each: self.held(f"{name}_{each}", inner, node) for each, inner, _ in listed})
        raise self.unknown(node, f"a variable of type {of}")

    def member_types(self, of: Any, node: Node) -> list[tuple[str, Any, int]]:
        """Members that hold all of a type: name, type, byte offset. Of a union those that come first."""
        if isinstance(of, Tuple):
            return [(str(place), each, 0) for place, each in enumerate(of.of)]
        if isinstance(of, Array):
            return [(str(place), of.of, place * int(size_of(of.of) or 0)) for place in range(of.length)]
        made: list[tuple[str, Any, int]] = []
        end = 0
        for each in of.fields:
            if each.offset >= end:
                made.append((each.name, each.type, each.offset))
                end = each.offset + int(size_of(each.type) or 0)
        return made

    def use(self, variable: Variable) -> None:
        """Take note of a use in another phase than the declaration's."""
        if variable.phase not in (self.phase, -1) and variable.key not in self.crossing_keys:
            self.crossing_keys.add(variable.key)
            self.changed = True

    def read(self, place: Any) -> Value:
        """The value of what a name stands for."""
        if isinstance(place, Value):
            return place
        if isinstance(place, Aggregate):
            return Value("", place.type, parts=place.members, place=place)
        if isinstance(place, Memory):
            return self.loaded(place)
        self.use(place)
        return Value(
            place.code,
            place.type,
            varying=place.varying,
            space=place.space,
            simple=place.constant,
            linear=place.linear,
            place=place,
        )

    def assign(self, place: Any, value: Value, node: Node) -> None:
        """Store a value where it belongs."""
        if isinstance(place, Variable):
            self._assign_variable(place, value, node)
        elif isinstance(place, Aggregate):
            for name, each in self._leaves(place, value, node):
                self.assign(name, each, node)
        elif isinstance(place, Memory):
            self.stored(place, value, node)
        else:
            raise self.unknown(node, "an assignment to")

    def _assign_variable(self, variable: Variable, value: Value, node: Node) -> None:
        if isinstance(variable.type, Pointer) and isinstance(value.type, Pointer):
            if value.target is not None or (variable.space is not None and variable.space != value.space):
                raise self.unknown(node, "a pointer that changes what it points into, in")
            variable.space = value.space
        value = self.convert(value, variable.type, node)
        self.use(variable)
        if variable.phase == -1 and variable.mask != self.mask:
            raise self.unknown(node, "an assignment to a kernel's argument in")
        if (value.varying or variable.mask != self.mask) and variable.key not in self.varying_keys:
            self.varying_keys.add(variable.key)
            self.changed = True
        variable.linear = value.linear and variable.constant
        if variable.varying:
            self.lanes(f"{variable.code} = {value.code}")
        elif not value.varying:
            self.emit(f"{variable.code} = {value.code}")

    def _leaves(self, place: Aggregate, value: Value, node: Node) -> Iterator[tuple[Any, Value]]:
        """Members of an aggregate with the values that they take: of another aggregate, of memory, of a braced list."""
        if isinstance(value.place, Memory):
            for name, of, offset in self.member_types(place.type, node):
                yield place.members[name], self.loaded(self.member_memory(value.place, of, offset, node))
        elif isinstance(value.place, Aggregate):
            if list(value.place.members) != list(place.members):
                raise self.unknown(node, "an assignment between different types in")
            for name, member in place.members.items():
                yield member, self.read(value.place.members[name])
        elif isinstance(value.type, Tuple) and value.parts is not None:
            leaves = list(_scalars(place))
            given = list(_listed(value))
            if len(given) > len(leaves):
                raise self.unknown(node, "a longer list than there are members in")
            for number, leaf in enumerate(leaves):
                yield leaf, given[number] if number < len(given) else constant(0)
        else:
            raise self.unknown(node, f"a value of type {value.type} for {place.type} in")

    # Memory

    def words(self, of: Any, node: Node) -> int:
        """int32 words of a type in memory."""
        size = size_of(of)
        if size is None or size % 4:
            raise self.unknown(node, f"memory of type {of} in")
        return size // 4

    def element(self, pointer: Value, index: Value, node: Node) -> Value:
        """`pointer[index]`, which is loaded where its value is asked for."""
        if pointer.target is not None and index.const == 0:
            return self.read(pointer.target)
        if pointer.space is None:
            raise self.unknown(node, "memory behind a pointer that is not known, in")
        of = pointer.type.to
        word = pointer.code if index.const == 0 else self.moved(pointer, index, "+", node).code
        place = Memory(pointer.space, word, of, pointer.varying or index.varying, pointer.reads or index.reads)
        return Value("", of, place=place) if isinstance(of, (Record, Array)) else self.loaded(place)

    def moved(self, pointer: Value, by: Value, operator: str, node: Node) -> Value:
        """A pointer plus or minus a number of elements."""
        size = self.words(pointer.type.to, node)
        step = by.code if size == 1 else f"{by.code} * {size}"
        code = f"({pointer.code} {operator} {step})" if pointer.code != "0" or operator == "-" else f"({step})"
        return Value(
            code, pointer.type, varying=pointer.varying or by.varying, reads=pointer.reads or by.reads, space=pointer.space
        )

    def member_memory(self, place: Memory, of: Any, offset: int, node: Node) -> Memory:
        """A member of a record in memory."""
        if offset % 4:
            raise self.unknown(node, "a member that is no whole word in")
        word = place.word if offset == 0 else f"({place.word} + {offset // 4})"
        return Memory(place.space, word, of, place.varying, place.reads)

    def loaded(self, place: Memory) -> Value:
        """The value of an element in memory."""
        if isinstance(place.type, (Record, Array)):
            return Value("", place.type, place=place)
        one = f"load(words, written, spans, strays, {place.space}, {place.word})"
        code = one
        if place.type == Int(32, False):
            code = f"u32({one})"
        elif place.type in (LONG, ULONG):
            high = f"load(words, written, spans, strays, {place.space}, {place.word} + 1)"
            code = f"(u32({one}) + ({high} << 32))"
        elif place.type != INT:
            return Value("", place.type, place=None)
        return Value(code, place.type, varying=place.varying, reads=True, place=place)

    def stored(self, place: Memory, value: Value, node: Node) -> None:
        """Write an element to memory, by every active lane; of lanes that write one word the last one wins."""
        if isinstance(place.type, (Record, Array)):
            listed = self.member_types(place.type, node)
            target = Aggregate(place.type, {name: self.member_memory(place, of, at, node) for name, of, at in listed})
            self.assign(target, value, node)
            return
        value = self.convert(value, place.type, node)
        if place.type not in (INT, Int(32, False), LONG, ULONG):
            raise self.unknown(node, f"a store of type {place.type} in")
        word, code = place.word, value.code
        varying = place.varying or value.varying
        if varying and (value.reads or place.reads):
            kept_word, kept = self.array("word", "np.int64"), self.array("value", "np.int64")
            self.lanes(f"{kept_word}[lane] = {word}", f"{kept}[lane] = {code}")
            word, code = f"{kept_word}[lane]", f"{kept}[lane]"
        lines = [f"store(words, written, spans, {place.space}, {word}, {code})"]
        if place.type in (LONG, ULONG):
            lines.append(f"store(words, written, spans, {place.space}, {word} + 1, {code} >> 32)")
        if varying:
            self.lanes(*lines)
        else:
            for line in lines:
                self.emit(line)

    # Expressions of memory and members

    def _field_expression(self, node: Node) -> Value:
        owner = self.value_of(node.child_by_field_name("argument"))
        name = text(node.child_by_field_name("field"))
        if isinstance(owner.type, Pointer):
            owner = self.element(owner, constant(0), node)
        if isinstance(owner.place, Memory) and isinstance(owner.type, Record):
            found = owner.type.field(name)
            if found is not None:
                return self.loaded(self.member_memory(owner.place, found.type, found.offset, node))
        if isinstance(owner.place, Aggregate) and name in owner.place.members:
            return self.read(owner.place.members[name])
        raise self.unknown(node, "the member")

    def _subscript_expression(self, node: Node) -> Value:
        owner = self.value_of(node.child_by_field_name("argument"))
        index = self.value_of(children(node.child_by_field_name("indices"))[0])
        if isinstance(owner.place, Aggregate) and index.const is not None and str(index.const) in owner.place.members:
            return self.read(owner.place.members[str(index.const)])
        if not isinstance(owner.type, Pointer):
            raise self.unknown(node, "the index")
        return self.element(owner, index, node)

    def _pointer_expression(self, node: Node) -> Value:
        inner = self.value_of(node.child_by_field_name("argument"))
        if text(node.child_by_field_name("operator")) == "*" and isinstance(inner.type, Pointer):
            return self.element(inner, constant(0), node)
        if text(node.child_by_field_name("operator")) == "&":
            if isinstance(inner.place, Memory):
                return Value(inner.place.word, Pointer(inner.type), varying=inner.place.varying, space=inner.place.space)
            if inner.place is not None:
                return Value("0", Pointer(inner.type), target=inner.place)
        raise self.unknown(node, "the pointer")

    def _initializer_list(self, node: Node) -> Value:
        parts = {str(place): self.value_of(each) for place, each in enumerate(children(node))}
        return Value("", Tuple(tuple(each.type for each in parts.values())), parts=parts)

    def _compound_literal_expression(self, node: Node) -> Value:
        of = self.type_of(node.child_by_field_name("type"))
        value = self._initializer_list(node.child_by_field_name("value"))
        if isinstance(of, (Int, Float)):
            return self.convert(next(iter((value.parts or {}).values()), constant(0)), of, node)
        if not isinstance(of, Record):
            raise self.unknown(node, "the object")
        return value

    def binary_other(self, operator: str, left: Value, right: Value, node: Node) -> Value:
        if isinstance(left.type, Pointer) and isinstance(right.type, Int) and operator in "+-":
            return self.moved(left, right, operator, node)
        if isinstance(right.type, Pointer) and isinstance(left.type, Int) and operator == "+":
            return self.moved(right, left, operator, node)
        if operator in ("==", "!=") and isinstance(left.type, Pointer) and isinstance(right.type, Pointer):
            if left.is_null and right.is_null:
                return constant(operator == "==", BOOL)
            if left.target is not None or right.target is not None:
                return constant((left.target is right.target) == (operator == "=="), BOOL)
        return super().binary_other(operator, left, right, node)

    def chosen_other(self, condition: Value, first: Value, second: Value, node: Node) -> Value:
        same = isinstance(first.type, Pointer) and isinstance(second.type, Pointer) and first.space == second.space
        if not same or first.space is None:
            return super().chosen_other(condition, first, second, node)
        made = self._derived(f"({first.code} if {condition.code} else {second.code})", first.type, condition, first, second)
        made.space = first.space
        return made

    def convert_other(self, value: Value, to: Any, node: Node) -> Value:
        if isinstance(to, Pointer) and isinstance(value.type, Pointer) and value.code != "0":
            for of in (value.type.to, to.to):
                self.words(of, node)
        return super().convert_other(value, to, node)

    def integer_from(self, value: Value, to: Int, node: Node) -> Value:
        if isinstance(value.type, Pointer) and to.bits == 64 and value.space is not None:
            return self._derived(f"({(value.space + 1) << 40} + 4 * {value.code})", to, value)
        return super().integer_from(value, to, node)

    def float_to_integer(self, code: str, to: Int, node: Node) -> str:
        if to != INT:
            raise self.unknown(node, "a float as an integer that is not int, in")
        return f"float_to_i32({code})"

    def wrap(self, code: str, to: Int) -> str:
        return code if to.bits == 64 else super().wrap(code, to)

    def _ordered(self, operator: str, of: Any, node: Node) -> None:
        if of == ULONG and operator not in ("==", "!=", "<<"):
            raise self.unknown(node, "64 bits without a sign in")

    def division(self, operator: str, of: Int, left: Value, right: Value, node: Node) -> Value:
        if operator == "/" and left.linear and right.const == LANES:
            return Value("wave", of, simple=True)
        if operator == "%" and left.linear and right.const == LANES:
            return Value("lane", of, varying=True, linear=True)
        if of.bits == 64 and not (right.const and right.const > 0 and of.signed):
            raise self.unknown(node, "a division of 64 bits in")
        return super().division(operator, of, left, right, node)

    def common_type(self, first: Value, second: Value) -> Any:
        """The type that a choice of two values has; None for none."""
        return first.type if first.type == second.type else common(first.type, second.type)


def _scalars(place: Any) -> Iterator[Any]:
    if isinstance(place, Aggregate):
        for member in place.members.values():
            yield from _scalars(member)
    elif isinstance(place, Memory) and isinstance(place.type, (Record, Array)):
        raise AssertionError(place.type)
    else:
        yield place


def _listed(value: Value) -> Iterator[Value]:
    for each in (value.parts or {}).values():
        if isinstance(each.type, Tuple) and each.place is None:
            yield from _listed(each)
        else:
            yield each


def _dtype(of: Any) -> str:
    if of == BOOL:
        return "np.bool_"
    if isinstance(of, Float):
        return f"np.float{of.bits}"
    return "np.int64"
