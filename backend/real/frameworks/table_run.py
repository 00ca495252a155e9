"""Steps of frameworks whose backend is handed a table of KV pages and pads its graphs with requests of no rows: vLLM, ATOM.

The driver plays the model runner: it owns the table, the KV cache's pages and the inputs of graphs. What differs by framework
is a method of its own.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import numpy as np

from backend.aiter.arguments import Int32Array
from backend.errors import NoSuchStepError
from backend.real.frameworks.framework_run import ForwardPass, FrameworkDriver, FrameworkRun, smallest
from backend.real.frameworks.process import CapturedGraph, Process
from backend.real.frameworks.record import Phase
from backend.real.frameworks.recorder import Positions, Truth
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.seats import Seats
from backend.real.observe import words_read
from backend.serving.sparse import lists_of_rows


class TableDriver(FrameworkDriver):
    """Runs scenarios against one source of such a framework."""

    kinds: ClassVar[tuple[StepKind, ...]] = (StepKind.DECODE, StepKind.TARGET_VERIFY, StepKind.PREFILL)
    is_ordinary = False

    def _check(self, scenario: Scenario) -> None:
        super()._check(scenario)
        if any((config.kv_heads is not None) is not self.is_ordinary for config in scenario.backends):
            raise NoSuchStepError(
                f"{self.name}'s backend of ordinary attention has no MLA; give kv_heads"
                if self.is_ordinary
                else f"{self.name}'s MLA backend has no ordinary attention; leave kv_heads out"
            )
        if scenario.needed_context > scenario.model_context:
            raise NoSuchStepError(f"{self.name} ends a request with its drafts at the context's end; leave longer ones out")
        if not all(step.kv_lens for step in scenario.steps):
            raise NoSuchStepError(f"an idle rank of {self.name} runs no attention; leave steps without requests out")


class KvTable:
    """Where the requests of a batch have their KV: rows[place, token] is a row of the cache, whose first page is nobody's.

    pages: of the cache. Requests with numbers keep their pages while they live; those without have them by place.
    """

    def __init__(self, config: BackendConfig, context: int) -> None:
        count, page = max(config.max_requests, config.max_batch), config.page_size
        stride = -(-context // page) * page
        self.page_size = page
        self.pages = (count + 1) * stride // page
        self.rows: Positions = stride * (1 + np.arange(count, dtype=np.int64)[:, None]) + np.arange(stride)
        self._seats = Seats(page, list(range(count)), list(range(1, self.pages)))

    def seat(self, requests: tuple[int, ...], kv_lens: tuple[int, ...], alive: Collection[int]) -> None:
        """Give numbered requests pages as far as they reach; what others had is free before. requests: none are numbered where
        it is empty, and the table stays as it is."""
        if not requests:
            return
        self._seats.release(alive)
        self._seats.take(requests, kv_lens)
        for place, request in enumerate(requests):
            slots = self._seats.slots(request)
            self.rows[place, : len(slots)] = slots

    def table(self, count: int) -> Int32Array:
        """Pages of the first requests, [count, pages of a context]."""
        pages: Int32Array = (self.rows[:count, :: self.page_size] // self.page_size).astype(np.int32)
        return pages

    def slots(self, kv_lens: tuple[int, ...]) -> Int32Array:
        """KV rows of the requests' tokens, request by request."""
        parts = [self.rows[place, :length] for place, length in enumerate(kv_lens)]
        return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)

    def new(self, kv_lens: tuple[int, ...], rows: tuple[int, ...]) -> Positions:
        """KV rows of each request's last tokens, as many as it has q rows."""
        parts = [self.rows[place, n - new : n] for place, (n, new) in enumerate(zip(kv_lens, rows, strict=True))]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


