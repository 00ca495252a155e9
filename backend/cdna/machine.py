"""The machine: runs a kernel's launch over an address space and says what it did.

    machine = Machine(kernel)                        # of backend.cdna.code_object
    result = machine.run(MachineLaunch(grid, block, kernarg), space, Mode.SLICE)

A CDNA3 or CDNA4 compute unit as far as programs can tell, one workgroup after the other. Nothing here knows what a kernel is
for. What the runtime gives a kernel besides its arguments (hidden arguments, the dispatch packet, the object's constants) is
LLVM's "User Guide for AMDGPU Backend", "Code Object V5 Metadata", and HSA's kernel dispatch packet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.cdna.code_object import Argument, Denormals, Kernel
from backend.cdna.decode.text import assembly_text
from backend.cdna.execute import layout as at
from backend.cdna.execute.layout import APERTURES
from backend.cdna.execute.run import run_grid
from backend.cdna.memory import AddressSpace
from backend.cdna.program import IMAGE_BASE, Program, compile_kernel
from backend.cdna.record import NOTHING, RecordArrays, RecordOptions, recording
from backend.cdna.result import MachineEnd, Mode, RunResult, Schedule
from backend.cdna.timing import DEFAULT_TIMING, Queues, Timing
from backend.errors import UnmodelledError, UsageError

LDS_BYTES = {"gfx942": 64 << 10, "gfx950": 160 << 10}
"""LDS of a compute unit (ISA documents, "Local Data Share")."""

QUANTUM = 16
"""Instructions that a wave runs before the next one's turn, full mode. Kernels reuse LDS without a barrier where their waves
stay
close; a skew of 32 is still right for every kernel tried, 64 is wrong."""

SLICE_QUANTUM = 1 << 20
"""In a slice that does without LDS waves exchange nothing, so each runs to its next barrier."""

DEFAULT_LIMIT = 2_000_000_000
"""Wave instructions of a workgroup after which it is taken for a hang."""

_KERNARG, _KERNARG_POINTER, _PACKET = "kernarg", "kernarg pointer", "dispatch packet"
_GETPC = "s_getpc_b64"
_PACKET_FORMAT = struct.Struct("<HHHHHHIIIIIQQQQ")
_KERNEL_DISPATCH = 2 | 1 << 8 | 1 << 9 | 1 << 11
"""Header of the packet: its type, and barriers and fences as runtimes set them."""
Grid = tuple[int, int, int]
_IEEE_BIT, _DX10_CLAMP_BIT, _FP16_OVERFLOW_BIT = 9, 8, 23


@dataclass(frozen=True, slots=True)
class MachineLaunch:
    """One kernel launch. grid: workgroups; block: work-items of a workgroup, both (x, y, z). kernarg: the argument block.

    dynamic_lds: bytes of LDS besides what the kernel declares. requester_axis: the workgroup id (0 x, 1 y, 2 z) that says for
    whom a wave works, where no queue does (`memory.Paging`). only_workgroup: flat index of the one workgroup to run, None: all.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    kernarg: bytes
    dynamic_lds: int = 0
    requester_axis: int | None = None
    only_workgroup: int | None = None

    @property
    def workgroups(self) -> int:
        """The number of workgroups."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def waves(self) -> int:
        """Waves of one workgroup."""
        return -(-self.block[0] * self.block[1] * self.block[2] // at.LANES)


Scalar = TypeVar("Scalar", bound=np.generic)


def aligned(size: int, dtype: type[Scalar]) -> NDArray[Scalar]:
    """`size` zeros that begin on a cache line, so that no row of 64 lanes straddles more lines than it must."""
    item = np.dtype(dtype).itemsize
    memory = np.zeros(size * item + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found: NDArray[Scalar] = memory[start : start + size * item].view(dtype)
    return found


class Machine:
    """Runs one kernel. Compiled programs and working memory are kept between runs; not for two threads at once.

    program: what to run in both modes in place of the kernel's own text, whose launch state still holds.
    """

    def __init__(self, kernel: Kernel, program: Program | None = None) -> None:
        self.kernel = kernel
        self._program = program
        self._blocks = aligned(0, np.uint8)
        self._working: dict[str, NDArray[np.generic]] = {
            "addresses": aligned(at.LANES, np.uint64),
            "host": aligned(at.LANES, np.uint64),
            "bad": aligned(at.KINDS * at.BAD_WORDS, np.int64),
            "poison": aligned(64, np.uint8),
            "zero": aligned(64, np.uint8),
            "sink": aligned(64, np.uint8),
            "a": aligned(4096, np.float32),
            "b": aligned(4096, np.float32),
        }
        self._lds = aligned(LDS_BYTES[kernel.arch], np.uint8)

    def run(
        self,
        launch: MachineLaunch,
        space: AddressSpace,
        mode: Mode = Mode.SLICE,
        schedule: Schedule = Schedule.ROUND_ROBIN,
        record: RecordOptions = NOTHING,
        max_instructions: int = DEFAULT_LIMIT,
        timing: Timing = DEFAULT_TIMING,
    ) -> RunResult:
        """Run a launch to its end. Memory that the kernel writes is in the space's regions afterwards.

        Raises UnmodelledError for what has no model (before anything runs, or where it is met), UsageError for a launch
        that the kernel does not allow. Bad accesses are recorded and the run goes on: reads of them give poison, writes are
        dropped. max_instructions: wave instructions of a workgroup after which it is taken for a hang; the run ends there.
        """
        if schedule is Schedule.TIMED and mode is Mode.SLICE:
            raise UsageError.not_allowed("schedule", schedule, "round-robin in slice mode, which has no numbers to be late")
        self._check(launch)
        program = self._program or compile_kernel(self.kernel, mode is Mode.SLICE)
        added = self._add_launch_memory(launch, space, program)
        try:
            context, kept = self.prepare(program, launch, space, schedule, record, max_instructions, timing)
            outcome = run_grid(context.ctypes.data)
        finally:
            for name in added:
                space.remove(name)
        if outcome == at.OUTCOME_UNMODELLED:
            raise _stopped(program, int(context[at.CTX_UNMODELLED]))
        if context[at.CTX_STALE_READ] >= 0:
            raise _stale(program, int(context[at.CTX_STALE_READ]))
        return _result(program, launch, mode, schedule, outcome, context, kept)

    def _add_launch_memory(self, launch: MachineLaunch, space: AddressSpace, program: Program) -> list[str]:
        """Regions of this launch alone: arguments, dispatch packet, the object's constants. Returns their names."""
        kernel, shape = self.kernel, (launch.grid, launch.block, launch.dynamic_lds)
        kernarg = space.add_array(_KERNARG, with_hidden_arguments(kernel, launch.kernarg, *shape))
        added = [_KERNARG]
        if f"{_PACKET} pointer" in dict(kernel.user_registers):
            space.add_array(_PACKET, dispatch_packet(kernel, kernarg.base, *shape))
            added.append(_PACKET)
        return added + add_image(space, kernel, program)

    def trace(
        self,
        launch: MachineLaunch,
        space: AddressSpace,
        workgroup: int,
        wave: int,
        mode: Mode = Mode.SLICE,
        max_instructions: int = DEFAULT_LIMIT,
    ) -> RunResult:
        """A run of one workgroup alone that keeps the instructions which one wave executed (RunResult.trace)."""
        alone = replace(launch, only_workgroup=workgroup)
        return self.run(alone, space, mode, record=RecordOptions(trace=(workgroup, wave)), max_instructions=max_instructions)

    def _check(self, launch: MachineLaunch) -> None:
        kernel = self.kernel
        if kernel.unmodelled:
            raise UnmodelledError(f"kernel {kernel.name}: its descriptor asks for {kernel.unmodelled}, which has no model")
        if min(launch.grid) < 1 or min(launch.block) < 1:
            raise UsageError.not_allowed("grid and block", (launch.grid, launch.block), "at least 1 each")
        items = launch.block[0] * launch.block[1] * launch.block[2]
        if items > kernel.max_workgroup_size:
            raise UsageError.not_allowed("work-items of a workgroup", items, f"up to {kernel.max_workgroup_size}")
        if len(launch.kernarg) == 0:
            raise UsageError.not_allowed("kernarg bytes", 0, "at least 1")
        too_much = too_much_lds(kernel)
        if too_much is not None:
            raise UnmodelledError(f"kernel {kernel.name}: {too_much}, and what HIP answers to that has no model")
        lds = kernel.lds_size + launch.dynamic_lds
        if lds > LDS_BYTES[kernel.arch]:
            raise UsageError.not_allowed("LDS bytes", lds, f"up to {LDS_BYTES[kernel.arch]} on {kernel.arch}")
        mode = kernel.float_mode
        fp32_is_modelled = mode.denormals_32 in (Denormals.FLUSH, Denormals.KEEP)
        if mode.round_32 or mode.round_16_64 or not fp32_is_modelled or mode.denormals_16_64 is not Denormals.KEEP:
            raise UnmodelledError(
                f"float mode of {kernel.name}: given {mode}; allowed: rounding to nearest even, fp32 denormals all kept or all "
                "flushed, those of fp16 and fp64 kept"
            )

    def prepare(
        self,
        program: Program,
        launch: MachineLaunch,
        space: AddressSpace,
        schedule: Schedule = Schedule.ROUND_ROBIN,
        record: RecordOptions = NOTHING,
        limit: int = DEFAULT_LIMIT,
        timing: Timing = DEFAULT_TIMING,
    ) -> tuple[NDArray[np.int64], RecordArrays]:
        """Context (int64 [CONTEXT_WORDS]) and recording of a run that has yet to begin. `run` is for users; this is its
        first half, for those who drive handlers themselves. The space must hold a region "kernarg"."""
        context = aligned(at.CONTEXT_WORDS, np.int64)
        self._scalars = self._initial_scalars(program, space)
        self._fill_program(context, program)
        self._fill_launch(context, launch, program, space.poison)
        alone = program.sliced and not program.uses_lds
        context[at.CTX_QUANTUM] = SLICE_QUANTUM if alone else QUANTUM
        context[at.CTX_LIMIT] = limit
        context[at.CTX_FLAGS] = at.RUN_TIMED if schedule is Schedule.TIMED else 0
        if schedule is Schedule.TIMED:
            self._queues = Queues(timing, launch.waves)
            self._queues.fill(context)
        return context, recording(record, program, space, launch.workgroups, context)

    def wave_block(self, wave: int) -> NDArray[np.uint8]:
        """A wave's registers as the last run left them; layout.py says what lies where."""
        return self._blocks[wave * at.WAVE_BYTES : (wave + 1) * at.WAVE_BYTES]

    def _initial_scalars(self, program: Program, space: AddressSpace) -> NDArray[np.uint32]:
        scalars = np.zeros(at.SCALARS, np.uint32)
        for place, value in program.constants:
            scalars[place : place + 2] = value & 0xFFFF_FFFF, value >> 32
        registers = dict(self.kernel.user_registers)
        for name, region in ((_KERNARG_POINTER, _KERNARG), (f"{_PACKET} pointer", _PACKET)):
            if name in registers:
                base, register = space[region].base, registers[name]
                scalars[register : register + 2] = base & 0xFFFF_FFFF, base >> 32
        mode = self.kernel.float_mode
        scalars[at.MODE] = (
            int(mode.denormals_32) << 4
            | int(mode.denormals_16_64) << 6
            | mode.dx10_clamp << _DX10_CLAMP_BIT
            | mode.ieee << _IEEE_BIT
            | mode.fp16_overflow << _FP16_OVERFLOW_BIT
        )
        smallest = struct.unpack("<I", struct.pack("<f", 2.0**-126))[0]
        scalars[at.DENORMAL_F32] = smallest if mode.denormals_32 is Denormals.FLUSH else 0
        scalars[at.ELEMENT] = scalars[at.REQUESTER] = 0xFFFF_FFFF
        return scalars

    def _fill_program(self, context: NDArray[np.int64], program: Program) -> None:
        context[at.CTX_PROGRAM] = program.records.ctypes.data
        context[at.CTX_MODIFIERS] = program.modifiers.ctypes.data
        context[at.CTX_INITIAL_SCALARS] = self._scalars.ctypes.data
        context[at.CTX_SCALAR_COUNT] = max((place + 2 for place, _ in program.constants), default=at.CONSTANTS)
        context[at.CTX_RESET_ROWS] = program.reset_rows.ctypes.data
        context[at.CTX_RESET_ROW_COUNT] = len(program.reset_rows)
        context[at.CTX_ARCH] = int(self.kernel.arch.removeprefix("gfx"))
        context[at.CTX_UNMODELLED] = context[at.CTX_STALE_READ] = -1
        for slot, name in (
            (at.CTX_ADDRESSES, "addresses"),
            (at.CTX_HOST, "host"),
            (at.CTX_BAD, "bad"),
            (at.CTX_POISON_BLOCK, "poison"),
            (at.CTX_ZERO_BLOCK, "zero"),
            (at.CTX_SINK_BLOCK, "sink"),
            (at.CTX_MATRIX_A, "a"),
            (at.CTX_MATRIX_B, "b"),
        ):
            context[slot] = self._working[name].ctypes.data

    def _fill_launch(self, context: NDArray[np.int64], launch: MachineLaunch, program: Program, poison: int) -> None:
        kernel = self.kernel
        if self._blocks.size < launch.waves * at.WAVE_BYTES:
            self._blocks = aligned(launch.waves * at.WAVE_BYTES, np.uint8)
        self._working["poison"][:] = poison
        self._working["bad"][:] = 0
        context[at.CTX_WAVE_BLOCKS] = self._blocks.ctypes.data
        context[at.CTX_WAVES] = launch.waves
        context[at.CTX_GRID_X : at.CTX_GRID_Z + 1] = launch.grid
        self._work_items, self._active = _work_items(launch)
        context[at.CTX_WORK_ITEMS] = self._work_items.ctypes.data
        context[at.CTX_ACTIVE_LANES] = self._active.ctypes.data
        only = launch.only_workgroup
        context[at.CTX_FIRST_WORKGROUP] = 0 if only is None else only
        context[at.CTX_LAST_WORKGROUP] = launch.workgroups if only is None else only + 1
        context[at.CTX_REQUESTER_AXIS] = -1 if launch.requester_axis is None else launch.requester_axis
        context[at.CTX_WORKGROUP_SGPR] = kernel.user_sgpr_count
        context[at.CTX_WORKGROUP_ID_MASK] = kernel.workgroup_id_x | kernel.workgroup_id_y << 1 | kernel.workgroup_id_z << 2
        context[at.CTX_LDS] = self._lds.ctypes.data
        context[at.CTX_LDS_BYTES] = kernel.lds_size + launch.dynamic_lds if program.uses_lds else 0
        context[at.CTX_POISON] = poison
        scratch = launch.waves * at.LANES * kernel.private_segment_size
        self._scratch = aligned(scratch, np.uint8)
        context[at.CTX_SCRATCH] = self._scratch.ctypes.data
        context[at.CTX_SCRATCH_BYTES] = kernel.private_segment_size


