"""The devices: one row each, with how it is opened, what it can do, and what a result on it is worth; and opening one by name.

Everything that is said or decided by a device's name is here. Opening one imports it; reading a row imports nothing slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING

from backend.errors import UsageError

if TYPE_CHECKING:
    from backend.aiter.codefiles import CodeSource
    from backend.devices.device import Device


class Ground(StrEnum):
    """What ran the cases."""

    SIMULATION = "simulation"
    AMD = "AMD hardware"
    NVIDIA = "NVIDIA hardware"

    @property
    def is_hardware(self) -> bool:
        """Whether a GPU ran; a worker of such a device needs one of its own."""
        return self is not Ground.SIMULATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A device as evidence. ran: one sentence on what ran. sees: what it would have reported. blind: what it cannot see."""

    ground: Ground
    ran: str
    sees: tuple[str, ...]
    blind: tuple[str, ...]

    @property
    def notice(self) -> str:
        """What must stand beside every result of it."""
        return _NOTICES[self.ground]


class NumbersKind(Enum):
    """Whether a device compares outputs with attention in float64."""

    NEVER = "never"
    ASKED = "where it is asked to"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Opening:
    """How a device is asked for; see backend.devices.kinds.open_device."""

    source: CodeSource | None
    record: bool
    ranks: int
    numbers: bool


