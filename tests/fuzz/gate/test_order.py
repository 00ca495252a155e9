"""What a sweep does first when time is short: one of everything, then what executed a changed line."""

from __future__ import annotations

from fuzz.gate.order import batches, everything, first_of_each, in_words, touched_first, what
from fuzz.gate.sweep import GFX950, HEADS

ASKED = everything(GFX950, HEADS, "2026-08")


def test_the_first_of_each_has_everything_that_is_done() -> None:
    first = first_of_each(ASKED)
    assert {what(each) for each in first} == {what(each) for each in ASKED}
    assert len({what(each) for each in first}) == len(first) < len(ASKED) / 4
    assert {"decode", "verify 2 rows", "prefill", "draft model"} <= {what(each) for each in first}
    assert not any("heads" in what(each) and "draft" not in what(each) for each in ASKED if not each.name.startswith("S"))


def test_what_touches_the_change_comes_first_and_nothing_is_lost() -> None:
    ordered = touched_first(ASKED, {"prefill"})
    assert sorted(ordered, key=ASKED.index) == list(ASKED)
    kinds = [what(each) == "prefill" for each in ordered]
    assert kinds == sorted(kinds, reverse=True)
    assert touched_first(ASKED, ()) == ASKED


def test_batches_are_the_whole_in_order() -> None:
    made = list(batches(ASKED, 2))
    assert [each for batch in made for each in batch] == list(ASKED)


def test_what_was_left_out_is_named_once() -> None:
    prefill = [each for each in ASKED if what(each) == "prefill"]
    assert in_words(prefill, 100) == f"{len(prefill)} of 100 scenarios: prefill"
    assert in_words([], 100) == ""
