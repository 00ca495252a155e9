"""mla_reduce_v1 of any revision: its host half evaluated from its text, its kernels known by what their text is.

Source: csrc/kernels/mla/reduce.cu of the revision. The kernels are templates of ck_tile's and opus's registers and tiles, which
are not evaluated: each text that they have had was read, and what differs in what they touch is one value. Knows no plan.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backend.aiter.arguments import TargetGpu
from backend.aiter.text.surroundings import (
    COMMON_FILE,
    LIBRARY,
    MACROS,
    NotLaunched,
    Tensor,
    checks_abort,
    dtype_as,
    dtype_names,
    python_names,
    surroundings,
)
from backend.case import Arch
from backend.cxx.errors import CxxError, HostTrap
from backend.cxx.host import HostModule, lower_host
from backend.cxx.host_runtime import CheckFailedError
from backend.cxx.module import host_functions
from backend.cxx.syntax import Unit, parse_unit

ENTRY = "mla_reduce_v1"
REDUCTION_FILE = "csrc/kernels/mla/reduce.cu"
_HEADERS = ("csrc/include/aiter_enum.h", "csrc/include/mla.h")

KEEPS_MAP: Mapping[str, bool] = {
    "fc16ccdaf986c083": False,  # 2025-11-03, 7c0e15cdb7
    "97252c9321b66fe9": False,  # 2025-12-01, 19a48e70d6: NaN are passed over, head counts of any number
    "ce34f22cf1e70993": False,  # 2025-12-05, af113a3f89: few splits without LDS, workgroups share a tile's queries
    "fec2395e219ababd": False,  # 2025-12-17, 9b3c06e658: braces
    "9eeeb8b1e98b5510": True,  # 2026-01-23, d17e8239ce: the map in LDS
    "4706a5f24bb78d4a": True,  # 2026-01-26, b765984a0c: each way of merging fills the map itself
    "d5c5463058c16e4e": True,  # 2026-04-14, d87e5991cc
    "9948cdf4c979f04c": True,  # 2026-06-18, 14989519bf: a kernel for rows of 64
    "9627c738669738d0": True,  # v0.1.16.post4 to post6: a fast kernel
    "7861a47063727767": True,  # 2026-07-01, cdd6628f98
}
"""`kernels_of` each text of the kernels -> whether they keep reduce_partial_map in LDS (see ReductionRules.keeps_map).

