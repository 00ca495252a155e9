"""Hazards of a wave, found after a run: registers used while memory has not answered, and nothing waited for it.

Works on the instructions that one wave executed (RunResult.trace) and on what each reads and writes; it needs no values, so a
trace of the slice's control flow does. Races between waves are found during a run (Record.hazards, RunResult.races),
and so are bytes that two workgroups write (Record.overlaps).

Counters (ISA documents, "Manually Inserted Wait States"): vector memory answers in order and counts in vmcnt, stores included;
LDS answers in order and scalar loads in any order, both count in lgkmcnt, so that only lgkmcnt(0) is sure of a scalar load.
A counter at its maximum (63 and 15) holds up what would raise it, so never are more operations outstanding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from backend.cdna.effects import AGPR, LDS, SCRATCH, effects, unit_name, units
from backend.cdna.instruction import Format, Instruction


class HazardKind(StrEnum):
    """READ: a register's old value may be taken for the loaded one. OVERWRITTEN: the loaded value may come to lie over a newer
    one."""

    READ = "read before it arrives"
    OVERWRITTEN = "written before it arrives"


@dataclass(frozen=True, slots=True)
class WaitHazard:
    """A load (producer) that the consumer does not wait for.

    register: as assembly writes it, the first of those concerned. counter, threshold: the s_waitcnt before the consumer that
    would do, for example "vmcnt" and 3. times: how often in the trace.
    """

    kind: HazardKind
    producer_pc: int
    consumer_pc: int
    register: str
    counter: str
    threshold: int
    times: int


_REGISTERS = ((1 << (AGPR + 256)) - 1) & ~(1 << LDS | 1 << SCRATCH)
_LIMITS = {"vm": 63, "lds": 15, "scalar": 15}
"""Most operations that the counters can count."""

_VECTOR_MEMORY = frozenset({Format.MUBUF, Format.FLAT, Format.GLOBAL, Format.SCRATCH})


@dataclass(slots=True)
class _Load:
    number: int  # of the instruction in the kernel
    waiting: int  # units that it will write


class _Queue:
    """Outstanding operations of one kind, oldest first."""

    def __init__(self) -> None:
        self.loads: deque[_Load] = deque()

    def waiting(self) -> int:
        bits = 0
        for load in self.loads:
            bits |= load.waiting
        return bits

    def keep(self, count: int) -> None:
        while len(self.loads) > count:
            self.loads.popleft()


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the check needs of one instruction."""

    reads: int
    writes: int
    queue: str | None  # "vm", "lds" or "scalar"
    loaded: int
    waits: tuple[int | None, int | None] | None  # vmcnt, lgkmcnt


def _facts(instruction: Instruction) -> _Facts:
    effect = effects(instruction)
    reads, writes = effect.uses & _REGISTERS, effect.defs & _REGISTERS
    queue = None
    if instruction.format in _VECTOR_MEMORY and (instruction.sources or instruction.destinations):
        queue = "vm"
    elif instruction.format is Format.DS and instruction.mnemonic != "ds_nop":
        queue = "lds"
    elif instruction.format is Format.SMEM and instruction.destinations:
        queue = "scalar"
    waits = None
    if instruction.mnemonic == "s_waitcnt":
        waits = (instruction.modifiers.vmcnt, instruction.modifiers.lgkmcnt)
    return _Facts(reads, writes, queue, writes if queue else 0, waits)


class _Wave:
    def __init__(self) -> None:
        self.queues = {"vm": _Queue(), "lds": _Queue(), "scalar": _Queue()}
        self.pending = 0  # units of all queues
        self.found: dict[tuple[HazardKind, int, int], tuple[str, str, int, int]] = {}

    def step(self, number: int, facts: _Facts) -> None:
        if facts.waits is not None:
            self._wait(*facts.waits)
        clash = (facts.reads | facts.writes) & self.pending
        if clash:
            self._report(number, facts, clash)
        if facts.queue is not None:
            self.queues[facts.queue].keep(_LIMITS[facts.queue] - 1)
            self.queues[facts.queue].loads.append(_Load(number, facts.loaded))
            self._count_pending()

    def _wait(self, vmcnt: int | None, lgkmcnt: int | None) -> None:
        if vmcnt is not None:
            self.queues["vm"].keep(vmcnt)
        if lgkmcnt is not None:
            self.queues["lds"].keep(lgkmcnt)
            if lgkmcnt == 0:
                self.queues["scalar"].keep(0)
        self._count_pending()

    def _count_pending(self) -> None:
        self.pending = 0
        for queue in self.queues.values():
            self.pending |= queue.waiting()

    def _report(self, number: int, facts: _Facts, clash: int) -> None:
        """Every outstanding load that the instruction touches; what is reported is taken off, so that nothing follows from
        it."""
        for name, queue in self.queues.items():
            for place, load in enumerate(queue.loads):
                touched = load.waiting & clash
                if not touched or (load.waiting & facts.reads == 0 and facts.queue == name != "scalar"):
                    continue  # a later load of the same kind into the register arrives later
                kind = HazardKind.READ if touched & facts.reads else HazardKind.OVERWRITTEN
                threshold = 0 if name == "scalar" else len(queue.loads) - 1 - place
                key = (kind, load.number, number)
                times = self.found[key][3] + 1 if key in self.found else 1
                register = unit_name(next(units(touched)))
                self.found[key] = (register, "vmcnt" if name == "vm" else "lgkmcnt", threshold, times)
                load.waiting &= ~touched
        self.pending &= ~clash


def wait_hazards(instructions: tuple[Instruction, ...], trace: Iterable[int]) -> tuple[WaitHazard, ...]:
    """Hazards of the wave that executed `trace` (indices of `instructions`), in the order in which they first occur."""
    wave = _Wave()
    known: dict[int, _Facts] = {}
    for number in trace:
        number = int(number)
        if number not in known:
            known[number] = _facts(instructions[number])
        wave.step(number, known[number])
    return tuple(
        WaitHazard(kind, instructions[producer].pc, instructions[consumer].pc, register, counter, threshold, times)
        for (kind, producer, consumer), (register, counter, threshold, times) in wave.found.items()
    )
