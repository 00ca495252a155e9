"""A child process answers, refuses, and is stopped at its limits; its answers bring no strangers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import CannotRunError, UnmodelledError
from backend.real.child import Child, Limits


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def child() -> Iterator[Child]:
    with Child("services:Plain", {"offset": 100}, Limits(seconds=20)) as opened:
        yield opened


def test_answers_and_keeps_state(child: Child) -> None:
    assert child.request("add", a=1, b=2) == 103
    assert child.request("add", a=3, b=4) == 107


def test_errors_of_the_project_keep_their_class(child: Child) -> None:
    with pytest.raises(UnmodelledError, match="what: not modelled"):
        child.request("refuse")
    assert child.request("add", a=0, b=0) == 100, "the child goes on after an error"


def test_other_errors_say_where(child: Child) -> None:
    with pytest.raises(CannotRunError, match=r"ValueError: broken inside; at .*services\.py:\d+ \(fail\)"):
        child.request("fail")
    with pytest.raises(CannotRunError, match="SystemExit: leaving"):
        child.request("exit")
    with pytest.raises(CannotRunError, match=r"AttributeError.*no_such_method"):
        child.request("no_such_method")


def test_death_is_told_with_last_words(child: Child) -> None:
    with pytest.raises(CannotRunError, match=r"SIGSEGV; its last output: service opened\s+last words"):
        child.request("die")
    with pytest.raises(CannotRunError, match="the child process has ended"):
        child.request("add", a=1, b=1)


def test_time_limit() -> None:
    with (
        Child("services:Plain", {}, Limits(seconds=1.0)) as child,
        pytest.raises(CannotRunError, match="stopped at its limit of 1 s"),
    ):
        child.request("sleep", seconds=60)


def test_memory_limit() -> None:
    with (
        Child("services:Plain", {}, Limits(seconds=30, memory=200 << 20)) as child,
        pytest.raises(CannotRunError, match="stopped at its limit of 200 MiB"),
    ):
        child.request("grow", megabytes=400)


def test_environment_is_for_the_child_alone() -> None:
    with Child("services:Plain", {}, environment={"ONLY_IN_CHILD": "1"}) as child:
        assert child.request("environment", name="ONLY_IN_CHILD") == "1"


@pytest.mark.parametrize("offset", [0, 1])
def test_a_stranger_s_class_is_not_brought_to_life(offset: int) -> None:
    with Child("services:Plain", {"offset": offset}) as child, pytest.raises(pickle.UnpicklingError, match="an answer holds"):
        child.request("stranger")


def test_a_service_that_does_not_open() -> None:
    with pytest.raises(CannotRunError, match="nothing here to open"):
        Child("services:refuse_to_open", {})
    with pytest.raises(CannotRunError, match="No module named 'no_such_service'"):
        Child("no_such_service:Plain", {})
