"""Memory instructions of the reference executor: one lane, one access at a time, every byte looked at."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from reference_atomics import lds_atomic, memory_atomic, new_value

from backend.cdna.instruction import Format, Instruction, OperandKind
from backend.cdna.memory import AddressSpace, Region

if TYPE_CHECKING:
    from reference_executor import ReferenceWave

MASK48 = (1 << 48) - 1
NULL_END = 1 << 32
WIDTH_BYTES = {"ubyte": 1, "sbyte": 1, "byte": 1, "ushort": 2, "sshort": 2, "short": 2}


@dataclass
class ReferenceMemory:
    """Global memory (the regions of a space), one workgroup's LDS and scratch. findings: lanes by (kind, pc)."""

    space: AddressSpace
    lds: NDArray[np.uint8]
    scratch_bytes: int = 0
    scratch: dict[tuple[int, int], bytearray] = field(default_factory=dict)
    findings: Counter[tuple[str, int]] = field(default_factory=Counter)
    accesses: Counter[int] = field(default_factory=Counter)

    def _region(self, address: int, size: int) -> Region | None:
        for region in self.space:
            if region.base <= address and address + size <= region.end:
                return region
        return None

    def _outside(self, address: int, pc: int) -> None:
        self.findings["NULL" if 0 <= address < NULL_END else "OUT_OF_BOUNDS", pc] += 1

    def read(self, address: int, size: int, pc: int) -> bytes:
        self.accesses[pc] += 1
        region = self._region(address, size)
        if region is None:
            self._outside(address, pc)
            return bytes([self.space.poison]) * size
        offset = address - region.base
        if region.written is not None and not all(_bit(region.written, offset + n) for n in range(size)):
            self.findings["UNWRITTEN_READ", pc] += 1
        if region.contents is None:
            return bytes([self.space.poison]) * size
        return region.contents[offset : offset + size].tobytes()

    def write(self, address: int, data: bytes, pc: int) -> None:
        self.accesses[pc] += 1
        region = self._region(address, len(data))
        if region is None:
            self._outside(address, pc)
            return
        if not region.writable:
            self.findings["READ_ONLY_WRITE", pc] += 1
            return
        offset = address - region.base
        if region.written is not None:
            for n in range(len(data)):
                region.written[(offset + n) >> 3] |= 1 << ((offset + n) & 7)
        if region.contents is not None:
            region.contents[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def note_unwritten(self, address: int, size: int, pc: int) -> None:
        region = self._region(address, size)
        if region is not None and region.written is not None:
            offset = address - region.base
            self.findings["UNWRITTEN_READ", pc] += not all(_bit(region.written, offset + n) for n in range(size))
            self.findings += Counter()  # no entries of zero

    def peek(self, address: int, size: int) -> int | None:
        """What an atomic reads there; None where it has no data or may not write."""
        region = self._region(address, size)
        if region is None or region.contents is None or not region.writable:
            return None
        offset = address - region.base
        return int.from_bytes(region.contents[offset : offset + size].tobytes(), "little")

    def read_lds(self, address: int, size: int, pc: int) -> bytes:
        if address < 0 or address + size > len(self.lds):
            self.findings["LDS_OUT_OF_BOUNDS", pc] += 1
            return bytes(size)
        return self.lds[address : address + size].tobytes()

    def write_lds(self, address: int, data: bytes, pc: int) -> None:
        if address < 0 or address + len(data) > len(self.lds):
            self.findings["LDS_OUT_OF_BOUNDS", pc] += 1
            return
        self.lds[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def private(self, wave: int, lane: int) -> bytearray:
        return self.scratch.setdefault((wave, lane), bytearray(self.scratch_bytes))


def _bit(bitmap: NDArray[np.uint8], index: int) -> int:
    return int(bitmap[index >> 3]) >> (index & 7) & 1


_FIRST_CODE = {
    OperandKind.SGPR: 0,
    OperandKind.FLAT_SCRATCH: 102,
    OperandKind.XNACK_MASK: 104,
    OperandKind.VCC: 106,
    OperandKind.TTMP: 108,
    OperandKind.M0: 124,
    OperandKind.EXEC: 126,
}


def scalar_load(wave: ReferenceWave, instruction: Instruction) -> None:
    """S_LOAD_DWORD*, S_BUFFER_LOAD_DWORD*, their stores, and atomics."""
    if "load" not in instruction.mnemonic:
        scalar_store(wave, instruction)
        return
    destination = instruction.destinations[0]
    base_operand = instruction.sources[0]
    offset = instruction.modifiers.offset
    if len(instruction.sources) > 1:
        offset += wave.read_scalar(instruction.sources[1])
    code = _FIRST_CODE[base_operand.kind] + base_operand.index
    base = wave.scalar64(code)
    count = destination.count
    if "buffer" in instruction.mnemonic:
        base &= MASK48
        kept = min(max((int(wave.scalars[code + 2]) - (offset & ~3)) // 4, 0), count)
    else:
        kept = count
    address = (base + offset & ~3) & MASK48
    data = wave.memory.read(address, 4 * kept, instruction.pc) if kept else b""
    if kept < count:
        wave.memory.findings["CLAMPED", instruction.pc] += 1
    words = np.frombuffer(data + bytes(4 * (count - kept)), np.uint32)
    first = _FIRST_CODE[destination.kind] + destination.index
    wave.scalars[first : first + count] = words


def _scalar_address(wave: ReferenceWave, instruction: Instruction) -> tuple[int, int, int]:
    """(address, code of the base, its 64 bits) of a scalar store or atomic."""
    _, base_operand, *index = instruction.sources
    offset = instruction.modifiers.offset + (wave.read_scalar(index[0]) if index else 0)
    code = _FIRST_CODE[base_operand.kind] + base_operand.index
    base = wave.scalar64(code) & (MASK48 if "buffer" in instruction.mnemonic else (1 << 64) - 1)
    return (base + offset & ~3) & MASK48, code, base


def scalar_store(wave: ReferenceWave, instruction: Instruction) -> None:
    """S_STORE_DWORD*, S_BUFFER_STORE_DWORD*, S_ATOMIC_*."""
    data, memory, pc = instruction.sources[0], wave.memory, instruction.pc
    first = _FIRST_CODE[data.kind] + data.index
    words = [int(word) for word in wave.scalars[first : first + data.count]]
    address, code, base = _scalar_address(wave, instruction)
    match = re.match(r"s_atomic_(\w+?)(_x2)?$", instruction.mnemonic)
    if match is None:
        kept = data.count
        if "buffer" in instruction.mnemonic:
            kept = min(max((int(wave.scalars[code + 2]) - (address - base)) // 4, 0), data.count)
            memory.findings["CLAMPED", pc] += kept < data.count
            memory.findings += Counter()
        if kept:
            memory.write(address, b"".join(word.to_bytes(4, "little") for word in words[:kept]), pc)
        return
    dwords = 2 if match[2] else 1
    values = [sum(word << 32 * n for n, word in enumerate(part)) for part in (words[:dwords], words[dwords:])]
    memory.note_unwritten(address, 4 * dwords, pc)
    old = memory.peek(address, 4 * dwords)
    new = 0 if old is None else new_value(match[1], 32 * dwords, old, values[0], values[1], False)
    memory.write(address, new.to_bytes(4 * dwords, "little"), pc)
    if instruction.destinations:
        returned = int.from_bytes(bytes([memory.space.poison]) * 4 * dwords, "little") if old is None else old
        for n in range(dwords):
            wave.scalars[first + n] = returned >> 32 * n & 0xFFFFFFFF


def _width(name: str) -> tuple[str, int, bool]:
    """(type, bytes, D16 high half) of a memory instruction's name."""
    match = re.search(r"_(ubyte|sbyte|byte|ushort|sshort|short|dword)(x(\d))?(_d16)?(_hi)?$", name)
    assert match is not None
    kind = match[1]
    if kind == "dword":
        return kind, 4 * int(match[3] or 1), False
    return kind + (match[4] or ""), WIDTH_BYTES[kind], bool(match[5])


def to_registers(data: bytes, kind: str, high: bool, old: int) -> list[int]:
    """The dwords that a loaded value makes; a D16 load keeps the other half of the old register."""
    if kind == "dword":
        return [int(word) for word in np.frombuffer(data, np.uint32)]
    value = int.from_bytes(data, "little", signed=kind.startswith("s") and not kind.startswith("short"))
    if "_d16" in kind or kind == "short_d16":
        value &= 0xFFFF
        return [(old & 0xFFFF) | value << 16 if high else (old & 0xFFFF0000) | value]
    return [value & 0xFFFFFFFF]


def vector_memory(wave: ReferenceWave, instruction: Instruction) -> None:
    """MUBUF, GLOBAL and SCRATCH loads and stores, LDS-DMA; atomics."""
    if "_atomic_" in instruction.mnemonic:
        memory_atomic(wave, instruction)
        return
    name, modifiers = instruction.mnemonic, instruction.modifiers
    kind, size, high = _width(name)
    store, to_lds = "_store_" in name, modifiers.lds or "_lds_" in name
    operands = list(instruction.sources)
    data_operand = operands.pop(0 if instruction.format is Format.MUBUF else 1) if store else None
    for lane in range(64):
        if not wave.exec_mask >> lane & 1:
            continue
        if store:
            assert data_operand is not None
            registers = [int(wave.read_vector(data_operand, dword)[lane]) for dword in range(max(size // 4, 1))]
            data = b"".join(word.to_bytes(4, "little") for word in registers)
            _store(wave, instruction, operands, lane, data[2 * high :][:size] if size < 4 else data)
            continue
        data = _load(wave, instruction, operands, lane, size)
        if to_lds:
            address = int(wave.scalars[124]) + modifiers.offset + lane * (16 if size == 12 else size)
            wave.memory.write_lds(address, data, instruction.pc)
            continue
        row = wave.row(instruction.destinations[0])
        for dword, value in enumerate(to_registers(data, kind, high, int(wave.vectors[row, lane]))):
            wave.vectors[row + dword, lane] = value


def _address(wave: ReferenceWave, instruction: Instruction, operands: list, lane: int) -> int:
    first, base = operands[0], operands[1]
    offset = instruction.modifiers.offset
    if base.kind is OperandKind.OFF:
        low, high = (int(wave.read_vector(first, dword)[lane]) for dword in range(2))
        return (low | high << 32) + offset
    return wave.read_scalar(base) + int(wave.read_vector(first)[lane]) + offset


def _buffer(wave: ReferenceWave, instruction: Instruction, operands: list, lane: int) -> tuple[int, int, int]:
    """(address, offset that is range-checked, limit) of a raw buffer access."""
    first, descriptor, soffset_operand = operands
    code = descriptor.index
    soffset = wave.read_scalar(soffset_operand)
    offset = instruction.modifiers.offset
    if instruction.modifiers.offen:
        offset += int(wave.read_vector(first)[lane])
    base, limit = wave.scalar64(code) & MASK48, int(wave.scalars[code + 2])
    if instruction.modifiers.idxen:
        index, stride = int(wave.read_vector(first)[lane]), int(wave.scalars[code + 1]) >> 16 & 0x3FFF
        if instruction.modifiers.offen:
            offset += int(wave.read_vector(first, 1)[lane]) - index
        place = soffset + (offset & 0xFFFFFFFF) + index * stride
        if stride:  # num_records counts strides
            return (base + place) & MASK48, 0 if index < limit else 1 << 40, 1 << 32
        return (base + place) & MASK48, place, limit
    offset = soffset + (offset & 0xFFFFFFFF)
    return (base + offset) & MASK48, offset, limit


def _pieces(instruction: Instruction, offset: int, limit: int, size: int) -> list[tuple[int, int, bool]]:
    """(byte within the access, bytes, in range): the whole access, or its dwords where the descriptor cuts it."""
    unit = min(size, 4)
    flags = [offset + start + unit <= limit for start in range(0, size, unit)]
    if all(flags) or not any(flags):
        return [(0, size, flags[0])]
    return [(number * unit, unit, flag) for number, flag in enumerate(flags)]


def _load(wave: ReferenceWave, instruction: Instruction, operands: list, lane: int, size: int) -> bytes:
    memory, pc = wave.memory, instruction.pc
    if instruction.format is Format.SCRATCH:
        start = _private_offset(wave, instruction, operands, lane)
        return bytes(memory.private(wave.index, lane)[start : start + size])
    if instruction.format is Format.GLOBAL:
        return memory.read(_address(wave, instruction, operands, lane), size, pc)
    address, offset, limit = _buffer(wave, instruction, operands, lane)
    pieces = _pieces(instruction, offset, limit, size)
    if not all(inside for _, _, inside in pieces):
        memory.findings["CLAMPED", pc] += 1
    return b"".join(
        memory.read(address + start & MASK48, count, pc) if inside else bytes(count) for start, count, inside in pieces
    )


def _store(wave: ReferenceWave, instruction: Instruction, operands: list, lane: int, data: bytes) -> None:
    memory, pc = wave.memory, instruction.pc
    if instruction.format is Format.SCRATCH:
        start = _private_offset(wave, instruction, operands, lane)
        memory.private(wave.index, lane)[start : start + len(data)] = data
        return
    if instruction.format is Format.GLOBAL:
        memory.write(_address(wave, instruction, operands, lane), data, pc)
        return
    address, offset, limit = _buffer(wave, instruction, operands, lane)
    pieces = _pieces(instruction, offset, limit, len(data))
    if not all(inside for _, _, inside in pieces):
        memory.findings["CLAMPED", pc] += 1
    for start, count, inside in pieces:
        if inside:
            memory.write(address + start & MASK48, data[start : start + count], pc)


def _private_offset(wave: ReferenceWave, instruction: Instruction, operands: list, lane: int) -> int:
    first, base = operands
    offset = instruction.modifiers.offset
    if first.kind is not OperandKind.OFF:
        offset += int(wave.read_vector(first)[lane])
    return offset if base.kind is OperandKind.OFF else offset + wave.read_scalar(base)


# LDS.

_LDS_BYTES = {"u8": 1, "i8": 1, "b8": 1, "u16": 2, "i16": 2, "b16": 2, "b32": 4, "b64": 8, "b96": 12, "b128": 16}


def lds_instruction(wave: ReferenceWave, instruction: Instruction) -> None:
    """DS."""
    name = instruction.mnemonic
    if "permute" in name or "swizzle" in name:
        _permute(wave, instruction)
    elif "_tr_" in name:
        _transposed(wave, instruction)
    elif re.match(r"ds_(read|write)", name):
        _read_or_write(wave, instruction)
    else:
        lds_atomic(wave, instruction)


def _offsets(instruction: Instruction, size: int) -> list[int]:
    modifiers = instruction.modifiers
    if re.search(r"(read|write)2", instruction.mnemonic):
        unit = size * (64 if "st64" in instruction.mnemonic else 1)
        return [modifiers.offset0 * unit, modifiers.offset1 * unit]
    return [modifiers.offset]


def _read_or_write(wave: ReferenceWave, instruction: Instruction) -> None:
    name = instruction.mnemonic
    match = re.match(r"ds_(read|write)(2st64|2)?_([ubi]\d+)(_d16)?(_hi)?$", name)
    assert match is not None
    size, high = _LDS_BYTES[match[3]], bool(match[5])
    dwords = max(size // 4, 1)
    addresses = wave.read_vector(instruction.sources[0])
    for part, offset in enumerate(_offsets(instruction, size)):
        for lane in np.flatnonzero(wave.active):
            address = int(addresses[lane]) + offset & 0xFFFFFFFF
            if match[1] == "write":
                data = b"".join(
                    int(wave.read_vector(instruction.sources[1 + part], dword)[lane]).to_bytes(4, "little")
                    for dword in range(dwords)
                )
                wave.memory.write_lds(address, data[2 * high :][:size], instruction.pc)
                continue
            data = wave.memory.read_lds(address, size, instruction.pc)
            row = wave.row(instruction.destinations[0]) + part * dwords
            kind = {"u": "ubyte", "i": "sbyte", "b": "dword"}[match[3][0]]
            if size < 4:
                kind += match[4] or ""
            for dword, value in enumerate(to_registers(data, kind, high, int(wave.vectors[row, lane]))):
                wave.vectors[row + dword, lane] = value


def _transposed(wave: ReferenceWave, instruction: Instruction) -> None:
    """Within 16 lanes: each lane loads a row of 8 bytes; every second (b8) or fourth (b16) lane's rows make up a tile
    column."""
    address = wave.read_vector(instruction.sources[0]).astype(np.int64) + instruction.modifiers.offset & 0xFFFFFFFF
    loaded = np.zeros((64, 8), np.uint8)
    for lane in np.flatnonzero(wave.active):
        loaded[lane] = np.frombuffer(wave.memory.read_lds(int(address[lane]), 8, instruction.pc), np.uint8)
    result = np.zeros((64, 8), np.uint8)
    for lane in range(64):
        group, column = lane // 16 * 16, lane % 16
        if instruction.mnemonic.endswith("b4"):
            for byte in range(8):
                nibbles = [int(loaded[group + 2 * byte + n, column // 2]) >> 4 * (column % 2) & 15 for n in range(2)]
                result[lane, byte] = nibbles[0] | nibbles[1] << 4
        elif instruction.mnemonic.endswith("b8"):
            for byte in range(8):
                result[lane, byte] = loaded[group + 2 * byte + column // 8, column % 8]
        else:
            for number in range(4):
                source = loaded[group + 4 * number + column // 4]
                result[lane, 2 * number : 2 * number + 2] = source[2 * (column % 4) : 2 * (column % 4) + 2]
    row = wave.row(instruction.destinations[0])
    wave.vectors[row : row + 2][:, wave.active] = result.view(np.uint32).T[:, wave.active]


def _permute(wave: ReferenceWave, instruction: Instruction) -> None:
    offset, name = instruction.modifiers.offset, instruction.mnemonic
    active = wave.active
    result = np.zeros(64, np.uint32)
    if "swizzle" in name:
        data = wave.read_vector(instruction.sources[0])
        for lane in range(64):
            if offset & 0x8000:
                source = lane // 4 * 4 + (offset >> 2 * (lane % 4) & 3)
            else:
                source = lane // 32 * 32 + (((lane % 32 & offset) | offset >> 5) ^ offset >> 10) % 32
            result[lane] = data[source] if active[source] else 0
    else:
        places = (wave.read_vector(instruction.sources[0]).astype(np.int64) + offset >> 2) % 64
        data = wave.read_vector(instruction.sources[1])
        for lane in range(64):
            if "bpermute" in name:
                result[lane] = data[places[lane]] if active[places[lane]] else 0
            elif active[lane]:
                result[places[lane]] = data[lane]
    wave.write_vector(instruction.destinations[0], result)
