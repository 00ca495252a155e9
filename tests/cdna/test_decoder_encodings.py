"""Every opcode of the tables, with random fields, against LLVM; and what must be refused."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from llvm_oracle import disassemble_one, without_zero_offset

from backend.cdna.decode import decode, decode_one
from backend.cdna.decode.tables import OPCODES, Opcode
from backend.cdna.decode.text import assembly_text
from backend.cdna.decode.vector import vop3_opcode
from backend.cdna.instruction import Instruction, UndecodableError
from backend.errors import UnmodelledError, UsageError

ARCHS = ("gfx942", "gfx950")
TRIES = 60
"""Random words for each opcode; most opcodes are hit within five, those with many fields that must be zero within forty."""

Words = list[int]
VOP3 = {number: opcode for number in range(0x400) if (opcode := vop3_opcode(number)[0]) is not None}
SCALED = {number: opcode for number, opcode in OPCODES["MAI"].items() if "s" in opcode.flags}


class Fields:
    """Random instruction fields, biased to values that instructions accept."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def bits(self, count: int) -> int:
        return self.random.getrandbits(count)

    def rarely(self, count: int, share: float = 0.3) -> int:
        """`count` random bits, or mostly zero."""
        return self.bits(count) if self.random.random() < share else 0

    def register(self) -> int:
        """A register number, mostly aligned for a pair or for four."""
        return self.bits(8) & ~self.random.choice((0, 1, 3))

    def maybe(self, value: int) -> int:
        return value if self.bits(1) else 0

    def scalar(self) -> int:
        """An 8-bit scalar source: register, special register, inline constant or literal."""
        special = self.random.choice((102, 104, 106, 107, 108, 112, 124, 126, 127, 235, 251, 252, 253, 255))
        constant = self.random.choice((self.random.randrange(128, 209), self.random.randrange(240, 249)))
        return self.random.choice((self.random.randrange(102), self.random.randrange(0, 102, 4), constant, special))

    def vector(self) -> int:
        """A 9-bit source."""
        return 256 + self.register() if self.random.random() < 0.6 else self.scalar()

    def three_vectors(self, count: int) -> int:
        return sum(self.vector() << (9 * place) for place in range(count))


def scalar_words(family: str) -> Callable[[Fields, int], Words]:
    def words(fields: Fields, number: int) -> Words:
        destination = fields.register() & 0x7F
        first = {
            "SOP2": 0x80000000 | number << 23 | destination << 16 | fields.scalar() << 8 | fields.scalar(),
            "SOP1": 0xBE800000 | destination << 16 | number << 8 | fields.scalar(),
            "SOPC": 0xBF000000 | number << 16 | fields.random.choice((fields.scalar(), fields.bits(4))) << 8 | fields.scalar(),
            "SOPK": 0xB0000000 | number << 23 | destination << 16 | fields.bits(16),
            "SOPP": 0xBF800000 | number << 16 | fields.random.choice((0, fields.bits(3), fields.bits(16))),
        }[family]
        return [first, fields.bits(32)]

    return words


def smem(fields: Fields, number: int) -> Words:
    immediate, indexed = fields.bits(1), fields.rarely(1)
    plain = fields.bits(1)
    if plain and 0x20 <= number < 0x80:
        return [0xC0000000 | number << 18 | (fields.register() & 0x7E) << 6 if number >= 0x24 else 0xC0000000 | number << 18, 0]
    first = 0xC0000000 | number << 18 | immediate << 17 | fields.rarely(1) << 16 | indexed << 14
    offset = fields.bits(21) if immediate else fields.scalar() & 0x7F
    return [
        first | (fields.register() & 0x7F) << 6 | fields.register() & 0x3F,
        offset | (fields.bits(7) << 25 if indexed else 0),
    ]


def short_word(family: str, number: int, fields: Fields, source: int) -> int:
    destination, second = fields.register(), fields.register()
    return {
        "VOP2": number << 25 | destination << 17 | second << 9 | source,
        "VOP1": 0x7E000000 | destination << 17 | number << 9 | source,
        "VOPC": 0x7C000000 | number << 17 | second << 9 | source,
    }[family]


def short(family: str) -> Callable[[Fields, int], Words]:
    def words(fields: Fields, number: int) -> Words:
        if not fields.bits(4):
            return [{"VOP1": 0x7E000000 | number << 9}.get(family, short_word(family, number, fields, 0)), 0]
        return [short_word(family, number, fields, fields.vector()), fields.random.choice((fields.bits(32), fields.bits(16)))]

    return words


