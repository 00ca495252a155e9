"""Markup escapes whatever is not Markup, and closes what it opens."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from made_summaries import HOSTILE

from fuzz.report.page.markup import Markup, element, join, table, text

TEXTS = st.text(st.characters(codec="utf-8")) | st.just(HOSTILE)


@given(TEXTS, TEXTS)
def test_text_comes_back_as_it_went_in(inside: str, attribute: str) -> None:
    """An XML parser reads the same text, but for characters that no document can hold."""
    read = ElementTree.fromstring(element("p", inside, title=attribute))
    assert list(read) == []
    assert (read.text or "", read.get("title")) == (_held(inside), _held(attribute))


def _held(told: str) -> str:
    return "".join(
        "\ufffd" if (ord(c) < 32 and c not in "\t\n\r") or 127 <= ord(c) < 160 or c in "\ufffe\uffff" else c for c in told
    )


def test_only_markup_is_taken_as_it_is() -> None:
    assert join("<b>", Markup("<b>"), None, 1234, [" & ", ["x"]]) == "&lt;b&gt;<b>1,234 &amp; x"
    assert text('"') == "&quot;"


def test_attributes() -> None:
    made = element("button", class_="a", data_copy="b", hidden=True, disabled=False, title=None, tabindex=0)
    assert made == '<button class="a" data-copy="b" hidden="hidden" tabindex="0"></button>'
    assert element("meta", name="viewport") == '<meta name="viewport"/>'


def test_a_column_of_numbers_is_set_right_and_named_in_every_row() -> None:
    read = ElementTree.fromstring(table(("what", "cases", "told"), [("a", 1200, "x"), ("b", 3, "–")], "counts"))
    cells = read.findall(".//tbody/tr/td")
    assert [(cell.text, cell.get("class"), cell.get("data-label")) for cell in cells] == [
        ("1,200", "number", "cases"),
        ("x", None, "told"),
        ("3", "number", "cases"),
        ("–", "empty", "told"),
    ]
    assert [th.get("class") for th in read.findall(".//thead/tr/th")] == [None, "number", None]
    assert {th.get("scope") for th in read.findall(".//tbody/tr/th")} == {"row"}
