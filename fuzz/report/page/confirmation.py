"""The confirmation: what is signed off shape by shape, of exactly what, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.report.figures import span
from fuzz.report.page.markup import Child, Markup, element, join, table
from fuzz.report.statement import ShapeStatement, ShapeVerdict, Statement, refusals


def confirmation(said: Statement) -> Markup:
    return join(
        element("p", said.notice, class_="notice"),
        table(
            ("shape", "verdict", "clean cases", "faulty", "drawn", "batch that ran", "longest KV that ran"),
            [_statement_row(shape) for shape in said.shapes],
            "What is confirmed, shape by shape",
            "statement stack",
        ),
        _scope_table(said),
        element("h3", "What was looked at"),
        element(
            "ul",
            (
                element(
                    "li",
                    element("strong", scope.device),
                    f": {scope.witness.ran}. Reports ",
                    "; ".join(scope.witness.sees),
                    ".",
                )
                for scope in {scope.device: scope for scope in said.scopes}.values()
            ),
        ),
        element("h3", "What this does not cover"),
        element("ul", (element("li", limit) for limit in said.not_covered), class_="limits"),
        _refusals(said.shapes),
    )


def _statement_row(shape: ShapeStatement) -> Sequence[Child]:
    good = {ShapeVerdict.CONFIRMED: "good", ShapeVerdict.FAULTY: "bad"}.get(shape.verdict, "fair")
    return (
        shape.name,
        element("span", shape.verdict.value, class_=f"badge {good}"),
        shape.clean,
        shape.faulty,
        shape.cases,
        span(shape.batch),
        span(shape.kv_len),
    )


def _scope_table(said: Statement) -> Markup:
    names = list(dict.fromkeys(name for scope in said.scopes for name in scope.drawn_from))
    many = len(said.scopes) > 1
    header = ("cases drawn from", *(f"campaign {scope.identity[:8]}" if many else "" for scope in said.scopes))
    rows: list[Sequence[Child]] = [(name, *(scope.drawn_from.get(name, "–") for scope in said.scopes)) for name in names]
    rows.append(("device", *(f"{scope.device}: {scope.witness.notice}" for scope in said.scopes)))
    return table(header, rows, "Exactly what it covers", "scope-of")


def _refusals(shapes: Sequence[ShapeStatement]) -> Markup | None:
    reasons = refusals(shapes)
    if not reasons:
        return None
    rows: list[Sequence[Child]] = [(text, *(counts.get(shape.num_head, 0) for shape in shapes)) for text, counts in reasons]
    header = ("reason", *(shape.label or f"{shape.num_head} heads" for shape in shapes))
    return join(element("h3", "Refused shapes"), table(header, rows, "Cases refused before any kernel, by reason", "reasons"))
