"""A rule of a user's own: a stranger's function of a Case, asked in a process of its own behind the fence, and nowhere else.

What it does instead of answering (it raises, leaves, returns something else, does not come back, takes all memory) is said as
the rule's own error, with its file and line where there is one; nothing of it can reach what judges its answers. `Answering`
is the process's side, `OwnRule` ours.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import os
import signal
import sys
import threading
import traceback
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from backend.case import Case
from backend.child.process_end import EndKind
from backend.child.service import Child
from backend.child.tree import Limits
from backend.errors import AiterfuzzError, RuleFailedError, RuleLostError, UsageError
from backend.serving.policy import OWN_RULE_ADVICE, CaseRefused, Choice

DEFAULT_FUNCTION = "policy"
"""Name looked for in a file that names none."""

LIMITS = Limits(start=60.0, seconds=5.0, memory=2 << 30, processes=64)
"""A rule is asked a thousand times a second: one that takes five seconds for an answer does not come back."""

WARNED = 0.8
"""Part of its time after which a rule's process says where the rule is."""

MOST_PROCESSES = 2
"""A rule and the base that it is compared with; starting another ends the one that was started first."""

MOST_SAID = 2000
"""Characters of a refusal that are kept."""


@dataclass(frozen=True, slots=True)
class RuleAnswer:
    """What a rule says of a case: a choice, why it refuses, or how it fails (a sentence, and what tells it apart)."""

    choice: Choice | None = None
    refused: str | None = None
    failed: tuple[str, str] | None = None


class OwnRule:
    """Asks a user's function. name: as it was given on the command line.

    Calling it raises CaseRefused where the function does, RuleFailedError where it does not answer: RuleLostError where its
    process went with the case. The process is there from `start` or the first case on, and another after it was lost.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._child: Child | None = None
        self._process = os.getpid()

    def __call__(self, case: Case) -> Choice:
        """The function's choice, checked."""
        with _ONE_AT_A_TIME:
            answer = self._asked(case)
        if answer.failed is not None:
            raise RuleFailedError(*answer.failed)
        if answer.choice is None:
            raise CaseRefused(answer.refused or "")
        _check(self.name, answer.choice)
        return answer.choice

    def start(self) -> None:
        """Loads it. Raises UsageError where there is no such rule, RuleFailedError where loading it goes wrong."""
        with _ONE_AT_A_TIME:
            self._started()

    def close(self) -> None:
        """Ends its process, with all that it started."""
        if self in _WITH_PROCESS:
            _WITH_PROCESS.remove(self)
        child, self._child = self._child, None
        if child is not None and self._process == os.getpid():
            child.close()

    def _asked(self, case: Case) -> RuleAnswer:
        child = self._started()
        try:
            answer: RuleAnswer = child.request("choose", RuleAnswer, case=case)
        except AiterfuzzError as error:
            ended = child.end
            self.close()
            if ended is None:
                raise RuleLostError(f"rule {self.name}: says what is no answer ({error})", "no answer") from error
            how = f"did not answer within {LIMITS.seconds:g} s" if ended.kind is EndKind.HANG else ended.how
            said = f"; it said last: {child.said}" if child.said else ""
            raise RuleLostError(f"rule {self.name}: its process {how}{said}", ended.discriminator) from error
        return answer

    def _started(self) -> Child:
        if self._child is not None and self._process == os.getpid():
            return self._child
        while len(_WITH_PROCESS) >= MOST_PROCESSES:
            _WITH_PROCESS[0].close()
        place = Path(self.name.partition(":")[0])
        readable = [place.absolute().parent] if place.suffix == ".py" else []
        try:
            self._child = Child(
                f"{__name__}:Answering", {"name": self.name, "seconds": LIMITS.seconds * WARNED}, LIMITS, readable=readable
            )
        except (UsageError, RuleFailedError):
            raise
        except AiterfuzzError as error:
            raise RuleFailedError(f"backend {self.name!r}: loading it goes wrong: {error}") from error
        self._process = os.getpid()
        _WITH_PROCESS.append(self)
        return self._child


_ONE_AT_A_TIME = threading.RLock()

_WITH_PROCESS: list[OwnRule] = []
"""Those that have a process, the oldest first."""


def close_all() -> None:
    """Ends the processes of all rules."""
    for rule in list(_WITH_PROCESS):
        rule.close()


atexit.register(close_all)