def sdwa(family: str) -> Callable[[Fields, int], Words]:
    def words(fields: Fields, number: int) -> Words:
        selections = fields.random.choice((0x06, fields.bits(3)))
        if family == "VOPC":
            destination = fields.random.choice((0, 1 << 7 | fields.bits(6) << 1))
        else:
            whole = fields.random.choice((6, 6, fields.bits(3)))
            destination = whole | fields.random.choice((0, 2, 1)) << 3 | fields.rarely(1) << 5 | fields.rarely(2) << 6
        modifiers = fields.rarely(3) << 3 | fields.rarely(1) << 7
        second = 0 if family == "VOP1" else fields.random.choice((6, fields.bits(3))) | fields.rarely(3) << 3
        extra = fields.bits(8) & 0x7F | destination << 8 | (selections | modifiers) << 16 | second << 24
        return [short_word(family, number, fields, 249), extra]

    return words


def dpp(family: str) -> Callable[[Fields, int], Words]:
    def words(fields: Fields, number: int) -> Words:
        control = fields.random.choice(
            (
                fields.bits(8),
                0x100 | fields.bits(6),
                0x130 | fields.bits(2) << 2,
                0x140 | fields.bits(2),
                0x150 | fields.bits(4),
            )
        )
        modifiers = fields.rarely(2) | (fields.rarely(2) << 2 if family == "VOP2" else 0)
        masks = fields.random.choice((0xFF, fields.bits(8)))
        return [
            short_word(family, number, fields, 250),
            fields.register() | control << 8 | fields.bits(1) << 19 | modifiers << 20 | masks << 24,
        ]

    return words


def vop3(fields: Fields, number: int) -> Words:
    count = len(VOP3[number].sources)
    second_destination = len(VOP3[number].destinations) == 2
    upper = (fields.bits(6) << 1) << 8 if second_destination else fields.rarely(3) << 8 | fields.rarely(4) << 11
    first = 0xD0000000 | number << 16 | fields.register() | upper | fields.rarely(1) << 15
    return [first, fields.three_vectors(count) | fields.rarely(2) << 27 | fields.rarely(3) << 29]


def vop3p(fields: Fields, number: int) -> Words:
    count = len(OPCODES["VOP3P"][number].sources)
    used = (1 << count) - 1
    first = 0xD3800000 | number << 16 | fields.register() | (fields.rarely(3) & used) << 8 | (fields.rarely(3) & used) << 11
    second = fields.three_vectors(count) | fields.bits(2) << 27 | (fields.rarely(3) & used) << 29
    return [first | fields.bits(1) << 14 | fields.rarely(1) << 15, second]


def matrix_registers(fields: Fields) -> int:
    return sum((256 + (fields.bits(8) & 0xFC)) << (9 * place) for place in range(3))


def mai(fields: Fields, number: int) -> Words:
    single = len(OPCODES["MAI"][number].sources) == 1
    sources = fields.vector() if single else matrix_registers(fields)
    if not single and fields.rarely(1):
        sources = sources & 0x3FFFF | fields.random.choice((128, 242, 193)) << 18
    upper = 0 if single else fields.rarely(3) << 8 | fields.rarely(4) << 11
    negations = 0 if single else fields.rarely(3) << 29
    return [
        0xD3800000 | number << 16 | fields.bits(8) & 0xFC | upper | fields.bits(1) << 15,
        sources | fields.bits(2) << 27 | negations,
    ]


def scaled(fields: Fields, number: int) -> Words:
    """Registers stay below 224, for LLVM wants room for the widest operands before it narrows them to the format."""
    registers = sum((256 + fields.random.randrange(0, 224, 4)) << (9 * place) for place in range(3))
    formats = fields.random.randrange(5), fields.random.randrange(5)
    return [
        0xD3AC0000 | fields.bits(2) << 11,
        256 + fields.bits(8) | (256 + fields.bits(8)) << 9 | fields.bits(2) << 27,
        0xD3800000 | number << 16 | 1 << 11 | fields.random.randrange(0, 224, 4) | formats[0] << 8 | fields.bits(1) << 15,
        registers | fields.bits(2) << 27 | formats[1] << 29,
    ]


def local(fields: Fields, number: int) -> Words:
    opcode = OPCODES["DS"][number]
    sources = sum(fields.register() << (8 * place) for place in range(len(opcode.sources)))
    destination = fields.register() << 24 if opcode.destinations else 0
    offset = fields.rarely(16, 0.6) if opcode.sources else 0
    return [0xD8000000 | number << 17 | offset | fields.rarely(1) << 25, sources | destination]


