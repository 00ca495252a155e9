"""The service that a child process runs for SourceSession: one source, one AITER, any number of scenarios.

Which lines of the file under test a scenario executes, coverage.py says; what the lines mean, backend.real.python.outline.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import TypeVar

import coverage

from backend.aiter.arguments import TargetGpu
from backend.case import NUM_CU, Arch, DType
from backend.real.aiter_ops import open_aiter
from backend.real.frameworks.decide import Driver, decision_table
from backend.real.frameworks.fetch import open_source, with_text
from backend.real.frameworks.record import DecisionRow, Recording
from backend.real.frameworks.scenarios import Scenario
from backend.real.handlers import PlannerHandlers
from backend.real.python.trees import ModuleSource

Made = TypeVar("Made")


class ExecutedLines:
    """Measures the file under test alone, so that everything else runs at its own speed."""

    def __init__(self, target: ModuleSource) -> None:
        path = target.name.replace(".", "/")
        wanted = [f"**/{path}.py", f"**/*:{path}.py"]  # the latter: at the root of a git revision
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
        data.erase()
        return made, tuple(sorted(lines))


class ScenarioWorker:
    """Runs scenarios against one source. `text`: put in place of the file under test."""

    def __init__(self, source: str, text: str | None, aiter: str | None, release: str | None) -> None:
        self.opened = open_source(source)
        self.aiter = open_aiter(aiter, release)
        self.use(text)

    def use(self, text: str | None) -> None:
        """Go on with another text of the file under test (None: the source's own); parsed definitions around it are kept."""
        self.source = self.opened if text is None else with_text(self.opened, text)
        module, _, kind = self.source.framework.driver.partition(":")
        self.driver: Driver = getattr(importlib.import_module(module), kind)(self.source, self.aiter)
        self.executed = ExecutedLines(self.source.target)

    def about(self) -> dict[str, str | None]:
        """What runs: source, framework, file under test, AITER's release and where its Python is, and what to warn of."""
        return {
            "source": self.source.label,
            "framework": self.source.framework.name,
            "file": self.source.target.filename,
            "release": self.aiter.release,
            "aiter": self.aiter.label,
            "warning": self.aiter.warning,
        }

    def decide(self, arch: Arch, heads: tuple[int, ...], kv_dtypes: tuple[DType, ...]) -> list[DecisionRow]:
        """Builds the decision table."""
        return decision_table(self.driver, self.aiter, arch, heads, kv_dtypes)

    def run(self, scenario: Scenario, environment: dict[str, str]) -> Recording:
        """Run a scenario in a fresh framework process."""
        device = TargetGpu(scenario.arch, scenario.num_cu or NUM_CU[scenario.arch])
        handlers = PlannerHandlers(self.aiter.host, self.aiter.release, device)
        wanted = {**dict(scenario.environment), **environment}
        made, lines = self.executed.during(lambda: self.driver.run(scenario, handlers, wanted))
        return dataclasses.replace(made, executed=tuple(sorted({*made.executed, *lines})))
