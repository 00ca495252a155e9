"""What every driven framework's process lives through: backends are built, graphs captured, then steps done in order.

Knows no framework.
"""

from __future__ import annotations

import abc
from typing import Any

from backend.errors import CannotRunError
from backend.real.frameworks.process import Process
from backend.real.frameworks.record import Phase, Recording
from backend.real.frameworks.recorder import Recorder
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step
from backend.real.handlers import AiterEndsProcess


class FrameworkRun(abc.ABC):
    """One scenario in one process. backends: what was built, in the scenario's order."""

    def __init__(self, running: Process, scenario: Scenario) -> None:
        self.running = running
        self.scenario = scenario
        self.recorder = Recorder(running, scenario)
        self.backends: list[Any] = []

    def everything(self) -> Recording:
        """Build, capture, step; a constructor that raises ends it as refused."""
        for at, config in enumerate(self.scenario.backends):
            self._turn_to(config)
            try:
                self.backends.append(self._build(at))
            except CannotRunError:
                raise
            except (Exception, AiterEndsProcess) as error:
                return self.recorder.refusal(at, error)
        self._capture_all()
        for at, step in enumerate(self.scenario.steps):
            self._turn_to(self.scenario.backends[step.backend])
            phase = Phase.REPLAY if step.graph else Phase.EAGER
            self.recorder.guarded(at, phase, step.backend, step.kind, self._step, at, step)
        return self.recorder.recording()

    @abc.abstractmethod
    def _turn_to(self, config: BackendConfig) -> None:
        """What stands for the rest of the framework is this backend's from now on."""

    @abc.abstractmethod
    def _build(self, at: int) -> Any:
        """A backend of the scenario."""

    @abc.abstractmethod
    def _capture_all(self) -> None:
        """The graphs that the scenario's steps replay."""

    @abc.abstractmethod
    def _step(self, at: int, step: Step) -> None:
        """Do a step and record it."""
