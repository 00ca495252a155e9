"""Atomics of the reference executor, in Python integers and numpy scalars: from the ISA documents' pseudo code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from number_formats import encode_bfloat16

from backend.cdna.instruction import Format, Instruction, Operand

if TYPE_CHECKING:
    from reference_executor import ReferenceWave

MASK48 = (1 << 48) - 1


def _signed(x: int, bits: int) -> int:
    return x - (x >> (bits - 1) << bits)


def _float(x: int, bits: int) -> np.floating:
    return np.array(x, f"u{bits // 8}").view(f"f{bits // 8}")[()]


def _bits(x: np.floating) -> int:
    return int(np.array(x).view(f"u{x.dtype.itemsize}"))


def _flushed(x: np.floating, keep: bool) -> np.floating:
    small = x.dtype == np.float32 and not keep and abs(x) < np.float32(2.0**-126)
    return np.copysign(x.dtype.type(0), x) if small else x


def _packed(kind: str, old: int, data: int) -> int:
    result = 0
    for shift in (0, 16):
        a, b = old >> shift & 0xFFFF, data >> shift & 0xFFFF
        infinity, quiet = (0x7C00, 0x200) if kind == "pk_add_f16" else (0x7F80, 0x40)
        nans = [x for x in (a, b) if x & 0x7FFF > infinity]
        with np.errstate(all="ignore"):
            if nans:
                total = nans[0] | quiet  # the first one's sign and payload
            elif a & 0x7FFF == b & 0x7FFF == infinity and a != b:
                total = 0x8000 | infinity | quiet
            elif kind == "pk_add_f16":
                total = int((_float(a, 16) + _float(b, 16)).view(np.uint16))
            else:
                total = int(encode_bfloat16(np.array([_float(a << 16, 32) + _float(b << 16, 32)], np.float32))[0])
        result |= total << shift
    return result


def new_value(kind: str, bits: int, old: int, data: int, second: int, keep: bool) -> int:
    """kind: as the memory instructions name it, "_f" behind floating-point ones."""
    mask = (1 << bits) - 1
    if kind.startswith("pk_add"):
        return _packed(kind, old, data)
    if kind.endswith("_f"):
        x, y = _float(old, bits), _float(data, bits)
        with np.errstate(all="ignore"):
            if kind == "add_f":
                nans = [each for each, value in ((old, x), (data, y)) if value != value]
                if nans:
                    return nans[0] | 1 << (22 if bits == 32 else 51)  # the first one's sign and payload, quiet
                return _bits(_flushed(_flushed(x, keep) + _flushed(y, keep), keep))
            if kind == "cmpswap_f":
                return data if x == _float(second, bits) else old
            return data if (y < x if kind == "min_f" else y > x) else old
    return {
        "swap": lambda: data,
        "cmpswap": lambda: data if old == second else old,
        "add": lambda: old + data & mask,
        "sub": lambda: old - data & mask,
        "rsub": lambda: data - old & mask,
        "smin": lambda: min(old, data, key=lambda x: _signed(x, bits)),
        "umin": lambda: min(old, data),
        "smax": lambda: max(old, data, key=lambda x: _signed(x, bits)),
        "umax": lambda: max(old, data),
        "and": lambda: old & data,
        "or": lambda: old | data,
        "xor": lambda: old ^ data,
        "inc": lambda: 0 if old >= data else old + 1,
        "dec": lambda: data if old == 0 or old > data else old - 1,
        "mskor": lambda: old & ~data & mask | second,
        "wrap": lambda: old - data if old >= data else old + second & mask,
    }[kind]()


def _register(wave: ReferenceWave, operand: Operand, lane: int, first: int, dwords: int) -> int:
    return sum(int(wave.read_vector(operand, first + dword)[lane]) << 32 * dword for dword in range(dwords))


def _give(wave: ReferenceWave, instruction: Instruction, lane: int, old: int, dwords: int) -> None:
    if instruction.destinations:
        row = wave.row(instruction.destinations[0])
        for dword in range(dwords):
            wave.vectors[row + dword, lane] = old >> 32 * dword & 0xFFFFFFFF


def memory_atomic(wave: ReferenceWave, instruction: Instruction) -> None:
    """MUBUF and GLOBAL."""
    from reference_memory import _address, _buffer

    match = re.match(r"\w+?_atomic_(\w+?)(_x2|_f32|_f64|_f16|_bf16)?$", instruction.mnemonic)
    assert match is not None
    kind, suffix = match[1], match[2] or ""
    kind += suffix if suffix in ("_f16", "_bf16") else ("_f" if suffix in ("_f32", "_f64") else "")
    dwords = 2 if suffix in ("_x2", "_f64") else 1
    operands = list(instruction.sources)
    data = operands.pop(0 if instruction.format is Format.MUBUF else 1)
    memory, pc, size = wave.memory, instruction.pc, 4 * dwords
    lanes: list[tuple[int, int]] = []
    # Registers are read before any is written: the old value may go to what other lanes' data lie in.
    taken = {lane: (_register(wave, data, lane, 0, dwords), _second(wave, data, lane, dwords)) for lane in range(64)}
    for lane in range(64):
        if not wave.exec_mask >> lane & 1:
            continue
        if instruction.format is Format.MUBUF:
            address, offset, limit = _buffer(wave, instruction, operands, lane)
            if offset + size > limit:
                memory.findings["CLAMPED", pc] += 1
                _give(wave, instruction, lane, 0, dwords)
                continue
        else:
            address = _address(wave, instruction, operands, lane)
        lanes.append((lane, address))
    for _, address in lanes:
        memory.note_unwritten(address, size, pc)
    for lane, address in lanes:
        old = memory.peek(address, size)
        value, second = taken[lane]
        new = None if old is None else new_value(kind, 8 * size, old, value, second, False)
        memory.write(address, (new or 0).to_bytes(size, "little"), pc)
        poison = int.from_bytes(bytes([memory.space.poison]) * size, "little")
        _give(wave, instruction, lane, poison if old is None else old, dwords)


def _second(wave: ReferenceWave, data: Operand, lane: int, dwords: int) -> int:
    return _register(wave, data, lane, dwords, dwords) if data.count == 2 * dwords else 0


def lds_atomic(wave: ReferenceWave, instruction: Instruction) -> None:
    """DS."""
    name = instruction.mnemonic.removeprefix("ds_").replace("_rtn", "")
    stem, _, width = name.rpartition("_")
    dwords = 2 if width.endswith("64") else 1
    if stem == "pk_add":
        kind = name
    else:
        stem = {"wrxchg": "swap", "cmpst": "cmpswap"}.get(stem, stem)
        if stem in ("min", "max") and width[0] in "iu":
            stem = {"i": "s", "u": "u"}[width[0]] + stem
        kind = stem + ("_f" if width[0] == "f" else "")
    memory, size = wave.memory, 4 * dwords
    addresses = wave.read_vector(instruction.sources[0])
    operands = instruction.sources[1:]
    taken = {lane: [_register(wave, each, lane, 0, dwords) for each in operands] for lane in range(64)}
    for lane in np.flatnonzero(wave.active):
        address = int(addresses[lane]) + instruction.modifiers.offset & 0xFFFFFFFF
        if address + size > len(memory.lds):
            memory.findings["LDS_OUT_OF_BOUNDS", instruction.pc] += 1
            _give(wave, instruction, lane, 0, dwords)
            continue
        old = int.from_bytes(memory.lds[address : address + size].tobytes(), "little")
        values = taken[lane]
        data, second = (values[1], values[0]) if kind.startswith("cmpswap") else (values[0], values[-1])
        new = new_value(kind, 8 * size, old, data, second, wave.keep_denormals)
        memory.lds[address : address + size] = np.frombuffer(new.to_bytes(size, "little"), np.uint8)
        _give(wave, instruction, lane, old, dwords)