def buffer(fields: Fields, number: int) -> Words:
    if "n" in OPCODES["MUBUF"][number].flags:
        return [0xE0000000 | number << 18 | fields.bits(2) << 14 | fields.bits(1) << 17, 0]
    modes = fields.bits(2)
    to_lds = fields.rarely(1)
    first = (
        0xE0000000
        | number << 18
        | fields.rarely(12)
        | modes << 12
        | fields.rarely(2) << 14
        | to_lds << 16
        | fields.rarely(1) << 17
    )
    data = 0 if to_lds else fields.register() << 8 | fields.rarely(1) << 23
    soffset = fields.scalar() if (code := fields.scalar()) == 255 else code
    return [first, (fields.register() if modes else 0) | data | fields.random.randrange(25) << 16 | soffset << 24]


def flat(fields: Fields, number: int) -> Words:
    opcode = OPCODES["FLAT"][number]
    segment = fields.random.choice((0, 1, 2, 2))
    sve = fields.bits(1) if segment == 1 else 0
    sc0 = fields.rarely(1)
    first = 0xDC000000 | number << 18 | fields.rarely(12 if segment == 0 else 13) | sve << 13 | segment << 14 | sc0 << 16
    stores = bool(opcode.sources)
    loads = bool(opcode.destinations) or ("r" in opcode.flags and sc0)
    base = fields.random.choice((0x7F, fields.bits(6) << 1)) if segment else 0
    address = fields.register() if segment != 1 or sve else 0
    data = (fields.register() << 8 if stores else 0) | (fields.register() << 24 if loads else 0)
    accumulator = fields.rarely(1) << 23 if stores or loads else 0
    return [first | fields.rarely(1) << 17 | fields.rarely(1) << 25, address | data | base << 16 | accumulator]


Case = tuple[str, dict[int, Opcode], Callable[[Fields, int], Words]]
CASES: list[Case] = [
    *((name, OPCODES[name], scalar_words(name)) for name in ("SOP1", "SOP2", "SOPC", "SOPK", "SOPP")),
    ("SMEM", OPCODES["SMEM"], smem),
    *((name, OPCODES[name], short(name)) for name in ("VOP1", "VOP2", "VOPC")),
    *((f"{name} SDWA", OPCODES[name], sdwa(name)) for name in ("VOP1", "VOP2", "VOPC")),
    *((f"{name} DPP", OPCODES[name], dpp(name)) for name in ("VOP1", "VOP2")),
    ("VOP3", VOP3, vop3),
    ("VOP3P", OPCODES["VOP3P"], vop3p),
    ("MAI", OPCODES["MAI"], mai),
    ("scaled MAI", SCALED, scaled),
    ("DS", OPCODES["DS"], local),
    ("MUBUF", OPCODES["MUBUF"], buffer),
    ("FLAT", OPCODES["FLAT"], flat),
]
EXTENSIONS = ("VOP1 SDWA", "VOP2 SDWA", "VOPC SDWA", "VOP1 DPP", "VOP2 DPP")
"""Forms that not every opcode of the table has."""


def decoded(words: Words, arch: str) -> Instruction | None:
    try:
        return decode_one(tuple(words), 0, arch)
    except UndecodableError:
        return None


@pytest.mark.parametrize(("family", "table", "make"), CASES, ids=[case[0] for case in CASES])
def test_every_opcode_with_random_fields_reads_as_llvm_reads_it(
    family: str, table: dict[int, Opcode], make: Callable[[Fields, int], Words]
) -> None:
    """What the decoder accepts, LLVM reads alike. (LLVM is only asked about those: some words that it lacks crash it.)"""
    fields = Fields(len(family))
    seen: set[int] = set()
    for number, opcode in table.items():
        for _ in range(TRIES):
            words = [*make(fields, number), 0, 0]
            for arch in ARCHS:
                instruction = decoded(words, arch)
                if instruction is None or (family == "VOP3" and opcode.mnemonic.startswith("v_cmpx")):
                    continue  # LLVM's assembler knows v_cmpx in VOP3, its disassembler does not
                seen.add(number)
                size, text = disassemble_one(arch, struct.pack(f"<{len(words)}I", *words))
                assert (instruction.size, assembly_text(instruction)) == (size, without_zero_offset(text)), [
                    f"{word:08x}" for word in words
                ]
    unseen = [opcode.mnemonic for number, opcode in table.items() if number not in seen]
    if family not in EXTENSIONS:
        assert all(name.startswith("v_cmpx") and family == "VOP3" for name in unseen), unseen
    assert len(seen) > len(table) // 3