In all of them a tile with fewer than two partial rows is passed over, the rows of a tile are those that reduce_partial_map
names from reduce_indptr[t] on, and `..._ps` strides over (head, group, tile) and ends at the first tile that begins where the
last one ends. Date and commit: where the text appeared on main. The fast kernel takes tile t for row t of o and the words of
reduce_indptr for partial rows, and reads neither map.
"""

_HOST = ("dispatch_mla_reduce_v1", ENTRY, "get_num_work_group_per_bh", "get_num_work_group_per_seq")
"""Functions that run on the host, and are evaluated."""

_DECORATIONS = (
    *("__global__", "__device__", "__host__", "__forceinline__", "__launch_bounds__(...)", "__shared__"),
    *("CK_TILE_DEVICE", "CK_TILE_HOST_DEVICE", "CK_TILE_HOST"),
)
"""Macros that a digest does not see."""

_ANY_ROOM = 1 << 31
"""Of a kernel without LDS."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """What is launched. room: partial rows of an output row that there is LDS for; groups: workgroups that share the queries of
    a tile and head; strides: workgroups that stride over all tiles, 0 where each tile has its own. without_maps: tiles that are
    merged as if both maps were the identity, 0 where they are read."""

    room: int
    groups: int
    strides: int
    without_maps: int = 0


class _Stop(Exception):  # noqa: N818 - how the host half of a run ends
    def __init__(self, reduced: Reduced) -> None:
        super().__init__()
        self.reduced = reduced


class Reduction:
    """The reduction of one revision. read: a file's text by its path, None where the revision has none."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self._functions: dict[tuple[Arch, int], Callable[..., Any]] = {}

    @cached_property
    def keeps_map(self) -> bool | None:
        """Whether its kernels keep the map in LDS; None for kernels that nobody has read."""
        text = self._read(REDUCTION_FILE)
        return None if text is None else KEEPS_MAP.get(kernels_of(text))

    def launch(self, device: TargetGpu, arguments: tuple[Any, ...]) -> Reduced | NotLaunched:
        """What a call with these arguments, by position, launches. arguments: Tensor, None or int; what is missing is None.

        A tensor's dtype is a name, as Tensor's is before `dtype_as`. Raises CxxError for what is not provided for.
        """
        parameters = self._module.parameters[ENTRY]
        given = [self._given(each, device.arch) for each in arguments[: len(parameters)]]
        given += [None] * (len(parameters) - len(given))
        try:
            self._entry(device)(*given)
        except _Stop as stop:
            return stop.reduced
        except CheckFailedError as failed:
            return NotLaunched(
                f"{failed.file}:{failed.line} {failed.message}" if self._aborts else failed.message, self._aborts
            )
        except HostTrap as trap:
            return NotLaunched(str(trap), True)
        return Reduced(_ANY_ROOM, 1, 0)

    def _given(self, value: Any, arch: Arch) -> Any:
        if not isinstance(value, Tensor):
            return value
        dtype = dtype_as(value.given_dtype, arch, self._dtypes if self._aiter_tensors else None)
        return Tensor(value.name, value.shape, dtype, value.itemsize_, value.strides)

    @cached_property
    def _text(self) -> str:
        text = self._read(REDUCTION_FILE)
        if text is None:
            raise CxxError(REDUCTION_FILE, 0, "a revision without this file")
        return text

    @cached_property
    def _aborts(self) -> bool:
        return checks_abort(self._text, self._read(COMMON_FILE) or "")

    @cached_property
    def _aiter_tensors(self) -> bool:
        return "aiter_tensor_t" in self._text

    @cached_property
    def _unit(self) -> Unit:
        headers = [(path.rpartition("/")[2], self._read(path)) for path in _HEADERS]
        files = [("library", LIBRARY), *((name, text) for name, text in headers if text is not None)]
        return parse_unit([*files, (REDUCTION_FILE.rpartition("/")[2], self._text)], MACROS)

    @cached_property
    def _dtypes(self) -> list[str]:
        return dtype_names(self._unit.enumerators)

    @cached_property
    def _module(self) -> HostModule:
        return lower_host(self._unit, [ENTRY], surroundings())

    def _entry(self, device: TargetGpu) -> Callable[..., Any]:
        key = (device.arch, device.num_cu)
        if key not in self._functions:
            names = python_names(device.arch, device.num_cu, {})
            names |= {
                "launch_kernel": self._launch,
                "dtype_text": lambda dtype: self._dtypes[dtype] if isinstance(dtype, int) else dtype,
            }
            self._functions[key] = host_functions(self._module, names)[ENTRY]
        return self._functions[key]

    def _launch(self, number: int, template: tuple[Any, ...], arguments: tuple[Any, ...], grid: Any, *_: Any) -> None:
        name, shapes = self._module.launched[number]
        if name.endswith("_fast"):
            raise _Stop(Reduced(_ANY_ROOM, 1, 0, without_maps=int(arguments[4])))
        traits = self._unit.find(shapes[0].name, "record")
        assert traits is not None
        named = dict(zip((each.name for each in traits.template or ()), template, strict=False))
        groups = next((int(value) for each, value in named.items() if each.startswith("kNumThreadGroup")), 1)
        strides = grid[0] if name.endswith("_ps") else 0
        raise _Stop(Reduced(_ANY_ROOM if name.endswith("_d64") else int(arguments[0].max_splits), groups, strides))


def kernels_of(text: str) -> str:
    """Digest of all functions of reduce.cu that run on the GPU, and of its records, without comments and spacing."""
    unit = parse_unit([("reduce.cu", text)], _DECORATIONS)
    kept = []
    for name, declared in sorted(unit.named.items()):
        for each in declared:
            if each.kind in ("function", "record") and name not in _HOST:
                bare = re.sub(r"\s+", "", each.node.text.decode())
                kept.append(re.sub(r"ck_tile::|opus::", "", bare))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]
