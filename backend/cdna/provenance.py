"""Where an address came from: the expression over kernargs, loaded words, workgroup and work-item ids that one lane accessed.

It follows the data flow backward along the path that one wave took, from the address operands of an access to what the
kernel was launched with. It knows instructions and their data flow, and no meaning of any argument: names come from the
kernel's metadata or from the caller. What cannot be followed (data through LDS, matrix results, floats) is named, not guessed.

How it works. Each register that is wanted is asked for at its last write on the path; that instruction's own inputs are
wanted next. Requests are generators on a stack of our own, because loops make chains longer than Python's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from backend.cdna.code_object import Kernel
from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.cdna.effects import EXEC, GPR_INDEX, M0, SCC, VECTOR_FORMATS, VGPR, operand_units, unit_name
from backend.cdna.expression import (
    KERNARG,
    ZERO,
    Carry,
    Evaluation,
    Expression,
    ExpressionNames,
    LaunchValues,
    Symbol,
    Word,
    atom,
    constant,
    pointer_and_offset,
    whole_pointer,
)
from backend.cdna.flow import FlowGraph
from backend.cdna.instruction import Dpp, Format, Instruction, Operand, OperandKind
from backend.cdna.symbolic import (
    CARRYING,
    FUNCTIONS,
    comparison,
    operation,
    scalar_field,
    signed16,
)
from backend.errors import UsageError

LANES = 64
HALF = 32
"""Lanes of a mask in one scalar register."""
WAVE_WIDE = -1
"""The lane of a scalar register. A lane number with a scalar register means that lane's bit of the mask in it."""

