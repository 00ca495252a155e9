"""Stage 1 by AITER's machine code: every instruction, on the very bytes of the tensors, at the very addresses.

The machine sees what a GPU sees, mapped memory and nothing of tensors: an access outside of a tensor that stays in mapped
memory is done, one that leaves it aborts. Which tensor was left, byte by byte, is found by the devices (watch.py).
"""

from __future__ import annotations

from backend.aiter.codefiles import CodeSource
from backend.case import Arch
from backend.cdna.machine import MachineLaunch, too_much_lds
from backend.cdna.memory import AddressSpace
from backend.cdna.result import BadAccess, MachineEnd, Mode, Schedule
from backend.devices.cdna.device import machine_of
from backend.errors import CannotRunError
from backend.real.handlers import failed_check
from backend.real.script.hardware import Hardware
from backend.real.script.stage1 import Stage1
from backend.words import number_of

ITEM_BYTES = 32


def run(hardware: Hardware, source: CodeSource, arch: Arch, launch: Stage1) -> None:
    """Runs the launch.

    Raises CannotRunError for a kernel that does not come to its end, AiterChecks for one that no GPU launches: by what HIP
    returns AITER raises or ends the process, and which is not known.
    """
    machine = machine_of(source, arch, launch.code_object, launch.symbol)
    too_much = too_much_lds(machine.kernel)
    if too_much is not None:
        raise failed_check(f"{launch.code_object} is not launched: {too_much}", ends_process=False)
    space = AddressSpace()
    for mapped in hardware.memory.segments():
        space.add_array(f"segment at {mapped.segment.base:#x}", mapped.content, writable=True, base=mapped.segment.base)
    result = machine.run(MachineLaunch(launch.grid, launch.block, launch.kernarg), space, Mode.FULL, Schedule.TIMED)
    for bad in result.bad_accesses[:1]:
        hardware.abort(bad.lowest, *explanation(hardware, launch, bad))
    if result.outcome is MachineEnd.LIMIT:
        raise CannotRunError(
            f"{launch.code_object}: not at its end after {number_of(result.executed, 'wave instruction')} (a hang)"
        )


def explanation(hardware: Hardware, launch: Stage1, bad: BadAccess) -> list[str]:
    """Stage, instruction, tensor and work of an access that leaves mapped memory."""
    verb = "writes" if bad.is_write else "reads"
    lines = [f"{launch.code_object} {verb} there: {bad.text} at pc {bad.pc:#x}, workgroup {bad.workgroup}, wave {bad.wave}"]
    near = launch.tensor_near(bad.lowest)
    if near is not None:
        lines.append(f"nearest tensor: {near[0].offset(near[1])}")
    if launch.persistent:
        indptr, items = launch.tensors["work_indptr"], launch.tensors["work_info_set"]
        first, last = hardware.ints(indptr.address + 4 * bad.workgroup, 2)
        if 0 <= first < last and ITEM_BYTES * last <= items.nbytes:
            item = hardware.ints(items.address + ITEM_BYTES * first, 8)
            lines.append(f"the workgroup's work items are {first}..{last - 1}; item {first} is {item}")
    return lines
