"""What each instruction reads and writes, implicit registers included, as sets of register units.

Knows the data flow of the ISA, not its arithmetic and not the order of a kernel's instructions (backend/cdna/flow does).
A set of units is an int used as a bit set: one bit a 32-bit register, numbered as scalar source codes are where they exist:

    0..101   SGPRs            106, 107  VCC          126, 127  EXEC      256..511  VGPRs
    102, 103 FLAT_SCRATCH     108..123  TTMP         128       SCC       512..767  AGPRs
    104, 105 XNACK_MASK       124       M0           129       MODE register
    130 gpr-index mode (on or off, which operands)    131 all of LDS      132 all of a lane's scratch memory

Global memory is no unit: whether a kernel loads what it stored itself is for the machine's memory to see.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from backend.cdna.instruction import Format, Instruction, Modifiers, Operand, OperandKind, Unused

FLAT_SCRATCH, XNACK_MASK, VCC, TTMP, M0, EXEC = 102, 104, 106, 108, 124, 126
SCC, MODE, GPR_INDEX, LDS, SCRATCH = 128, 129, 130, 131, 132
VGPR, AGPR = 256, 512
VCC_BITS, EXEC_BITS = 3 << VCC, 3 << EXEC
VECTOR_BITS = ((1 << 512) - 1) << VGPR
"""All VGPRs and AGPRs: the units whose writes EXEC masks."""

_BASES = {
    OperandKind.SGPR: 0,
    OperandKind.VGPR: VGPR,
    OperandKind.AGPR: AGPR,
    OperandKind.VCC: VCC,
    OperandKind.EXEC: EXEC,
    OperandKind.FLAT_SCRATCH: FLAT_SCRATCH,
    OperandKind.XNACK_MASK: XNACK_MASK,
    OperandKind.TTMP: TTMP,
    OperandKind.M0: M0,
    OperandKind.SCC: SCC,
}
VECTOR_FORMATS = frozenset({Format.VOP1, Format.VOP2, Format.VOPC, Format.VOP3, Format.VOP3P, Format.MAI})
"""Formats of the vector ALU, matrix instructions included."""

_MEMORY_FORMATS = frozenset({Format.MUBUF, Format.FLAT, Format.GLOBAL, Format.SCRATCH})
SKIPPED_FORMATS = VECTOR_FORMATS | _MEMORY_FORMATS | {Format.DS}
"""Formats that VSKIP skips."""


@dataclass(frozen=True, slots=True)
class Effects:
    """Units that one instruction reads and writes.

    uses: everything read. defs: everything that may be written. whole: the part of defs whose old value is gone afterwards,
    given that all lanes are enabled. masked: EXEC decides which lanes of the written vector registers change.
    address: the part of uses that says where memory is accessed and by which lanes (0 for what accesses none).
    """

    uses: int
    defs: int
    whole: int
    masked: bool
    address: int


@dataclass(frozen=True, slots=True)
class Traits:
    """What follows from the mnemonic alone. Implicit units read and written; whether the destination is also read."""

    uses: int
    defs: int
    reads_destination: bool
    swaps: bool
    masked: bool


_SCC_WRITERS = re.compile(
    r"s_(add_|sub_|addc|subb|min|max|and|or|xor|nand|nor|xnor|not|lshl|lshr|ashr|bfe|absdiff|abs_|wqm|quadmask|bcnt|cmp|bitcmp|addk)"
)
_SCC_READERS = re.compile(r"s_(addc|subb|cselect|cmov|cbranch_scc)")
_EXEC_WRITERS = re.compile(r"s_.*(saveexec|wrexec)|v_cmpx")
_ACCUMULATING = re.compile(r"v_(fmac|mac|dot2c|dot4c|dot8c|pk_fmac|smfmac|fma_mixlo|fma_mixhi|writelane)")
_PARTIAL_SCALAR = re.compile(r"s_(bitset|cmov|addk|mulk|cmovk)")
_WITHOUT_EXEC = re.compile(r"v_(mfma|smfmac|readlane|writelane|nop)")
_D16 = re.compile(r"_d16(_hi)?$")


@cache
def traits(mnemonic: str, form: Format) -> Traits:
    """Traits of a mnemonic; cached, for there are few."""
    uses = defs = 0
    vector = form in VECTOR_FORMATS
    if _SCC_WRITERS.match(mnemonic):
        defs |= 1 << SCC
    if _SCC_READERS.match(mnemonic):
        uses |= 1 << SCC
    if _EXEC_WRITERS.match(mnemonic):
        defs |= EXEC_BITS
    if mnemonic.startswith(("v_div_fmas", "s_cbranch_vcc")):
        uses |= VCC_BITS
    with_exec = (vector and not _WITHOUT_EXEC.match(mnemonic)) or form in _MEMORY_FORMATS or form is Format.DS
    if with_exec or "exec" in mnemonic:
        uses |= EXEC_BITS
    if vector:
        uses |= 1 << MODE | 1 << GPR_INDEX
    if mnemonic.startswith("s_set_gpr_idx"):
        defs |= 1 << GPR_INDEX | 1 << M0
        uses |= 1 << M0
        if mnemonic == "s_set_gpr_idx_off":
            uses, defs = 0, 1 << GPR_INDEX
    if mnemonic.startswith(("s_setreg", "s_setvskip")):
        uses, defs = uses | 1 << MODE, defs | 1 << MODE
    if mnemonic == "s_getreg_b32":
        uses |= 1 << MODE
    if mnemonic.startswith(("s_movrel", "s_sendmsg")) or "_lds_" in mnemonic:
        uses |= 1 << M0
    lds_uses, lds_defs = _local_memory(mnemonic, form)
    reads_destination = bool(_ACCUMULATING.match(mnemonic) or _PARTIAL_SCALAR.match(mnemonic) or _D16.search(mnemonic))
    return Traits(
        uses | lds_uses,
        defs | lds_defs,
        reads_destination and not mnemonic.startswith("buffer_store") and "_store_" not in mnemonic,
        mnemonic == "v_swap_b32" or "permlane" in mnemonic,
        with_exec,
    )


def _local_memory(mnemonic: str, form: Format) -> tuple[int, int]:
    """LDS and scratch units that an instruction reads and writes; a flat access may be any of the two, or global."""
    units = {Format.DS: 1 << LDS, Format.FLAT: 1 << LDS | 1 << SCRATCH, Format.SCRATCH: 1 << SCRATCH}.get(form, 0)
    if not units:
        return 0, 1 << LDS if "_lds_" in mnemonic else 0
    if mnemonic in ("ds_bpermute_b32", "ds_permute_b32", "ds_swizzle_b32", "ds_nop"):
        return 0, 0
    if "_lds_" in mnemonic:
        return units, 1 << LDS
    reads = "_read" in mnemonic or "_load" in mnemonic
    writes = "_write" in mnemonic or "_store" in mnemonic
    return (0 if writes else units), (0 if reads else units)


def operand_units(operand: Operand) -> int:
    """Units that an operand names; 0 for constants, labels and immediates."""
    base = _BASES.get(operand.kind)
    if base is not None:
        return ((1 << operand.count) - 1) << (base + operand.index)
    if operand.kind is OperandKind.VCCZ:
        return VCC_BITS
    return EXEC_BITS if operand.kind is OperandKind.EXECZ else 0


def effects(instruction: Instruction) -> Effects:
    """Effects outside gpr-index mode; backend.cdna.flow adds what that mode changes."""
    mnemonic, form, modifiers = instruction.mnemonic, instruction.format, instruction.modifiers
    about = traits(mnemonic, form)
    sources = 0
    for operand in instruction.sources:
        sources |= operand_units(operand)
    written = 0
    for operand in instruction.destinations:
        written |= operand_units(operand)
    uses, defs = about.uses | sources, about.defs | written
    whole = written | (about.defs & ~(1 << MODE | 1 << LDS | 1 << SCRATCH))
    if about.swaps:
        uses, defs, whole = uses | written, defs | sources, whole | sources
    elif about.reads_destination or _keeps_part(instruction):
        uses |= written
    if modifiers.lds:
        uses, defs = uses | 1 << M0, defs | 1 << LDS
    address = 0
    if form in _MEMORY_FORMATS or form is Format.SMEM or form is Format.DS:
        address = about.uses & ~(1 << LDS | 1 << SCRATCH) | (1 << M0 if modifiers.lds else 0)
        for operand in address_operands(instruction):
            address |= operand_units(operand)
    return Effects(uses, defs, whole, about.masked, address)


def _data_places(instruction: Instruction) -> slice:
    """Which sources of a memory instruction say what is stored, or given to an atomic."""
    form, mnemonic = instruction.format, instruction.mnemonic
    if form is Format.DS:
        return slice(1, None)
    if "_store_" not in mnemonic and "_atomic_" not in mnemonic:
        return slice(0, 0)
    return slice(0, 1) if form in (Format.MUBUF, Format.SMEM) else slice(1, 2)


def address_operands(instruction: Instruction) -> tuple[Operand, ...]:
    """The sources of a memory instruction that say where: vaddr, descriptor or base, scalar offset."""
    sources = list(instruction.sources)
    del sources[_data_places(instruction)]
    return tuple(sources)


def _keeps_part(instruction: Instruction) -> bool:
    """Whether a part of the destination survives: a half or byte by op_sel or SDWA, or lanes that DPP does not write."""
    modifiers = instruction.modifiers
    if modifiers.sdwa is not None:
        return modifiers.sdwa.dst_unused is Unused.PRESERVE
    if modifiers.dpp is not None:
        return _dpp_skips_lanes(modifiers)
    return instruction.format is Format.VOP3 and bool(modifiers.op_sel)


def _dpp_skips_lanes(modifiers: Modifiers) -> bool:
    dpp = modifiers.dpp
    assert dpp is not None
    within_row = dpp.ctrl < 0x100 or 0x121 <= dpp.ctrl <= 0x12F or dpp.ctrl in (0x140, 0x141) or dpp.ctrl >= 0x150
    return dpp.row_mask != 15 or dpp.bank_mask != 15 or not (within_row or dpp.bound_ctrl)


def uses(instruction: Instruction) -> int:
    """The units that are read."""
    return effects(instruction).uses


def defs(instruction: Instruction) -> int:
    """Units that may be written."""
    return effects(instruction).defs


def units(bits: int) -> Iterator[int]:
    """The unit numbers of a set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def unit_name(unit: int) -> str:
    """A unit as assembly writes it."""
    if unit >= AGPR:
        return f"a{unit - AGPR}"
    if unit >= VGPR:
        return f"v{unit - VGPR}"
    named = {SCC: "scc", MODE: "mode", GPR_INDEX: "gpr_index", LDS: "lds", SCRATCH: "scratch", M0: "m0"}
    if unit in named:
        return named[unit]
    for first, name in ((EXEC, "exec"), (VCC, "vcc"), (XNACK_MASK, "xnack_mask"), (FLAT_SCRATCH, "flat_scratch")):
        if unit in (first, first + 1):
            return f"{name}_{('lo', 'hi')[unit - first]}"
    return f"ttmp{unit - TTMP}" if unit >= TTMP else f"s{unit}"
