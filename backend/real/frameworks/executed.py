"""Which lines of the file under test a scenario executes, by coverage.py in the child process that runs it.

Knows no framework; what the lines mean says backend.real.python.outline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import coverage

from backend.real.python.trees import ModuleSource

Made = TypeVar("Made")


class ExecutedLines:
    """Measures the file under test alone, so that everything else runs at its own speed."""

    def __init__(self, target: ModuleSource) -> None:
        path = target.name.replace(".", "/")
        wanted = [f"**/{path}.py"]
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=wanted, messages=False)
        self._coverage.set_option("run:disable_warnings", ["no-data-collected", "module-not-measured"])

    def during(self, action: Callable[[], Made]) -> tuple[Made, tuple[int, ...]]:
        """What the action gives, and the lines of the file that ran meanwhile, ascending."""
        self._coverage.start()
        try:
            made = action()
        finally:
            self._coverage.stop()
        data = self._coverage.get_data()
        lines = {line for file in data.measured_files() for line in data.lines(file) or ()}
        self._coverage.erase()
        return made, tuple(sorted(lines))
