"""Makes RecordedSteps of observed decode calls and what a driver knows of the batch. Knows no framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.aiter.arguments import Int32Array
from backend.errors import CannotRunError
from backend.real.frameworks.process import Process, line_of, refuses
from backend.real.frameworks.record import (
    ArgumentFault,
    CheckedCall,
    NotStarted,
    Phase,
    RecordedStep,
    Recording,
    Says,
    StepFailed,
    StrayKernelAccess,
    UnorderedAccess,
)
from backend.real.frameworks.scenarios import Scenario, StepKind
from backend.real.handlers import SAYS_NO, AiterEndsProcess
from backend.real.observe import DecodeSeen, captured_splits, decode_arguments, on_host

Positions = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the driver knows of the batch that a decode call is for: see RecordedStep."""

    kind: StepKind
    kv_lens: tuple[int, ...]
    query_lens: tuple[int, ...]
    padded: int
    padded_kv_len: int
    slots: Int32Array

    @classmethod
    def of_rows(
        cls, kind: StepKind, requests: Iterable[int], lists: Sequence[Positions], table: Positions, padded: int, fill: int
    ) -> Truth:
        """A batch whose q rows attend to lists: to AITER each row is a request of one row, with as many tokens as its list.

        requests: row of `table` of each q row; lists: of each q row, tokens by position in its request; table: the slot of each
        token of each request. padded: rows of padding, of `fill` tokens each.
        """
        slots = [table[request, chosen] for request, chosen in zip(requests, lists, strict=True)]
        joined: Int32Array = np.concatenate(slots).astype(np.int32) if slots else np.empty(0, np.int32)
        return cls(kind, tuple(map(len, lists)), (1,) * len(lists), padded, fill, joined)


class NotCaptured(Exception):  # noqa: N818 - not an error: the capture's own failure has been recorded
    """A step needs a graph whose capture failed."""


