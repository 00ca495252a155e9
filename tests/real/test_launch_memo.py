"""A launch is taken over only where running it would have left the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.child.service import Child

WORDS = [5, 6, 7, 8]
WHOLE = {"words": WORDS, "asked": 4, "room": 4}


def second(child: Child, kernel: str, first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What a launch leaves behind another one."""
    made: dict[str, Any] = launched(child, kernel, first, other)[1]
    return made


def launched(child: Child, kernel: str, *launches: dict[str, Any]) -> Any:
    """What each of some launches leaves, with one memo."""
    return child.request("again", kernel=kernel, launches=json.dumps(launches))


@pytest.mark.parametrize("kernel", ["copy_words", "copy_a_row"])
def test_the_same_again_is_taken_over(child: Child, kernel: str) -> None:
    seen = second(child, kernel, WHOLE, WHOLE)
    assert seen["taken"]
    assert seen["target"] == WORDS
    assert seen["told"] == 1  # so that a graph that captures it launches it again


def test_words_that_nobody_reads_may_differ(child: Child) -> None:
    first, other = {**WHOLE, "asked": 2}, {"words": [5, 6, 1, 1, 1], "asked": 2, "room": 9}
    seen = second(child, "copy_words", first, other)
    assert seen["taken"]
    assert seen["target"] == [5, 6, *[0] * 7]


@pytest.mark.parametrize("other", [{"words": [5, 6, 7, 9]}, {"asked": 3}])
def test_other_words_and_other_arguments_run(child: Child, other: dict[str, Any]) -> None:
    seen = second(child, "copy_words", WHOLE, {**WHOLE, **other})
    assert not seen["taken"]
    asked = other.get("asked", 4)
    assert seen["target"] == [*other.get("words", WORDS)[:asked], *[0] * (4 - asked)]


def test_a_tensor_that_is_too_small_for_what_was_seen_is_still_seen(child: Child) -> None:
    seen = second(child, "copy_words", WHOLE, {**WHOLE, "room": 3})
    assert seen["strays"] == [["copy_words", True, 1, 0]]


def test_strays_are_seen_each_time(child: Child) -> None:
    launches = [{**WHOLE, "room": 3}] * 3
    assert [len(each["strays"]) for each in launched(child, "copy_words", *launches)] == [1, 1, 1]


def test_a_global_of_the_kernel_counts(child: Child) -> None:
    assert second(child, "scaled_by_a_global", WHOLE, WHOLE)["taken"]
    seen = second(child, "scaled_by_a_global", WHOLE, {**WHOLE, "scale": 2})
    assert not seen["taken"]
    assert seen["target"] == [10, 12, 14, 16]


@pytest.mark.parametrize("shift", [0, 2])
def test_tensors_that_share_a_storage_are_others(child: Child, shift: int) -> None:
    first = {"words": [5, 6, 7, 8, 0, 0], "asked": 4, "room": 6}
    seen = second(child, "copy_words", first, {**first, "shift": shift})
    assert not seen["taken"]
    assert seen["target"][:4] == WORDS


def test_what_reads_its_own_words_runs(child: Child) -> None:
    first = {"words": [5, 6, 7, 8, 0, 0], "asked": 4, "room": 6, "shift": 0}
    assert not second(child, "copy_words", first, first)["taken"]


def test_atomics_run(child: Child) -> None:
    seen = second(child, "counted", WHOLE, WHOLE)
    assert not seen["taken"]
    assert seen["target"] == WORDS


def test_an_address_as_a_number_runs(child: Child) -> None:
    seen = second(child, "of_its_address", WHOLE, WHOLE)
    assert not seen["taken"]
    assert {each & 0xFFFFFFFF for each in seen["target"]} == {seen["address"]}


def test_a_view_that_is_too_small_for_what_was_seen_is_still_seen(child: Child) -> None:
    first = {"words": [5, 6, 7, 8, 0, 0, 0, 0, 0], "asked": 4, "room": 8, "shift": 4}
    seen = launched(child, "copy_words", first, {**first, "until": 7})
    assert [each["strays"] for each in seen] == [[], [["copy_words", True, 1, 0]]]
