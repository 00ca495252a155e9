"""The device `cdna`: AITER's real machine code, run on the CPU with every global access checked.

Stage 1 is the shipped code object. The reduction is compiled on the user's machine from C++ and has no code object to run, so
its accesses are the model's, applied to what the machine code wrote; every result says so. By default only what addresses
depend on is executed; where numbers are asked for, everything is, on values drawn from a seed, and the output is compared with
float64 attention.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.aiter.codefiles import BlobSource, CodeSource, blob_id, installed_wheel, open_code
from backend.aiter.kernargs import SLOT, is_decode_kernel
from backend.aiter.launch import Launch
from backend.call import Call
from backend.case import Arch, OutputType
from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.machine import LDS_BYTES, Machine, MachineLaunch, too_much_lds
from backend.cdna.memory import AddressSpace, Region
from backend.cdna.record import RecordOptions, marked_runs
from backend.cdna.result import BadAccess, MachineEnd, Mode, RunResult, Schedule
from backend.child.process_end import EndKind
from backend.devices import outputs, second_stage
from backend.devices.cdna import address_space as spaces
from backend.devices.cdna.address_origin import explainer
from backend.devices.cdna.violations import FULL_OVER_SLICE, Explain, footprint, hazards, violations
from backend.devices.device import coverage_identifier, coverage_of
from backend.devices.second_stage import SecondStageRun
from backend.errors import CannotRunError, UnmodelledError
from backend.observation import ByteRanges, DeviceEnd, Footprint, Numbers, Observation, Violation, ViolationKind
from backend.words import counted, number_of

if TYPE_CHECKING:
    from backend.devices.gpu.cdna_numbers import Inputs

SECOND_STAGE_NOTE = "second stage by model"
SEED = 0
"""Of the values in q and the KV pool, as on the devices that are GPUs."""


@dataclass(slots=True, eq=False)
class _Launched:
    """One launch that has been run. limit: wave instructions of a workgroup's slice after which it is taken
    for a hang."""

    machine: Machine
    start: MachineLaunch
    space: AddressSpace
    limit: int
    result: RunResult


MOST_TOKENS, MOST_NUMBERS = 1 << 24, 1 << 20
"""KV tokens of a launch that are run, and that are run in full: each takes some two minutes on a busy core."""


class CdnaDevice:
    """See the module. source: where code objects are read, None: the installed wheel. record: keep footprints.

    explained: violations say where their first bad address came from. hazards: LDS races and missing waits are looked for too
    (notes), and bytes that two workgroups write (violations of their own kind). numbers: the kernel is executed in full, by the
    timing model, some ten times as long, and observations have numbers. Raises CannotRunError for numbers without torch.
    """

    name = "cdna"

    def __init__(
        self,
        source: CodeSource | None = None,
        record: bool = False,
        explained: bool = True,
        hazards: bool = False,
        numbers: bool = False,
    ) -> None:
        self._source = source if source is not None else installed_wheel()
        self._record = record
        self._explained = explained
        self._hazards = hazards
        self._numbers = numbers
        if numbers and importlib.util.find_spec("torch") is None:
            raise CannotRunError("numbers of device cdna: no torch here, which computes the reference; pip install torch")

    def observe(self, call: Call) -> Observation:
        """Runs the call's code object, in slice mode unless numbers are asked for.

        Raises CannotRunError where the source lacks the code object, UnmodelledError for machine code that has no model.
        """
        launch = call.launched
        most, tokens = MOST_NUMBERS if self._numbers else MOST_TOKENS, len(call.decode.kv_indices) * call.decode.page_size
        if tokens > most:
            minutes = math.ceil(tokens / most * 2)
            raise UnmodelledError(
                f"too much work: {counted(tokens, 'KV token')} would take about {minutes:,} minutes; up to {most:,} are "
                "run: give fewer "
                "or shorter requests, or device model"
            )
        machine = machine_of(self._source, launch.arch, launch.code_object, launch.symbol)
        too_much = too_much_lds(machine.kernel)
        if too_much is not None:
            return Observation(call, self.name, (_lds(machine.kernel, launch, too_much),), coverage=coverage_of(call))
        _check_arguments(self._source, machine.kernel, launch)
        inputs = _inputs(call) if self._numbers else None
        ran = self._launched(call, machine, inputs)
        result, space = ran.result, ran.space
        numbers, row_notes = _numbers(call, ran, inputs) if inputs is not None else (None, ())
        found = violations(call, result, self._explainer(ran, launch.persistent))
        footprints: dict[str, Footprint] = {launch.code_object: footprint(result)} if self._record else {}
        merged = second_stage.run(call, self._record)
        found += merged.violations
        end = None
        if result.outcome is MachineEnd.LIMIT:
            end = DeviceEnd(
                EndKind.HANG, f"{launch.code_object} is not at its end after {number_of(result.executed, 'wave instruction')}"
            )
        else:
            found += _left_undone(call, space, result, merged)
        executed = "the address slice" if inputs is None else "the whole kernel"
        hazardous = hazards(ran.machine, ran.start, space, ran.limit) if self._hazards else ()
        return Observation(
            call,
            self.name,
            tuple(found),
            {**footprints, **merged.footprints},
            coverage_of(call) | {coverage_identifier(launch.code_object, *edge) for edge in result.edges.tolist()},
            schedule=str(result.schedule),
            notes=(
                f"{number_of(result.executed, 'wave instruction')} of {executed}",
                SECOND_STAGE_NOTE,
                *row_notes,
                *hazardous,
            ),
            numbers=numbers,
            end=end,
        )

    def _explainer(self, ran: _Launched, persistent: bool) -> Explain:
        return explainer(ran.machine, ran.start, ran.space, persistent, ran.limit) if self._explained else _unexplained

    def _launched(self, call: Call, machine: Machine, inputs: Inputs | None) -> _Launched:
        launch = call.launched
        space, kernarg = _space(call, None if inputs is None else inputs.of_launch(call))
        axis = None if launch.persistent else spaces.REQUEST_AXIS
        start = MachineLaunch(launch.grid, launch.block, kernarg, requester_axis=axis)
        limit = instruction_limit(call)
        record = RecordOptions(touched=True if self._record else _watched(call), overlaps=self._hazards)
        with _named(self._source, launch.code_object):
            if inputs is None:
                result = machine.run(start, space, Mode.SLICE, record=record, max_instructions=limit)
            else:
                most = FULL_OVER_SLICE * limit
                result = machine.run(start, space, Mode.FULL, Schedule.TIMED, record=record, max_instructions=most)
        return _Launched(machine, start, space, limit, result)


def _space(call: Call, values: Mapping[str, npt.NDArray[Any]] | None) -> tuple[AddressSpace, bytes]:
    """See spaces.build; raises CannotRunError where this machine has no room for what is kept of each byte."""
    try:
        return spaces.build(call, values)
    except MemoryError as error:
        sizes = ", ".join(
            f"{name} {counted(spec.nbytes, 'byte')}" for name, spec in call.launched.tensors.items() if spec.nbytes >> 30
        )
        raise CannotRunError(f"the launch's tensors ({sizes}): more than this machine can keep account of ({error})") from error


def _inputs(call: Call) -> Inputs:
    from backend.devices.gpu.cdna_numbers import draw

    return draw(call, SEED)


def _numbers(call: Call, ran: _Launched, inputs: Inputs) -> tuple[Numbers | None, tuple[str, ...]]:
    """The numbers and what is to be told of the partial rows; none of a launch that hangs or after which AITER raises."""
    from backend.devices.gpu.cdna_numbers import judge, partial_row_notes

    raised = call.launched.raises_afterwards or call.launched.second_stage.refusal
    if raised:
        return None, (f"no numbers: AITER raises after stage 1 ({raised})",)
    if call.decode.o_dtype is not OutputType.BF16:
        return None, (f"no numbers: o is {call.decode.o_dtype}",)
    if call.launched.tensors["o"].gap:
        return None, ("no numbers: o is a view with gaps",)
    if ran.result.outcome is MachineEnd.LIMIT:
        return None, ("no numbers: the launch is not at its end",)
    return judge(call, ran.space, inputs), partial_row_notes(call, ran.space)


def _watched(call: Call) -> frozenset[str]:
    """Regions of which every touched byte is kept: the pool, where a kernel may take its tokens for others than they are."""
    return frozenset({"kv_buffer"}) if outputs.may_differ(call) else frozenset()


def _left_undone(call: Call, space: AddressSpace, result: RunResult, merged: SecondStageRun) -> list[Violation]:
    """Rows of o and of the merge's input that nobody writes, tokens of the pool that nobody reads."""
    written = _written(space["o"])
    found = [
        outputs.unwritten(call, written[:, 0], written[:, 1], merged.rows),
        outputs.unwritten_partials(call, lambda tensor: _written(space[tensor]), merged.partials),
    ]
    if outputs.may_differ(call):
        found.append(outputs.unread(call, result.log.touched_read["kv_buffer"]))
    return [violation for violation in found if violation is not None]


