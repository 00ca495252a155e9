"""Statements of a GPU kernel, for a wave of lanes in lockstep.

A condition that is the same for all lanes is Python's `if` or `while`; one that may differ becomes a mask of lanes. Leaving a
loop or a function by some of the lanes only is not provided for, but for a function whose branches each end in a return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backend.cxx.kernel_calls import KernelCalls, thread_number
from backend.cxx.kernel_values import LANES
from backend.cxx.syntax import Node, always_returns, children, declared_name, has_return, has_word, otherwise, text
from backend.cxx.types import BOOL, UINT, UNKNOWN, Array, Float, Int, Opaque, Pointer, Record, Tuple, promoted
from backend.cxx.values import Aggregate, Lambda, Scope, Value, Variable, constant

BARRIER = "__syncthreads"

BRANCHES = 61
"""Branches that are told apart: as many as one integer has room for; those beyond share a bit."""


@dataclass(slots=True)
class _Loop:
    """A loop around the present statement: its mask, and what a `continue` still has to run."""

    mask: str | None
    step: Callable[[], None] | None
    varying: bool


@dataclass(slots=True)
class _Returns:
    """Where a function's value goes. type: as declared; UNKNOWN for auto."""

    type: Any
    place: Any = None
    plain: Value | None = None
    several: bool = False
    types: list[Any] = field(default_factory=list)


