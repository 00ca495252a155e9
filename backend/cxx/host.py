"""Host functions of C++ as the source of a Python module: one Python function each, the functions that they call with them.

A statement that is not provided for becomes the error that names it, raised where it would run: what a call does not reach
does not matter. A kernel launch calls the launcher that the caller provides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from backend.cxx.errors import CxxError
from backend.cxx.host_calls import HostCalls, Inferred, is_generic
from backend.cxx.host_values import MemberTarget, Surroundings
from backend.cxx.kernel import TemplateShape
from backend.cxx.names import parameters_of
from backend.cxx.syntax import Node, Unit, children, declared_name, has_word, of_type, text
from backend.cxx.types import STRING, UNKNOWN, VOID, Array, Float, Int, Opaque, Record, Tuple
from backend.cxx.values import Lambda, Scope, Value


@dataclass(frozen=True, slots=True)
class HostModule:
    """Python source that needs the names of backend.cxx.host_runtime, those of the surroundings, and `launch_kernel`.

    launched: kernels with the shapes of their template arguments, by the number that `launch_kernel` is given first.
    names: Python function by C++ name; parameters: their names.
    """

    source: str
    launched: tuple[tuple[str, tuple[TemplateShape, ...]], ...]
    names: dict[str, str]
    parameters: dict[str, tuple[str, ...]]


def lower_host(unit: Unit, entries: list[str], around: Surroundings) -> HostModule:
    """The functions `entries` of a unit, and what they call."""
    return _Writer(unit, around).write(entries)


class _Writer(HostCalls):
    """Writes statements, and a module of functions."""

    def write(self, entries: list[str]) -> HostModule:
        names = {}
        parameters = {}
        for entry in entries:
            declaration = self.unit.find(entry, "function")
            if declaration is None:
                raise CxxError("", 0, f"a file without the function {entry}")
            names[entry] = self.function(declaration, {})[0]
            listed = (each.child_by_field_name("declarator") for each in parameters_of(declaration.node))
            parameters[entry] = tuple("" if each is None else text(declared_name(each)) for each in listed)
        written: list[str] = []
        while self.waiting:
            declaration, bound, values, name = self.waiting.pop()
            self.lines = []
            self.write_function(declaration, bound, values, name)
            written += [*self.lines, ""]
        return HostModule("\n".join([*self.class_lines(), *written]), tuple(self.launched), names, parameters)

    # Statements

    def statement(self, node: Node) -> None:
        """One statement; where it is not provided for, its error at that place."""
        before, names = len(self.lines), dict(self.scope.names)
        kept = self.scope, self.lines, self.depth, list(self.loops), list(self.frames)
        try:
            super().statement(node)
        except CxxError as error:
            self.scope, self.lines, self.depth, self.loops, self.frames = kept
            del self.lines[before:]
            self.scope.names.update(names)
            self.emit(f"raise CxxError({error.file!r}, {error.line}, {error.construct!r})")

    @contextmanager
    def _block(self, head: str) -> Iterator[None]:
        self.emit(head)
        self.depth += 1
        before, self.scope = self.scope, Scope(self.scope)
        start = len(self.lines)
        try:
            yield
            if len(self.lines) == start:
                self.emit("pass")
        finally:
            self.scope = before
            self.depth -= 1

    def evaluated(self, node: Node) -> None:
        """Lowers an expression that assigns nothing itself (see Statements.evaluated)."""
        if node.type == "call_expression":
            self._called(node)
        elif node.type == "parenthesized_expression":
            self.effect(children(node)[0])
        else:
            self.emit(self.value_of(node).code)

    def store(self, node: Node) -> None:
        """Lowers an assignment, or an increment (see Statements.store)."""
        target, value = self.assignment(node)
        self._assign(target, value, node)

    def _called(self, node: Node) -> None:
        """A call for its effect; a number whose address it is given has its new value afterwards."""
        before, self.cells = self.cells, []
        try:
            self.emit(self.value_of(node).code)
            for name, inner in self.cells:
                self._assign(inner, Value(f"{name}.value", inner.type), node)
        finally:
            self.cells = before

    def _assign(self, target: Value, value: Value, node: Node) -> None:
        place = target.place
        if place is None or target.const is not None:
            raise self.unknown(node, "the assignment")
        value = self.copied(self.convert(value, target.type, node))
        if isinstance(place, MemberTarget):
            self.emit(f"{place.owner}.{place.name} = {value.code}")
            return
        self._assigned(place.code)
        self.emit(f"{place.code} = {value.code}")

    def _assigned(self, name: str) -> None:
        """Take note that the present function assigns a name, which may be one of a function around it."""
        if name in self.frames[-1].own:
            return
        for frame in reversed(self.frames[:-1]):
            if name in frame.own:
                for inner in self.frames[self.frames.index(frame) + 1 :]:
                    inner.outer.add(name)
                return
        self.frames[-1].own.add(name)

    def _declaration(self, node: Node) -> None:
        base = node.child_by_field_name("type")
        if "".join(text(base).split()) in self.around.ignored:
            return
        for each in node.children_by_field_name("declarator"):
            value = each.child_by_field_name("value") if each.type == "init_declarator" else None
            inner = each.child_by_field_name("declarator") if each.type == "init_declarator" else each
            if value is not None and value.type == "lambda_expression":
                self._declare_lambda(text(declared_name(inner)), value)
            else:
                self._declare(node, base, inner, value)

    def _declare_lambda(self, name: str, node: Node) -> None:
        names = {} if is_generic(node) else {"()": self.nested(node, name)}
        self.scope.names[name] = Lambda(node, Scope(names=names), self.file)

    def _declare(self, node: Node, base: Node, declarator: Node, value: Node | None) -> None:
        if declarator.type in ("structured_binding_declarator", "function_declarator"):
            raise self.unknown(node, "the declaration")
        name = text(declared_name(declarator))
        of = self.declared_type(base, declarator)
        constant_value = has_word(node, "const") or has_word(node, "constexpr")
        if value is None:
            made = self._before_assignment(of, node)
        elif value.type == "argument_list":
            made = self._constructed(of, [self.value_of(each) for each in children(value)], node)
        else:
            made = self.value_of(value)
            if isinstance(made.type, Tuple) and isinstance(of, Record):
                made = self._record_from(made, of, node)
            elif isinstance(made.type, Tuple) and isinstance(of, Array):
                of = Array(of.of, of.length or len(made.type.of))
            made = self.convert(made, made.type if of is UNKNOWN else of, node)
        if constant_value and made.const is not None:
            self.scope.names[name] = made
            return
        if declarator.type != "reference_declarator":
            made = self.copied(made)
        python = self.fresh(name)
        self.frames[-1].own.add(python)
        self.emit(f"{python} = {made.code}")
        self.scope.names[name] = Value(python, made.type)

    def _before_assignment(self, of: Any, node: Node) -> Value:
        """A variable's value before it has one."""
        if isinstance(of, Record):
            return Value(f"{self.record_class(of)}()", of)
        if of == STRING:
            return Value("''", of)
        if isinstance(of, Opaque):
            name = of.name if of.name in self.around.made else of.name.partition("<")[0]
            if name not in self.around.made:
                raise self.unknown(node, "the object")
            return Value(f"{self.around.made[name]}()", of)
        return Value("UNSET", of)

    def _constructed(self, of: Any, given: list[Value], node: Node) -> Value:
        if isinstance(of, Opaque) and of.name in self.around.made:
            return Value(f"{self.around.made[of.name]}({', '.join(each.code for each in given)})", of)
        if isinstance(of, (Int, Float)) and len(given) == 1:
            return self.convert(given[0], of, node)
        raise self.unknown(node, "the object")

    def _if_statement(self, node: Node) -> None:
        condition = self.condition(node.child_by_field_name("condition"))
        found = node.child_by_field_name("alternative")
        otherwise = children(found)[0] if found is not None else None
        with self._block(f"if {condition.code}:"):
            self.statement(node.child_by_field_name("consequence"))
        if otherwise is not None:
            with self._block("else:"):
                self.statement(otherwise)

    def _switch_statement(self, node: Node) -> None:
        value = self.value_of(node.child_by_field_name("condition"))
        name = self.fresh("chosen")
        self.frames[-1].own.add(name)
        self.emit(f"{name} = {value.code}")
        head = "if"
        keys: list[str] = []
        default: list[Node] | None = None
        cases = of_type(node.child_by_field_name("body"), "case_statement")
        for case in cases:
            label = case.child_by_field_name("value")
            body = [each for each in children(case) if label is None or each != label]
            if label is not None:
                keys.append(self.value_of(label).code)
            if not body and label is not None:
                continue
            statements = _without_break(body, last=case == cases[-1])
            if statements is None:
                raise self.unknown(case, "a case that goes on with the next,")
            if label is None:
                default = statements
                continue
            with self._block(f"{head} {' or '.join(f'{name} == {key}' for key in keys)}:"):
                for each in statements:
                    self.statement(each)
            head, keys = "elif", []
        if default is not None:
            with self._block("else:" if head == "elif" else "if True:"):
                for each in default:
                    self.statement(each)

    def loop(self, condition: Node | None, body: Node, step: Callable[[], None] | None) -> None:
        """Lowers a loop that asks before each round (see Statements.loop)."""
        with self._block("while True:"):
            if condition is not None:
                with self._block(f"if not {self.condition(condition).code}:"):
                    self.emit("break")
            self.loops.append(step)
            self.statement(body)
            self.loops.pop()
            if step is not None:
                step()

    def _do_statement(self, node: Node) -> None:
        condition = node.child_by_field_name("condition")
        asked = self.condition(condition)
        once = asked.const is not None and not asked.const
        if once and not _leaves(node.child_by_field_name("body")):
            self.statement(node.child_by_field_name("body"))
            return
        with self._block("while True:"):
            self.loops.append(None)
            self.statement(node.child_by_field_name("body"))
            self.loops.pop()
            with self._block(f"if not {self.condition(condition).code}:"):
                self.emit("break")

    def _for_range_loop(self, node: Node) -> None:
        over = self.value_of(node.child_by_field_name("right"))
        known = self.class_of(over.type)
        declarator = node.child_by_field_name("declarator")
        element = over.type.of if isinstance(over.type, Array) else known.element if known is not None else None
        if element is None:
            raise self.unknown(node, f"a loop over {over.type},")
        name = self.fresh(text(declared_name(declarator)))
        self.frames[-1].own.add(name)
        with self._block(f"for {name} in {over.code}:"):
            self.scope.names[text(declared_name(declarator))] = Value(name, element)
            self.loops.append(None)
            self.statement(node.child_by_field_name("body"))
            self.loops.pop()

    def _break_statement(self, node: Node) -> None:
        self.emit("break")

    def _continue_statement(self, node: Node) -> None:
        step = self.loops[-1] if self.loops else None
        if step is not None:
            step()
        self.emit("continue")

    def _return_statement(self, node: Node) -> None:
        listed = children(node)
        if not listed:
            self.emit("return")
            return
        value = self.value_of(listed[0])
        returns = self.frames[-1].returns
        if isinstance(returns, Inferred):
            returns.types.append(value.type)
            value = self.convert(value, returns.types[0], node)
        elif returns not in (UNKNOWN, VOID):
            value = self.convert(value, returns, node)
        self.emit(f"return {self.copied(value).code}")


def _without_break(body: list[Node], last: bool) -> list[Node] | None:
    """A case's statements without the break at their end; None where it goes on with the next. last: whether none comes."""
    statements = [each for each in body if not (each.type == "expression_statement" and not children(each))]
    if len(statements) == 1 and statements[0].type == "compound_statement":
        statements = children(statements[0])
    while statements and statements[-1].type == "expression_statement" and not children(statements[-1]):
        statements = statements[:-1]
    if statements and statements[-1].type == "break_statement":
        return statements[:-1]
    ends = last or (statements and statements[-1].type in ("return_statement", "throw_statement"))
    return statements if ends else None


def _leaves(node: Node) -> bool:
    """Whether a do loop's body leaves it by break or continue."""
    if node.type in ("break_statement", "continue_statement"):
        return True
    return not node.type.endswith(("_loop", "for_statement", "while_statement", "do_statement", "lambda_expression")) and any(
        _leaves(each) for each in node.named_children
    )
