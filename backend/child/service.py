"""Runs a stranger's source in a child process, with limits on time and memory; the parent never imports what the child does.

A service is a function or class `package.module:name` that takes the opening arguments and returns an object; a request is the
name of one of its methods with arguments. Both, and the answers, go as JSON through backend.codec: the method's annotations
say what its arguments are, the caller what the answer must be, and nothing of the child's comes to life in the parent but
values of the types that the parent named. Errors of this project come back as themselves, anything else as CannotRunError with
the end of its traceback. This module knows neither torch nor any framework.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend import errors
from backend.child.keeper import Keeper
from backend.child.messages import Payload, ReportKind
from backend.child.process_end import EndKind, ProcessEnd, last_line
from backend.child.serve import Reporter, serve
from backend.child.tree import Limits
from backend.codec import from_plain, to_plain
from backend.errors import AiterfuzzError, CannotRunError, UsageError

SERVICE_LIMITS = Limits(seconds=120.0, memory=4 << 30)
"""Of a request that says nothing else."""

QUOTED_CHARACTERS = 2000
"""How much of a dead child's output is quoted."""

COMMAND = "import sys; sys.path[:] = {path!r}; from backend.child.service import main; main()"

_MARK = re.compile(r"^\[aiterfuzz task \d+\]\n", re.MULTILINE)


class Child:
    """A child process with one service; a context manager.

    service, arguments: what is opened there, and with what. environment: variables beyond ours.
    readable: files and folders that it must see; all of it runs behind the fence (backend.child.fence).
    A request past a limit ends the child with all that it started and raises CannotRunError.
    """

    def __init__(
        self,
        service: str,
        arguments: Mapping[str, Any],
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
        readable: Sequence[Path] = (),
    ) -> None:
        self.service = service
        self.limits = limits or SERVICE_LIMITS
        self._asked = 0
        command = [sys.executable, "-c", COMMAND.format(path=sys.path)]
        self._keeper = Keeper(command, environment, self.limits, readable)
        try:
            self._ask("start", {"service": service, "arguments": to_plain(dict(arguments))}, self.limits.start)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def request(self, method: str, kind: Any = Any, /, **arguments: Any) -> Any:
        """Call a method of the service and wait for its answer.

        kind: type of the answer as backend.codec.from_plain takes it; Any: plain JSON values. Raises what the method raises
        of this project's errors, CannotRunError for anything else and for an answer of another type.
        """
        answer = self._ask(method, {"method": method, "arguments": to_plain(arguments)}, self.limits.seconds)
        try:
            return from_plain(kind, answer, "answer")
        except UsageError as error:
            raise CannotRunError(f"{self.service}.{method}: its answer is not what was asked for: {error}") from error

    @property
    def end(self) -> ProcessEnd | None:
        """How the process ended, None while it runs."""
        return self._keeper.end

    @property
    def said(self) -> str:
        """The last line that it put on standard error, "" for none."""
        return last_line(_MARK.sub("", self._keeper.process.errors))

    @property
    def peak_memory(self) -> int:
        """Most resident bytes that the child and what it started were seen with."""
        self._keeper.process.tree.usage()
        return self._keeper.process.tree.peak_memory

    def close(self) -> None:
        """End the child and all that it started."""
        self._keeper.close()

    def _ask(self, method: str, payload: Payload, seconds: float) -> Any:
        keeper = self._keeper
        if keeper.end is not None:
            raise CannotRunError(f"{self.service}: the child process has ended; {self._last_words()}")
        self._asked += 1
        keeper.post({"task": self._asked, "payload": payload})
        deadline = keeper.deadline(seconds)
        while True:
            over = deadline.over
            message = keeper.next(deadline.at)
            if message is None:
                if keeper.end is not None:
                    raise CannotRunError(f"{self.service}.{method}: {self._end_in_words(keeper.end)}; {self._last_words()}")
                if over:  # and nothing has been said until after that
                    keeper.kill(EndKind.HANG, f"stopped at its limit of {seconds:g} s", EndKind.HANG.value)
                    deadline = keeper.deadline(math.inf)
            elif message["say"] == ReportKind.DONE and message.get("task") == self._asked:
                return self._value(method, message.get("result"))

    def _value(self, method: str, result: Any) -> Any:
        match result:
            case {"value": value}:
                return value
            case {"error": str(name), "text": str(text)}:
                raise ERRORS.get(name, CannotRunError)(text)
        raise CannotRunError(f"{self.service}.{method}: the child process says what is no answer")

    def _end_in_words(self, end: ProcessEnd) -> str:
        match end.kind:
            case EndKind.MEMORY:
                return f"stopped at its limit of {(self.limits.memory or 0) >> 20} MiB"
            case EndKind.PROCESSES:
                return f"stopped at its limit of {self.limits.processes} processes"
            case EndKind.HANG:
                return end.how
        return f"the child process {end.how}"

    def _last_words(self) -> str:
        text = _MARK.sub("", self._keeper.process.errors).strip()[-QUOTED_CHARACTERS:]
        return f"its last output: {text}" if text else "it printed nothing"


ERRORS: dict[str, Callable[[str], AiterfuzzError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, AiterfuzzError)
}
"""What a child's error may become here, by its name."""


class ServiceWorker:
    """The child's side of a service."""

    def __init__(self) -> None:
        self._service: Any = None

    def facts(self) -> Mapping[str, Any]:
        """Nothing: the service says what it is."""
        return {}

    def failure(self, error: Exception) -> EndKind:
        """Errors are answers: what comes this far is ours."""
        del error
        return EndKind.ERROR

    def run(self, payload: Payload, reporter: Reporter) -> Mapping[str, Any]:
        """Opens the service with the first payload, calls its methods with the others."""
        del reporter
        try:
            if self._service is None:
                module, _, name = payload["service"].partition(":")
                opened = getattr(importlib.import_module(module), name)
                self._service = _called(opened, payload["arguments"])
                return {"value": None}
            answer = _called(getattr(self._service, payload["method"]), payload["arguments"])
            return {"value": to_plain(answer, packed=True)}
        except AiterfuzzError as error:
            name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in ERRORS)
            return {"error": name, "text": str(error)}
        except KeyboardInterrupt:
            raise SystemExit from None
        except BaseException as error:
            return {"error": "CannotRunError", "text": f"{type(error).__name__}: {error}; at {_deepest(error)}"}


def _called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Calls it with plain arguments brought to what its annotations say."""
    annotated = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(annotated)
    return function(**{name: from_plain(hints.get(name, Any), value, name) for name, value in arguments.items()})


def _deepest(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " <- ".join(f"{frame.filename}:{frame.lineno} ({frame.name})" for frame in reversed(frames))


def main() -> None:
    """Serves until the parent is gone."""
    serve(ServiceWorker)