REFUSED = [
    ("no encoding prefix", "gfx950", [0xF0000000, 0]),
    ("an opcode that no table has", "gfx950", [0xBF7F0000]),
    ("another architecture's instruction", "gfx942", [0x7E02B300]),  # v_permlane16_swap_b32
    ("the reserved source code 125", "gfx950", [0x8001007D]),
    ("an odd pair of scalar registers", "gfx950", [0xBE800103]),  # s_mov_b64 s[0:1], s[3:4]
    ("an odd pair of vector registers", "gfx950", [0xD8EC0000, 0x01000000]),  # ds_read_b64 v[1:2], v0
    ("a literal behind the end", "gfx950", [0x800100FF]),
    ("half an instruction", "gfx950", [0xD1FF0000]),
    ("omod where there is none", "gfx950", [0xD1FF0000, 0x0C0A0300]),  # v_add3_u32 with mul:2
    ("neg on an integer", "gfx950", [0xD1FF0000, 0x240A0300]),
    ("a third source of two", "gfx950", [0xD2850000, 0x04060300]),  # v_mul_lo_u32
    ("the global data share", "gfx950", [0xD86D0000, 0x00000000]),  # ds_read_b32 gds
    ("an atomic sum that returns into accumulators", "gfx950", [0xDD358000, 0x8CFFC448]),  # global_atomic_add_f32, as LLVM
    ("a matrix operand in scalar registers", "gfx950", [0xD3C50000, 0x040A0204]),
    ("block scales with nothing behind", "gfx950", [0xD3AC0000, 0x00020300]),
]


@pytest.mark.parametrize(("arch", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_by_name_with_pc_and_bytes(arch: str, words: Words) -> None:
    code = struct.pack(f"<{len(words) + 1}I", 0xBF800000, *words)  # behind one s_nop
    with pytest.raises(UndecodableError) as refusal:
        decode(code, arch)
    assert isinstance(refusal.value, UnmodelledError)
    assert refusal.value.exit_code == 3
    assert (refusal.value.arch, refusal.value.pc) == (arch, 4)
    assert "pc 0x4" in str(refusal.value)
    assert code[4:8].hex(" ") in str(refusal.value)


def test_misuse_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="gfx90a"):
        decode(bytes(4), "gfx90a")
    with pytest.raises(UsageError, match="whole dwords"):
        decode(bytes(3), "gfx942")


CONSTANTS = [
    # words, place of the source, value that the ISA gives ("Scalar ALU Operations": inline constants and literals)
    ("s_mov_b32 s0, -16", [0xBE8000D0], 0, 0xFFFFFFF0),
    ("s_mov_b64 s[0:1], -1", [0xBE8001C1], 0, 0xFFFFFFFFFFFFFFFF),
    ("s_mov_b64 s[0:1], 1.0", [0xBE8001F2], 0, 0x3FF0000000000000),
    ("s_mov_b64 s[0:1], 0x80000000", [0xBE8001FF, 0x80000000], 0, 0x80000000),
    ("s_ashr_i64 s[0:1], 0x80000000, s2", [0x908002FF, 0x80000000], 0, 0xFFFFFFFF80000000),
    ("v_add_f32_e32 v0, -0.5, v1", [0x020002F1], 0, 0xBF000000),
    ("v_add_f32_e32 v0, 0.15915494, v1", [0x020002F8], 0, 0x3E22F983),
    ("v_add_f16_e32 v0, 4.0, v1", [0x3E0002F6], 0, 0x4400),
    ("v_add_u16_e32 v0, -1, v1", [0x4C0002C1], 0, 0xFFFF),
    ("v_add_u32_e32 v0, 2.0, v1", [0x680002F4], 0, 0x40000000),
    ("v_cvt_f32_f64_e32 v0, 0x40590000", [0x7E001EFF, 0x40590000], 0, 0x4059000000000000),
    ("v_lshlrev_b64 v[0:1], 4, 64", [0xD28F0000, 0x00018084], 1, 64),
    ("v_pk_fma_f16 v0, 1.0, v1, v2", [0xD38E4000, 0x1C0A02F2], 0, 0x3C00),
    ("v_mfma_f32_16x16x32_fp8_fp8 v[0:3], v[0:1], v[0:1], 1.0", [0xD3F30000, 0x03CA0100], 2, 0x3F800000),
    ("s_cbranch_scc0 65535", [0xBF84FFFF], 0, 0),  # jumps to itself
]


@pytest.mark.parametrize(("text", "words", "place", "value"), CONSTANTS, ids=[case[0] for case in CONSTANTS])
def test_constants_have_the_bits_that_the_operand_yields(text: str, words: Words, place: int, value: int) -> None:
    (instruction,) = decode(struct.pack(f"<{len(words)}I", *words), "gfx950")
    assert assembly_text(instruction) == text
    assert instruction.sources[place].value == value
