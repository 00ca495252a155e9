"""The service that a child process runs for SourceSession: one source, one AITER, any number of scenarios.

The decision table is what the real constructor decides, as it reaches AITER in one eager step. Which lines of the file under
test a scenario executes, coverage.py says; what the lines mean, backend.real.python.outline.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import coverage
import torch

from backend.aiter.arguments import TargetGpu
from backend.case import NUM_CU, Arch, DType
from backend.errors import NoSuchStepError
from backend.real.aiter_ops import AiterSource, Handlers, open_aiter
from backend.real.frameworks.fetch import open_source, with_text
from backend.real.frameworks.record import DecisionRow, Recording
from backend.real.frameworks.scenarios import HEADS, KV_DTYPES, BackendConfig, Scenario, Step, StepKind
from backend.real.handlers import PlannerHandlers
from backend.real.python.trees import ModuleSource

Made = TypeVar("Made")

PROBE_KV_LENS = (33, 1)
PROBE_DRAFT_TOKENS = 2


class Driver(Protocol):
    """Who runs scenarios: the driver of one framework's source."""

    def run(self, scenario: Scenario, handlers: Handlers, environment: Mapping[str, str] | None = None) -> Recording:
        """Run one scenario in a fresh process."""

    def takes(self, scenario: Scenario) -> bool:
        """Whether the file has a part in a scenario, as far as that is known before anything of it runs."""


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
        torch.set_num_threads(1)  # there are as many workers as cores
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

    def takes(self, scenarios: tuple[Scenario, ...]) -> tuple[bool, ...]:
        """Whether the file has a part in each scenario, as far as that is known before anything runs."""
        return tuple(self.driver.takes(each) for each in scenarios)

    def run(self, scenario: Scenario, environment: dict[str, str]) -> Recording:
        """Run a scenario in a fresh framework process."""
        device = TargetGpu(scenario.arch, scenario.num_cu or NUM_CU[scenario.arch])
        handlers = PlannerHandlers(self.aiter.host, self.aiter.release, device)
        wanted = {**dict(scenario.environment), **environment}
        made, lines = self.executed.during(lambda: self.driver.run(scenario, handlers, wanted))
        return dataclasses.replace(made, executed=tuple(sorted({*made.executed, *lines})))


def decision_table(
    driver: Driver,
    aiter: AiterSource,
    arch: Arch = Arch.GFX950,
    heads: Sequence[int] = HEADS,
    kv_dtypes: Sequence[DType] = KV_DTYPES,
) -> list[DecisionRow]:
    """One row for each number of heads and KV dtype; none of a file that has no MLA."""
    release = aiter.release
    handlers = PlannerHandlers(aiter.host, release, TargetGpu(arch, NUM_CU[arch]), fills=False)
    rows = []
    for num_head in heads:
        for kv_dtype in kv_dtypes:
            plain = _ran(driver, _probe(num_head, kv_dtype, None, arch, release), handlers)
            speculative = _ran(driver, _probe(num_head, kv_dtype, PROBE_DRAFT_TOKENS, arch, release), handlers)
            if plain is not None:
                rows.append(_row(num_head, kv_dtype, plain, speculative))
    return rows


def _ran(driver: Driver, probe: Scenario, handlers: Handlers) -> Recording | None:
    """The recording of a probe, None where the file has no part in it: it has no MLA, or verifies no drafts."""
    try:
        return driver.run(probe, handlers)
    except NoSuchStepError:
        return None


def _probe(num_head: int, kv_dtype: DType, draft_tokens: int | None, arch: Arch, release: str) -> Scenario:
    config = BackendConfig(num_head, kv_dtype, kv_dtype, draft_tokens=draft_tokens, max_requests=len(PROBE_KV_LENS))
    kind = StepKind.DECODE if draft_tokens is None else StepKind.TARGET_VERIFY
    return Scenario("decide", (config,), (Step(kind, PROBE_KV_LENS),), arch=arch, release=release)


def _row(num_head: int, kv_dtype: DType, plain: Recording, speculative: Recording | None) -> DecisionRow:
    refused = plain.refused or (plain.failed[0].error if plain.failed else None)
    if refused is not None or not plain.steps:
        return DecisionRow(
            num_head=num_head,
            kv_dtype=kv_dtype,
            persistent=False,
            fast_mode=False,
            intra_batch_mode=False,
            splits=None,
            splits_speculative=None,
            num_head_kernel=None,
            refused=refused or "no step was recorded",
        )
    step = plain.steps[0]
    return DecisionRow(
        num_head=num_head,
        kv_dtype=kv_dtype,
        persistent=step.persistent,
        fast_mode=step.fast_mode,
        intra_batch_mode=step.intra_batch_mode,
        splits=step.splits,
        splits_speculative=speculative.steps[0].splits if speculative is not None and speculative.steps else None,
        num_head_kernel=step.decode.num_head,
    )