def _written(region: Region) -> ByteRanges:
    assert region.written is not None
    return marked_runs(region.written, region.size)


def _unexplained(access: BadAccess) -> str:
    return ""


def machine_of(source: CodeSource, arch: Arch, code_object: str, symbol: str) -> Machine:
    """The machine of one kernel, compiled once; each thread has its own, since a machine is not for two at once.

    Raises CannotRunError where the source lacks the code object, or the code object is none, is for another architecture or
    has no such kernel. Of a code object that was named by its id another decode kernel runs too, in place of the one that the
    call would launch, but no kernel of another operation.
    """
    return _machine_of_thread(threading.get_ident(), _kernel_of(source, arch, code_object, symbol))


@lru_cache(maxsize=64)
def _machine_of_thread(thread: int, kernel: Kernel) -> Machine:
    return Machine(kernel)


@lru_cache(maxsize=64)
def _kernel_of(source: CodeSource, arch: Arch, code_object: str, symbol: str) -> Kernel:
    content = open_code(source, arch, code_object)
    with _named(source, code_object):
        loaded = load_code_object(content)
    if loaded.arch != arch:
        raise CannotRunError(f"code object {code_object} of {source.label}: given one for {loaded.arch}; needed: {arch}")
    names = [kernel.name for kernel in loaded.kernels]
    if symbol not in names:
        if len(names) == 1 and isinstance(source, BlobSource) and is_decode_kernel(blob_id(content)):
            return loaded.kernels[0]
        raise CannotRunError(f"code object {code_object} of {source.label}: given kernels {names}; needed: {symbol}")
    return loaded.kernel(symbol)


