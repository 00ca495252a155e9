"""The confirmation: what is signed off shape by shape, of exactly what, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.page.accepted import Acceptance, Row
from fuzz.page.figures import span
from fuzz.page.markup import Child, Markup, element, join, table
from fuzz.page.statement import CampaignScope, ShapeStatement, ShapeVerdict, Statement, refusals


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
        [_combinations(scope, said, len(said.scopes) > 1) for scope in said.scopes],
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
        element(
            "p",
            "Signed off by aiterfuzz: sha256 of this statement ",
            element("code", said.digest),
            ", as in report.json beside this page.",
            class_="signed",
        ),
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


def _combinations(scope: CampaignScope, said: Statement, named: bool) -> Markup:
    """Which combinations reach a kernel, query rows across."""
    found = scope.accepted
    if found.why_not:
        return element("p", f"Which combinations reach a kernel is not told: {found.why_not}.", class_="note")
    labels = {shape.num_head: shape.label or f"{shape.num_head} heads" for shape in said.shapes}
    rows = [(_row_name(row, found.rows, labels), *(_answer(answer) for answer in row.answers)) for row in found.rows]
    header = ("qlen", *(str(number) for number in found.query_rows))
    of = f" of campaign {scope.identity[:8]}" if named else ""
    return join(
        table(header, rows, f"Combinations{of} that reach a kernel (✓) and that are refused (–)", "combinations"),
        element(
            "p",
            "By the rules of serving backend and AITER, from one small batch of each, whatever the device. A search draws from "
            "all of them; cases are counted by shape, not by combination.",
            class_="note",
        ),
    )


def _row_name(row: Row, rows: Sequence[Row], labels: dict[int, str]) -> str:
    """What tells a row from the others; what all rows have in common is in the table above."""
    parts = [labels[row.num_head], f"{row.arch} q {row.q_dtype} KV {row.kv_dtype}"]
    parts += [
        said
        for said, several in (
            (row.release, len({each.release for each in rows}) > 1),
            (f"page {row.page_size}", len({each.page_size for each in rows}) > 1),
            (f"{row.mode or 'mode by the rule'}", len({each.mode for each in rows}) > 1),
        )
        if several
    ]
    return ", ".join(parts)


def _answer(answer: Acceptance) -> Markup:
    what_became = f"reaches {answer.kernel}" if answer.kernel else f"refused: {answer.reason}"
    mark = element(
        "span", "✓" if answer.kernel else "–", class_="yes" if answer.kernel else "no", aria_hidden="true", title=what_became
    )
    return join(mark, element("span", what_became, class_="sr"))


def _refusals(shapes: Sequence[ShapeStatement]) -> Markup | None:
    reasons = refusals(shapes)
    if not reasons:
        return None
    rows: list[Sequence[Child]] = [(text, *(counts.get(shape.num_head, 0) for shape in shapes)) for text, counts in reasons]
    header = ("reason", *(shape.label or f"{shape.num_head} heads" for shape in shapes))
    return join(element("h3", "Refused shapes"), table(header, rows, "Cases refused before any kernel, by reason", "reasons"))