class KernelStatements(KernelCalls):
    """Lowers statements of a kernel."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._loops: list[_Loop] = []
        self.branches = 0

    def body(self, statements: list[Node], node: Node, returns: Any) -> Value | None:
        """Lowers a function's body (see KernelCalls.body)."""
        slot = _Returns(returns)
        last = statements[-1] if statements else None
        inside = sum(has_return(each) for each in statements)
        slot.several = not (inside == 1 and last is not None and last.type == "return_statement")
        before, self._loops = self._loops, []
        self._function(statements, node, slot)
        self._loops = before
        if not slot.several:
            return slot.plain
        return self.read(slot.place) if slot.place is not None else None

    def _function(self, statements: list[Node], node: Node, slot: _Returns) -> None:
        """Statements with returns among them: what follows a branch that returns goes into the other branch."""
        for place, each in enumerate(statements):
            rest = statements[place + 1 :]
            if each.type == "return_statement":
                self._return(each, slot)
                return
            if not has_return(each):
                self.statement(each)
                continue
            if each.type == "compound_statement":
                before, self.scope = self.scope, Scope(self.scope)
                self._function([*children(each), *rest], node, slot)
                self.scope = before
                return
            if each.type != "if_statement":
                raise self.unknown(each, "a return out of")
            self._returning_if(each, rest, node, slot)
            return

    def _returning_if(self, statement: Node, rest: list[Node], node: Node, slot: _Returns) -> None:
        yes, no = statement.child_by_field_name("consequence"), otherwise(statement)
        yes_list, no_list = [yes], [no] if no is not None else []
        condition = self.condition(statement.child_by_field_name("condition"))
        if condition.const is not None:
            chosen = yes_list if condition.const else no_list
            self._function(chosen if chosen and always_returns(chosen[0]) else [*chosen, *rest], node, slot)
            return
        yes_ends, no_ends = always_returns(yes), no is not None and always_returns(no)
        if rest and not yes_ends and not no_ends:
            raise self.unknown(statement, "a return of some paths in")
        self.branch(
            condition,
            lambda: self.scoped(lambda: self._function(yes_list if yes_ends else [*yes_list, *rest], node, slot)),
            lambda: self.scoped(lambda: self._function(no_list if no_ends else [*no_list, *rest], node, slot)),
        )

    def _return(self, statement: Node, slot: _Returns) -> None:
        listed = children(statement)
        if not listed:
            return
        value = self.value_of(listed[0])
        of = slot.type
        if of is not UNKNOWN and isinstance(of, (Int, Float)):
            value = self.convert(value, of, statement)
        if not slot.several:
            slot.plain = value
            return
        if slot.place is None:
            kept = value.type if of is UNKNOWN or isinstance(of, Opaque) else of
            if isinstance(kept, Int) and kept != BOOL:
                kept = promoted(kept)
            slot.place = self.held("returned", kept, statement)
            _set_mask(slot.place, self._entry_mask)
        elif isinstance(value.type, (Int, Float)) and of is UNKNOWN and value.type != slot.place.type:
            raise self.unknown(statement, "a value of another type than the other branch's in")
        self.assign(slot.place, value, statement)

    @property
    def _entry_mask(self) -> str | None:
        return self._entries[-1] if self._entries else self.mask

    _entries: list[str | None] = []  # noqa: RUF012 - set by each inlined call

    def inlined(self, *arguments: Any) -> Value | None:
        """See KernelCalls.inlined; remembers which lanes called."""
        before, self._entries = self._entries, [*self._entries, self.mask]
        try:
            return super().inlined(*arguments)
        finally:
            self._entries = before

    # Branches

    def branch(self, condition: Value, yes: Callable[[], None], no: Callable[[], None] | None) -> None:
        """Run `yes` for the lanes for which a condition holds, `no` for the others."""
        yes, no = self._taken(yes), None if no is None else self._taken(no)
        if not condition.varying:
            with self.block(f"if {condition.code}:"):
                yes()
            if no is not None:
                with self.block("else:"):
                    no()
            return
        masks = [self.array("mask", "np.bool_") for _ in range(1 if no is None else 2)]
        some = [self.fresh("some") for _ in masks]
        for name in some:
            self.emit(f"{name} = False")
        around = "" if self.mask is None else f"{self.mask}[lane] and "
        with self.block(f"for lane in range({LANES}):"):
            self.emit(f"{masks[0]}[lane] = {around}{condition.code}")
            self.emit(f"{some[0]} = {some[0]} or {masks[0]}[lane]")
            if no is not None:
                self.emit(f"{masks[1]}[lane] = {around}not {masks[0]}[lane]")
                self.emit(f"{some[1]} = {some[1]} or {masks[1]}[lane]")
        before = self.mask
        for mask, name, run in zip(masks, some, [yes, *([no] if no is not None else [])], strict=True):
            self.mask = mask
            with self.block(f"if {name}:"):
                run()
        self.mask = before

    def _taken(self, run: Callable[[], None]) -> Callable[[], None]:
        """A branch that notes that it was taken."""
        number, self.branches = self.branches, self.branches + 1

        def noted() -> None:
            self.emit(f"taken |= {1 << number % BRANCHES}")
            run()

        return noted

    def conditional(self, condition: Value, yes: Node, no: Node, node: Node) -> Value:
        """`?:`; where a side needs statements of its own, by a branch."""
        first, before = self.captured(lambda: self.value_of(yes))
        second, after = self.captured(lambda: self.value_of(no))
        if not before and not after:
            return self.chosen(condition, first, second, node)
        of = self.common_type(first, second)
        if not isinstance(of, (Int, Float)):
            raise self.unknown(node, "a choice with calls in")
        place = self.variable("chosen", of, node)
        self.branch(
            condition,
            lambda: self.assign(place, self.value_of(yes), node),
            lambda: self.assign(place, self.value_of(no), node),
        )
        return self.read(place)

    def logical(self, operator: str, left: Node, right: Node) -> Value:
        """`&&` and `||`; where the right side needs statements of its own, by a branch."""
        first = self.condition(left)
        if first.const is not None:
            return first if bool(first.const) == (operator == "||") else self.condition(right)
        second, lines = self.captured(lambda: self.condition(right))
        if not lines:
            return self._derived(f"({first.code} {'and' if operator == '&&' else 'or'} {second.code})", BOOL, first, second)
        place = self.variable("both", BOOL, right)
        self.assign(place, first, right)
        asked = self.read(place)
        if operator == "||":
            asked = Value(f"(not {asked.code})", BOOL, varying=asked.varying)
        self.branch(asked, lambda: self.assign(place, self.condition(right), right), None)
        return self.read(place)

    # Statements

    def evaluated(self, node: Node) -> None:
        """Lowers an expression that assigns nothing itself (see Statements.evaluated)."""
        if node.type == "call_expression":
            self.call(node)
        else:
            self.value_of(node)

    def store(self, node: Node) -> Value:
        """See Statements.store; gives what is stored to."""
        target, value = self.assignment(node)
        place = target.place
        if isinstance(place, Variable) and self._begins_anew(place, value, node):
            place = self.scope.names[text(node.child_by_field_name("left"))] = self.variable("again", place.type, node)
        self.assign(place, value, node)
        return Value("", target.type, place=place)

    def _begins_anew(self, place: Variable, value: Value, node: Node) -> bool:
        """Whether what differed between lanes becomes one value: in the block that declares it, for all lanes."""
        left = node.child_by_field_name("left")
        here = left is not None and self.scope.names.get(text(left)) is place
        return here and place.varying and not value.varying and place.mask == self.mask and isinstance(value.type, (Int, Float))

    def _assignment_expression(self, node: Node) -> Value:
        return self.read(self.store(node).place)

    def _update_expression(self, node: Node) -> Value:
        if text(node.children[0]) in ("++", "--"):
            return self.read(self.store(node).place)
        old = self.value_of(node.child_by_field_name("argument"))
        kept = self.variable("old", old.type, node)
        self.assign(kept, old, node)
        self.store(node)
        return self.read(kept)

    def _declaration(self, node: Node) -> None:
        base = node.child_by_field_name("type")
        is_constant = has_word(node, "const") or has_word(node, "constexpr")
        if has_word(node, "static") and not is_constant:
            raise self.unknown(node, "a static variable,")
        for each in node.children_by_field_name("declarator"):
            value = each.child_by_field_name("value") if each.type == "init_declarator" else None
            inner = each.child_by_field_name("declarator") if each.type == "init_declarator" else each
            if inner.type == "structured_binding_declarator":
                self._structured(inner, self.value_of(value), node)
            else:
                self._declare(node, base, inner, value, is_constant)

    def _structured(self, declarator: Node, value: Value, node: Node) -> None:
        names = [text(each) for each in children(declarator) if each.type == "identifier"]
        members = list((value.parts or {}).values())
        if len(members) != len(names):
            raise self.unknown(node, "the names of")
        for name, member in zip(names, members, strict=True):
            given = self.read(member)
            place = self.variable(name, given.type, declarator)
            self.assign(place, given, node)
            self.scope.names[name] = place

    def _declare(self, node: Node, base: Node, declarator: Node, value: Node | None, is_constant: bool) -> None:
        name = text(declared_name(declarator))
        if has_word(node, "extern"):
            of = self.declared_type(base, declarator)
            self.scope.names[name] = Value("0", Pointer(of.of if isinstance(of, Array) else of), space=self.shared_space(node))
            return
        if value is not None and value.type == "lambda_expression":
            self.scope.names[name] = Lambda(value, self.scope, self.file)
            return
        of = self.declared_type(base, declarator)
        if isinstance(of, Record) and value is not None and value.type == "argument_list":
            given = [self.value_of(each) for each in children(value)]
            self.scope.names[name] = self.constructed(of, given, name, node)
            return
        made = self.value_of(children(value)[0] if value.type == "argument_list" else value) if value is not None else None
        if made is not None and declarator.type == "reference_declarator" and made.place is not None:
            self.scope.names[name] = made.place
            return
        self._declare_variable(name, of, made, declarator, is_constant)

    def _declare_variable(self, name: str, of: Any, made: Value | None, node: Node, is_constant: bool) -> None:
        if of is UNKNOWN and made is not None:
            of = made.type
        if is_constant and made is not None and isinstance(of, (Int, Float)):
            made = self.convert(made, of, node)
            if made.const is not None:
                self.scope.names[name] = made
                return
        if made is not None and (made.is_null or made.target is not None):
            self.scope.names[name] = made
            return
        place = self.held(name, of, node, is_constant)
        if made is None:
            for each in _variables(place):
                if isinstance(each.type, (Int, Float)):
                    self.assign(each, Value("False" if each.type == BOOL else "0", each.type), node)
        elif isinstance(of, (Int, Float)) and isinstance(made.type, Tuple):
            self.assign(place, next(iter((made.parts or {}).values()), constant(0)), node)
        else:
            self.assign(place, made, node)
        self.scope.names[name] = place

    def shared_space(self, node: Node) -> int:
        """Number of the memory space that the block's lanes share."""
        raise NotImplementedError

    def _if_statement(self, node: Node) -> None:
        condition = self.condition(node.child_by_field_name("condition"))
        yes, no = node.child_by_field_name("consequence"), otherwise(node)
        if condition.const is not None:
            chosen = yes if condition.const else no
            if chosen is not None:
                self.scoped(lambda: self.statement(chosen))
            return
        run_no = None if no is None else (lambda: self.scoped(lambda: self.statement(no)))
        self.branch(condition, lambda: self.scoped(lambda: self.statement(yes)), run_no)

    # Loops

    def loop(self, condition: Node | None, body: Node, step: Callable[[], None] | None) -> None:
        """Lowers a loop that asks before each round (see Statements.loop)."""
        probe = constant(1, BOOL) if condition is None else self.captured(lambda: self.condition(condition))[0]
        if probe.varying:
            self._varying_loop(condition, body, step)
            return
        with self.block("while True:"):
            asked = self.condition(condition) if condition is not None else probe
            if asked.const is None:
                with self.block(f"if not {asked.code}:"):
                    self.emit("break")
            elif not asked.const:
                self.emit("break")
                return
            self._loops.append(_Loop(self.mask, step, False))
            self.scoped(lambda: self.statement(body))
            self._loops.pop()
            if step is not None:
                step()

    def _varying_loop(self, condition: Node, body: Node, step: Callable[[], None] | None) -> None:
        def once(mask: str) -> None:
            self._leave(mask, self.condition(condition))
            self._loops.append(_Loop(mask, step, True))
            self.scoped(lambda: self.statement(body))
            self._loops.pop()
            if step is not None:
                step()

        self._masked(once)

    def _do_statement(self, node: Node) -> None:
        condition, body = node.child_by_field_name("condition"), node.child_by_field_name("body")

        def once() -> Value:
            self._loops.append(_Loop(self.mask, None, True))
            self.scoped(lambda: self.statement(body))
            self._loops.pop()
            return self.condition(condition)

        if self.captured(once)[0].varying:
            self._masked(lambda mask: self._leave(mask, once()))
            return
        with self.block("while True:"), self.block(f"if not {once().code}:"):
            self.emit("break")

    def _masked(self, run: Callable[[str], None]) -> None:
        """A loop of lanes that leave it one by one; run: lowers one round."""
        mask, before = self.array("mask", "np.bool_"), self.mask
        self.emit(f"{mask}[:] = {'True' if before is None else before}")
        with self.block("while True:"):
            self.mask = mask
            run(mask)
        self.mask = before

    def _leave(self, mask: str, asked: Value) -> None:
        """Take the lanes out of a loop's mask for which its condition does not hold."""
        some = self.fresh("some")
        self.emit(f"{some} = False")
        self.lanes(f"{mask}[lane] = {asked.code}", f"{some} = {some} or {mask}[lane]")
        with self.block(f"if not {some}:"):
            self.emit("break")

    def _break_statement(self, node: Node) -> None:
        if not self._loops or self._loops[-1].mask != self.mask:
            raise self.unknown(node, "a loop that some lanes leave by")
        self.emit("break")

    def _continue_statement(self, node: Node) -> None:
        if not self._loops or self._loops[-1].varying or self._loops[-1].mask != self.mask:
            raise self.unknown(node, "a loop that some lanes go on with by")
        step = self._loops[-1].step
        if step is not None:
            step()
        self.emit("continue")

    # What the hardware gives

    def _named(self, name: str, node: Node) -> Value:
        if name == "nullptr":
            return Value("0", Pointer(Opaque("void")))
        return super()._named(name, node)

    def _field_expression(self, node: Node) -> Value:
        whole = text(node)
        if whole == "threadIdx.x":
            return thread_number(self, node)
        if whole == "blockDim.x":
            return Value(f"(waves * {LANES})", UINT, simple=True)
        if whole in ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.y", "threadIdx.z"):
            return constant(0, UINT)
        if whole in ("gridDim.x", "gridDim.y", "gridDim.z", "blockDim.y", "blockDim.z"):
            return constant(1, UINT)
        return super()._field_expression(node)


def _variables(place: Any) -> list[Any]:
    if isinstance(place, Aggregate):
        return [each for member in place.members.values() for each in _variables(member)]
    return [place]


def _set_mask(place: Any, mask: str | None) -> None:
    for each in _variables(place):
        each.mask = mask