def _check_arguments(source: CodeSource, kernel: Kernel, launch: Launch) -> None:
    """Raises UnmodelledError for a kernel that by its own metadata takes a number where the launch hands over an address, or
    anything behind the launch's last argument: one that was built for other arguments, whatever its name.

    The other way round is not looked at, as kernels of AITER's declare out_16_nosplit as an address and read a number.
    """
    passed = {kernarg.offset: kernarg for kernarg in launch.kernargs}
    for argument in kernel.arguments:
        if argument.name.startswith("pad") or argument.kind.startswith("hidden") or argument.size > SLOT:
            continue  # one of more than a slot is the whole segment, of which nothing more is said
        given = passed.get(argument.offset)
        if given is None or (argument.kind == "by_value" and given.name.startswith("ptr_")):
            handed = "nothing" if given is None else f"{given.name}, an address"
            taken = f"{argument.name} ({number_of(argument.size, 'byte')}, {argument.kind}) at {argument.offset:#x}"
            raise UnmodelledError(
                f"code object {launch.code_object} of {source.label}: takes other arguments than the launch hands over: by its "
                f"metadata {taken}, where there is {handed}"
            )


def _lds(kernel: Kernel, launch: Launch, why: str) -> Violation:
    most = LDS_BYTES[kernel.arch]
    return Violation(ViolationKind.LDS, launch.code_object, "", False, most, kernel.lds_size, kernel.lds_size - most, 1, why)


@contextmanager
def _named(source: CodeSource, code_object: str) -> Iterator[None]:
    """Errors say of which code object they are; the machine knows neither files nor sources."""
    try:
        yield
    except CannotRunError as error:
        kind = UnmodelledError if isinstance(error, UnmodelledError) else CannotRunError
        raise kind(f"code object {code_object} of {source.label}: {str(error).removeprefix('code object: ')}") from error


def instruction_limit(call: Call) -> int:
    """Wave instructions of a workgroup after which it is taken for a hang: some 20 times what any kernel tried takes in slice
    mode for the most that a workgroup of the launch has to do."""
    launch, plan = call.launched, call.plan
    if plan is not None and launch.persistent:
        items = plan.work_items
        pages = np.concatenate(([0], np.cumsum((items[:, 5] - items[:, 4]).clip(min=0), dtype=np.int64)))
        shares = plan.buffers["work_indptr"].words.clip(0, len(items))  # words that nobody wrote are anything
        tiles, most = int(np.diff(shares).max(initial=0)), int(np.diff(pages[shares]).max(initial=0))
    else:
        tiles, most = 1, len(call.decode.kv_indices)
    return 200_000 + 40_000 * tiles + 400 * most * call.decode.page_size
