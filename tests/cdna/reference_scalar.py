"""Scalar instructions of the reference executor, in Python integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.cdna.instruction import Instruction, OperandKind

if TYPE_CHECKING:
    from reference_executor import ReferenceWave

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def signed(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (x >> (bits - 1) << bits)


def lowest(x: int) -> int:
    return (x & -x).bit_length() - 1


def highest(x: int, bits: int) -> int:
    return bits - x.bit_length() if x else -1


def bfe(x: int, control: int, bits: int, is_signed: bool) -> int:
    offset, width = control & (bits - 1), control >> 16 & 0x7F
    if width == 0:
        return 0
    if is_signed:
        value = signed(x, bits) >> offset
        return signed(value, width) if width < bits else value
    return x >> offset & ((1 << width) - 1)


# (result, SCC) of what sets SCC by itself.
WITH_SCC: dict[str, Callable[[int, int, int], tuple[int, int]]] = {
    "s_add_u32": lambda a, b, c: (a + b, a + b > M32),
    "s_sub_u32": lambda a, b, c: (a - b, b > a),
    "s_addc_u32": lambda a, b, c: (a + b + c, a + b + c > M32),
    "s_subb_u32": lambda a, b, c: (a - b - c, b + c > a),
    "s_add_i32": lambda a, b, c: (a + b, signed(a) + signed(b) != signed(a + b)),
    "s_sub_i32": lambda a, b, c: (a - b, signed(a) - signed(b) != signed(a - b)),
    "s_min_i32": lambda a, b, c: (min(signed(a), signed(b)), signed(a) < signed(b)),
    "s_min_u32": lambda a, b, c: (min(a, b), a < b),
    "s_max_i32": lambda a, b, c: (max(signed(a), signed(b)), signed(a) >= signed(b)),
    "s_max_u32": lambda a, b, c: (max(a, b), a >= b),
    **{f"s_lshl{n}_add_u32": lambda a, b, c, n=n: ((a << n) + b, (a << n) + b > M32) for n in (1, 2, 3, 4)},
}

# Results whose SCC is "not zero".
NONZERO: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "andn2": lambda a, b: a & ~b,
    "orn2": lambda a, b: a | ~b,
    "nand": lambda a, b: ~(a & b),
    "nor": lambda a, b: ~(a | b),
    "xnor": lambda a, b: ~(a ^ b),
    "not": lambda a, b: ~a,
}
NONZERO_32: dict[str, Callable[[int, int], int]] = {
    "s_lshl_b32": lambda a, b: a << (b & 31),
    "s_lshr_b32": lambda a, b: a >> (b & 31),
    "s_ashr_i32": lambda a, b: signed(a) >> (b & 31),
    "s_abs_i32": lambda a, b: abs(signed(a)),
    "s_absdiff_i32": lambda a, b: abs(signed(signed(a) - signed(b))),
    "s_bfe_u32": lambda a, b: bfe(a, b, 32, False),
    "s_bfe_i32": lambda a, b: bfe(a, b, 32, True),
    "s_bcnt0_i32_b32": lambda a, b: 32 - a.bit_count(),
    "s_bcnt1_i32_b32": lambda a, b: a.bit_count(),
    "s_bcnt0_i32_b64": lambda a, b: 64 - a.bit_count(),
    "s_bcnt1_i32_b64": lambda a, b: a.bit_count(),
    "s_quadmask_b32": lambda a, b: sum(1 << quad for quad in range(8) if a >> 4 * quad & 15),
    "s_quadmask_b64": lambda a, b: sum(1 << quad for quad in range(16) if a >> 4 * quad & 15),
    "s_wqm_b32": lambda a, b: sum(15 << 4 * quad for quad in range(8) if a >> 4 * quad & 15),
    "s_wqm_b64": lambda a, b: sum(15 << 4 * quad for quad in range(16) if a >> 4 * quad & 15),
}
NONZERO_64: dict[str, Callable[[int, int], int]] = {
    "s_lshl_b64": lambda a, b: a << (b & 63),
    "s_lshr_b64": lambda a, b: a >> (b & 63),
    "s_ashr_i64": lambda a, b: signed(a, 64) >> (b & 63),
    "s_bfe_u64": lambda a, b: bfe(a, b, 64, False),
    "s_bfe_i64": lambda a, b: bfe(a, b, 64, True),
}
PLAIN: dict[str, Callable[[int, int], int]] = {
    "s_mov_b32": lambda a, b: a,
    "s_mov_b64": lambda a, b: a,
    "s_mul_i32": lambda a, b: a * b,
    "s_mul_hi_u32": lambda a, b: a * b >> 32,
    "s_mul_hi_i32": lambda a, b: signed(a) * signed(b) >> 32,
    "s_bfm_b32": lambda a, b: ((1 << (a & 31)) - 1) << (b & 31),
    "s_bfm_b64": lambda a, b: ((1 << (a & 63)) - 1) << (b & 63),
    "s_pack_ll_b32_b16": lambda a, b: (a & 0xFFFF) | b << 16,
    "s_pack_lh_b32_b16": lambda a, b: (a & 0xFFFF) | (b & 0xFFFF0000),
    "s_pack_hh_b32_b16": lambda a, b: a >> 16 | (b & 0xFFFF0000),
    "s_brev_b32": lambda a, b: int(f"{a:032b}"[::-1], 2),
    "s_brev_b64": lambda a, b: int(f"{a:064b}"[::-1], 2),
    "s_ff0_i32_b32": lambda a, b: lowest(~a & M32),
    "s_ff1_i32_b32": lambda a, b: lowest(a),
    "s_ff0_i32_b64": lambda a, b: lowest(~a & M64),
    "s_ff1_i32_b64": lambda a, b: lowest(a),
    "s_flbit_i32_b32": lambda a, b: highest(a, 32),
    "s_flbit_i32_b64": lambda a, b: highest(a, 64),
    "s_flbit_i32": lambda a, b: highest(~a & M32 if a >> 31 else a, 32),
    "s_flbit_i32_i64": lambda a, b: highest(~a & M64 if a >> 63 else a, 64),
    "s_bitreplicate_b64_b32": lambda a, b: sum(3 << 2 * bit for bit in range(32) if a >> bit & 1),
    "s_sext_i32_i8": lambda a, b: signed(a, 8),
    "s_sext_i32_i16": lambda a, b: signed(a, 16),
}
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "lg": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
}
SAVEEXEC: dict[str, Callable[[int, int], int]] = {
    "and": lambda s, e: s & e,
    "or": lambda s, e: s | e,
    "xor": lambda s, e: s ^ e,
    "andn2": lambda s, e: s & ~e,
    "orn2": lambda s, e: s | ~e,
    "nand": lambda s, e: ~(s & e),
    "nor": lambda s, e: ~(s | e),
    "xnor": lambda s, e: ~(s ^ e),
    "andn1": lambda s, e: ~s & e,
    "orn1": lambda s, e: ~s | e,
}


def scalar_instruction(wave: ReferenceWave, instruction: Instruction) -> None:
    """SOP1, SOP2, SOPC and SOPK."""
    name = instruction.mnemonic
    if name.startswith("s_set_gpr_idx"):
        _gpr_index(wave, instruction)
        return
    if name.startswith(("s_getreg", "s_setreg")):
        _hardware_register(wave, instruction)
        return
    sources = [_source(wave, instruction, place) for place in range(len(instruction.sources))]
    if name == "s_getpc_b64":  # the code of a test begins at the image's base
        wave.write_scalar(instruction.destinations[0], (0x7F << 40) + instruction.pc + instruction.size)
        return
    if name == "s_setvskip":
        wave.mode = (wave.mode & ~(1 << 28)) | (sources[0] >> (sources[1] & 31) & 1) << 28
        return
    if name.startswith(("s_cmp", "s_bitcmp")):
        _compare(wave, name, sources)
        return
    name = {"s_movk_i32": "s_mov_b32", "s_cmovk_i32": "s_cmov_b32", "s_addk_i32": "s_add_i32", "s_mulk_i32": "s_mul_i32"}.get(
        name, name
    )
    destination = instruction.destinations[0]
    if instruction.mnemonic in ("s_addk_i32", "s_mulk_i32"):
        sources.insert(0, wave.read_scalar(destination))
    a, b = (*sources, 0, 0)[:2]
    stem, _, width = name.removeprefix("s_").rpartition("_")
    if name in WITH_SCC:
        result, scc = WITH_SCC[name](a, b, wave.scc)
        wave.scc = int(scc)
    elif stem.endswith(("_saveexec", "_wrexec")):
        _save_exec(wave, instruction, stem, a)
        return
    elif stem in NONZERO or name in NONZERO_32 or name in NONZERO_64:
        function = NONZERO.get(stem) or NONZERO_32.get(name) or NONZERO_64[name]
        mask = M32 if destination.count == 1 else M64
        result = function(a, b) & mask
        wave.scc = int(result != 0)
    elif stem == "cselect":
        result = a if wave.scc else b
    elif stem == "cmov":
        if not wave.scc:
            return
        result = a
    elif stem in ("bitset0", "bitset1"):
        old = wave.read_scalar(destination)
        bit = 1 << (a & (31 if width == "b32" else 63))
        result = old | bit if stem == "bitset1" else old & ~bit
    else:
        result = PLAIN[name](a, b)
    wave.write_scalar(destination, result & (M32 if destination.count == 1 else M64))


def _source(wave: ReferenceWave, instruction: Instruction, place: int) -> int:
    operand = instruction.sources[place]
    value = wave.read_scalar(operand)
    if operand.kind is OperandKind.SIMM and not instruction.mnemonic.endswith("_u32"):
        return signed(value, 16) & M32
    return value


def _compare(wave: ReferenceWave, name: str, sources: list[int]) -> None:
    a, b = sources
    parts = name.split("_")
    if parts[1].startswith("bitcmp"):
        bit = a >> (b & (63 if parts[2] == "b64" else 31)) & 1
        wave.scc = int(bit == int(parts[1][-1]))
        return
    if parts[3] == "i32":
        a, b = signed(a), signed(b)
    wave.scc = int(COMPARE[parts[2]](a, b))


def _save_exec(wave: ReferenceWave, instruction: Instruction, stem: str, source: int) -> None:
    old = wave.exec_mask
    new = SAVEEXEC[stem.rpartition("_")[0]](source, old) & M64
    wave.write_scalar(instruction.destinations[0], new if stem.endswith("_wrexec") else old)
    wave.set_scalar64(126, new)
    wave.scc = int(new != 0)


def _gpr_index(wave: ReferenceWave, instruction: Instruction) -> None:
    m0 = int(wave.scalars[124])
    name = instruction.mnemonic
    if name == "s_set_gpr_idx_on":
        index = wave.read_scalar(instruction.sources[0]) & 0xFF
        wave.scalars[124] = (m0 & 0xFFFF0F00) | index | instruction.sources[1].value << 12
        wave.gpr_index = True
    elif name == "s_set_gpr_idx_off":
        wave.gpr_index = False
    elif name == "s_set_gpr_idx_idx":
        wave.scalars[124] = (m0 & 0xFFFFFF00) | (wave.read_scalar(instruction.sources[0]) & 0xFF)
    else:
        wave.scalars[124] = (m0 & 0xFFFF0FFF) | (instruction.sources[0].value & 15) << 12


def _hardware_register(wave: ReferenceWave, instruction: Instruction) -> None:
    writes = instruction.mnemonic.startswith("s_setreg")
    field = instruction.destinations[0].value if writes else instruction.sources[0].value
    offset, size = field >> 6 & 31, (field >> 11 & 31) + 1
    mask = ((1 << size) - 1) << offset
    if writes:
        value = wave.read_scalar(instruction.sources[0])
        mode = (wave.mode & ~mask) | (value << offset & mask)
        if mode & ~(0x3F0 | 1 << 23) == 0 and mode >> 4 & 3 in (0, 3) and mode >> 6 & 3 == 3:
            wave.mode = mode  # anything else has no model: the machine stops
    else:
        wave.write_scalar(instruction.destinations[0], (wave.mode & mask) >> offset)
