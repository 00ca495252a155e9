"""One wave, a few instructions, registers set beforehand: the machine's handlers beside the reference executor.

The machine's side is compiled and driven as in a run, but record by record, so that registers can be set and read between.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from reference_executor import ReferenceWave, execute
from reference_memory import ReferenceMemory

from backend.cdna.code_object import Denormals, FloatMode, Kernel
from backend.cdna.execute import layout as at
from backend.cdna.instruction import Format, Instruction
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.program import compile_program
from backend.cdna.record import RecordArrays, RecordOptions

ENDING = Instruction(1 << 20, 4, "s_endpgm", Format.SOPP, (), ())
LDS_BYTES = 4096
SCRATCH_BYTES = 256
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def kernel(arch: str, keep_denormals: bool = False, lds: int = LDS_BYTES) -> Kernel:
    """A kernel without code: launch state only."""
    denormals = Denormals.KEEP if keep_denormals else Denormals.FLUSH
    return Kernel(
        name="by hand",
        arch=arch,
        text=b"",
        entry=0,
        kernarg_size=16,
        lds_size=lds,
        private_segment_size=SCRATCH_BYTES,
        vgpr_count=256,
        agpr_count=256,
        user_sgpr_count=2,
        has_kernarg_pointer=True,
        kernarg_preload_offset=0,
        kernarg_preload_length=0,
        workgroup_id_x=True,
        workgroup_id_y=False,
        workgroup_id_z=False,
        work_item_id_mode=2,
        float_mode=FloatMode(0, 0, denormals, Denormals.KEEP, True, True, False),
        max_workgroup_size=1024,
        arguments=(),
    )


@dataclass
class WaveState:
    """Everything that an instruction may change."""

    scalars: NDArray[np.uint32]  # 128, by hardware code
    vectors: NDArray[np.uint32]  # [512, 64]
    scc: int
    mode: int
    lds: NDArray[np.uint8]

    def copy(self) -> WaveState:
        return WaveState(self.scalars.copy(), self.vectors.copy(), self.scc, self.mode, self.lds.copy())


class SingleWave:
    """The machine's side of one wave."""

    def __init__(self, arch: str, space: AddressSpace | None = None, keep_denormals: bool = False) -> None:
        self.arch = arch
        self.machine = Machine(kernel(arch, keep_denormals))
        self.space = space or AddressSpace()
        if not any(region.name == "kernarg" for region in self.space):
            self.space.add_array("kernarg", np.zeros(16, np.uint8))
        self.launch = MachineLaunch((1, 1, 1), (64, 1, 1), bytes(16))
        self.recording: RecordArrays | None = None
        self.context = np.zeros(0, np.int64)

    def run(self, instructions: tuple[Instruction, ...], state: WaveState, record: RecordOptions | None = None) -> WaveState:
        """The state after straight-line instructions."""
        program = compile_program((*instructions, ENDING), self.arch)
        self.context, self.recording = self.machine.prepare(program, self.launch, self.space, record=record or RecordOptions())
        self.context[at.CTX_LDS_BYTES] = LDS_BYTES
        self.machine._lds[:LDS_BYTES] = state.lds
        block = self.machine.wave_block(0)
        scalars = block[: at.ROWS_OFFSET].view(np.uint32)
        rows = block[at.ROWS_OFFSET :].view(np.uint32).reshape(at.ROWS, at.LANES)
        scalars[:] = self.machine._scalars
        scalars[:128] = state.scalars
        scalars[at.SCC], scalars[at.MODE] = state.scc, state.mode
        rows[:512] = state.vectors
        rows[512:] = 0xDEADBEEF  # working rows must not matter
        for number in range(len(instructions)):
            if program.records[number, at.CONTROL] == at.CONTROL_NOP:
                continue
            assert program.records[number, at.CONTROL] == at.CONTROL_NONE
            handler = _HANDLER(int(program.records[number, :2].view(np.int64)[0]))
            handler(block.ctypes.data, program.records[number].ctypes.data, self.context.ctypes.data)
        return WaveState(
            scalars[:128].copy(),
            rows[:512].copy(),
            int(scalars[at.SCC]),
            int(scalars[at.MODE]),
            self.machine._lds[:LDS_BYTES].copy(),
        )


def run_reference(
    arch: str, instructions: tuple[Instruction, ...], state: WaveState, space: AddressSpace | None = None
) -> tuple[WaveState, ReferenceMemory]:
    """The same by the reference executor."""
    memory = ReferenceMemory(space or AddressSpace(), state.lds.copy(), SCRATCH_BYTES)
    wave = ReferenceWave(arch, memory, state.scalars.copy(), state.vectors.copy(), state.scc, state.mode)
    for instruction in instructions:
        execute(wave, instruction)
    return WaveState(wave.scalars, wave.vectors, wave.scc, wave.mode, memory.lds), memory


@functools.cache
def _random_rows() -> NDArray[np.uint32]:
    """[8192, 64] words that registers are drawn from: numbers of every kind, small integers among them."""
    rng, shape = np.random.default_rng(1), (8192, 64)
    rows = rng.integers(0, 1 << 32, shape, np.uint32)
    small = rng.random(shape) < 0.3
    rows[small] = rng.integers(0, 40, int(small.sum()), np.uint32)
    floats = rng.random(shape) < 0.3
    numbers = (rng.standard_normal(int(floats.sum())) * 10.0 ** rng.integers(-6, 6, int(floats.sum()))).astype(np.float32)
    rows[floats] = numbers.view(np.uint32)
    special = rng.random(shape) < 0.1
    values = np.array(
        [0, 0x80000000, 1, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFA00000, 0x3F800000, 0x00800000],
        np.uint32,
    )
    rows[special] = rng.choice(values, int(special.sum()))
    return rows


def random_state(rng: np.random.Generator, keep_denormals: bool = False, exec_mask: int = (1 << 64) - 1) -> WaveState:
    """Random registers, rows of `_random_rows`."""
    scalars = rng.integers(0, 1 << 32, 128, np.uint32)
    scalars[126], scalars[127] = exec_mask & 0xFFFFFFFF, exec_mask >> 32
    scalars[124] = rng.integers(0, 64)
    vectors = _random_rows()[rng.integers(0, len(_random_rows()), 512)]
    mode = (3 << 4 if keep_denormals else 0) | 3 << 6 | int(rng.integers(0, 4)) << 8
    return WaveState(scalars, vectors, int(rng.integers(0, 2)), mode, rng.integers(0, 256, LDS_BYTES, np.uint8))
