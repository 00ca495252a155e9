"""A CDNA wave executed the plain way: decoded instructions one at a time on numpy arrays, no compilation, no fast paths.

The machine must agree with it bit for bit (NaN payloads aside). It follows the ISA documents' text and shares no code with
backend/cdna/execute; of the machine it uses the decoder's types and the address space's regions only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import reference_arithmetic as ref
from numpy.typing import NDArray
from reference_arithmetic import F32, F64, I64, U32, U64, Bits
from reference_matrix import matrix
from reference_memory import ReferenceMemory, lds_instruction, scalar_load, vector_memory
from reference_scalar import scalar_instruction

from backend.cdna.decode.text import assembly_text
from backend.cdna.instruction import Format, Instruction, Operand, OperandKind

ALL = (1 << 64) - 1
LANES = np.arange(64)
SCALAR_PLACES = {
    OperandKind.SGPR: 0,
    OperandKind.FLAT_SCRATCH: 102,
    OperandKind.XNACK_MASK: 104,
    OperandKind.VCC: 106,
    OperandKind.TTMP: 108,
    OperandKind.M0: 124,
    OperandKind.EXEC: 126,
}


@dataclass
class ReferenceWave:
    """Registers of one wave. scalars by hardware code; vectors: v0..v255, a0..a255. keep_denormals: of fp32."""

    arch: str
    memory: ReferenceMemory
    scalars: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(128, U32))
    vectors: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((512, 64), U32))
    scc: int = 0
    mode: int = 0
    gpr_index: bool = False
    index: int = 0  # within the workgroup
    place: int = 0  # of the next instruction
    state: str = "running"

    @property
    def keep_denormals(self) -> bool:
        return bool(self.mode >> 4 & 3)

    @property
    def ieee(self) -> bool:
        return bool(self.mode >> 9 & 1)

    @property
    def fnuz(self) -> bool:
        return self.arch == "gfx942"

    def scalar64(self, code: int) -> int:
        return int(self.scalars[code]) | int(self.scalars[code + 1]) << 32

    def set_scalar64(self, code: int, value: int) -> None:
        self.scalars[code], self.scalars[code + 1] = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF

    @property
    def exec_mask(self) -> int:
        return self.scalar64(126)

    @property
    def active(self) -> NDArray[np.bool_]:
        return lanes_of(self.exec_mask)

    # Scalar operands.

    def read_scalar(self, operand: Operand) -> int:
        """A scalar source: 32 or 64 bits."""
        if operand.kind in (OperandKind.CONSTANT, OperandKind.SIMM):
            return operand.value
        if operand.kind is OperandKind.SCC:
            return self.scc
        code = SCALAR_PLACES[operand.kind] + operand.index
        return self.scalar64(code) if operand.count == 2 else int(self.scalars[code])

    def write_scalar(self, operand: Operand, value: int) -> None:
        code = SCALAR_PLACES[operand.kind] + operand.index
        if operand.count == 2:
            self.set_scalar64(code, value)
        else:
            self.scalars[code] = value & 0xFFFFFFFF

    # Vector operands.

    def row(self, operand: Operand) -> int:
        return operand.index + (256 if operand.kind is OperandKind.AGPR else 0)

    def read_vector(self, operand: Operand, dword: int = 0) -> Bits:
        """One dword of a source in all lanes, modifiers not applied."""
        if operand.kind in (OperandKind.VGPR, OperandKind.AGPR):
            return self.vectors[self.row(operand) + dword].copy()
        return np.full(64, self.read_scalar(operand) >> 32 * dword & 0xFFFFFFFF, U32)

    def write_vector(self, operand: Operand, values: Bits, dword: int = 0, lanes: NDArray[np.bool_] | None = None) -> None:
        lanes = self.active if lanes is None else lanes
        self.vectors[self.row(operand) + dword][lanes] = values[lanes]


def lanes_of(mask: int) -> NDArray[np.bool_]:
    return np.array([mask >> lane & 1 for lane in range(64)], np.bool_)


def mask_of(lanes: NDArray[np.bool_]) -> int:
    return sum(1 << lane for lane in range(64) if lanes[lane])


# Sources with their modifiers.


def dpp_lanes(control: int) -> list[int | None]:
    """Which lane each lane reads (ISA documents, "DPP"); None for none."""
    result: list[int | None] = []
    for lane in range(64):
        row, place, low = lane // 16 * 16, lane % 16, control & 15
        if control < 0x100:
            result.append(lane // 4 * 4 + (control >> 2 * (lane % 4) & 3))
        elif 0x101 <= control <= 0x10F:
            result.append(row + place + low if place + low < 16 else None)
        elif 0x111 <= control <= 0x11F:
            result.append(row + place - low if place >= low else None)
        elif 0x121 <= control <= 0x12F:
            result.append(row + (place - low) % 16)
        elif control == 0x130:
            result.append(lane + 1 if lane < 63 else None)
        elif control == 0x134:
            result.append((lane + 1) % 64)
        elif control == 0x138:
            result.append(lane - 1 if lane else None)
        elif control == 0x13C:
            result.append((lane - 1) % 64)
        elif control == 0x140:
            result.append(row + 15 - place)
        elif control == 0x141:
            result.append(lane // 8 * 8 + 7 - lane % 8)
        elif control == 0x142:
            result.append(row - 1 if row else None)
        elif control == 0x143:
            result.append(31 if lane >= 32 else None)
        else:
            result.append(row + low)
    return result


class Sources:
    """The sources of one vector instruction, with every modifier applied."""

    def __init__(self, wave: ReferenceWave, instruction: Instruction, kind: str) -> None:
        self.wave, self.instruction, self.kind = wave, instruction, kind

    def bits(self, place: int, dword: int = 0) -> Bits:
        """A dword of a source; neg and abs act on bit 31 (f32, or the upper dword of f64) or 15 (f16)."""
        operand, modifiers = self.instruction.sources[place], self.instruction.modifiers
        value = self._selected(operand, place, dword)
        if self.kind in ("f16", "b16") and place < len(modifiers.op_sel) and modifiers.op_sel[place]:
            value = value >> U32(16)
        if self.kind == "f8" and place < len(modifiers.op_sel) and modifiers.op_sel[place]:
            value = value >> U32(16)
        sign = U32(0x8000 if self.kind == "f16" else 0x80000000)
        if self.kind != "f64" or dword == 1:
            value = value & ~sign if operand.abs else value
            value = value ^ sign if operand.neg else value
        return value

    def _selected(self, operand: Operand, place: int, dword: int) -> Bits:
        wave, modifiers = self.wave, self.instruction.modifiers
        if place == 0 and wave.gpr_index and operand.kind is OperandKind.VGPR and int(wave.scalars[124]) >> 12 & 1:
            operand = Operand(OperandKind.VGPR, operand.index + (int(wave.scalars[124]) & 0xFF), operand.count)
        value = wave.read_vector(operand, dword)
        if place == 0 and modifiers.dpp is not None:
            active = wave.active
            lanes = dpp_lanes(modifiers.dpp.ctrl)
            value = np.array([value[lane] if lane is not None and active[lane] else 0 for lane in lanes], U32)
        if operand.sel is not None and operand.sel != 6:
            width = 16 if operand.sel >= 4 else 8
            value = value >> U32(16 * (operand.sel - 4) if operand.sel >= 4 else 8 * operand.sel)
            part = value.astype(I64) & ((1 << width) - 1)
            if operand.sext:
                part -= part >> (width - 1) << width
            value = ref.low32(part)
        return value

    def bits64(self, place: int) -> NDArray[np.uint64]:
        return self.bits(place).astype(U64) | self.bits(place, 1).astype(U64) << U64(32)

    def floats(self, place: int, keep: bool) -> NDArray[np.float32]:
        return ref.flush(ref.as_float(self.bits(place)), keep)

    def packed(self, place: int, element: int) -> Bits:
        """Element 0 or 1 of a packed source: a dword of packed fp32, 16 bits of packed halves."""
        operand, modifiers = self.instruction.sources[place], self.instruction.modifiers
        selects = modifiers.op_sel if element == 0 else modifiers.op_sel_hi
        high = selects[place] if place < len(selects) else element
        negs = modifiers.neg_lo if element == 0 else modifiers.neg_hi
        negated = negs[place] if place < len(negs) else 0
        if self.kind == "pk32":
            value = self.wave.read_vector(operand, high)
            return value ^ U32(0x80000000) if negated else value
        value = self._selected(operand, place, 0) >> U32(16 * high) & U32(0xFFFF)
        return value ^ U32(0x8000) if negated else value

    def __iter__(self) -> Iterator[Bits]:
        return (self.bits(place) for place in range(len(self.instruction.sources)))


# Results with their modifiers.


def commit(wave: ReferenceWave, instruction: Instruction, values: list[Bits], is_float: bool = False) -> None:
    """Write the dwords of a result: omod, clamp, SDWA destination, EXEC and DPP masks."""
    modifiers, destination = instruction.modifiers, instruction.destinations[0]
    if is_float and (modifiers.omod or modifiers.clamp):
        ignored = wave.ieee or wave.keep_denormals  # "Output modifiers"
        factor = 1.0 if ignored else {0: 1.0, 1: 2.0, 2: 4.0, 3: 0.5}[modifiers.omod]
        for place, value in enumerate(values):
            result = ref.as_float(value) * F32(factor)
            if modifiers.clamp:
                nan = F32(0) if wave.mode >> 8 & 1 else F32(np.nan)  # DX10_CLAMP
                result = np.where(np.isnan(result), nan, np.clip(result, F32(0), F32(1))) + F32(0)
            values[place] = ref.as_bits(result)
    lanes = wave.active
    if modifiers.dpp is not None:
        lanes = lanes & _dpp_written(wave, instruction)
    sdwa = modifiers.sdwa
    if sdwa is not None and sdwa.dst_sel is not None and sdwa.dst_sel != 6:
        values[0] = _sdwa_merged(wave, instruction, values[0])
    for dword, value in enumerate(values):
        wave.write_vector(destination, value, dword, lanes)


def _dpp_written(wave: ReferenceWave, instruction: Instruction) -> NDArray[np.bool_]:
    dpp = instruction.modifiers.dpp
    assert dpp is not None
    sources, active = dpp_lanes(dpp.ctrl), wave.active
    written = []
    for lane, source in enumerate(sources):
        enabled = dpp.row_mask >> lane // 16 & 1 and dpp.bank_mask >> lane // 4 % 4 & 1
        valid = source is not None and active[source]
        written.append(bool(enabled and (valid or dpp.bound_ctrl)))
    return np.array(written)


def _sdwa_merged(wave: ReferenceWave, instruction: Instruction, value: Bits) -> Bits:
    sdwa = instruction.modifiers.sdwa
    assert sdwa is not None
    assert sdwa.dst_sel is not None
    old = wave.read_vector(instruction.destinations[0]).astype(I64)
    width = 16 if sdwa.dst_sel >= 4 else 8
    shift = 16 * (sdwa.dst_sel - 4) if sdwa.dst_sel >= 4 else 8 * sdwa.dst_sel
    part = value.astype(I64) & ((1 << width) - 1)
    placed = part << shift
    if sdwa.dst_unused == 2:
        placed |= old & ~(((1 << width) - 1) << shift)
    elif sdwa.dst_unused == 1:
        placed |= np.where(part >> (width - 1) & 1, -1 << (shift + width), 0)
    return ref.low32(placed)


# Vector instructions.


def vector_instruction(wave: ReferenceWave, instruction: Instruction) -> None:
    """VOP1, VOP2, VOPC, VOP3, VOP3P and the moves of MAI."""
    from reference_rare import saturating

    name = ref.ALIASES.get(instruction.mnemonic, instruction.mnemonic)
    with np.errstate(all="ignore"):
        if name.startswith("v_cmp"):
            _compare(wave, instruction)
        elif instruction.modifiers.clamp and re.match(r"v_(add|sub|subrev)_[ui](16|32)$", instruction.mnemonic):
            saturating(wave, instruction, instruction.mnemonic)
        elif name in ref.INTEGER:
            commit(wave, instruction, [ref.INTEGER[name](*Sources(wave, instruction, _half_kind(name)))])
        elif name in ref.INTEGER64:
            sources = Sources(wave, instruction, "b64")
            values = [
                sources.bits64(place) if operand.count == 2 else sources.bits(place)
                for place, operand in enumerate(instruction.sources)
            ]
            commit(wave, instruction, _split(ref.INTEGER64[name](*values)))
        elif name in ref.FLOAT or name in ref.FLUSHING or name in ("v_fract_f32", "v_ldexp_f32"):
            _float(wave, instruction, name)
        elif name in ref.DOUBLE:
            _double(wave, instruction, name)
        else:
            _other_vector(wave, instruction, name)


def _half_kind(name: str) -> str:
    return "b16" if re.search(r"_[ui]16$|_b16$|_pack_b32_f16$", name) else "b32"


def _split(value: NDArray[np.uint64]) -> list[Bits]:
    return [(value & U64(0xFFFFFFFF)).astype(U32), (value >> U64(32)).astype(U32)]


def _float(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    keep = wave.keep_denormals
    if name.startswith("v_pk_"):
        sources = Sources(wave, instruction, "pk32")
        count = len(instruction.sources)
        values = []
        for element in range(2):
            taken = [ref.flush(ref.as_float(sources.packed(place, element)), keep) for place in range(count)]
            values.append(ref.as_bits(ref.flush(ref.FLOAT[name](*taken), keep)))
        commit(wave, instruction, values, True)
        return
    sources = Sources(wave, instruction, "f32")
    if name in ref.FLUSHING:
        result = ref.flush(ref.FLUSHING[name](sources.floats(0, False)), False)
    elif name == "v_fract_f32":
        result = ref._fract(sources.floats(0, keep))
    elif name == "v_ldexp_f32":
        scale = np.clip(sources.bits(1).view(np.int32), -400, 400)
        result = ref.flush(np.ldexp(sources.floats(0, keep).astype(F64), scale).astype(F32), keep)
    else:
        taken = [sources.floats(place, keep) for place in range(len(instruction.sources))]
        if name == "v_fmac_f32":
            taken.append(ref.flush(ref.as_float(wave.read_vector(instruction.destinations[0])), keep))
        function = ref.IEEE.get(name, ref.FLOAT[name]) if wave.ieee else ref.FLOAT[name]
        result = function(*taken)
        rounding = name in ("v_trunc_f32", "v_ceil_f32", "v_floor_f32", "v_rndne_f32") or (
            "m" in name[2:5] and "fm" not in name
        )
        result = result if rounding and "mul" not in name else ref.flush(result, keep)
    commit(wave, instruction, [ref.as_bits(result)], True)


def _double(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "f64")
    values = [sources.bits64(place).view(F64) for place in range(len(instruction.sources))]
    if name == "v_fmac_f64":
        destination = instruction.destinations[0]
        low, high = (wave.read_vector(destination, dword).astype(U64) for dword in range(2))
        values.append((low | high << U64(32)).view(F64))
    function = ref.IEEE.get(name, ref.DOUBLE[name]) if wave.ieee else ref.DOUBLE[name]
    commit(wave, instruction, _split(function(*values).view(U64)))


def _compare(wave: ReferenceWave, instruction: Instruction) -> None:
    match = re.match(r"v_cmp(x?)_(\w+?)_(([fiu])(\d\d))$", instruction.mnemonic)
    assert match is not None
    writes_exec, relation, kind, letter, width = match.groups()
    sources = Sources(wave, instruction, kind if letter == "f" else f"b{width}")
    if relation == "class":
        numbers = {
            "16": lambda: ref.classes_of_bits(ref.half(sources.bits(0)), 5, 10),
            "32": lambda: ref.classes(ref.as_float(sources.bits(0))),
            "64": lambda: ref.classes_of_bits(sources.bits64(0).view(I64), 11, 52),
        }[width]()
        chosen = ref.wide(sources.bits(1)) >> numbers & 1
        holds = chosen.astype(np.bool_)
    else:
        a, b = (_compared(sources, place, letter, width, wave.keep_denormals) for place in range(2))
        holds = ref.RELATIONS[relation](a, b)
    mask = mask_of(holds & wave.active)
    wave.write_scalar(instruction.destinations[0], mask)
    if writes_exec:
        wave.set_scalar64(126, mask)


def _compared(sources: Sources, place: int, letter: str, width: str, keep: bool) -> NDArray:
    if width == "64":
        return sources.bits64(place).view({"f": F64, "i": I64, "u": U64}[letter])
    bits = sources.bits(place)
    if width == "16":
        return {"f": ref.halves_to_double, "i": lambda x: x - (x >> 15 << 16), "u": lambda x: x}[letter](ref.half(bits))
    if letter == "f":
        return ref.flush(ref.as_float(bits), keep)
    return ref.signed(bits) if letter == "i" else ref.wide(bits)


def _other_vector(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    from reference_rare import RARE
    from reference_special import SPECIAL  # conversions, carries, divisions, lane moves

    for pattern, function in (*RARE, *SPECIAL):
        if re.match(pattern + "$", name):
            function(wave, instruction, name)
            return
    raise NotImplementedError(assembly_text(instruction))


# Whole instructions.


def execute(wave: ReferenceWave, instruction: Instruction) -> int | None:
    """Execute one instruction; returns the pc of a branch that is taken."""
    form, name = instruction.format, instruction.mnemonic
    if "branch" in name:
        return instruction.sources[0].value if _branches(wave, name) else None
    if name in ("s_endpgm", "s_barrier"):
        wave.state = "ended" if name == "s_endpgm" else "barrier"
    elif name in ("s_nop", "s_waitcnt", "s_setprio", "s_sleep", "v_nop"):
        pass
    elif form is Format.SMEM:
        scalar_load(wave, instruction)
    elif form in (Format.SOP1, Format.SOP2, Format.SOPC, Format.SOPK, Format.SOPP):
        scalar_instruction(wave, instruction)
    elif form is Format.DS:
        lds_instruction(wave, instruction)
    elif form in (Format.MUBUF, Format.GLOBAL, Format.SCRATCH):
        vector_memory(wave, instruction)
    elif "mfma" in name:
        matrix(wave, instruction)
    else:
        vector_instruction(wave, instruction)
    return None


def _branches(wave: ReferenceWave, name: str) -> bool:
    vcc, execute_mask = wave.scalar64(106), wave.exec_mask
    conditions = {
        "s_branch": True,
        "s_cbranch_scc0": wave.scc == 0,
        "s_cbranch_scc1": wave.scc == 1,
        "s_cbranch_vccz": vcc == 0,
        "s_cbranch_vccnz": vcc != 0,
        "s_cbranch_execz": execute_mask == 0,
        "s_cbranch_execnz": execute_mask != 0,
    }
    return conditions[name]


def run_workgroup(instructions: tuple[Instruction, ...], waves: list[ReferenceWave], quantum: int) -> int:
    """Waves in turn, `quantum` instructions each, until all have ended. Returns the number of instructions."""
    places = {instruction.pc: number for number, instruction in enumerate(instructions)}
    executed = 0
    while any(wave.state != "ended" for wave in waves):
        for wave in waves:
            for _ in range(quantum):
                if wave.state != "running":
                    break
                target = execute(wave, instructions[wave.place])
                wave.place = wave.place + 1 if target is None else places[target]
                executed += 1
        if all(wave.state != "running" for wave in waves):
            for wave in waves:
                wave.state = "running" if wave.state == "barrier" else wave.state
    return executed
