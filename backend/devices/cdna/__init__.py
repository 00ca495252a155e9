"""The device `cdna`: AITER's real machine code, run on the CPU with every global access checked.

Stage 1 is the shipped code object. The reduction is compiled on the user's machine from C++ and has no code object to run, so
its accesses are the model's, applied to what the machine code wrote; every result says so.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from backend.aiter.codefiles import CodeSource, installed_wheel, open_code
from backend.call import Call
from backend.case import V_HEAD_DIM, Arch
from backend.cdna.code_object import load_code_object
from backend.cdna.machine import Launch as MachineLaunch
from backend.cdna.machine import Machine
from backend.cdna.memory import AddressSpace
from backend.cdna.record import Record
from backend.cdna.result import Mode, Outcome
from backend.devices import coverage, second_stage
from backend.devices.accesses import BF16
from backend.devices.cdna import space as spaces
from backend.devices.cdna.violations import footprint, violations
from backend.observation import DeviceEnd, EndKind, Footprint, Observation, Violation, ViolationKind

MAX_INSTRUCTIONS = 400_000_000
"""Wave instructions after which a launch is taken for a hang: 20 times what batch 512 of 32 k tokens takes in slice mode."""


class CdnaDevice:
    """See the module. source: where code objects are read, None: the installed wheel. record: keep footprints."""

    name = "cdna"

    def __init__(self, source: CodeSource | None = None, record: bool = False) -> None:
        self._source = source if source is not None else installed_wheel()
        self._record = record

    def observe(self, call: Call) -> Observation:
        """Runs the call's code object in slice mode.

        Raises CannotRunError where the source lacks the code object, UnmodelledError for machine code that has no model.
        """
        launch = call.launched
        machine = _machine(self._source, launch.arch, launch.code_object, launch.symbol)
        space, kernarg = spaces.build(call)
        record = Record(touched=self._record)
        start = MachineLaunch(launch.grid, launch.block, kernarg)
        result = machine.run(start, space, Mode.SLICE, record=record, max_instructions=MAX_INSTRUCTIONS)
        found = violations(call, space, result)
        footprints: dict[str, Footprint] = {launch.code_object: footprint(space, result)} if self._record else {}
        merged = second_stage.run(call, self._record)
        found += merged.violations
        found += _outputs(call, space, merged.rows)
        footprints |= merged.footprints
        end = None
        if result.outcome is Outcome.LIMIT:
            end = DeviceEnd(EndKind.HANG, f"not at its end after {result.executed} wave instructions")
        return Observation(
            call,
            self.name,
            tuple(found),
            footprints,
            coverage.of_call(call) | {coverage.identifier(launch.code_object, *edge) for edge in result.edges.tolist()},
            schedule=str(result.schedule),
            notes=(f"{result.executed} wave instructions of the address slice", "second stage by model"),
            end=end,
        )


@lru_cache(maxsize=64)
def _machine(source: CodeSource, arch: Arch, code_object: str, symbol: str) -> Machine:
    """The machine of one kernel, compiled once."""
    loaded = load_code_object(open_code(source, arch, code_object))
    return Machine(loaded.kernel(symbol))


def _outputs(call: Call, space: AddressSpace, merged: npt.NDArray[np.bool_]) -> list[Violation]:
    """Rows of o that neither the machine code wrote nor the second stage writes."""
    launch = call.launched
    row_bytes = launch.heads_in_kernel * V_HEAD_DIM * BF16
    needed = np.repeat(np.asarray(call.decision.kv_lens) > 0, np.asarray(call.decision.query_lens) * launch.fold)
    written = space["o"].written_bytes()[: len(needed) * row_bytes].reshape(len(needed), row_bytes).all(axis=1)
    missing = needed & ~written & ~merged
    if not missing.any():
        return []
    row = int(np.argmax(missing))
    why = f"a row of o is written by nobody: row {row}"
    count = int(np.count_nonzero(missing))
    return [
        Violation(ViolationKind.NO_OUTPUT, launch.code_object, "o", True, row * row_bytes, (row + 1) * row_bytes, 0, count, why)
    ]
