"""One decoded CDNA3/CDNA4 instruction: what it is, what it names, how it is modified. Types only.

This module knows no encoding (backend/cdna/decode does) and no meaning (the machine does); it is what they share.
Terms are those of AMD's "AMD Instinct MI300" and "CDNA4" Instruction Set Architecture documents and of LLVM's
AMDGPU assembly syntax.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum

from backend.errors import UnmodelledError


class Format(StrEnum):
    """Encoding family (ISA document, "Microcode Formats"). SDWA and DPP words keep the format of what they extend."""

    SOP1 = "SOP1"
    SOP2 = "SOP2"
    SOPK = "SOPK"
    SOPC = "SOPC"
    SOPP = "SOPP"
    SMEM = "SMEM"
    VOP1 = "VOP1"
    VOP2 = "VOP2"
    VOPC = "VOPC"
    VOP3 = "VOP3"
    VOP3P = "VOP3P"
    MAI = "MAI"  # matrix instructions and v_accvgpr_*: VOP3P words whose operands may be AGPRs
    DS = "DS"
    MUBUF = "MUBUF"
    FLAT = "FLAT"
    GLOBAL = "GLOBAL"
    SCRATCH = "SCRATCH"


class OperandKind(StrEnum):
    """What an operand names. `Operand.index` counts within the kind."""

    SGPR = "sgpr"  # index 0..101
    VGPR = "vgpr"  # index 0..255
    AGPR = "agpr"  # index 0..255
    VCC = "vcc"  # index 0: low or both, 1: high
    EXEC = "exec"  # as VCC
    FLAT_SCRATCH = "flat_scratch"  # as VCC
    XNACK_MASK = "xnack_mask"  # as VCC
    M0 = "m0"
    SCC = "scc"  # only where LLVM writes it (src_scc)
    VCCZ = "vccz"
    EXECZ = "execz"
    TTMP = "ttmp"  # index 0..15
    APERTURE = "aperture"  # index 0: shared base, 1: shared limit, 2: private base, 3: private limit
    CONSTANT = "constant"  # inline constant or literal; index is the source code: 128..208, 240..248, 255 for a literal
    OFF = "off"  # an address operand that is absent, written "off"
    LABEL = "label"  # branch target; value is its pc
    SIMM = "simm"  # an immediate field that is no register: wait counts, hardware register, sleep time; value is the raw field


class Selection(IntEnum):
    """SDWA: which part of a dword an operand is (values as encoded)."""

    BYTE_0 = 0
    BYTE_1 = 1
    BYTE_2 = 2
    BYTE_3 = 3
    WORD_0 = 4
    WORD_1 = 5
    DWORD = 6


class Unused(IntEnum):
    """SDWA: what becomes of the destination bits outside dst_sel (values as encoded)."""

    PAD = 0
    SEXT = 1
    PRESERVE = 2


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand.

    kind, index: what is named; see OperandKind. count: dwords, 1 for everything that is narrower.
    value: for CONSTANT the bits that the operand yields, for this instruction's operand type: 32 bits, 64 where the
    instruction takes 64, and the 16-bit pattern zero-extended where it takes one half; for LABEL the target pc in bytes
    from the entry; for SIMM the raw field. Otherwise 0.
    neg, abs: VOP3, SDWA and DPP source modifiers (abs first, then neg). sel, sext: SDWA source selection, None without SDWA.
    """

    kind: OperandKind
    index: int = 0
    count: int = 1
    value: int = 0
    neg: bool = False
    abs: bool = False
    sel: Selection | None = None
    sext: bool = False


@dataclass(frozen=True, slots=True)
class Dpp:
    """Data-parallel primitive of a VOP's first source. ctrl, row_mask and bank_mask as encoded (9, 4 and 4 bits).

    bound_ctrl: True when lanes without a valid source read 0 instead of leaving the destination unwritten.
    """

    ctrl: int
    row_mask: int
    bank_mask: int
    bound_ctrl: bool


@dataclass(frozen=True, slots=True)
class Sdwa:
    """Sub-dword addressing of the destination. Both None for a comparison, which writes a mask."""

    dst_sel: Selection | None
    dst_unused: Unused | None


@dataclass(frozen=True, slots=True)
class Modifiers:
    """Everything an instruction says besides its operands. A default means absent.

    offset: bytes; signed for SMEM, FLAT, GLOBAL, SCRATCH. offset0, offset1: of two-address DS instructions, in elements.
    offen, idxen, lds: MUBUF address modes and LDS-DMA. nt, sc0, sc1: cache policy; glc: the same for SMEM.
    op_sel, op_sel_hi, neg_lo, neg_hi: one 0/1 a source, in operand order, and for a VOP3 with a destination half one more at
    the end of op_sel; empty for an instruction that has no such field.
    omod: 0 none, 1 times 2, 2 times 4, 3 divided by 2.
    cbsz, abid, blgp: MAI broadcast, negation and (f8f6f4) operand format fields as encoded.
    bitop3: truth table of v_bitop3_*, bit (a << 2 | b << 1 | c) is the result for these bits of the three sources.
    vmcnt, expcnt, lgkmcnt: s_waitcnt thresholds; None where the field is at its maximum, that is not waited for.
    """

    offset: int = 0
    offset0: int = 0
    offset1: int = 0
    offen: bool = False
    idxen: bool = False
    lds: bool = False
    glc: bool = False
    nt: bool = False
    sc0: bool = False
    sc1: bool = False
    op_sel: tuple[int, ...] = ()
    op_sel_hi: tuple[int, ...] = ()
    neg_lo: tuple[int, ...] = ()
    neg_hi: tuple[int, ...] = ()
    clamp: bool = False
    omod: int = 0
    dpp: Dpp | None = None
    sdwa: Sdwa | None = None
    cbsz: int = 0
    abid: int = 0
    blgp: int = 0
    bitop3: int = 0
    vmcnt: int | None = None
    expcnt: int | None = None
    lgkmcnt: int | None = None


NO_MODIFIERS = Modifiers()


class Suffix(Enum):
    """What LLVM appends to the mnemonic to tell the encoding."""

    NONE = ""
    E32 = "_e32"
    E64 = "_e64"
    SDWA = "_sdwa"
    DPP = "_dpp"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction at one place of a kernel.

    pc: byte offset from the kernel's entry. size: bytes (4, 8, 12 or 16). mnemonic: as LLVM writes it, without `suffix`.
    destinations, sources: what LLVM writes, in its order, destinations first; registers used without being written
    (SCC, VCC, EXEC, M0, an accumulator that is also read) are told by backend.cdna.flow. Both operands of a swap that
    LLVM writes second stay a source here.
    """

    pc: int
    size: int
    mnemonic: str
    format: Format
    destinations: tuple[Operand, ...]
    sources: tuple[Operand, ...]
    modifiers: Modifiers = NO_MODIFIERS
    suffix: Suffix = Suffix.NONE

    @property
    def next_pc(self) -> int:
        """The pc behind this instruction."""
        return self.pc + self.size


class UndecodableError(UnmodelledError):
    """Bytes at `pc` that are no instruction of `arch` known here. The kernel cannot be run, nor judged."""

    def __init__(self, arch: str, pc: int, code: bytes, known: str) -> None:
        self.arch = arch
        self.pc = pc
        self.code = code
        super().__init__(
            f"instruction at pc {pc:#x}: given bytes {code.hex(' ')} ({known}); allowed: the {arch} instructions of "
            f"backend/cdna/decode; report the code object, nothing of it was run"
        )
