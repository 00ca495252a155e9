"""What a result on each device is worth: whether hardware ran, what was looked at, and what the device cannot see.

Words only; the devices themselves are backend.devices. A device that is not listed here cannot be reported on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Ground(StrEnum):
    """What ran the cases."""

    SIMULATION = "simulation"
    AMD = "AMD hardware"
    NVIDIA = "NVIDIA hardware"


@dataclass(frozen=True, slots=True)
class Witness:
    """A device as evidence. ran: one sentence on what ran. sees: what it would have reported. blind: what it cannot see."""

    ground: Ground
    ran: str
    sees: tuple[str, ...]
    blind: tuple[str, ...]

    @property
    def notice(self) -> str:
        """What must stand beside every result of it."""
        return {
            Ground.SIMULATION: "Not run on hardware: a simulation on the CPU.",
            Ground.NVIDIA: "Not run on AMD hardware: a kernel of our own on an NVIDIA GPU.",
            Ground.AMD: "Run on AMD hardware.",
        }[self.ground]


_SECOND_STAGE = "the second stage (mla_reduce_v1, Triton merge) is followed by its rules: it ships as no code object"


def notice(device: str) -> str:
    """What must stand beside every result of a device."""
    return f"device {device}: {WITNESSES[device].notice}"


WITNESSES: Mapping[str, Witness] = {
    "model": Witness(
        Ground.SIMULATION,
        "AITER's sizing, planner and launcher, and a model of what each launched kernel reads and writes",
        (
            "reads and writes outside of a tensor, to the byte, of planner, kernel and reduction",
            "pages of the KV pool that are not the request's, and addresses that wrap",
            "(row, token) pairs that are covered never or twice, and rows of o that nobody writes",
            "head widths, sizes and kernel keys that do not agree",
        ),
        (
            "no instruction is run: a fault inside a kernel shows only where its rule is known",
            "no number is computed: a wrong value from right addresses goes unseen",
            "no timing: races and hangs go unseen",
            _SECOND_STAGE,
        ),
    ),
    "cdna": Witness(
        Ground.SIMULATION,
        "AITER's sizing, planner and launcher, and the machine code of the launched kernel on a simulated CDNA machine",
        (
            "every global access of the machine code, checked against its tensor to the byte",
            "pages of the KV pool that are not the request's, and addresses that wrap",
            "(row, token) pairs that are covered never or twice, and rows of o that nobody writes",
            "loops that do not end",
        ),
        (
            "instructions that addresses do not depend on are left out: no number is computed unless --numbers asks for it",
            "caches, timing and the order between workgroups are not those of a GPU",
            _SECOND_STAGE,
        ),
    ),
    "both": Witness(
        Ground.SIMULATION,
        "what `cdna` runs and what `model` foretells of it, held against each other",
        (
            "everything that `cdna` sees",
            "every byte touched and every violation that one of them has and the other has not",
        ),
        (
            "what neither of them knows: numbers, timing, caches",
            _SECOND_STAGE,
        ),
    ),
    "rocm": Witness(
        Ground.AMD,
        "AITER itself (its sizing, planning and mla_decode_fwd) on an AMD GPU, in child processes that a case may kill",
        (
            "accesses that reach unmapped memory (the GPU faults)",
            "numbers outside of the error budget and rows of o that nobody writes",
            "hangs and deaths of the process",
        ),
        (
            "an access past the end of a tensor that stays inside mapped memory faults nowhere; the outputs may show it",
            "the GPU names an address, not an instruction, and not whether it was read or written",
        ),
    ),
    "cuda": Witness(
        Ground.NVIDIA,
        "AITER's sizing and planner, and a Triton kernel of our own that takes AITER's plan as it is",
        (
            "stores outside of a tensor (red zones around each, to the element)",
            "reads outside of float tensors (as NaN) and illegal accesses",
            "numbers outside of the error budget and hangs",
        ),
        (
            "AITER's kernels do not run: nothing is said of their machine code",
            "reads past the end of integer tensors, and accesses that jump over a red zone, may leave no trace",
        ),
    ),
}
