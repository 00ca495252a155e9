"""A kernel's instructions, or their address slice, as the arrays that the machine executes.

Skipped instructions have no record, branches go to record indices, constants have their places among the scalars. Compiled
once a
kernel and kept; knows nothing of a launch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from backend.cdna.code_object import Kernel
from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.cdna.effects import AGPR, SKIPPED_FORMATS, VECTOR_FORMATS, VGPR, units
from backend.cdna.encode import Constants, Encoded, NotModelledError, encode
from backend.cdna.execute import layout as at
from backend.cdna.execute.modifiers import modified
from backend.cdna.flow import FlowGraph
from backend.cdna.instruction import Dpp, Format, Instruction, Modifiers, OperandKind
from backend.cdna.slice import Action, slice_kernel
from backend.cdna.timing import issue_cost
from backend.errors import UnmodelledError

_SELECT_DWORD = 6

IMAGE_BASE = 0x7F << 40
"""Address of virtual address 0 of a code object's image: where its code and constants lie."""


@dataclass(frozen=True, slots=True)
class Unmodelled:
    """An instruction that the machine cannot execute: where, what, and what is missing."""

    pc: int
    text: str
    reason: str


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled kernel.

    records: int32 [records, RECORD_WORDS]; modifiers: int32 [rows, MODIFIER_WORDS]; constants: (scalar index, 64-bit value).
    accesses: original index of each instruction that accesses global memory or LDS. originals: original index of each record.
    reset_rows: vector registers that may be read before they are written: zeroed at the start of a wave.
    uses_lds: whether LDS is read or written, in a slice because an address depends on data that went through it.
    """

    arch: str
    instructions: tuple[Instruction, ...]
    records: NDArray[np.int32]
    modifiers: NDArray[np.int32]
    constants: tuple[tuple[int, int], ...]
    accesses: tuple[int, ...]
    originals: NDArray[np.int32]
    reset_rows: NDArray[np.int32]
    uses_lds: bool
    sliced: bool


@lru_cache(maxsize=64)
def compile_kernel(kernel: Kernel, sliced: bool) -> Program:
    """Compile a kernel, or its address slice. Raises UnmodelledError naming every instruction that has no model."""
    instructions = decode(kernel.text, kernel.arch)
    actions = slice_kernel(kernel).actions if sliced else (Action.EXECUTE,) * len(instructions)
    return compile_program(instructions, kernel.arch, actions, sliced, IMAGE_BASE + kernel.entry)


def compile_program(
    instructions: tuple[Instruction, ...],
    arch: str,
    actions: tuple[Action, ...] | None = None,
    sliced: bool = False,
    text_address: int = IMAGE_BASE,
) -> Program:
    """Compile instructions that begin at pc 0. actions: what to do with each, by default everything is executed.
    text_address: of pc 0."""
    return _Compiler(instructions, arch, actions or (Action.EXECUTE,) * len(instructions), sliced, text_address).program()


class _Compiler:
    def __init__(
        self, instructions: tuple[Instruction, ...], arch: str, actions: tuple[Action, ...], sliced: bool, text_address: int
    ) -> None:
        self.instructions = instructions
        self.arch = arch
        self.actions = actions
        self.sliced = sliced
        self.constants = Constants(text_address)
        self.skips = any(instruction.mnemonic == "s_setvskip" for instruction in instructions)
        self.zero = self.constants.place(0)
        self.encoded: list[tuple[int, Encoded, int]] = []  # original index, fields, modifier row or -1
        self.modifiers: list[NDArray[np.int32]] = []
        self.accesses: list[int] = []
        self.refused: list[Unmodelled] = []

    def program(self) -> Program:
        indexed = _indexed_region(self.instructions)
        for number, (instruction, action) in enumerate(zip(self.instructions, self.actions, strict=True)):
            if action is Action.SKIP:
                continue
            try:
                self._add(number, instruction, action, indexed.get(number, 0))
            except NotModelledError as error:
                self.refused.append(Unmodelled(instruction.pc, assembly_text(instruction), str(error)))
        if self.refused:
            raise _refusal(self.refused)
        originals = np.array([number for number, _, _ in self.encoded], np.int32)
        records = self._records(originals)
        modifiers = np.array(self.modifiers, np.int32).reshape(-1, at.MODIFIER_WORDS)
        return Program(
            self.arch,
            self.instructions,
            records,
            modifiers,
            tuple(self.constants.items()),
            tuple(self.accesses),
            originals,
            _read_before_written(self.instructions),
            any(self._reaches_lds(number, encoded) for number, encoded, _ in self.encoded),
            self.sliced,
        )

    def _reaches_lds(self, number: int, encoded: Encoded) -> bool:
        instruction = self.instructions[number]
        if instruction.format is Format.DS:
            return encoded.accesses
        return _loads_to_lds(instruction) and not encoded.count & at.ADDRESSES_ONLY

    def _add(self, number: int, instruction: Instruction, action: Action, indexed: int) -> None:
        encoded = encode(instruction, self.constants)
        if action is Action.ACCESS_ONLY:
            if not encoded.accesses:
                raise NotModelledError("only its accesses are wanted, and it has none")
            encoded.count |= at.ADDRESSES_ONLY
        row = modifier_row(instruction, encoded, indexed)
        if self.skips and instruction.format in SKIPPED_FORMATS and encoded.control == at.CONTROL_NONE:
            encoded.control = at.CONTROL_SKIPPABLE
        place = -1
        if row is not None:
            place = len(self.modifiers)
            self.modifiers.append(row)
        self.encoded.append((number, encoded, place))

    def _records(self, originals: NDArray[np.int32]) -> NDArray[np.int32]:
        records = np.zeros((len(self.encoded), at.RECORD_WORDS), np.int32)
        pcs = np.array([self.instructions[number].pc for number in originals])
        for record, (number, encoded, place) in zip(records, self.encoded, strict=True):
            handler = modified if place >= 0 else encoded.handler
            if handler is not None:
                record[at.HANDLER : at.HANDLER + 2] = _two_words(handler.address)
            record[at.OPCODE] = encoded.opcode
            record[at.CONTROL] = encoded.control
            record[at.DESTINATION] = encoded.destination
            record[at.SOURCE_0 : at.SOURCE_2 + 1] = encoded.sources
            record[at.IMMEDIATE] = encoded.immediate
            record[at.DESTINATION_2] = encoded.destination_2
            record[at.COUNT] = encoded.count
            record[at.ORIGINAL] = number
            record[at.TARGET] = encoded.target
            record[at.MODIFIER] = place
            record[at.ACCESS] = -1
            record[at.COST] = issue_cost(self.instructions[number])
            if place >= 0:
                self._inner_record(place, record, encoded)
            if encoded.accesses:
                record[at.ACCESS] = len(self.accesses)
                self.accesses.append(number)
            if at.CONTROL_BRANCH <= encoded.control <= at.CONTROL_BRANCH_EXECNZ:
                record[at.TARGET] = _first_record(pcs, encoded.target)
        return records

    def _inner_record(self, place: int, record: NDArray[np.int32], encoded: Encoded) -> None:
        """What the modified instruction itself runs as (layout.MODIFIER_WORDS)."""
        row = self.modifiers[place]
        assert encoded.handler is not None
        row[: at.RECORD_WORDS] = record  # its handler is `modified`; the own one follows
        row[at.HANDLER : at.HANDLER + 2] = _two_words(encoded.handler.address)
        flags = row[at.MODIFIER_FLAGS]
        if flags & at.FLAG_STAGED:
            row[at.DESTINATION] = at.STAGE_ROWS
        for slot in range(3):
            words = at.MODIFIER_SOURCES + at.MODIFIER_SOURCE_WORDS * slot
            row[words] = encoded.sources[slot]
            indexed = flags & at.FLAG_GPR_INDEX and encoded.sources[slot] < at.VGPRS and row[words + 2]
            moved = indexed or (slot == 0 and flags & at.FLAG_DPP)
            spread = flags & at.FLAG_STAGED and encoded.sources[slot] >= at.SCALAR_OPERAND and row[words + 2]
            if row[words + 3] or moved or spread:
                row[at.SOURCE_0 + slot] = at.SOURCE_ROWS + slot * at.ROWS_PER_SOURCE
        row[at.MODIFIER_DIRECT : at.MODIFIER_DIRECT + at.RECORD_WORDS] = row[: at.RECORD_WORDS]
        row[at.MODIFIER_DIRECT + at.DESTINATION] = encoded.destination


def _refusal(refused: list[Unmodelled]) -> UnmodelledError:
    first = refused[0]
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    error = UnmodelledError(
        f"instruction at pc {first.pc:#x}: given {first.text!r}{more}; {first.reason}; allowed: what backend/cdna/encode.py "
        f"has a handler for; report the code object, nothing of it was run"
    )
    error.instructions = tuple(refused)  # type: ignore[attr-defined]
    return error


def _first_record(pcs: NDArray[np.int64], target: int) -> int:
    """The first record at or behind a branch target (the target itself may have been skipped)."""
    place = int(np.searchsorted(pcs, target))
    if place == len(pcs):
        raise UnmodelledError(
            f"branch to pc {target:#x}: given a target behind the last instruction; allowed: one of the kernel's"
        )
    return place


def _two_words(value: int) -> tuple[int, int]:
    low, high = value & 0xFFFF_FFFF, value >> 32
    return low - (low >> 31 << 32), high


def _loads_to_lds(instruction: Instruction) -> bool:
    return instruction.modifiers.lds or "_lds_" in instruction.mnemonic


def _read_before_written(instructions: tuple[Instruction, ...]) -> NDArray[np.int32]:
    """Vector registers live at the entry, v0 aside: what a GPU would leave there is chance, so a wave starts with zeros."""
    graph = FlowGraph.of(instructions)
    live = [0] * len(graph.blocks)
    local: list[tuple[int, int]] = []
    for block in graph.blocks:
        uses = written = 0
        for number in range(block.first, block.end):
            effect = graph.plain_effects[number]
            uses |= effect.uses & ~written
            if not graph.skips or instructions[number].format not in SKIPPED_FORMATS:
                written |= effect.whole
        local.append((uses, written))
    changed = True
    while changed:
        changed = False
        for number in reversed(range(len(graph.blocks))):
            behind = 0
            for successor in graph.blocks[number].successors:
                behind |= live[successor]
            uses, written = local[number]
            now = uses | (behind & ~written)
            changed |= now != live[number]
            live[number] = now
    rows = [unit - VGPR for unit in units(live[0]) if VGPR < unit < AGPR + at.AGPRS]
    return np.array(rows, np.int32)


def _indexed_region(instructions: tuple[Instruction, ...]) -> dict[int, int]:
    """Instructions between s_set_gpr_idx_on and _off in the order of the code, which must be straight-line there, and the
    operands that are indexed: bits 0 to 2 the sources, bit 3 the destination."""
    targets = {operand.value for each in instructions for operand in each.sources if operand.kind is OperandKind.LABEL}
    region: dict[int, int] = {}
    inside, operands = False, 0
    for number, instruction in enumerate(instructions):
        if instruction.mnemonic == "s_set_gpr_idx_on":
            inside, operands = True, instruction.sources[1].value
        elif instruction.mnemonic == "s_set_gpr_idx_off":
            inside = False
        elif instruction.mnemonic == "s_set_gpr_idx_mode":
            operands = instruction.sources[0].value & 15
        elif inside:
            if instruction.pc in targets or "branch" in instruction.mnemonic:
                raise _refusal([Unmodelled(instruction.pc, assembly_text(instruction), "control flow inside gpr-index mode")])
            region[number] = operands
    return region


def modifier_row(instruction: Instruction, encoded: Encoded, indexed: int) -> NDArray[np.int32] | None:
    """The modifier table's row, or None for an instruction without modifiers. indexed: operands that gpr-index mode moves.

    Raises NotModelledError.
    """
    modifiers = instruction.modifiers
    if instruction.format is Format.MAI and not encoded.vector:
        _index_flags(instruction, encoded, indexed)  # a matrix product has its modifiers in its record
        return None
    flags = _modifier_flags(replace(modifiers, clamp=False) if encoded.own_clamp else modifiers)
    plain = (0, _SELECT_DWORD)
    sources = [plain if encoded.own_sources else _source_bits(instruction, encoded, place) for place in range(3)]
    flags |= _index_flags(instruction, encoded, indexed)
    if not flags and not any(bits for bits, _ in sources):
        return None
    if not encoded.vector or encoded.handler is None:
        raise NotModelledError("modifiers on an instruction that is not of the vector unit")
    _check_result_modifiers(flags, encoded)
    row = np.zeros(at.MODIFIER_WORDS, np.int32)
    row[at.MODIFIER_FLAGS] = flags
    if modifiers.dpp is not None:
        row[at.MODIFIER_DPP_CONTROL] = modifiers.dpp.ctrl
        row[at.MODIFIER_DPP_MASKS] = modifiers.dpp.row_mask | modifiers.dpp.bank_mask << 4 | modifiers.dpp.bound_ctrl << 8
    if modifiers.sdwa is not None and modifiers.sdwa.dst_sel is not None:
        row[at.MODIFIER_SDWA_DESTINATION] = modifiers.sdwa.dst_sel | (modifiers.sdwa.dst_unused or 0) << 4
    row[at.MODIFIER_OMOD] = modifiers.omod
    row[at.MODIFIER_DWORDS] = encoded.result_dwords
    for place, (bits, selection) in enumerate(sources):
        words = at.MODIFIER_SOURCES + at.MODIFIER_SOURCE_WORDS * place
        row[words + 1 : words + 5] = encoded.source_types[place], encoded.source_dwords[place], bits, selection
    return row


_INDEXED_BY_THEMSELVES = ("v_readfirstlane_b32", "v_readlane_b32", "v_writelane_b32")
"""Instructions whose handler knows gpr-index mode (cross_lane.py)."""


def _index_flags(instruction: Instruction, encoded: Encoded, indexed: int) -> int:
    """Gpr-index mode: sources of a vector instruction are fetched anew, an indexed destination is written from the stage."""
    if not indexed or instruction.format not in VECTOR_FORMATS:
        return 0
    writes_vector = bool(instruction.destinations) and instruction.destinations[0].kind is OperandKind.VGPR
    moves_destination = bool(indexed & 8) and writes_vector
    if instruction.mnemonic in _INDEXED_BY_THEMSELVES:
        return 0
    if not encoded.vector:
        if moves_destination or any(
            indexed >> place & 1 and operand.kind is OperandKind.VGPR for place, operand in enumerate(instruction.sources[:3])
        ):
            raise NotModelledError("an instruction that moves whole registers, or a matrix product, in gpr-index mode")
        return 0
    if moves_destination and "mac" in instruction.mnemonic:
        raise NotModelledError("an indexed destination that is also a source")
    indexes_source = any(code < at.VGPRS and encoded.source_dwords[place] for place, code in enumerate(encoded.sources))
    return at.FLAG_GPR_INDEX * (indexes_source or moves_destination) | at.FLAG_STAGED * moves_destination


def _modifier_flags(modifiers: Modifiers) -> int:
    flags = 0
    if modifiers.dpp is not None:
        flags |= at.FLAG_DPP | at.FLAG_STAGED
        if _reaches_every_lane(modifiers.dpp) and not (modifiers.clamp or modifiers.omod):
            flags |= at.FLAG_DPP_EVERY_LANE
    sdwa = modifiers.sdwa
    if sdwa is not None and sdwa.dst_sel is not None and sdwa.dst_sel != _SELECT_DWORD:
        flags |= at.FLAG_SDWA_DESTINATION | at.FLAG_STAGED
    if modifiers.clamp:
        flags |= at.FLAG_CLAMP | at.FLAG_STAGED
    if modifiers.omod:
        flags |= at.FLAG_OMOD | at.FLAG_STAGED
    return flags


def _reaches_every_lane(dpp: Dpp) -> bool:
    """Quad permutation, rotation, mirror and broadcast within rows, nothing masked."""
    within_rows = dpp.ctrl < 0x100 or 0x121 <= dpp.ctrl <= 0x12F or dpp.ctrl in (0x140, 0x141) or dpp.ctrl >= 0x150
    return within_rows and dpp.row_mask == 15 and dpp.bank_mask == 15


def _check_result_modifiers(flags: int, encoded: Encoded) -> None:
    if flags & at.FLAG_STAGED and (encoded.destination_2 or not encoded.result_dwords):
        raise NotModelledError("DPP, SDWA, clamp or omod on an instruction that writes a mask")
    if flags & (at.FLAG_CLAMP | at.FLAG_OMOD) and encoded.result_type not in (at.TYPE_F32, at.TYPE_PACKED_F32):
        raise NotModelledError("clamp or omod on a result that is not fp32")
    if flags & at.FLAG_SDWA_DESTINATION and encoded.result_dwords != 1:
        raise NotModelledError("a part of a register as the destination of a wide result")
    if flags & at.FLAG_DPP and encoded.source_dwords[0] != 1:
        raise NotModelledError("DPP on a source of two dwords")


def _source_bits(instruction: Instruction, encoded: Encoded, place: int) -> tuple[int, int]:
    """(SOURCE_* bits, SDWA selection) of one source."""
    modifiers = instruction.modifiers
    bits, selection = 0, _SELECT_DWORD
    if place < len(instruction.sources) and encoded.source_dwords[place]:
        operand = instruction.sources[place]
        bits |= at.SOURCE_NEG * operand.neg | at.SOURCE_ABS * operand.abs
        if operand.sel is not None and (operand.sel != _SELECT_DWORD or operand.sext):
            selection = int(operand.sel)
            bits |= at.SOURCE_SELECT | at.SOURCE_SEXT * operand.sext
        if bits & (at.SOURCE_NEG | at.SOURCE_ABS) and encoded.source_types[place] == at.TYPE_BITS32:
            raise NotModelledError("neg or abs on a source that is no number")
        bits |= _half_bits(modifiers, encoded.source_types[place], place)
    return bits, selection


def _half_bits(modifiers: Modifiers, kind: int, place: int) -> int:
    """op_sel, op_sel_hi, neg_lo, neg_hi of one source."""

    def bit(values: tuple[int, ...], default: int) -> int:
        return values[place] if place < len(values) else default

    bits = at.SOURCE_PICK_0_HIGH * bit(modifiers.op_sel, 0)
    if bits and kind in (at.TYPE_F32, at.TYPE_F64):
        raise NotModelledError("half of a source that is wider")
    if kind in (at.TYPE_PACKED_16, at.TYPE_PACKED_F32):
        bits |= at.SOURCE_PICK_1_LOW * (1 - bit(modifiers.op_sel_hi, 1))
        bits |= at.SOURCE_NEG * bit(modifiers.neg_lo, 0) | at.SOURCE_NEG_HI * bit(modifiers.neg_hi, 0)
    return bits