def too_much_lds(kernel: Kernel) -> str | None:
    """Why no GPU of its architecture launches a kernel, where its descriptor asks for more LDS than a compute unit has."""
    most = LDS_BYTES[kernel.arch]
    if kernel.lds_size <= most:
        return None
    return f"its descriptor asks for {kernel.lds_size:,} bytes of LDS, and {kernel.arch} has {most:,}: no GPU launches it"


def _work_items(launch: MachineLaunch) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """v0 of every lane of a workgroup, uint32 [waves, 64] (x, y and z at bits 0, 10 and 20), and the waves' EXEC masks."""
    x, y, z = launch.block
    item = np.arange(launch.waves * at.LANES)
    packed = item % x | item // x % y << 10 | item // (x * y) << 20
    active = (item < x * y * z).reshape(-1, at.LANES)
    masks = np.packbits(active, axis=1, bitorder="little").view(np.uint64).reshape(-1)
    return np.ascontiguousarray(packed.astype(np.uint32).reshape(-1, at.LANES)), masks


def _result(
    program: Program,
    launch: MachineLaunch,
    mode: Mode,
    schedule: Schedule,
    outcome: int,
    context: NDArray[np.int64],
    kept: RecordArrays,
) -> RunResult:
    return RunResult(
        program=program,
        mode=mode,
        schedule=schedule,
        outcome=MachineEnd.DONE if outcome == at.OUTCOME_DONE else MachineEnd.LIMIT,
        executed=int(context[at.CTX_EXECUTED]),
        waves=launch.waves * (launch.workgroups if launch.only_workgroup is None else 1),
        regions=kept.regions,
        raw_events=kept.events[: int(context[at.CTX_EVENTS_KEPT])],
        event_count=int(context[at.CTX_EVENT_COUNT]),
        raw_totals=kept.totals,
        branch_counts=kept.edges,
        raw_races=kept.races[: int(context[at.CTX_RACE_COUNT])],
        log=kept.log(program),
        trace=kept.trace[: min(int(context[at.CTX_TRACE_COUNT]), len(kept.trace))],
    )


