"""A rule of a user's own: a stranger's function of a Case, called here and nowhere else.

Whatever it does instead of answering (it raises, leaves by SystemExit, returns something else, does not come back) is said as
the rule's own error, with its file and line. What ends the whole process (os._exit) is seen by whoever keeps that process.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from backend.case import Case, DType, MetadataMode
from backend.errors import RuleFailedError, UsageError
from backend.serving.policy import CaseRefused, Choice, LastPageLens

ANSWER_SECONDS = 10.0
"""A rule is asked a thousand times a second; one that takes this long for one answer does not come back."""


@dataclass(frozen=True, slots=True)
class OwnRule:
    """Asks a user's function. name: as it was given on the command line.

    Calling it raises CaseRefused where the function does, RuleFailedError where it does not answer.
    """

    name: str
    function: object

    def __call__(self, case: Case) -> Choice:
        """The function's choice, checked."""
        assert callable(self.function)
        with called(self.name):
            choice = self.function(case)
        self._check(choice)
        assert isinstance(choice, Choice)
        return choice

    def _check(self, choice: object) -> None:
        if not isinstance(choice, Choice):
            raise RuleFailedError(f"rule {self.name}: returns {_short(choice)}, not a Choice (or it raises CaseRefused)")
        for field, allowed in _FIELDS.items():
            value = getattr(choice, field)
            if not allowed.holds(value):
                raise RuleFailedError(f"rule {self.name}: its choice has {field}={_short(value)}; allowed: {allowed.text}")


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What a field of a Choice may be. least: of a whole number, None where it is none; kind: of any other value."""

    text: str
    kind: type = int
    least: int | None = None
    optional: bool = False

    def holds(self, value: object) -> bool:
        if value is None:
            return self.optional
        if self.least is None:
            return isinstance(value, self.kind)
        return isinstance(value, int) and not isinstance(value, bool) and value >= self.least


_COUNT = _Allowed("a whole number from 1 on", least=1)
_FIELDS: Mapping[str, _Allowed] = {
    "mode": _Allowed("a MetadataMode", MetadataMode),
    "num_head": _COUNT,
    "head_repeat": _COUNT,
    "max_split_per_batch": _Allowed("a whole number from 1 on, or None", least=1, optional=True),
    "kernel_page_size": _COUNT,
    "sizing_batch": _COUNT,
    "sizing_max_seqlen_q": _COUNT,
    "metadata_q_dtype": _Allowed("a DType", DType),
    "metadata_kv_dtype": _Allowed("a DType", DType),
    "kv_granularity": _COUNT,
    "is_causal": _Allowed("a bool", bool),
    "padding_kv_len": _Allowed("a whole number from 0 on", least=0),
    "last_page_lens": _Allowed("a LastPageLens", LastPageLens),
    "index_batch": _Allowed("a whole number from 0 on, or None", least=0, optional=True),
    "passes_page_size": _Allowed("a bool", bool),
    "captured_index_entries": _Allowed("a whole number from 0 on, or None", least=0, optional=True),
}


@contextmanager
def called(name: str) -> Iterator[None]:
    """Runs a stranger's code: all that it raises is its own error, but for answers, our own messages and Ctrl-C."""
    try:
        with _in_time(name):
            yield
    except (CaseRefused, RuleFailedError, UsageError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        said = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
        raise RuleFailedError(f"rule {name}: raises {said}; at {_place(error)}") from error


@contextmanager
def _in_time(name: str) -> Iterator[None]:
    """Ends what does not come back within ANSWER_SECONDS, where this thread can be interrupted and nobody else times it."""
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def late(number: int, frame: FrameType | None) -> NoReturn:
        del number
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "an unknown place"
        raise RuleFailedError(f"rule {name}: does not answer within {ANSWER_SECONDS:g} s; at {where}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, ANSWER_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _place(error: BaseException) -> str:
    """File and line at which it was raised, the innermost outside of Python's own import machinery."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    return f"{frames[-1].filename}:{frames[-1].lineno} ({frames[-1].name})" if frames else "an unknown place"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        return f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return f"{text[:80]} ({type(value).__name__})"