class Answering:
    """The process's side of a rule. seconds: after which it says on standard error where the rule is that does not answer.

    Raises UsageError where there is none of that name or its file cannot be loaded.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        place, _, function = name.partition(":")
        module = _of_file(name, Path(place)) if place.endswith(".py") else _of_module(name, place)
        wanted = function or DEFAULT_FUNCTION
        self._function = getattr(module, wanted, None)
        if not callable(self._function):
            raise UsageError(f"backend {name!r}: no function {wanted!r} there; {OWN_RULE_ADVICE}")
        signal.signal(signal.SIGALRM, self._say_where)

    def _say_where(self, number: int, frame: FrameType | None) -> None:
        del number
        file = getattr(getattr(self._function, "__code__", None), "co_filename", None)
        frames = [each for each, _ in traceback.walk_stack(frame)]
        found = next((each for each in frames if each.f_code.co_filename == file), None)
        if found is None:
            return
        with contextlib.suppress(OSError, ValueError):  # the rule may have closed it
            print(f"at {file}:{found.f_lineno} ({found.f_code.co_name})", file=sys.stderr, flush=True)

    def choose(self, case: Case) -> RuleAnswer:
        """What the function says of a case."""
        assert callable(self._function)
        try:
            with _called(self._name):
                signal.setitimer(signal.ITIMER_REAL, self._seconds)
                choice = self._function(case)
            if not isinstance(choice, Choice):
                said = f"returns {_short(choice)}, not a Choice (or it raises CaseRefused)"
                raise RuleFailedError(f"rule {self._name}: {said}{_defined(self._function)}", "returns no Choice")
            _check(self._name, choice, _defined(self._function))
        except CaseRefused as refusal:
            return RuleAnswer(refused=_text(refusal))
        except RuleFailedError as error:
            return RuleAnswer(failed=(str(error), error.how))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return RuleAnswer(choice)


def _of_module(name: str, module: str) -> object:
    try:
        with _called(name):
            return importlib.import_module(module)
    except RuleFailedError as error:
        # A ValueError or TypeError is of a name that no module has: ":x", ".:x".
        if not isinstance(error.__cause__, (ImportError, ValueError, TypeError)):
            raise
        raise UsageError(
            f"backend: given {name!r}; module {module!r} cannot be imported ({error.__cause__}); "
            f"give the name of one that is built in, {OWN_RULE_ADVICE}"
        ) from error


def _of_file(name: str, path: Path) -> object:
    if not path.is_file():
        raise UsageError(f"backend: given {name!r}; no such file; give the name of one that is built in, {OWN_RULE_ADVICE}")
    spec = importlib.util.spec_from_file_location(f"aiterfuzz_policy_{path.stem}", path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _called(name):
            spec.loader.exec_module(module)
    except RuleFailedError as error:
        if not isinstance(error.__cause__, Exception):
            raise
        raise UsageError(f"backend {name!r}: the file cannot be loaded: {error}") from error
    return module


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


_FROM_ZERO = frozenset({"padding_kv_len", "index_batch", "captured_index_entries"})
"""Whole numbers that may be 0; all others are from 1 on."""


def _allowed(field: str, hint: Any) -> _Allowed:
    optional = type(None) in typing.get_args(hint)
    kind = next(each for each in typing.get_args(hint) or (hint,) if each is not type(None))
    least = None if kind is not int else 0 if field in _FROM_ZERO else 1
    text = f"a {kind.__name__}" if least is None else f"a whole number from {least} on"
    return _Allowed(f"{text}, or None" if optional else text, kind, least, optional)


_FIELDS = {field: _allowed(field, hint) for field, hint in typing.get_type_hints(Choice).items()}


def _check(name: str, choice: Choice, place: str = "") -> None:
    for field, allowed in _FIELDS.items():
        value = getattr(choice, field)
        if not allowed.holds(value):
            said = f"rule {name}: its choice has {field}={_short(value)}; allowed: {allowed.text}{place}"
            raise RuleFailedError(said, f"chooses no {field}")


@contextlib.contextmanager
def _called(name: str) -> Iterator[None]:
    """Runs a stranger's code: all that it raises is its own error, but for a refusal."""
    try:
        yield
    except CaseRefused:
        raise
    except BaseException as error:
        # The innermost place outside of Python's own import machinery.
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
        kind = type(error).__name__
        said = f"{kind}: {_text(error)}" if _text(error) else kind
        place = f"{frames[-1].filename}:{frames[-1].lineno} ({frames[-1].name})" if frames else "an unknown place"
        if isinstance(error, SyntaxError) and error.filename is not None:
            place = f"{error.filename}:{error.lineno}"
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "an unknown place"
        raise RuleFailedError(f"rule {name}: raises {said}; at {place}", f"{kind} in {where}") from error


def _defined(function: object) -> str:
    """Where a function begins, as the end of a line; nothing for what is called and is none."""
    code = getattr(function, "__code__", None)
    return f"; at {code.co_filename}:{code.co_firstlineno} ({code.co_name})" if code is not None else ""


def _text(error: BaseException) -> str:
    try:
        return str(error)[:MOST_SAID]
    except Exception as another:
        return f"text that raises {type(another).__name__}"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        return f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return f"{text[:80]} ({type(value).__name__})"