def _stopped(program: Program, original: int) -> UnmodelledError:
    instruction = program.instructions[original]
    return UnmodelledError(
        f"instruction at pc {instruction.pc:#x}: given {assembly_text(instruction)!r} with operands that have no model "
        f"(a swizzled descriptor, a scalar access that a descriptor with a stride cuts, scratch outside its segment, a float "
        f"mode besides those of a launch, lanes swapped with disabled ones); report the code object, the run stopped there"
    )


def _stale(program: Program, original: int) -> UnmodelledError:
    instruction = program.instructions[original]
    return UnmodelledError(
        f"instruction at pc {instruction.pc:#x}: given {assembly_text(instruction)!r}, which loads what the slice stored "
        f"without data; allowed: addresses that do not depend on what the same launch stores; run it in full mode"
    )


def _hidden(argument: Argument, grid: Grid, block: Grid, dynamic_lds: int) -> int | None:
    """Value of a hidden argument, None for what stays as it was given."""
    kind = argument.kind.removeprefix("hidden_")
    for axis, name in enumerate("xyz"):
        if kind == f"block_count_{name}":
            return grid[axis]
        if kind == f"group_size_{name}":
            return block[axis]
        if kind in (f"remainder_{name}", f"global_offset_{name}"):
            return 0
    return {
        "grid_dims": 3 if grid[2] * block[2] > 1 else 2 if grid[1] * block[1] > 1 else 1,
        "dynamic_lds_size": dynamic_lds,
        "shared_base": APERTURES[0] >> 32,
        "private_base": APERTURES[2] >> 32,
    }.get(kind)