@dataclass(slots=True)
class Recorder:
    """Collects the steps and failures of one scenario."""

    running: Process
    scenario: Scenario
    steps: list[RecordedStep] = field(default_factory=list)
    failed: list[StepFailed] = field(default_factory=list)
    checked: list[CheckedCall] = field(default_factory=list)
    unordered: list[UnorderedAccess] = field(default_factory=list)

    def recording(self) -> Recording:
        """Gives what was collected so far; executed are the lines of kernels alone."""
        return Recording(
            self.scenario.name,
            tuple(self.steps),
            tuple(self.failed),
            unknown_calls=tuple(self.running.packages.called),
            executed=tuple(sorted(self.running.guard.lines)),
            checked=tuple(self.checked),
            unordered=tuple(self.unordered),
        )

    def refusal(self, backend: int, error: BaseException) -> Recording:
        """The recording of a constructor that raises. backend: which one of the scenario."""
        file = self.running.source.target.filename
        failed = NotStarted(_in_words(error), backend, line_of(error, file), _says(error, file))
        return Recording(self.scenario.name, (), (), failed, executed=tuple(sorted(self.running.guard.lines)))

    def guarded(self, step: int, phase: Phase, backend: int, kind: StepKind, action: Callable[..., None], *args: Any) -> None:
        """Do a step of a kind for a backend; an exception of the file's own is part of the observation."""
        try:
            action(*args)
        except CannotRunError:
            raise
        except NotCaptured:
            self.taken()
        except (Exception, AiterEndsProcess) as error:
            file = self.running.source.target.filename
            line, says = line_of(error, file), _says(error, file)
            self.failed.append(StepFailed(self.scenario.name, step, phase, kind, backend, _in_words(error), line, says=says))
            self.taken()

    def taken(self) -> list[DecodeSeen]:
        """The decode calls since the last time."""
        taken = list(self.running.watcher.decodes)
        self.running.watcher.decodes.clear()
        return taken

    def record(
        self, step: int, backend: int, phase: Phase, kind: StepKind, decodes: list[DecodeSeen], truth: Callable[[int], Truth]
    ) -> None:
        """Keep each decode call as it stands now, with `truth` of its number; a step without a call has failed."""
        looked_at = self.running.operations.by_arguments
        self.checked += [CheckedCall(step, phase, kind, backend, *each) for each in looked_at]
        for each in self.running.unordered():
            between = " and ".join(each.between)
            self.unordered.append(UnorderedAccess(step, phase, kind, backend, between, each.message, each.line))
        if not decodes and not looked_at:
            error = "mla_decode_fwd is not called"
            self.failed.append(StepFailed(self.scenario.name, step, phase, kind, backend, error, None))
        looked_at.clear()
        guard = self.running.guard
        strays = tuple(StrayKernelAccess(s.kernel, s.is_write, s.lanes, s.tensor, s.past_end) for s in guard.strays)
        guard.strays.clear()
        for stray in () if decodes else strays:
            fault = ArgumentFault(stray.tensor or "address", stray.message, stray.is_write)
            self.checked.append(CheckedCall(step, phase, kind, backend, stray.kernel, (fault,), None))
        for call, seen in enumerate(decodes):
            self.steps.append(self._step(step, call, backend, phase, seen, truth(call), strays))

    def _step(
        self,
        step: int,
        call: int,
        backend: int,
        phase: Phase,
        seen: DecodeSeen,
        truth: Truth,
        strays: tuple[StrayKernelAccess, ...],
    ) -> RecordedStep:
        watcher, given = self.running.watcher, seen.call.arguments
        buffers = watcher.decode_buffers(seen)
        decode = decode_arguments(given, replayed=phase is Phase.REPLAY)
        splits = captured_splits(self.scenario.release, self.running.device, seen) if phase is Phase.REPLAY else None
        if splits is not None:
            decode = dataclasses.replace(decode, num_kv_splits=splits)
        plan, sizing = watcher.plan_of(buffers), watcher.sizing_of(buffers)
        lines = {
            "sizing": sizing.line if sizing is not None else None,
            "planning": plan.line if plan is not None else None,
            "decode": seen.line,
        }
        return RecordedStep(
            scenario=self.scenario.name,
            step=step,
            call=call,
            phase=phase,
            kind=truth.kind,
            backend=backend,
            release=self.scenario.release,
            device=self.running.device,
            num_head=self.scenario.backends[backend].decoded_heads,
            kv_lens=truth.kv_lens,
            query_lens=truth.query_lens,
            padded=truth.padded,
            padded_kv_len=truth.padded_kv_len,
            slots=truth.slots,
            sizing=sizing.arguments if sizing is not None else None,
            planning=plan.arguments if plan is not None else None,
            decode=decode,
            planning_buffers=plan.buffers if plan is not None else (),
            decode_buffers=buffers,
            lines={name: line for name, line in lines.items() if line is not None},
            ignored=(plan.ignored if plan is not None else ()) + seen.call.ignored,
            strays=strays,
            q_dtype_name=str(given["q"].dtype).removeprefix("torch."),
            kv_dtype_name=str(given["kv_buffer"].dtype).removeprefix("torch."),
            o_dtype_name=str(given["o"].dtype).removeprefix("torch."),
            o_elements=int(given["o"].numel()),
            metadata_words=watcher.metadata_words(seen),
            on_host=tuple(dict.fromkeys((*(plan.on_host if plan is not None else ()), *on_host(given)))),
        )


class NotSelectedError(Exception):
    """The class of a backend says that it does not serve what it is asked for."""


def _in_words(error: BaseException) -> str:
    """Type and message; AITER's own words are its message alone."""
    return str(error) if isinstance(error, SAYS_NO) else f"{type(error).__name__}: {error}"


def _says(error: BaseException, file: str) -> Says:
    if isinstance(error, SAYS_NO):
        return Says.AITER
    return Says.REFUSAL if isinstance(error, NotSelectedError) or refuses(error, file) else Says.CRASH