_MEMORY = 4096
"""MiB of a worker's processes: ten times what usual cases take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """One device.

    open: makes it. numbers: see NumbersKind. takes_ranks: whether it can run a case on several ranks at the
    same moment, as tensor parallelism does. runs_code_objects: whether it runs AITER's own machine code from files.
    open_with_hazards: makes it so that it names hazards too; None where it follows no waits.
    chunk_cases: cases that a campaign's worker is handed at once. case_seconds: after which a case hangs.
    worker_memory: MiB that the processes of a worker may hold. workers_sharing: workers that may share the GPU that one needs.
    witness: what a result on it is worth.
    shrunk_on: a faster device on which a smaller case of a finding is tried first, before this one confirms it; "" for none.
    seen_on: what ran, in an issue, {product} being the GPU that the case is for; seen_whole: where numbers were asked for.
    swept, swept_whole: how a sweep came by what it tells; "" where hardware ran, which says enough.
    """

    name: str
    open: Callable[[Opening], Device]
    witness: Witness
    numbers: NumbersKind
    takes_ranks: bool = False
    runs_code_objects: bool = False
    open_with_hazards: Callable[[Opening], Device] | None = None
    chunk_cases: int
    case_seconds: float
    worker_memory: int = _MEMORY
    workers_sharing: int = 1
    shrunk_on: str = ""
    seen_on: str = ""
    seen_whole: str = ""
    swept: str = ""
    swept_whole: str = ""

    @property
    def is_hardware(self) -> bool:
        """Whether a GPU runs the cases."""
        return self.witness.ground.is_hardware

    def where_seen(self, product: str, numbers: bool) -> str:
        """What ran, for the first lines of an issue. product: the GPU that the case is for; numbers: whether o was compared."""
        text = self.seen_whole if numbers and self.seen_whole else self.seen_on
        return text.format(product=product) if text else f"device {self.name}"

    def how_swept(self, numbers: bool) -> str:
        """How a sweep of shapes on it came by what it tells."""
        return (self.swept_whole if numbers and self.swept_whole else self.swept) or f"seen on device {self.name}"


_NOTICES = {
    Ground.SIMULATION: "Not run on hardware: a simulation on the CPU.",
    Ground.NVIDIA: "Not run on AMD hardware: a kernel of our own on an NVIDIA GPU.",
    Ground.AMD: "Run on AMD hardware.",
}


def device_kind(name: str) -> DeviceKind:
    """The row of a device; raises UsageError for an unknown name."""
    found = DEVICES.get(name)
    if found is None:
        raise UsageError.not_allowed("device", name, ", ".join(DEVICES))
    return found


def require_device(name: str, numbers: bool) -> DeviceKind:
    """The row of a device that computes numbers where they are asked for; raises UsageError where there is none."""
    kind = device_kind(name)
    if numbers and kind.numbers is NumbersKind.NEVER:
        having = [each.name for each in DEVICES.values() if each.numbers is not NumbersKind.NEVER]
        raise UsageError.not_allowed("numbers of device", name, ", ".join(having))
    return kind


def notice(device: str) -> str:
    """What must stand beside every result of a device."""
    return f"device {device}: {device_kind(device).witness.notice}"


def _model(asked: Opening) -> Device:
    from backend.devices.model.device import ModelDevice

    model = ModelDevice(asked.record)
    if asked.source is None:
        return model
    from backend.devices.two_devices import ModelOrMachine

    return ModelOrMachine(model, _cdna(asked))


def _cdna(asked: Opening) -> Device:
    from backend.devices.cdna.device import CdnaDevice

    return CdnaDevice(asked.source, asked.record, numbers=asked.numbers)


def _cdna_with_hazards(asked: Opening) -> Device:
    from backend.devices.cdna.device import CdnaDevice

    return CdnaDevice(asked.source, asked.record, hazards=True, numbers=asked.numbers)


def _cuda(asked: Opening) -> Device:
    from backend.devices.cuda import CudaDevice

    return CudaDevice(asked.ranks)


def _rocm(asked: Opening) -> Device:
    from backend.devices.rocm import RocmDevice

    return RocmDevice(asked.ranks)


def _both(asked: Opening) -> Device:
    from backend.devices.two_devices import BothDevice

    each = replace(asked, record=True)
    return BothDevice(_cdna(each), _model(replace(each, source=None)), asked.record)


_SECOND_STAGE = "the second stage (mla_reduce_v1, Triton merge) is followed by its rules: it ships as no code object"

_GPU_MEMORY = 16_384
"""MiB where one of a worker's processes holds a GPU's runtime, whose libraries alone are some gigabytes."""

_GPU_CHUNK = 8
"""Each case takes seconds: a child process, and a launch that may fault."""

_GPU_SECONDS = 1800.0
"""A GPU device has a limit of its own for each launch and runs a case several times when it died; this one is for the rest."""

_ROWS = (
    DeviceKind(
        name="model",
        open=_model,
        numbers=NumbersKind.NEVER,
        chunk_cases=1000,  # a quarter of a second of work: handing a chunk out costs two milliseconds
        case_seconds=30.0,  # a thousand times what a usual case takes; the longest legitimate ones take a hundredth
        witness=Witness(
            ground=Ground.SIMULATION,
            ran="AITER's sizing, planner and launcher, and a model of what each launched kernel reads and writes",
            sees=(
                "reads and writes outside of a tensor, to the byte, of planner, kernel and reduction",
                "pages of the KV pool that are not the request's, and addresses that wrap",
                "(row, token) pairs that are covered never or twice, and rows of o that nobody writes",
                "head widths, sizes and kernel keys that do not agree",
            ),
            blind=(
                "no instruction is run: a fault inside a kernel shows only where its rule is known",
                "no number is computed: a wrong value from right addresses goes unseen",
                "no timing: races and hangs go unseen",
                _SECOND_STAGE,
            ),
        ),
        seen_on="a model of what each kernel accesses, for {product}; **not yet seen on a GPU**",
        swept="worked out by the model of each kernel's accesses",
    ),
    DeviceKind(
        name="cdna",
        open=_cdna,
        open_with_hazards=_cdna_with_hazards,
        numbers=NumbersKind.ASKED,
        runs_code_objects=True,
        chunk_cases=25,  # a second of work
        case_seconds=300.0,
        shrunk_on="model",
        witness=Witness(
            ground=Ground.SIMULATION,
            ran="AITER's sizing, planner and launcher, and the machine code of the launched kernel on a simulated CDNA machine",
            sees=(
                "every global access of the machine code, checked against its tensor to the byte",
                "pages of the KV pool that are not the request's, and addresses that wrap",
                "(row, token) pairs that are covered never or twice, and rows of o that nobody writes",
                "loops that do not end",
            ),
            blind=(
                "instructions that addresses do not depend on are left out: no number is computed but of the first case of "
                "each kind in a search, and where --numbers asks for it",
                "caches, timing and the order between workgroups are not those of a GPU",
                _SECOND_STAGE,
            ),
        ),
        seen_on="AITER's own machine code, every instruction that its accesses depend on run on a simulated {product}, the "
        "second stage by a model; **not yet seen on a GPU**",
        seen_whole="AITER's own machine code, run whole on a simulated {product}, the second stage by a model; **not yet seen "
        "on a GPU**",
        swept="seen in the accesses of AITER's machine code on the simulated GPU",
        swept_whole="seen by running the kernels whole on the simulated GPU and comparing o with attention in float64",
    ),
    DeviceKind(
        name="both",
        open=_both,
        numbers=NumbersKind.NEVER,
        runs_code_objects=True,
        chunk_cases=25,
        case_seconds=300.0,
        shrunk_on="model",
        witness=Witness(
            ground=Ground.SIMULATION,
            ran="what `cdna` runs and what `model` foretells of it, held against each other",
            sees=(
                "everything that `cdna` sees",
                "every byte touched and every violation that one of them has and the other has not",
            ),
            blind=(
                "what neither of them knows: numbers, timing, caches",
                _SECOND_STAGE,
            ),
        ),
    ),
    DeviceKind(
        name="rocm",
        open=_rocm,
        numbers=NumbersKind.ALWAYS,
        takes_ranks=True,
        chunk_cases=_GPU_CHUNK,
        case_seconds=_GPU_SECONDS,
        worker_memory=_GPU_MEMORY,
        witness=Witness(
            ground=Ground.AMD,
            ran="AITER itself (its sizing, planning and mla_decode_fwd) on an AMD GPU, in child processes that a case may kill",
            sees=(
                "accesses that reach unmapped memory (the GPU faults)",
                "numbers outside of the error budget and rows of o that nobody writes",
                "hangs and deaths of the process",
            ),
            blind=(
                "an access past the end of a tensor that stays inside mapped memory faults nowhere; the outputs may show it",
                "the GPU names an address, not an instruction, and not whether it was read or written",
            ),
        ),
    ),
    DeviceKind(
        name="cuda",
        open=_cuda,
        numbers=NumbersKind.ALWAYS,
        takes_ranks=True,
        chunk_cases=_GPU_CHUNK,
        case_seconds=_GPU_SECONDS,
        worker_memory=_GPU_MEMORY,
        # While one plans, checks or compiles, the GPU runs cases of the others; each holds a context of its own and some
        # gigabytes. `rocm` keeps to one: a GPU that is reset takes with it whatever else runs there.
        workers_sharing=4,
        witness=Witness(
            ground=Ground.NVIDIA,
            ran="AITER's sizing and planner, and a Triton kernel of our own that takes AITER's plan as it is",
            sees=(
                "stores outside of a tensor (red zones around each, to the element)",
                "reads outside of float tensors (as NaN) and illegal accesses",
                "numbers outside of the error budget and hangs",
            ),
            blind=(
                "AITER's kernels do not run: nothing is said of their machine code",
                "reads past the end of integer tensors, and accesses that jump over a red zone, may leave no trace",
            ),
        ),
    ),
)

DEVICES: dict[str, DeviceKind] = {row.name: row for row in _ROWS}
"""By name."""


def open_device(
    name: str, source: CodeSource | None = None, record: bool = False, ranks: int = 1, numbers: bool = False
) -> Device:
    """The device of that name.

    source: where its code objects come from (devices that run them); record: whether observations carry footprints; ranks:
    processes that run each case at once; numbers: observations must have numbers. Raises UsageError for an unknown name and
    for ranks or numbers on a device that has none, CannotRunError where the machine lacks what the device needs.
    """
    kind = require_device(name, numbers)
    if ranks > 1 and not kind.takes_ranks:
        having = [each.name for each in DEVICES.values() if each.takes_ranks]
        raise UsageError.not_allowed(f"ranks of device {name}", ranks, f"1; devices with ranks are {', '.join(having)}")
    return kind.open(Opening(source, record, ranks, numbers))


def open_searching(name: str, source: CodeSource | None = None, ranks: int = 1, numbers: bool = False) -> Device:
    """The device as a search has it: one that computes numbers where it is asked to does so for what is new.

    As open_device; where torch is not there, slices are all that runs.
    """
    from backend.devices.two_devices import WholeWhereNew

    device = open_device(name, source, ranks=ranks, numbers=numbers)
    kind = DEVICES[name]
    if numbers or kind.numbers is not NumbersKind.ASKED or find_spec("torch") is None:
        return device
    return WholeWhereNew(device, open_device(name, source, ranks=ranks, numbers=True))