Request = tuple[int, int, int]
"""Unit, lane, and the place in the path before which its value is wanted."""
Steps = Generator[Request, Expression, Expression]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The address of one lane's access. text: with the caller's names.

    value: the expression computed in full integers from the launch, None without one or where a part is not known. Where
    it differs from the address accessed by a multiple of 2^32, 32-bit arithmetic wrapped on the way.
    """

    expression: Expression
    text: str
    value: int | None


def explain_address(
    kernel: Kernel,
    trace: Sequence[int],
    pc: int,
    lane: int,
    *,
    wave: int = 0,
    names: ExpressionNames | None = None,
    launch: LaunchValues | None = None,
) -> Explanation:
    """Explain the last access at `pc` on a wave's path.

    trace: pcs in the order in which the wave passed them, from the entry block up to the access at least; those that the
    address slice skips may be missing. lane: 0..63, its own for a vector access, any for a scalar one. wave: its number in
    the workgroup, whose work-items lie along x.
    Raises UsageError where the path does not begin at the entry or does not pass the access.
    """
    graph, places = _graph(kernel.text, kernel.arch)
    entry_end = graph.instructions[graph.blocks[0].end - 1].pc
    if not trace or trace[0] > entry_end or pc not in trace:
        raise UsageError.not_allowed(
            "path of a wave", f"{len(trace)} pcs", f"pcs from 0 to {pc:#x} in order", "record it whole"
        )
    end = len(trace) - 1 - list(reversed(trace)).index(pc)
    path = [places[each] for each in trace[: end + 1]]
    named = (names or ExpressionNames()).with_defaults(default_names(kernel))
    evaluation = Evaluation(launch)
    walk = _Walk(kernel, graph, path, wave, named, evaluation)
    expression = walk.address(end, lane)
    return Explanation(expression, named.text(expression), evaluation.number(expression))


@lru_cache(maxsize=16)
def _graph(text: bytes, arch: str) -> tuple[FlowGraph, dict[int, int]]:
    """Flow graph of a kernel, and the number of the instruction at each pc."""
    instructions = decode(text, arch)
    return FlowGraph.of(instructions), {instruction.pc: number for number, instruction in enumerate(instructions)}


def default_names(kernel: Kernel) -> dict[tuple[str, int], str]:
    """Names of the kernarg words by the metadata; arguments without a name are numbered."""
    words = {("", 0): KERNARG}
    for place, argument in enumerate(kernel.arguments):
        words[KERNARG, argument.offset] = argument.name or f"argument_{place}"
    return words


@dataclass
class _Walk:
    """One path and what is known about registers along it."""

    kernel: Kernel
    graph: FlowGraph
    path: list[int]
    wave: int
    names: ExpressionNames
    evaluation: Evaluation
    known: dict[Request, Expression] = field(default_factory=dict)
    writes: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.visits: dict[int, list[int]] = {}
        for step, number in enumerate(self.path):
            self.visits.setdefault(number, []).append(step)

    def address(self, step: int, lane: int) -> Expression:
        """Address that the access at a place of the path computes."""
        return self._run(self._address(self.graph.instructions[self.path[step]], step, lane))

    def _run(self, first: Steps) -> Expression:
        stack: list[tuple[Request | None, Steps]] = [(None, first)]
        answer: Expression | None = None
        while True:
            key, steps = stack[-1]
            try:
                unit, lane, before = next(steps) if answer is None else steps.send(answer)
            except StopIteration as finished:
                stack.pop()
                answer = finished.value
                assert answer is not None
                if key is None:
                    return answer
                self.known[key] = answer
                continue
            written = self._half_of_mask(unit, lane, before)
            answer = self.known.get(written)
            if answer is None:
                stack.append((written, self._written(*written)))

    def _half_of_mask(self, unit: int, lane: int, before: int) -> Request:
        """Where a request is answered. A mask is asked for by its low register; lanes from 32 on are in the other one, which
        may have been written by itself."""
        written = self._last_write(unit, before)
        if lane >= HALF and unit < VGPR:
            other = self._last_write(unit + 1, before)
            if other != written:
                return unit + 1, lane - HALF, other
        return unit, lane, written

    def _last_write(self, unit: int, before: int) -> int:
        """Place of the last instruction before `before` on the path that writes the unit; -1 for the launch state."""
        if unit not in self.writes:
            effects = self.graph.plain_effects
            writers = [number for number in self.visits if effects[number].defs >> unit & 1]
            self.writes[unit] = sorted(step for number in writers for step in self.visits[number])
        found = bisect_left(self.writes[unit], before)
        return self.writes[unit][found - 1] if found else -1

    def _written(self, unit: int, lane: int, step: int) -> Steps:
        """What the instruction at a place of the path wrote to the unit, in that lane."""
        if step < 0:
            return self._at_launch(unit, lane)
        instruction = self.graph.instructions[self.path[step]]
        if instruction.format in (Format.SMEM, Format.MUBUF, Format.GLOBAL, Format.FLAT):
            return (yield from self._loaded(instruction, unit, lane, step))
        if lane != WAVE_WIDE and unit < VGPR:
            return (yield from self._mask_bit(instruction, unit, lane, step))
        if unit == SCC:
            return (yield from self._condition(instruction, step))
        indexed = yield from self._indexed(instruction, step)
        if indexed is None:
            return atom(Symbol(f"{assembly_text(instruction)} at {instruction.pc:#x}, indexed"))
        return (yield from self._computed(indexed, unit, lane, step))

    def _at_launch(self, unit: int, lane: int) -> Expression:
        kernel = self.kernel
        segment = atom(Word("", ZERO, 8))
        pointer = dict(kernel.user_registers).get("kernarg pointer", -2)
        if unit in (pointer, pointer + 1):
            return segment if unit == pointer else atom(Carry(segment))
        preloaded = unit - pointer - 2
        if 0 <= preloaded < kernel.kernarg_preload_length:
            return atom(Word(KERNARG, constant(4 * (kernel.kernarg_preload_offset + preloaded))))
        enabled = [name for name in "xyz" if getattr(kernel, f"workgroup_id_{name}")]
        if 0 <= unit - kernel.user_sgpr_count < len(enabled):
            return atom(Symbol(f"workgroup_{enabled[unit - kernel.user_sgpr_count]}"))
        if unit == VGPR and lane != WAVE_WIDE:
            return constant(self.wave * LANES + lane)
        if unit in (EXEC, EXEC + 1):
            return constant(1 if lane != WAVE_WIDE else -1)
        return atom(Symbol(f"{unit_name(unit)} at launch"))

    def _indexed(self, instruction: Instruction, step: int) -> Generator[Request, Expression, Instruction | None]:
        """The instruction with the registers that it really reads in gpr-index mode; None where the index is not known."""
        if instruction.format not in VECTOR_FORMATS:
            return instruction
        place = self._last_write(GPR_INDEX, step)
        mode = self.graph.instructions[self.path[place]] if place >= 0 else None
        if mode is None or mode.mnemonic == "s_set_gpr_idx_off":
            return instruction
        if mode.mnemonic != "s_set_gpr_idx_on" or mode.sources[1].value & 8 or self._last_write(M0, step) != place:
            return None
        index = self.evaluation.number((yield from self._operand(mode.sources[0], WAVE_WIDE, place)))
        if index is None:
            return None
        sources = tuple(
            replace(operand, index=operand.index + (index & 0xFF))
            if operand.kind is OperandKind.VGPR and mode.sources[1].value >> number & 1
            else operand
            for number, operand in enumerate(instruction.sources)
        )
        return replace(instruction, sources=sources)

    def _computed(self, instruction: Instruction, unit: int, lane: int, step: int) -> Steps:
        """A scalar register, or one lane of a vector register, written by an ALU instruction."""
        name = instruction.mnemonic.split("_", 1)[1]
        place = self._dword(instruction, unit)
        if name in ("readfirstlane_b32", "readlane_b32"):
            return (yield from self._from_lane(instruction, step))
        if name == "writelane_b32":
            return (yield from self._into_lane(instruction, unit, lane, step))
        if name in ("mov_b64", "cselect_b64") or place is None:
            return (yield from self._wide_move(instruction, name, place, unit, lane, step))
        if name in ("cselect_b32", "cmov_b32", "cndmask_b32"):
            return (yield from self._selected(instruction, name, unit, lane, step))
        if name.startswith("mbcnt"):
            return (yield from self._lanes_below(instruction, name, lane, step))
        if instruction.format in (Format.DS, Format.MAI, Format.SCRATCH) and not name.startswith("accvgpr"):
            return atom(Symbol(f"{instruction.mnemonic} at {instruction.pc:#x}"))
        arguments = yield from self._arguments(instruction, lane, step)
        if name == "bfe_u32" and instruction.format is Format.SOP2:
            return scalar_field(arguments)
        plain = instruction.modifiers.sdwa is None and not any(each.neg or each.abs for each in instruction.sources)
        function = FUNCTIONS.get(name) if plain else None
        total = operation(instruction.mnemonic, *arguments) if function is None else function(arguments)
        return total if place == 0 else atom(Carry(total))

    def _dword(self, instruction: Instruction, unit: int) -> int | None:
        """Which dword of its first destination the unit is; None for a second destination."""
        units = operand_units(instruction.destinations[0]) if instruction.destinations else 0
        return unit - ((units & -units).bit_length() - 1) if units >> unit & 1 else None

    def _arguments(
        self, instruction: Instruction, lane: int, step: int
    ) -> Generator[Request, Expression, tuple[Expression, ...]]:
        """Sources as expressions, with a carry-in last; s_addk and the like read their destination first."""
        found = []
        if instruction.mnemonic in ("s_addk_i32", "s_mulk_i32"):
            found.append((yield from self._operand(instruction.destinations[0], lane, step)))
        carries = "addc" in instruction.mnemonic or "subb" in instruction.mnemonic
        for place, operand in enumerate(instruction.sources):
            if carries and place == 2:
                found.append((yield (self._first_unit(operand), lane, step)))
                continue
            source_lane = lane
            if place == 0 and instruction.modifiers.dpp is not None:
                source_lane = dpp_source(instruction.modifiers.dpp, lane)
                if source_lane < 0:
                    found.append(operation("dpp", atom(Symbol(f"lane outside its row at {instruction.pc:#x}"))))
                    continue
            found.append((yield from self._operand(operand, source_lane, step)))
        if carries and instruction.mnemonic.startswith("s_"):
            found.append((yield (SCC, WAVE_WIDE, step)))
        return tuple(found)

    def _first_unit(self, operand: Operand) -> int:
        units = operand_units(operand)
        return (units & -units).bit_length() - 1

    def _operand(self, operand: Operand, lane: int, step: int) -> Steps:
        """A source of one or two dwords; integers are taken signed, so that -16 reads so."""
        if operand.kind is OperandKind.CONSTANT:
            bits = 64 if operand.count == 2 else 32
            return constant(operand.value - (1 << bits) if operand.value >> (bits - 1) else operand.value)
        if operand.kind is OperandKind.SIMM:
            return constant(operand.value)
        if not operand_units(operand):
            return atom(Symbol(operand.kind.value)) if operand.kind is not OperandKind.OFF else ZERO
        first = self._first_unit(operand)
        vector = operand.kind in (OperandKind.VGPR, OperandKind.AGPR)
        low = yield (first, lane if vector else WAVE_WIDE, step)
        if operand.count == 1:
            return low
        high = yield (first + 1, lane if vector else WAVE_WIDE, step)
        return whole_pointer(low, high)

    def _from_lane(self, instruction: Instruction, step: int) -> Steps:
        """v_readfirstlane_b32 takes lane 0 while all lanes are enabled; which is first under another EXEC is not known here."""
        source = instruction.sources[0]
        if instruction.mnemonic == "v_readfirstlane_b32":
            if self.graph.may_be_partial[self.path[step]]:
                return atom(Symbol(f"{assembly_text(instruction)} at {instruction.pc:#x}, under EXEC"))
            return (yield from self._operand(source, 0, step))
        chosen = (yield from self._operand(instruction.sources[1], WAVE_WIDE, step)).number
        if chosen is None:
            return atom(Symbol(f"{assembly_text(instruction)} at {instruction.pc:#x}"))
        return (yield from self._operand(source, chosen % LANES, step))

    def _into_lane(self, instruction: Instruction, unit: int, lane: int, step: int) -> Steps:
        chosen = (yield from self._operand(instruction.sources[1], WAVE_WIDE, step)).number
        if chosen is None:
            return atom(Symbol(f"{assembly_text(instruction)} at {instruction.pc:#x}"))
        if chosen % LANES == lane:
            return (yield from self._operand(instruction.sources[0], WAVE_WIDE, step))
        return (yield (unit, lane, step))

    def _wide_move(self, instruction: Instruction, name: str, place: int | None, unit: int, lane: int, step: int) -> Steps:
        """A 64-bit move goes dword by dword; other second destinations are masks, which no scalar arithmetic is made of."""
        if name != "mov_b64" or place is None:
            return atom(Symbol(f"{unit_name(unit)} of {assembly_text(instruction)} at {instruction.pc:#x}"))
        source = instruction.sources[0]
        if source.kind is OperandKind.CONSTANT:
            part = source.value >> (32 * place) & 0xFFFFFFFF
            return constant(part - (1 << 32) if part >> 31 else part)
        vector = source.kind is OperandKind.VGPR
        return (yield (self._first_unit(source) + place, lane if vector else WAVE_WIDE, step))

    def _selected(self, instruction: Instruction, name: str, unit: int, lane: int, step: int) -> Steps:
        """s_cselect, s_cmov and v_cndmask: one side where the condition can be computed, both where not."""
        if name == "cndmask_b32":
            condition = yield (self._first_unit(instruction.sources[2]), lane, step)
            otherwise, taken = instruction.sources[:2]
        else:
            condition = yield (SCC, WAVE_WIDE, step)
            taken, otherwise = (*instruction.sources, instruction.destinations[0])[:2]
        decided = self.evaluation.number(condition)
        if decided is not None:
            return (yield from self._operand(taken if decided else otherwise, lane, step))
        left = yield from self._operand(taken, lane, step)
        right = yield from self._operand(otherwise, lane, step)
        return operation("select", condition, left, right)

    def _lanes_below(self, instruction: Instruction, name: str, lane: int, step: int) -> Steps:
        """v_mbcnt of a full mask counts the lanes below this one, in its half of the wave."""
        mask = yield from self._operand(instruction.sources[0], lane, step)
        base = yield from self._operand(instruction.sources[1], lane, step)
        if mask.number != -1:
            return operation(instruction.mnemonic, mask, base)
        return base + constant(min(lane, 32) if name.startswith("mbcnt_lo") else max(lane - 32, 0))

    def _condition(self, instruction: Instruction, step: int) -> Steps:
        """SCC: a comparison, a carry, or whether a result is not zero."""
        name = instruction.mnemonic.split("_", 1)[1]
        arguments = yield from self._arguments(instruction, WAVE_WIDE, step)
        if name.startswith("cmpk") and name.endswith("i32"):
            arguments = (arguments[0], constant(signed16(arguments[1].number or 0)))
        compared = comparison(name, arguments)
        if compared is not None:
            return compared
        if name in CARRYING:
            return CARRYING[name](arguments)
        function = FUNCTIONS.get(name)
        if function is None or name.startswith(("add", "sub", "min", "max", "mul")):
            return atom(Symbol(f"scc of {assembly_text(instruction)} at {instruction.pc:#x}"))
        return operation("!=", function(arguments), ZERO)

    def _mask_bit(self, instruction: Instruction, unit: int, lane: int, step: int) -> Steps:
        """One lane's bit of a mask in scalar registers."""
        name = instruction.mnemonic.split("_", 1)[1]
        if instruction.format in (Format.VOPC, Format.VOP2, Format.VOP3):
            arguments = yield from self._arguments(instruction, lane, step)
            compared = comparison(name, arguments)
            if compared is not None:
                return compared
            if name in CARRYING:
                return CARRYING[name](arguments)
        elif name == "mov_b64":
            source = instruction.sources[0]
            if source.kind is OperandKind.CONSTANT:
                return constant(source.value >> lane & 1)
            return (yield (self._first_unit(source), lane, step))
        elif name == "mov_b32" and instruction.sources[0].kind is OperandKind.CONSTANT and lane < HALF:
            return constant(instruction.sources[0].value >> lane & 1)
        return atom(Symbol(f"lane {lane} of {assembly_text(instruction)} at {instruction.pc:#x}"))

    def _loaded(self, instruction: Instruction, unit: int, lane: int, step: int) -> Steps:
        """A loaded dword, by the name of what it was loaded from."""
        place = self._dword(instruction, unit)
        address = yield from self._address(instruction, step, lane)
        found = pointer_and_offset(address, self.names)
        if found is None or place is None or "_atomic_" in instruction.mnemonic:
            return atom(Symbol(f"{assembly_text(instruction)} at {instruction.pc:#x}"))
        tensor, offset = found
        self.evaluation.pointers[tensor] = address - offset
        word = atom(Word(tensor, offset + constant(4 * place)))
        whole = "dword" in instruction.mnemonic
        return word if whole else operation(instruction.mnemonic.rsplit("_", 1)[1], word)

    def _address(self, instruction: Instruction, step: int, lane: int) -> Steps:
        """Address of a memory access: pointer, offsets, and for a buffer what its descriptor says."""
        sources, modifiers = list(instruction.sources), instruction.modifiers
        total = constant(modifiers.offset)
        if instruction.format is Format.SMEM:
            base, *offsets = sources
        elif instruction.format is Format.MUBUF:
            offsets, base = [sources[-1]], sources[-2]
            if modifiers.offen or modifiers.idxen:
                total += yield from self._buffer_offset(instruction, base, step, lane)
        else:
            stores = "_store_" in instruction.mnemonic or "_atomic_" in instruction.mnemonic
            offsets = [sources[0], *sources[2:]] if stores else sources
            for operand in offsets:
                total += yield from self._operand(operand, lane, step)
            return total
        for operand in offsets:
            total += yield from self._operand(operand, lane, step)
        first = self._first_unit(base)
        low = yield (first, WAVE_WIDE, step)
        high = yield (first + 1, WAVE_WIDE, step)
        if base.count == 4:
            high -= constant(high.constant_part() & ~0xFFFF)  # stride and swizzle share the descriptor's second word
        return total + whole_pointer(low, high)

    def _buffer_offset(self, instruction: Instruction, base: Operand, step: int, lane: int) -> Steps:
        """What vaddr adds: an offset, an index times the descriptor's stride, or both."""
        modifiers = instruction.modifiers
        first = self._first_unit(instruction.sources[-3])
        total = ZERO
        if modifiers.idxen:
            index = yield (first, lane, step)
            second = yield (self._first_unit(base) + 1, WAVE_WIDE, step)
            total += index.scaled(second.constant_part() >> 16 & 0x3FFF)
            first += 1
        if modifiers.offen:
            total += yield (first, lane, step)
        return total


def dpp_source(dpp: Dpp, lane: int) -> int:
    """Lane that DPP reads for a lane, -1 for one outside its row (ISA: "DPP_CTRL Enumeration")."""
    control, row, place = dpp.ctrl, lane & ~15, lane & 15
    if control < 0x100:
        return (lane & ~3) + (control >> (2 * (lane & 3)) & 3)
    if control >= 0x150:
        return row + (control & 15)
    amount = control & 15
    if control & 0x1F0 == 0x120:
        return row + (place - amount) % 16
    if control in (0x140, 0x141):
        return row + (15 - place if control == 0x140 else (place & 8) + 7 - (place & 7))
    moved = place + amount if control & 0x1F0 == 0x100 else place - amount if control & 0x1F0 == 0x110 else -1
    return row + moved if 0 <= moved < 16 else -1
