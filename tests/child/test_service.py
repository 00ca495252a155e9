"""A child process answers, refuses, and is stopped at its limits; its answers bring no strangers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.child.keeper import WATCH_SECONDS
from backend.child.service import Child
from backend.child.tree import Limits
from backend.errors import CannotRunError, UnmodelledError, UsageError


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def child() -> Iterator[Child]:
    with Child("plain_services:Plain", {"offset": 100}, Limits(seconds=20)) as opened:
        yield opened


def test_answers_and_keeps_state(child: Child) -> None:
    assert child.request("add", a=1, b=2) == 103
    assert child.request("add", a=3, b=4) == 107


def test_errors_of_the_project_keep_their_class(child: Child) -> None:
    with pytest.raises(UnmodelledError, match="what: not modelled"):
        child.request("refuse")
    assert child.request("add", a=0, b=0) == 100, "the child goes on after an error"


def test_other_errors_say_where(child: Child) -> None:
    with pytest.raises(CannotRunError, match=r"ValueError: broken inside; at .*plain_services\.py:\d+ \(fail\)"):
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
        Child("plain_services:Plain", {}, Limits(seconds=1.0)) as child,
        pytest.raises(CannotRunError, match="stopped at its limit of 1 s"),
    ):
        child.request("sleep", seconds=60)


@pytest.mark.slow(guard="test_time_limit")
def test_a_wait_for_a_processor_is_not_the_childs_time() -> None:
    """It runs for less than it was given, which takes longer than that by the clock: a loaded machine makes nothing hang."""
    with Child("plain_services:Plain", {}, Limits(seconds=1.0)) as child:
        assert child.request("beside", float, others=9, seconds=0.4) > 1.0


def test_an_answer_in_time_is_taken_however_late_its_asker_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a loaded machine the asker waits for a processor too, most of all where it looks at the whole tree."""
    with Child("plain_services:Plain", {}, Limits(seconds=0.2)) as child:
        look = child._keeper.look

        def late() -> None:
            time.sleep(0.5)
            look()

        monkeypatch.setattr(child._keeper, "look", late)
        monkeypatch.setattr(child._keeper.process.tree, "waits", dict)  # nothing that the child waited helps
        time.sleep(2 * WATCH_SECONDS)  # so that the next request begins with a look
        assert child.request("add", a=1, b=2) == 3
        time.sleep(2 * WATCH_SECONDS)
        assert child.request("add", a=2, b=2) == 4, "nor is it ended"
        with pytest.raises(CannotRunError, match=r"stopped at its limit of 0\.2 s"):
            child.request("sleep", seconds=60)


def test_there_is_an_end_to_waiting() -> None:
    """What a child starts itself may keep it from its processor for ever."""
    with Child("plain_services:Plain", {}, Limits(seconds=20.0)) as child:
        deadline = child._keeper.deadline(20.0)
        began = deadline.began + 20.0
        assert deadline.at == began
        child._keeper.starved += 7.0
        assert deadline.at == pytest.approx(began + 7.0)
        child._keeper.starved += 1e9
        assert deadline.at == pytest.approx(began + 9 * 20.0)


def test_memory_limit() -> None:
    with (
        Child("plain_services:Plain", {}, Limits(seconds=30, memory=200 << 20)) as child,
        pytest.raises(CannotRunError, match="stopped at its limit of 200 MiB"),
    ):
        child.request("grow", megabytes=400)


def test_environment_is_for_the_child_alone() -> None:
    with Child("plain_services:Plain", {}, environment={"ONLY_IN_CHILD": "1"}) as child:
        assert child.request("environment", name="ONLY_IN_CHILD") == "1"


def test_an_answer_is_json_and_of_the_type_that_was_asked_for(child: Child) -> None:
    with pytest.raises(CannotRunError, match="no JSON form for PosixPath"):
        child.request("stranger")
    with pytest.raises(CannotRunError, match="its answer is not what was asked for"):
        child.request("add", str, a=1, b=2)
    assert child.request("add", int, a=1, b=2) == 103
    with pytest.raises(UsageError, match="given '1'"):
        child.request("add", a="1", b=2)


GARBLED = (
    "no message\n",
    "[]\n",
    "{}\n",
    '{"say": "done"}\n',
    '{"say": "done", "result": {"value": NaN, "more": 1}}\n',
    '{"say": "done", "result": {"error": "os.system", "text": "true"}}\n',
    "[" * 100_000 + "\n",
    "\x80\x04cos\nsystem\n(X\x04\x00\x00\x00truetR.\n",
    '{"say": "done", "result": ' + "9" * 5000 + "}\n",
)


@pytest.mark.parametrize("text", GARBLED, ids=range(len(GARBLED)))
def test_whatever_the_child_writes_is_an_error_of_one_line_at_worst(text: str) -> None:
    with Child("plain_services:Plain", {}, Limits(seconds=20)) as child, pytest.raises(CannotRunError):
        child.request("garble", int, text=text)


def test_a_service_that_does_not_open() -> None:
    with pytest.raises(CannotRunError, match="nothing here to open"):
        Child("plain_services:refuse_to_open", {})
    with pytest.raises(CannotRunError, match="No module named 'no_such_service'"):
        Child("no_such_service:Plain", {})
