"""Why a bad access went where it went: its address as an expression over kernargs and fields of the work item.

One wave is run again by itself and its path followed backward, so this costs about as much as the run; it is done for the
first offender of each violation only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from backend.aiter.kernargs import FIELDS, SLOT, WORK_ITEM_FIELDS
from backend.cdna.expression import KERNARG, ExpressionNames, LaunchValues, RecordLayout
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.provenance import explain_address
from backend.cdna.result import BadAccess
from backend.devices.accesses import INT32, ITEM_BYTES

KERNARG_AT = 1 << 46
"""Where the kernarg segment is taken to lie: no bad access is near it, so any address will do that no tensor has."""

MAX_VISITS = 32
"""Times that a path passes the instruction before its address is taken for not reproduced."""

_STP = "ptr_STP"
_WORDS = {(KERNARG, SLOT * place): name for place, name in enumerate(FIELDS)}
_PERSISTENT = {(_STP, 0): "work_indptr", (_STP, 8): "work_info_set"}
_ITEM = RecordLayout(ITEM_BYTES, {INT32 * place: name for place, name in enumerate(WORK_ITEM_FIELDS)})


def expression_names(persistent: bool) -> ExpressionNames:
    """Names of what an MLA kernel's addresses are made of: its arguments and, where persistent, the work items' fields."""
    return ExpressionNames(words=_WORDS | (_PERSISTENT if persistent else {}), records={"work_info_set": _ITEM})


def explainer(
    machine: Machine, launch: MachineLaunch, space: AddressSpace, persistent: bool, max_instructions: int
) -> Callable[[BadAccess], str]:
    """A function that explains bad accesses of a launch that has been run; "" where the path does not lead to the address."""
    names = expression_names(persistent)
    paths: dict[tuple[int, int], list[int]] = {}

    def read(address: int, size: int) -> int | None:
        offset = address - KERNARG_AT
        if 0 <= offset < len(launch.kernarg):
            return int.from_bytes(launch.kernarg[offset : offset + size], "little")
        return space.read(address, size)

    def explain(access: BadAccess) -> str:
        where = access.workgroup, access.wave
        if where not in paths:
            traced = machine.trace(launch, space, *where, max_instructions=max_instructions)
            paths[where] = [traced.program.instructions[step].pc for step in traced.trace.tolist()]
        path = paths[where]
        lane = access.lanes[0] if access.lanes else 0
        x, y, _ = launch.grid
        flat = access.workgroup
        values = LaunchValues(KERNARG_AT, (flat % x, flat // x % y, flat // (x * y)), read)
        for step in islice((step for step, pc in enumerate(path) if pc == access.pc), MAX_VISITS):
            found = explain_address(
                machine.kernel, path[: step + 1], access.pc, lane, wave=access.wave, names=names, launch=values
            )
            if found.value is not None and (found.value - access.address) % (1 << 32) == 0:
                return found.text if found.value == access.address else f"{found.text}, cut to 32 bits on the way"
        return ""

    return explain
