"""What every driven framework's process lives through: it is started, backends are built, graphs captured, then steps done in
order.

Knows no framework.
"""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from backend.aiter.arguments import TargetGpu
from backend.case import NUM_CU
from backend.errors import CannotRunError, NoSuchStepError
from backend.real.aiter_ops import AiterSource, Handlers
from backend.real.frameworks.fetch import BackendSource
from backend.real.frameworks.outputs import mark, misplaced
from backend.real.frameworks.process import CapturedGraph, Process, process
from backend.real.frameworks.record import ArgumentFault, Phase, Recording
from backend.real.frameworks.recorder import NotCaptured, Recorder
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.handlers import AiterEndsProcess
from backend.real.observe import DecodeSeen
from backend.real.python.modules import Root

AITER_VARIABLES = "AITER_"
"""How the names of AITER's variables begin."""


@contextlib.contextmanager
def variables(prefixes: tuple[str, ...], wanted: Mapping[str, str]) -> Iterator[None]:
    """Of environment variables with these prefixes the wanted ones alone, whatever the user's shell has set of them."""
    before = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    for name in before:
        del os.environ[name]
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in [each for each in os.environ if each.startswith(prefixes)]:
            del os.environ[name]
        os.environ.update(before)


class FrameworkState(abc.ABC):
    """Values of what stands for the rest of a framework: they follow the backend that is being built or run, `config`."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.config = scenario.backends[0]

    @abc.abstractmethod
    def fakes(self) -> dict[str, Any]:
        """By bare name: what the framework's code asks of its process."""

    def of_aiter(self) -> dict[str, Any]:
        """By bare name: what it asks of AITER that steers no attention."""
        return {}


class FrameworkDriver(abc.ABC):
    """Runs scenarios against one source; parsed definitions are kept between them.

    name: the framework's. kinds: steps that its file has, empty for all. others: packages that the framework imports and that
    are not installed: they are asked for, and never decide. environment: variables that are set unless a scenario sets them.
    prefixes: of the variables that it reads, besides AITER's.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[StepKind, ...]] = ()
    others: ClassVar[tuple[str, ...]] = ()
    environment: ClassVar[Mapping[str, str]] = {}
    prefixes: ClassVar[tuple[str, ...]]

    def __init__(self, source: BackendSource, aiter: AiterSource) -> None:
        self.source = source
        self.aiter = aiter

    @abc.abstractmethod
    def state(self, scenario: Scenario) -> Any:
        """What stands for the rest of the framework; raises NoSuchStepError for a scenario that the file has no part in."""

    @abc.abstractmethod
    def life(self, running: Process, scenario: Scenario, state: Any) -> FrameworkRun:
        """A scenario in the process that was started for it."""

    def around(self) -> contextlib.AbstractContextManager[None]:
        """What is in place while a process runs, besides its packages."""
        return contextlib.nullcontext()

    def run(self, scenario: Scenario, handlers: Handlers, environment: Mapping[str, str] | None = None) -> Recording:
        """Run a scenario in a fresh process; `environment`: variables of the framework's and of AITER's to set."""
        self._check(scenario)
        state: FrameworkState = self.state(scenario)
        device = TargetGpu(scenario.arch, scenario.num_cu or NUM_CU[scenario.arch])
        wanted, roots = {**self.environment, **(environment or {})}, [Root(name, None) for name in self.others]
        source, aiter, fakes, of_aiter = self.source, self.aiter, state.fakes(), state.of_aiter()
        started = process(source, aiter, device, handlers, fakes, roots, of_aiter)
        with variables(self._prefixes, wanted), started as running, self.around():
            return self.life(running, scenario, state).everything()

    def takes(self, scenario: Scenario) -> bool:
        """Whether the file has a part in a scenario, as far as that is known before anything of it runs."""
        try:
            self._check(scenario)
            self.state(scenario)
        except NoSuchStepError:
            return False
        return True

    @property
    def _prefixes(self) -> tuple[str, ...]:
        return (*self.prefixes, AITER_VARIABLES)

    def _check(self, scenario: Scenario) -> None:
        if any(not name.startswith(self._prefixes) for name, _ in scenario.environment):
            raise NoSuchStepError(f"{self.name} reads no variable of other frameworks; leave environment out")
        for step in scenario.steps if self.kinds else ():
            if step.kind not in self.kinds:
                allowed = ", ".join(self.kinds)
                raise NoSuchStepError(f"{self.name} has no step of the kind {step.kind.value}; allowed: {allowed}")


@dataclass(frozen=True, slots=True, eq=False)
class ForwardPass:
    """A forward pass that was made.

    at: which step of the scenario, -1 while graphs are captured. which: of its backends. decodes: the calls made in it.
    kv_lens, rows: KV tokens and q rows of each request whose calls these are. padded: requests of a graph beyond them.
    """

    at: int
    which: int
    phase: Phase
    kind: StepKind
    decodes: list[DecodeSeen]
    kv_lens: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    padded: int = 0


def smallest(graphs: Iterable[CapturedGraph], requests: int) -> CapturedGraph:
    """The smallest captured graph that takes so many requests; raises NotCaptured where there is none."""
    fitting = [graph for graph in graphs if graph.batch >= requests]
    if not fitting:
        raise NotCaptured("no graph takes this batch: its capture failed")
    return min(fitting, key=lambda graph: graph.batch)


class FrameworkRun(abc.ABC):
    """One scenario in one process. backends: what was built, in the scenario's order."""

    def __init__(self, running: Process, scenario: Scenario, state: Any) -> None:
        self.running = running
        self.scenario = scenario
        self.state = state
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

    def _held(
        self, name: str, q: torch.Tensor, compute: Callable[[], Any], output: Callable[[Any], Any] = lambda made: made
    ) -> Any:
        """What a method of the backend computes for q [rows, heads, elements], whose rows and heads are marked: where it makes
        one decode call, its output is held against what that computed. output: finds it in what the method gives."""
        mark(q)
        decodes = self.running.watcher.decodes
        before = len(decodes)
        made = compute()
        wrong = misplaced(output(made), q) if len(decodes) == before + 1 else ""
        if wrong:
            self.running.operations.by_arguments.append((name, (ArgumentFault("o", wrong, is_write=False),), None))
        return made

    def _turn_to(self, config: BackendConfig) -> None:
        """What stands for the rest of the framework is this backend's from now on."""
        self.state.config = config

    @abc.abstractmethod
    def _build(self, at: int) -> Any:
        """A backend of the scenario."""

    @abc.abstractmethod
    def _capture_all(self) -> None:
        """The graphs that the scenario's steps replay."""

    @abc.abstractmethod
    def _step(self, at: int, step: Step) -> None:
        """Do a step and record it."""
