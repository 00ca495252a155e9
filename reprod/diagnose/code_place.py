"""What a pc is in a code object: the instruction, and which tensor it reaches by which expression.

The instruction is read off the machine code; the expression needs a path to it, so a shape that launches the kernel is run
and the first wave that passes the place is followed back. Hardware names a place behind the access: memory is answered late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.aiter.codefiles import CodeSource
from backend.call import Call
from backend.case import Arch
from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.cdna.expression import LaunchValues
from backend.cdna.instruction import Format, Instruction
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.provenance import explain_address
from backend.devices.cdna import address_space
from backend.devices.cdna.address_origin import KERNARG_AT, expression_names
from backend.devices.cdna.device import instruction_limit, machine_of
from backend.errors import AiterfuzzError
from reprod.diagnose.facts import LogFacts, Topic

PAGE = 4096
"""Bytes to which an image is loaded aligned, so that a pc's low bits are those of its place in the file."""

MEMORY = (Format.SMEM, Format.MUBUF, Format.FLAT)
"""Formats of instructions that reach memory outside of the workgroup."""

WORKGROUPS_TRIED = 4


@dataclass(frozen=True, slots=True)
class CodePlace:
    """A place in a kernel. pc: bytes from the kernel's entry. text: the instruction there. is_exact: whether the log gives the
    place, or only its low bits. reaches: (pc, instruction, expression) of memory instructions at it or shortly before."""

    pc: int
    text: str
    is_exact: bool
    reaches: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class LoggedPc:
    """A pc as a log gives it. offset: from the kernel's entry, None where only the address is known. low: its low bits."""

    address: int
    offset: int | None
    where: str

    @property
    def low(self) -> int:
        """Bytes into its page."""
        return self.address % PAGE


def logged_pcs(facts: LogFacts, entry: int, size: int) -> tuple[LoggedPc, ...]:
    """The pcs of a log, those in the kernel's text first. entry: of the kernel in its file's image; size: of its text."""
    starts = [int(fact.value, 16) for fact in facts.of(Topic.CODE_ENTRY)]
    bases = [int(fact.value, 16) for fact in facts.of(Topic.CODE_BASE)]
    found: dict[int, LoggedPc] = {}
    for fact in facts.of(Topic.PC):
        address = int(fact.value, 16)
        beside = [each for each in facts.of(Topic.PC_OFFSET) if (each.file, each.line) == (fact.file, fact.line)]
        offsets = [int(each.value) for each in beside if len(each.value) < 9]
        offsets += [address - start for start in starts] + [address - base - entry for base in bases]
        inside = [offset for offset in offsets if 0 <= offset < size]
        known = found.get(address)
        if known is None or (known.offset is None and inside):
            found[address] = LoggedPc(address, inside[0] if inside else None, fact.where)
    return tuple(sorted(found.values(), key=lambda pc: pc.offset is None))


def places(
    facts: LogFacts, source: CodeSource, arch: Arch, code_object: str, symbol: str, call: Call | None
) -> tuple[CodePlace, ...]:
    """What the pcs of a log are in a code object, at most MOST_PLACES. call: of a shape that launches it, None for none.

    Raises CannotRunError where the source lacks the code object.
    """
    machine = machine_of(source, arch, code_object, symbol)
    kernel = machine.kernel
    instructions = decode(kernel.text, kernel.arch)
    found: list[CodePlace] = []
    for pc in logged_pcs(facts, kernel.entry, len(kernel.text)):
        if pc.offset is not None:
            numbers, is_exact = [_number_at(instructions, pc.offset)], True
        else:
            numbers, is_exact = (
                [
                    number
                    for number, each in enumerate(instructions)
                    if (kernel.entry + each.pc) % PAGE == pc.low and each.format in MEMORY
                ],
                False,
            )
        for number in numbers:
            reached = _memory_before(instructions, number)
            found.append(
                CodePlace(
                    instructions[number].pc,
                    assembly_text(instructions[number]),
                    is_exact,
                    tuple(_reaches(machine, reached, call)),
                )
            )
        if len(found) >= MOST_PLACES:
            break
    return tuple(found[:MOST_PLACES])


MOST_PLACES = 6

BEHIND = 24
"""Instructions behind an access at which hardware may still stop for it."""

MOST_BEFORE = 3


def _number_at(instructions: Sequence[Instruction], pc: int) -> int:
    """The instruction that holds a byte of the text."""
    return max((number for number, each in enumerate(instructions) if each.pc <= pc), default=0)


def _memory_before(instructions: Sequence[Instruction], number: int) -> list[Instruction]:
    """Memory instructions at a place and shortly before it, the nearest first."""
    nearby = instructions[max(0, number - BEHIND) : number + 1]
    return [each for each in reversed(nearby) if each.format in MEMORY][:MOST_BEFORE]


def _reaches(machine: Machine, instructions: Sequence[Instruction], call: Call | None) -> Iterator[tuple[int, str, str]]:
    expressions = _expressions(machine, [each.pc for each in instructions], call) if call is not None else {}
    for each in instructions:
        yield each.pc, assembly_text(each), expressions.get(each.pc, "")


def _expressions(machine: Machine, pcs: Sequence[int], call: Call) -> dict[int, str]:
    """The address of each access, by the path of the first wave that makes it; none for those that nobody makes."""
    launch = call.launched
    try:
        space, kernarg = address_space.build(call, None)
        start = MachineLaunch(launch.grid, launch.block, kernarg)
        found: dict[int, str] = {}
        for workgroup in range(min(WORKGROUPS_TRIED, launch.grid[0] * launch.grid[1] * launch.grid[2])):
            traced = machine.trace(start, space, workgroup, 0, max_instructions=instruction_limit(call))
            path = [traced.program.instructions[step].pc for step in traced.trace.tolist()]
            for pc in pcs:
                if pc in path and pc not in found:
                    found[pc] = _explained(machine, path[: path.index(pc) + 1], pc, call, space, kernarg, workgroup)
            if len(found) == len(pcs):
                break
    except AiterfuzzError:
        return {}
    return found


def _explained(
    machine: Machine, path: Sequence[int], pc: int, call: Call, space: AddressSpace, kernarg: bytes, workgroup: int
) -> str:
    def read(address: int, size: int) -> int | None:
        offset = address - KERNARG_AT
        if 0 <= offset < len(kernarg):
            return int.from_bytes(kernarg[offset : offset + size], "little")
        return space.read(address, size)

    x, y, _ = call.launched.grid
    values = LaunchValues(KERNARG_AT, (workgroup % x, workgroup // x % y, workgroup // (x * y)), read)
    names = expression_names(call.launched.persistent)
    return explain_address(machine.kernel, path, pc, 0, names=names, launch=values).text
