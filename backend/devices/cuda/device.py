"""Runs Calls with our own Triton kernels in a child process and says what the red zones and the reference saw.

This side imports no torch: it plans, sends orders, and reads what came of them. One child serves a device object; a case that
kills it is run again alone and named (see devices/child/supervisor.py).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.call import Call
from backend.codec import to_plain
from backend.devices.child.messages import Task
from backend.devices.child.observed import end_of, machine_notes, numbers_of, worst_end
from backend.devices.child.supervisor import Ended, Limits, Ranks, Supervisor
from backend.devices.cuda import sanitizer
from backend.devices.cuda.order import Order, order
from backend.errors import CannotRunError
from backend.observation import Observation, Violation, ViolationKind

WORKER = "backend.devices.gpu.triton_worker"

STAGE_1 = "our Triton kernel"
"""Stage of its violations; the merge that follows goes by AITER's names ("mla_reduce_v1", "stage 2")."""

REFUSED_NOTE = "not launched: AITER raises on the planner's arguments"


class CudaDevice:
    """ranks: processes that run each case at the same moment, on as many GPUs as there are. interpret: Triton's interpreter on
    the CPU instead of a GPU, for tests; every observation says so. sanitize: under compute-sanitizer's memcheck, tensors as
    separate allocations with its padding, no red zones. seed: of the values in q and the KV pool.

    Raises CannotRunError where there is no GPU.
    """

    name = "cuda"

    def __init__(
        self, ranks: int = 1, interpret: bool = False, sanitize: bool = False, limits: Limits | None = None, seed: int = 0
    ) -> None:
        self._seed = seed
        self._next = 0
        self._logs = tempfile.TemporaryDirectory(prefix="aiterfuzz-sanitizer-") if sanitize else None
        command = [sys.executable, "-m", WORKER]
        variables: dict[str, str] = {}
        if interpret:
            command.append("--interpret")
        if self._logs is not None:
            command = [*sanitizer.command(Path(self._logs.name)), *command, "--separate"]
            variables["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        self._one = Supervisor(command, variables, limits)
        self._ranks = Ranks(command, ranks, variables, limits) if ranks > 1 else None
        self._notes = machine_notes(self.facts)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Device and versions as the child says them."""
        return self._ranks.facts if self._ranks is not None else self._one.facts

    @property
    def starts(self) -> int:
        """Child processes started so far (without ranks)."""
        return self._one.starts

    def observe(self, call: Call) -> Observation:
        """Runs one call. Raises CannotRunError where it does not fit the GPU or our kernels do not compile for it."""
        (observed,) = self.observe_all([call])
        if isinstance(observed, CannotRunError):
            raise observed
        return observed

    def observe_all(self, calls: Iterable[Call]) -> Iterator[Observation | CannotRunError]:
        """Runs calls one after the other, the next ones planned while the GPU is at work; in order, one answer a call."""
        asked: dict[int, tuple[Call, Order]] = {}
        rejected: dict[int, Call] = {}
        answered = self._next

        def tasks() -> Iterator[Task]:
            for call in calls:
                number = self._next
                self._next += 1
                if call.plan is not None and call.plan.rejected:
                    rejected[number] = call
                    continue
                made = order(call, self._seed)
                asked[number] = (call, made)
                yield Task(number, to_plain(made))

        for together in self._ended(tasks()):
            number = together[0].task
            yield from self._skipped(rejected, answered, number)
            answered = number + 1
            yield self._observed(*asked.pop(number), together)
        yield from self._skipped(rejected, answered, self._next)

    def close(self) -> None:
        """Ends the children."""
        self._one.close()
        if self._ranks is not None:
            self._ranks.close()
        if self._logs is not None:
            self._logs.cleanup()

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self, tasks: Iterator[Task]) -> Iterator[tuple[Ended, ...]]:
        if self._ranks is None:
            return ((ended,) for ended in self._one.run(tasks))
        ranks = self._ranks
        return (ranks.run(task) for task in tasks)

    def _skipped(self, rejected: dict[int, Call], begin: int, end: int) -> Iterator[Observation]:
        for number in range(begin, end):
            if number in rejected:
                yield Observation(rejected.pop(number), self.name, notes=(REFUSED_NOTE,))

    def _observed(self, call: Call, made: Order, together: tuple[Ended, ...]) -> Observation | CannotRunError:
        try:
            ends = [end_of(ended) for ended in together]
        except CannotRunError as error:
            return error
        results = [ended.result for ended in together if ended.result is not None]
        violations = [violation for result in results for violation in _violations(call, made, result)]
        if self._logs is not None:
            violations += sanitizer.violations(Path(self._logs.name), together[0].ranges, STAGE_1)
        notes = self._notes
        if len(together) > 1:
            notes = (*notes, _together(together))
        return Observation(
            call,
            self.name,
            violations=tuple(dict.fromkeys(violations)),
            notes=notes,
            numbers=numbers_of(results),
            end=worst_end(ends),
        )


def _together(ranks: tuple[Ended, ...]) -> str:
    launched = [ended.result["launched_at"] for ended in ranks if ended.result is not None]
    spread = f", launched within {(max(launched) - min(launched)) * 1e3:.2f} ms" if len(launched) == len(ranks) else ""
    return f"{len(ranks)} ranks{spread}"


def _violations(call: Call, made: Order, result: Mapping[str, Any]) -> Iterator[Violation]:
    second = "mla_reduce_v1" if call.launched.persistent else "stage 2"
    for stage, damages in zip((STAGE_1, second), result["damage"], strict=True):
        for tensor, first, end, count in damages:
            size = made.sizes[tensor]
            before = first < 0
            yield Violation(
                kind=ViolationKind.OUT_OF_BOUNDS,
                stage=stage,
                tensor=tensor,
                is_write=True,
                first_offset=first,
                end_offset=end,
                extent=-first if before else end - size,
                count=count,
                why=f"{count} bytes of the red zone {'before' if before else 'after'} it changed",
            )
    for tensor in result["overwritten"]:
        yield Violation(
            kind=ViolationKind.READ_ONLY,
            stage=STAGE_1,
            tensor=tensor,
            is_write=True,
            first_offset=0,
            end_offset=made.sizes[tensor],
            extent=0,
            count=1,
            why="its checksum changed during the launch",
        )
