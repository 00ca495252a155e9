"""get_mla_metadata_v1 of any revision, evaluated from its text: its checks, which planner it takes, and what that one writes.

Source: csrc/kernels/mla/metadata.cu and csrc/kernels/mla/metadata/v1_*_device.cuh of the revision. Knows no rule of planning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from backend.aiter.arguments import BufferSizes, Int32Array, PlanArguments, TargetGpu
from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import BUFFER_NAMES, SHARED_MEMORY
from backend.aiter.planners.result import Plan, PlannedBuffer, PlannerName, StrayRead
from backend.aiter.text.surroundings import (
    COMMON_FILE,
    LDS_BYTES,
    LIBRARY,
    MACROS,
    UNIFORM,
    WAVE,
    Address,
    NotLaunched,
    Tensor,
    checks_abort,
    dtype_as,
    dtype_names,
    python_names,
    surroundings,
)
from backend.case import Arch, DType
from backend.cxx.arithmetic import Marks
from backend.cxx.errors import CxxError, HostTrap
from backend.cxx.host import HostModule, lower_host
from backend.cxx.host_runtime import CheckFailedError
from backend.cxx.kernel import LoweredKernel, lower_kernel
from backend.cxx.memory import Spaces
from backend.cxx.module import compiled_kernel, host_functions, local_at
from backend.cxx.syntax import Unit, parse_unit
from backend.errors import UnmodelledError

ENTRY = "get_mla_metadata_v1"
ENTRY_FILE = "csrc/kernels/mla/metadata.cu"
_METADATA = "csrc/kernels/mla/metadata/"
HEADERS = ("csrc/include/aiter_enum.h", "csrc/include/mla.h", "csrc/include/mla_metadata.h")
PLANNER_FILES = tuple(f"{_METADATA}{name}" for name in ("v1_comm.cuh", "v1_0_device.cuh", "v1_1_device.cuh", "v1_2_device.cuh"))

_PLANNERS = {"v1_0": PlannerName.V1_0, "v1_1": PlannerName.V1_1, "v1_2": PlannerName.V1_2}
_LANES = 64

ReadFile = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Switches:
    """What a call of the planner has besides `PlanArguments`: the environment, and arguments that newer revisions have."""

    environment: Mapping[str, str]
    more: Mapping[str, Any]


NO_SWITCHES = Switches({}, {})


class Planners:
    """The planners of one revision. read: a file's text by its path, None where the revision has none."""

    def __init__(self, read: ReadFile) -> None:
        self._read = read
        self._local = threading.local()
        self._modules: dict[Arch, _Module] = {}

    def plan(
        self, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes, switches: Switches = NO_SWITCHES
    ) -> Plan:
        """What the revision's get_mla_metadata_v1 does to buffers of `allocated` words.

        Raises CxxError where its text uses what is not provided for, UnmodelledError where hardware's answer is not known.
        """
        return self._module(device.arch).plan(device, arguments, allocated, switches, self._spaces)

    def lowered(self, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> str | None:
        """The kernel that a call would run, lowered and neither compiled nor run; None where AITER rejects the call.

        Raises CxxError where the text uses what is not provided for.
        """
        return self._module(device.arch).lowered(device, arguments, allocated)

    @cached_property
    def checks_end_process(self) -> bool:
        """Whether a failed check of the revision's get_mla_metadata_v1 ends the process."""
        paths = (*HEADERS, *PLANNER_FILES, ENTRY_FILE)
        return checks_abort("".join(self._read(path) or "" for path in paths), self._read(COMMON_FILE) or "")

    def _module(self, arch: Arch) -> _Module:
        if arch not in self._modules:
            self._modules[arch] = _Module(self._read, arch, self.checks_end_process)
        return self._modules[arch]

    def _spaces(self, kernel: LoweredKernel) -> Spaces:
        """The calling thread's memory for a kernel."""
        kept: dict[int, Spaces] = self._local.__dict__.setdefault("spaces", {})
        count = len(kernel.spaces)
        if count not in kept:
            kept[count] = Spaces.of_kernel(count)
        return kept[count]


@dataclass(slots=True)
class _Launched:
    """A launch: which kernel on what. heads: of a planned row, a variable of the host function; 0 where it has none."""

    kernel: LoweredKernel
    template: tuple[Any, ...]
    arguments: Mapping[str, Any]
    blocks: tuple[int, int, int]
    threads: int
    lds_bytes: int
    heads: int = 0


class _Stop(Exception):  # noqa: N818 - how the host half of a run ends
    def __init__(self, launched: _Launched) -> None:
        super().__init__()
        self.launched = launched


class _Module:
    """A revision's planners for one architecture. aborts: whether a failed check ends the process."""

    def __init__(self, read: ReadFile, arch: Arch, aborts: bool) -> None:
        paths = [path for path in (*HEADERS, *PLANNER_FILES, ENTRY_FILE) if read(path) is not None]
        if ENTRY_FILE not in paths:
            raise CxxError(ENTRY_FILE, 0, "a revision without this file")
        files = [("library", LIBRARY)]
        files += [(path.rpartition("/")[2], read(path) or "") for path in paths]
        self.unit: Unit = parse_unit(files, (*MACROS, f"__{arch.value}__ 1"))
        self.host: HostModule = lower_host(self.unit, [ENTRY], surroundings())
        self.parameters = self.host.parameters[ENTRY]
        self._dtypes = dtype_names(self.unit.enumerators) if "aiter_tensor_t" in (read(ENTRY_FILE) or "") else None
        self.aborts = aborts
        self.arch = arch
        self._kernels: dict[int, LoweredKernel] = {}
        self._functions: dict[tuple[int, tuple[tuple[str, str], ...]], Callable[..., Any]] = {}

    def plan(
        self,
        device: TargetGpu,
        arguments: PlanArguments,
        allocated: BufferSizes,
        switches: Switches,
        spaces_of: Callable[[LoweredKernel], Spaces],
    ) -> Plan:
        """Plans on this architecture; see Planners.plan."""
        launched = self._launched(device, arguments, allocated, switches)
        if isinstance(launched, NotLaunched):
            return _rejected(_planner_by_flags(arguments), launched, allocated)
        return self._run(launched, arguments, allocated, spaces_of)

    def lowered(self, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> str | None:
        """Names the kernel that is launched on this architecture; see Planners.lowered."""
        launched = self._launched(device, arguments, allocated, NO_SWITCHES)
        return None if isinstance(launched, NotLaunched) else launched.kernel.name

    def _launched(
        self, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes, switches: Switches
    ) -> _Launched | NotLaunched:
        """What the host half of a call launches; why it is rejected."""
        entry = self._entry(device, switches.environment)
        given = self._given(device, arguments, allocated, switches.more)
        if isinstance(given, str):
            return NotLaunched(given, False)
        try:
            entry(*given)
        except CheckFailedError as failed:
            where = f"{failed.file}:{failed.line} " if self.aborts else ""
            return NotLaunched(f"{where}{failed.message}", self.aborts)
        except HostTrap as trap:
            return NotLaunched(str(trap), True)
        except _Stop as stop:
            stop.launched.heads = local_at(stop, "num_heads")
            return stop.launched
        raise CxxError(ENTRY_FILE, 0, "a planner that launches nothing")

    def _entry(self, device: TargetGpu, environment: Mapping[str, str]) -> Callable[..., Any]:
        key = (device.num_cu, tuple(sorted(environment.items())))
        if key not in self._functions:
            names = python_names(device.arch, device.num_cu, environment)
            names["launch_kernel"] = self._launch
            self._functions[key] = host_functions(self.host, names)[ENTRY]
        return self._functions[key]

    def _launch(self, number: int, template: tuple[Any, ...], arguments: tuple[Any, ...], *grid: Any) -> None:
        kernel = self.kernel(number)
        blocks, threads, lds_bytes = grid[0], grid[1], grid[2] if len(grid) > 2 else 0
        named = dict(zip(kernel.parameters, arguments, strict=True))
        raise _Stop(
            _Launched(kernel, template, named, blocks, threads[0] if isinstance(threads, tuple) else threads, lds_bytes)
        )

    def kernel(self, number: int) -> LoweredKernel:
        """A kernel that the host code launches, lowered at its first use."""
        if number not in self._kernels:
            name, shapes = self.host.launched[number]
            self._kernels[number] = lower_kernel(self.unit, name, shapes, WAVE, uniform=UNIFORM)
        return self._kernels[number]

    def _dtype(self, dtype: DType, arch: Arch) -> Any:
        return dtype_as(dtype.value, arch, self._dtypes)

    def _given(
        self, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes, more: Mapping[str, Any]
    ) -> list[Any] | str:
        """Arguments of the entry by its own parameters; why a caller cannot hand over one that the revision lacks."""
        int32 = dtype_as("i32", device.arch, self._dtypes)

        def tensor(name: str, words: int) -> Tensor:
            shape = (words // 8, 8) if name == "work_info_set" else (words // 2, 2) if name == "reduce_final_map" else (words,)
            return Tensor(name, shape, int32, 4)

        q_dtype, kv_dtype = self._dtype(arguments.q_dtype, device.arch), self._dtype(arguments.kv_dtype, device.arch)
        values: dict[str, Any] = {
            "seqlens_qo_indptr": Tensor("qo_indptr", (arguments.qo_indptr.size,), int32, 4),
            "seqlens_kv_indptr": Tensor("kv_indptr", (arguments.kv_indptr.size,), int32, 4),
            "kv_last_page_lens": Tensor("kv_last_page_lens", (arguments.kv_last_page_lens.size,), int32, 4),
            "num_heads_per_head_k": arguments.num_heads_per_head_k,
            "num_heads_k": arguments.num_heads_k,
            "is_causal": arguments.is_causal,
            "work_metadata_ptrs": Tensor("work_metadata_ptrs", (2,), "u64", 8),
            **{name: tensor(name, getattr(allocated, name)) for name in BUFFER_NAMES},
            "page_size": arguments.page_size,
            "kv_granularity": arguments.kv_granularity,
            "max_seqlen_qo": arguments.max_seqlen_qo,
            "uni_seqlen_qo": arguments.uni_seqlen_qo,
            "fast_mode": arguments.fast_mode,
            "topk": arguments.topk,
            "max_split_per_batch": arguments.max_split_per_batch,
            "intra_batch_mode": arguments.intra_batch_mode,
            "dtype_q": q_dtype,
            "dtype_kv": kv_dtype,
            "dtype_q_nope": q_dtype,
            "dtype_kv_nope": kv_dtype,
            "dtype_q_rope": None,
            "dtype_kv_rope": None,
            "is_cp_round_robin": arguments.is_cp_round_robin,
            "mla_version": 0,
        }
        values.update(more)
        for name, neutral in _NEUTRAL.items():
            if name not in self.parameters and values[name] != neutral:
                return f"{ENTRY} has no argument {name}"
        return [values[name] for name in self.parameters]

    def _run(
        self,
        launched: _Launched,
        arguments: PlanArguments,
        allocated: BufferSizes,
        spaces_of: Callable[[LoweredKernel], Spaces],
    ) -> Plan:
        kernel = launched.kernel
        if launched.blocks != (1, 1, 1) or launched.threads % _LANES:
            raise UnmodelledError(f"{kernel.name}: {launched.blocks} blocks of {launched.threads} threads")
        inputs = {
            "qo_indptr": arguments.qo_indptr,
            "kv_indptr": arguments.kv_indptr,
            "kv_last_page_lens": arguments.kv_last_page_lens,
        }
        tensors = [_tensor_at(_found(launched, path)) for path in kernel.spaces[:-1]]
        given = {space: inputs[name] for space, name in enumerate(tensors) if name in inputs}
        integers = np.array([_number(launched, path) for path in kernel.integers], np.int64)
        floats = np.array([_number(launched, path) for path in kernel.floats], np.float32)
        spaces = spaces_of(kernel)
        ended = spaces.run(compiled_kernel(kernel), given, launched.threads // _LANES, integers, floats)
        if ended & 1:
            raise UnmodelledError(f"{kernel.name}: lanes disagree on what they were taken to share")
        shared = len(kernel.spaces) - 1
        low, high = spaces.reach(shared)
        if low <= high and (low < 0 or high >= launched.lds_bytes // 4):
            raise UnmodelledError(f"{kernel.name}: local memory beyond its end, word {high} of {launched.lds_bytes // 4}")
        return self._plan(launched, arguments, allocated, spaces, tensors, ended >> 1)

    def _plan(
        self,
        launched: _Launched,
        arguments: PlanArguments,
        allocated: BufferSizes,
        spaces: Spaces,
        tensors: list[str | None],
        taken: int,
    ) -> Plan:
        buffers = {}
        for name in BUFFER_NAMES:
            low, words, written = spaces.left(tensors.index(name)) if name in tensors else _NOTHING
            buffers[name] = PlannedBuffer(name, getattr(allocated, name), low, words, written)
        names = [*tensors, SHARED_MEMORY]
        reads = tuple(StrayRead(names[space] or "?", word) for space, word in spaces.stray_reads())
        heads = arguments.num_heads_per_head_k * arguments.num_heads_k
        sequences = arguments.kv_indptr.size - 1
        planner = next(each for name, each in _PLANNERS.items() if name in launched.kernel.name)
        params = launched.arguments["params"]
        width = launched.heads or heads
        fold = max(1, heads // width)
        rows = params.num_batches
        query_fold = max(1, fold * sequences // max(1, rows)) if fold > 1 else 1
        if planner is PlannerName.V1_2 and arguments.topk >= 0:  # this kernel plans a row for each query
            rows *= int(arguments.qo_indptr[1] - arguments.qo_indptr[0])
        return Plan(
            planner=planner,
            rejected=None,
            buffers=buffers,
            reads_past_end=reads,
            fold=fold,
            query_fold=query_fold,
            head_width=width,
            rows=rows,
            rows_per_sequence=max(1, rows // max(1, sequences)),
            compute_units=params.num_cu,
            branches=taken << _FIRST_BRANCH,
        )


_NEUTRAL = {
    "page_size": 1,
    "intra_batch_mode": False,
    "is_cp_round_robin": False,
    "mla_version": 0,
}
"""Arguments that a revision may lack, with the value at which that makes no difference."""

_FIRST_BRANCH = max(Branch).bit_length()
"""Bits of `Plan.branches` above those of Branch: a text's branches by their order, which mean nothing but that they differ."""

_NOTHING: tuple[int, Int32Array, Marks] = (0, np.empty(0, np.int32), np.empty(0, np.uint8))


def _found(launched: _Launched, path: str) -> Any:
    first, _, rest = path.partition(".")
    value = launched.arguments[first]
    for name in rest.split(".") if rest else []:
        value = getattr(value, name, None)
    return value


def _number(launched: _Launched, path: str) -> Any:
    if path.isdigit():
        return launched.template[int(path)]
    value = _found(launched, path)
    return 0 if value is None else value


def _tensor_at(value: Any) -> str | None:
    return value.tensor if isinstance(value, Address) else None


def _planner_by_flags(arguments: PlanArguments) -> PlannerName:
    if arguments.fast_mode:
        return PlannerName.V1_2
    return PlannerName.V1_0 if arguments.intra_batch_mode else PlannerName.V1_1


def _rejected(planner: PlannerName, ended: NotLaunched, allocated: BufferSizes) -> Plan:
    low, words, written = _NOTHING
    buffers = {name: PlannedBuffer(name, getattr(allocated, name), low, words, written) for name in BUFFER_NAMES}
    return Plan(planner, ended.reason, buffers, ends_process=ended.ends_process)


__all__ = ["LDS_BYTES", "NO_SWITCHES", "Planners", "Switches"]
