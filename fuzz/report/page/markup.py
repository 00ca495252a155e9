"""Pieces of HTML that cannot forget to escape: text is escaped unless it is Markup, and only these functions make Markup.

Every element is closed, so that the page parses as XML as well. Knows nothing of campaigns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]
"""What an element holds: Markup as it is, other text escaped, numbers with thousands separated, None nothing."""

VOID = ("meta", "link", "br", "hr", "col")
"""Elements without a closing tag in HTML."""

_FORBIDDEN = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160), 0xFFFE, 0xFFFF), "\ufffd")
"""Control characters that neither HTML nor XML may hold; a message of a dying process has them."""


def text(value: str) -> Markup:
    """Escaped text, fit for an element and for a quoted attribute."""
    # A parser would make a line feed of a carriage return.
    return Markup(escape(value.translate(_FORBIDDEN), quote=True).replace("\r", "&#13;"))


def join(*children: Child) -> Markup:
    """Children one after the other."""
    return Markup("".join(_flat(children)))


def element(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """An element. Attributes: `class_` is class, underscores are hyphens; True is the bare attribute, None and False none."""
    opened = name + "".join(
        f" {_attribute(key, value)}" for key, value in attributes.items() if value is not None and value is not False
    )
    if name in VOID:
        assert not children
        return Markup(f"<{opened}/>")
    return Markup(f"<{opened}>{join(*children)}</{name}>")


def table(header: Sequence[str], rows: Iterable[Sequence[Child]], caption: str, class_: str = "") -> Markup:
    """A table whose first column names the row; columns of numbers are set right.

    Too wide for the screen, it scrolls by itself; of class "stack", a narrow screen shows each row as a block of named values
    instead. The roles say again what the elements are, because a block is no row to a screen reader.
    """
    body = [list(row) for row in rows]
    kinds = ["number" if body and all(isinstance(row[i], int) for row in body) else None for i in range(len(header))]
    named = [
        element("th", name, scope="col", class_=kind, role="columnheader") for name, kind in zip(header, kinds, strict=True)
    ]
    table_rows = [
        element(
            "tr",
            element("th", row[0], scope="row", role="rowheader"),
            (
                element("td", child, class_="empty" if child == "–" else kind, role="cell", data_label=name or None)
                for child, kind, name in zip(row[1:], kinds[1:], header[1:], strict=True)
            ),
            role="row",
        )
        for row in body
    ]
    inner = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", named, role="row"), role="rowgroup"),
        element("tbody", table_rows, role="rowgroup"),
        class_=class_ or None,
        role="table",
    )
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str):
            yield text(child)
        elif isinstance(child, int):
            yield f"{child:,}"
        else:
            yield from _flat(child)


def _attribute(key: str, value: str | int | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f'{name}="{name}"'
    # A parser would make spaces of them.
    quoted = text(str(value)).replace("\t", "&#9;").replace("\n", "&#10;")
    return f'{name}="{quoted}"'