class TableRun(FrameworkRun):
    """One scenario in one process. tables: of each backend, made when it is built. graphs: by backend and kind of step."""

    def __init__(self, running: Process, scenario: Scenario, state: Any) -> None:
        super().__init__(running, scenario, state)
        self.tables = [KvTable(config, state.context) for config in scenario.backends]
        self.graphs: dict[tuple[int, StepKind], list[CapturedGraph]] = {}

    @abc.abstractmethod
    def _captured(self, which: int, kind: StepKind, batch: int) -> Any:
        """Metadata to capture a graph of a batch with."""

    @abc.abstractmethod
    def _planned(self, made: ForwardPass) -> Any:
        """Metadata of a batch of decodes that is about to run, padding included; a graph's inputs are filled for it."""

    @abc.abstractmethod
    def _forward(self, which: int, metadata: Any, rows: int) -> None:
        """The layer's attention in a decode of so many q rows."""

    @abc.abstractmethod
    def _prefill(self, at: int, step: Step) -> None:
        """Do a step of prompts and record it."""

    def _rows_a_request(self, which: int, kind: StepKind) -> int:
        return 1 if kind is StepKind.DECODE else self.scenario.backends[which].draft_tokens or 1

    def _capture_all(self) -> None:
        for which, config in enumerate(self.scenario.backends):
            self._turn_to(config)
            kinds = dict.fromkeys(step.kind for step in self.scenario.steps if step.backend == which and step.graph)
            for kind in kinds:
                for batch in sorted(set(config.graph_batches), reverse=True):
                    self.recorder.guarded(-1, Phase.CAPTURE, which, kind, self._capture, which, kind, batch)

    def _capture(self, which: int, kind: StepKind, batch: int) -> None:
        metadata = self._captured(which, kind, batch)
        with self.running.gpu.capture(), self.running.operations.capture() as operations:
            self._forward(which, metadata, batch * self._rows_a_request(which, kind))
        decodes = self.recorder.taken()
        self.graphs.setdefault((which, kind), []).append(CapturedGraph(batch, decodes, operations))
        self._record(ForwardPass(-1, which, Phase.CAPTURE, kind, decodes, padded=batch))

    def _step(self, at: int, step: Step) -> None:
        if step.kind is StepKind.PREFILL:
            self._prefill(at, step)
            return
        which, kind, count = step.backend, step.kind, len(step.kv_lens)
        each = self._rows_a_request(which, kind)
        kv_lens = tuple(length + (each if kind is StepKind.TARGET_VERIFY else 0) for length in step.kv_lens)
        self.tables[which].seat(step.requests, kv_lens, self.scenario.alive(which, at))
        graph = smallest(self.graphs.get((which, kind), ()), count) if step.graph else None
        phase, decodes, batch = (Phase.EAGER, [], count) if graph is None else (Phase.REPLAY, graph.decodes, graph.batch)
        made = ForwardPass(at, which, phase, kind, decodes, kv_lens, (each,) * count, batch - count)
        metadata = self._planned(made)
        if graph is None:
            self._forward(which, metadata, count * each)
            made.decodes.extend(self.recorder.taken())
        else:
            for operation in graph.operations:
                self.running.operations.replay(operation)
        self._record(made)

    def _record(self, made: ForwardPass) -> None:
        """Padding has no rows; what the backend makes of one's tokens is read off the call."""
        held = self.scenario.backends[made.which].held(made.kv_lens)
        slots = self.tables[made.which].slots(held)

        def truth(call: int) -> Truth:
            ends = words_read(made.decodes[call].call.arguments["kv_indptr"])
            fill = int(ends[-1] - ends[-2]) if made.padded and ends.size > 1 else 0
            return Truth(made.kind, held, made.rows, made.padded, fill, slots)

        self._keep(made, truth)

    def _record_lists(self, made: ForwardPass, table: Positions | None = None) -> None:
        """The same where q rows attend to lists: each as a request of one row, padding as many as a request has. table: another
        one that the lists are looked up in."""
        truth = self._listed(made, self.tables[made.which].rows if table is None else table)
        self._keep(made, lambda call: truth)

    def _listed(self, made: ForwardPass, table: Positions) -> Truth:
        requests, padded = np.repeat(np.arange(len(made.rows)), made.rows), made.padded
        lists = lists_of_rows(made.kv_lens, made.rows)
        each = self._rows_a_request(made.which, made.kind)
        return Truth.of_rows(made.kind, requests, lists, table, padded * each, 0)

    def _keep(self, made: ForwardPass, truth: Callable[[int], Truth]) -> None:
        self.recorder.record(made.at, made.which, made.phase, made.kind, made.decodes, truth)