def with_hidden_arguments(kernel: Kernel, kernarg: bytes, grid: Grid, block: Grid, dynamic_lds: int) -> NDArray[np.uint8]:
    """The argument segment with the hidden arguments that follow from the launch; those that are pointers stay as given.

    grid: workgroups, block: work-items of one.
    """
    needed = max((each.offset + each.size for each in kernel.arguments if each.kind.startswith("hidden_")), default=0)
    segment = bytearray(kernarg.ljust(needed, b"\0"))
    for each in kernel.arguments:
        value = _hidden(each, grid, block, dynamic_lds) if each.kind.startswith("hidden_") else None
        if value is not None:
            segment[each.offset : each.offset + each.size] = value.to_bytes(each.size, "little")
    return np.frombuffer(bytes(segment), np.uint8).copy()


def dispatch_packet(kernel: Kernel, kernarg_address: int, grid: Grid, block: Grid, dynamic_lds: int) -> NDArray[np.uint8]:
    """The 64 bytes of the packet that launches the kernel; grid in it counts work-items."""
    items = [count * size for count, size in zip(grid, block, strict=True)]
    lds = kernel.lds_size + dynamic_lds
    private = kernel.private_segment_size
    packet = _PACKET_FORMAT.pack(
        _KERNEL_DISPATCH, 3, *block, 0, *items, private, lds, IMAGE_BASE + kernel.entry, kernarg_address, 0, 0
    )
    return np.frombuffer(packet, np.uint8).copy()


def add_image(space: AddressSpace, kernel: Kernel, program: Program) -> list[str]:
    """Regions for the object's constants and variables, where a program asks for its own address. Returns their names.

    Variables begin each launch as the file has them.
    """
    if not kernel.segments or not any(instruction.mnemonic == _GETPC for instruction in program.instructions):
        return []
    names = []
    for number, segment in enumerate(kernel.segments):
        content = bytearray(segment.content)
        for offset, address in segment.relocations:
            struct.pack_into("<Q", content, offset, IMAGE_BASE + address)
        name = f"code object segment {number}"
        memory = np.frombuffer(bytes(content), np.uint8).copy()
        space.add_array(name, memory, writable=segment.writable, base=IMAGE_BASE + segment.address)
        names.append(name)
    return names
