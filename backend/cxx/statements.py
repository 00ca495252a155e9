"""What both lowerings do alike with statements: blocks, effects of expressions, aliases, the parts of a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backend.cxx.names import Names
from backend.cxx.syntax import Node, children, text
from backend.cxx.values import Scope, TypeName, Value, constant


class Statements(Names):
    """Lowers statements by the type of their node. A subclass says how a value is stored and declared, and how to loop."""

    def statement(self, node: Node) -> None:
        """Lowers one statement; raises CxxError where it is not provided for."""
        method = getattr(self, f"_{node.type}", None)
        if method is None:
            raise self.unknown(node, f"the statement ({node.type})")
        method(node)

    def scoped(self, run: Callable[[], None]) -> None:
        """Runs something in a scope of its own."""
        before, self.scope = self.scope, Scope(self.scope)
        run()
        self.scope = before

    def effect(self, node: Node) -> None:
        """Lowers an expression for what it does."""
        if node.type == "comma_expression":
            self.effect(node.child_by_field_name("left"))
            self.effect(node.child_by_field_name("right"))
        elif node.type in ("assignment_expression", "update_expression"):
            self.store(node)
        else:
            self.evaluated(node)

    def evaluated(self, node: Node) -> None:
        """Lowers an expression that assigns nothing itself, for what it does."""
        raise NotImplementedError

    def store(self, node: Node) -> Any:
        """Lowers an assignment, or an increment."""
        raise NotImplementedError

    def loop(self, condition: Node | None, body: Node, step: Callable[[], None] | None) -> None:
        """Lowers a loop that asks before each round. step: lowers what follows each round."""
        raise NotImplementedError

    def assignment(self, node: Node) -> tuple[Value, Value]:
        """What an assignment or an increment stores to, and the value."""
        if node.type == "update_expression":
            target = self.value_of(node.child_by_field_name("argument"))
            operator, given = text(node.child_by_field_name("operator"))[0], constant(1)
        else:
            target = self.value_of(node.child_by_field_name("left"))
            operator = text(node.child_by_field_name("operator"))[:-1]
            given = self.value_of(node.child_by_field_name("right"))
        if target.place is None:
            raise self.unknown(node, "the assignment")
        return target, self.binary(operator, target, given, node) if operator else given

    def _compound_statement(self, node: Node) -> None:
        def each_in_turn() -> None:
            for each in children(node):
                self.statement(each)

        self.scoped(each_in_turn)

    def _expression_statement(self, node: Node) -> None:
        for each in children(node):
            self.effect(each)

    def _alias_declaration(self, node: Node) -> None:
        self.scope.names[text(node.child_by_field_name("name"))] = TypeName(self.type_of(node.child_by_field_name("type")))

    def _static_assert_declaration(self, node: Node) -> None:
        return

    def _declaration(self, node: Node) -> None:
        raise NotImplementedError

    def _for_statement(self, node: Node) -> None:
        start, update = node.child_by_field_name("initializer"), node.child_by_field_name("update")

        def whole() -> None:
            if start is not None:
                (self._declaration if start.type == "declaration" else self.effect)(start)
            step = None if update is None else (lambda: self.effect(update))
            self.loop(node.child_by_field_name("condition"), node.child_by_field_name("body"), step)

        self.scoped(whole)

    def _while_statement(self, node: Node) -> None:
        self.loop(node.child_by_field_name("condition"), node.child_by_field_name("body"), None)
