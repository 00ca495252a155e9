"""The child's side: takes tasks from standard input, runs them one by one, reports on its own descriptor.

A worker module calls `serve` with what it can do. Standard output is turned to standard error first, so that a library that
prints cannot garble the reports. Knows no GPU.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from backend.child.messages import Payload, ReportKind, error_mark, line
from backend.child.process_end import EndKind

RANKS_VARIABLE = "AITERFUZZ_RANKS"
"""Set (to the number of ranks) where a child waits for the others before each launch."""


class Reporter:
    """What a worker may say while it runs one task."""

    def __init__(self, descriptor: int, task: int) -> None:
        self._descriptor = descriptor
        self._task = task

    def say(self, word: ReportKind, **fields: object) -> None:
        """Reports at once: what is said before a crash is not lost."""
        _write(self._descriptor, {"say": word.value, "task": self._task, **fields})

    def ranges(self, ranges: Sequence[tuple[str, int, int]]) -> None:
        """Where the tensors lie (name, address, bytes)."""
        self.say(ReportKind.RANGES, ranges=[list(entry) for entry in ranges])

    def meet(self) -> None:
        """Waits for the other ranks, if there are any, so that all launch at the same moment."""
        if not os.environ.get(RANKS_VARIABLE):
            return
        self.say(ReportKind.READY)
        answer = json.loads(sys.stdin.readline())
        assert answer == {"go": self._task}, answer


class ChildWorker(Protocol):
    """What a child can do."""

    def facts(self) -> Mapping[str, Any]:
        """Device and versions, said once; "hardware": whether there is a GPU at all. Raises where there is none."""

    def run(self, payload: Payload, reporter: Reporter) -> Mapping[str, Any]:
        """Runs one task; the result as JSON values."""

    def failure(self, error: Exception) -> EndKind:
        """What an exception of `run` means: MEMORY_FAULT, OUT_OF_MEMORY or ERROR."""


def serve(make: Callable[[], ChildWorker]) -> None:
    """Runs until standard input ends. After a memory fault the GPU context is of no more use, so the process leaves."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump of a GPU process takes minutes and gigabytes
    descriptor = os.dup(1)
    os.dup2(2, 1)
    worker = make()
    _write(descriptor, {"say": ReportKind.HELLO.value, "facts": dict(worker.facts())})
    for text in iter(sys.stdin.readline, ""):
        message = json.loads(text)
        reporter = Reporter(descriptor, message["task"])
        os.write(2, error_mark(message["task"]).encode())
        reporter.say(ReportKind.STARTED)
        try:
            result = worker.run(message["payload"], reporter)
        except Exception as error:
            failure = worker.failure(error)
            said = traceback.format_exc(limit=-6) if failure is EndKind.ERROR else str(error)
            reporter.say(ReportKind.FAILED, failure=failure.value, text=said[-4000:])
            if failure is EndKind.MEMORY_FAULT:
                os._exit(FAULTED)
            continue
        reporter.say(ReportKind.DONE, result=dict(result))


FAULTED = 86
"""Exit status after a memory fault that the child itself has reported."""


def _write(descriptor: int, message: Mapping[str, object]) -> None:
    data = memoryview(line(message))
    while data:
        data = data[os.write(descriptor, data) :]
