"""mla_decode_stage1_asm_fwd of any revision, evaluated from its text: its checks, its kernel table, its kernel arguments.

Source: csrc/py_itfs_cu/asm_mla.cu of the revision, hsa/<arch>/mla/mla_asm.csv in the order of the table that hsa/codegen.py
makes of it. Knows no rule of the launcher's.
"""

from __future__ import annotations

import csv
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from backend.aiter.arguments import TargetGpu
from backend.aiter.text.surroundings import (
    COMMON_FILE,
    LIBRARY,
    MACROS,
    Address,
    NotLaunched,
    Tensor,
    checks_abort,
    dtype_as,
    dtype_names,
    python_names,
    surroundings,
)
from backend.case import Arch
from backend.cxx.containers import map_order
from backend.cxx.errors import CxxError, HostTrap
from backend.cxx.host import HostModule, lower_host
from backend.cxx.host_runtime import CheckFailedError, RecordObject, f32, log2f
from backend.cxx.host_values import Class, Surroundings
from backend.cxx.module import host_functions, local_at
from backend.cxx.syntax import Unit, parse_unit
from backend.cxx.types import BOOL, FLOAT, INT, STRING, VOID, Opaque, Pointer
from backend.errors import CannotRunError

ENTRY = "mla_decode_stage1_asm_fwd"
LAUNCHER_FILE = "csrc/py_itfs_cu/asm_mla.cu"
_HEADERS = ("csrc/include/aiter_enum.h",)

_PADDING = """
struct p3 { unsigned int _p0; unsigned int _p1; unsigned int _p2; };
struct p2 { unsigned int _p0; unsigned int _p1; };
"""
"""Padding between kernel arguments, as aiter_hip_common.h declares it."""

ReadFile = Callable[[str], str | None]
HasFile = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Launched:
    """What the launcher launches.

    kernargs: (field, byte offset, size in bytes, value) in the struct's order without its padding; value: a number, a tensor's
    name for its address, 0 for a null pointer, None where the launcher sets nothing and zeroes nothing. kernarg_size: bytes.
    shadowed: code objects of further rows of the kernel table that match as well. rows_per_workgroup: sub_Q of the text, the
    packed rows of queries and heads that a workgroup of a non-persistent launch takes.
    """

    symbol: str
    code_object: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    kernarg_size: int
    kernargs: tuple[tuple[str, int, int, Any], ...]
    shadowed: tuple[str, ...]
    rows_per_workgroup: int


class _Launch(Exception):  # noqa: N818 - how the launcher's run ends
    def __init__(self, kernel: AsmKernel, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.kernel = kernel
        self.arguments = arguments


class _MissingCodeObject(Exception):  # noqa: N818 - an end of the evaluated code
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class AsmKernel:
    """AiterAsmKernel: a code object that is loaded, or is not there."""

    def __init__(self, symbol: str, code_object: str, has: HasFile) -> None:
        self.symbol = symbol
        self.code_object = code_object.rpartition("/")[2]
        if not has(self.code_object):
            raise _MissingCodeObject(code_object)

    def launch_kernel(self, arguments: tuple[Any, ...]) -> None:
        """Launch with {arguments, their size, grid, block, stream}."""
        raise _Launch(self, arguments)


class LauncherTable:
    """cfg_mla_asm: an unordered map from architecture and symbol to a row; the iteration order is the standard library's."""

    def __init__(self, rows: Mapping[str, Any]) -> None:
        self._rows = rows
        self._pairs = [SimpleNamespace(first=key, second=rows[key]) for key in map_order(rows)]
        self._by_key = {pair.first: pair for pair in self._pairs}
        self._matching: dict[str, tuple[str, ...]] = {}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pairs)

    def find(self, key: str) -> Any:
        """The pair of a key, `end()` where there is none."""
        return self._by_key.get(key)

    def end(self) -> None:
        """What `find` gives for no key."""

    def matching(self, key: str, columns: tuple[str, ...]) -> tuple[str, ...]:
        """Code objects of other rows that equal a row in all the columns that the launcher compares."""
        if key not in self._matching:
            self._matching[key] = self._equal_rows(key, columns)
        return self._matching[key]

    def _equal_rows(self, key: str, columns: tuple[str, ...]) -> tuple[str, ...]:
        row = self._rows[key]
        same = (each for name, each in self._rows.items() if name != key and name.startswith(row.arch))
        return tuple(
            each.co_name.rpartition("/")[2] for each in same if all(getattr(each, c) == getattr(row, c) for c in columns)
        )


class _Cache:
    """SynchronizedCache and std::unordered_map of loaded kernels: nothing is kept from call to call."""

    def get_or_create(self, name: str, make: Callable[[], Any]) -> Any:
        """Gives what `make` makes, which is not kept."""
        return make()


class _KernelMap:
    """A std::unordered_map of loaded kernels: empty in each call, which loads a kernel that is asked for."""

    def emplace(self, name: str, nothing: None) -> Any:
        """A new element, {an iterator to it, true}."""
        return SimpleNamespace(first=SimpleNamespace(second=None), second=True)


class Launcher:
    """The launcher of one revision. read: a file's text by its path, None where there is none; has: whether there is one."""

    def __init__(self, read: ReadFile, has: HasFile) -> None:
        self._read = read
        self._has = has
        self._functions: dict[tuple[Arch, int, tuple[tuple[str, str], ...]], Callable[..., Any]] = {}
        self._made_tables: dict[Arch, LauncherTable] = {}
        self._lock = threading.Lock()

    def launch(self, device: TargetGpu, arguments: tuple[Any, ...], environment: Mapping[str, str]) -> Launched | NotLaunched:
        """What a call with these arguments, by position as Python's declaration has them, launches.

        arguments: Tensor or None, int, float; what is missing at the end is the declaration's default: None. Raises CxxError
        where the text uses what is not provided for.
        """
        parameters = self.module.parameters[ENTRY]
        given = [f32(each) if isinstance(each, float) else each for each in arguments[: len(parameters)]]
        given += [0 if name == "stream" else None for name in parameters[len(given) :]]
        try:
            self._entry(device, environment)(*given)
        except _Launch as launched:
            return self._launched(launched, device.arch)
        except CheckFailedError as failed:
            where = f"{failed.file}:{failed.line} " if self.aborts else ""
            return NotLaunched(f"{where}{failed.message}", self.aborts)
        except HostTrap as trap:
            return NotLaunched(str(trap), True)
        except _MissingCodeObject as missing:
            if self.exits:
                return NotLaunched("process exits with code 0", True)
            return NotLaunched(f"no code object {missing.path}", self.aborts)
        raise CxxError(LAUNCHER_FILE, 0, "a launcher that returns without a launch")

    @cached_property
    def module(self) -> HostModule:
        """The launcher's text, lowered to Python."""
        text = self._read(LAUNCHER_FILE)
        if text is None:
            raise CannotRunError(f"no {LAUNCHER_FILE} in this revision")
        files = [("library", LIBRARY + _PADDING)]
        files += [(path.rpartition("/")[2], self._read(path) or "") for path in _HEADERS if self._read(path) is not None]
        self.unit: Unit = parse_unit([*files, (LAUNCHER_FILE.rpartition("/")[2], text)], MACROS)
        return lower_host(self.unit, [ENTRY], _around(self._columns))

    @cached_property
    def aborts(self) -> bool:
        """Whether a failed check ends the process."""
        return checks_abort(self._read(LAUNCHER_FILE) or "", self._read(COMMON_FILE) or "")

    @cached_property
    def exits(self) -> bool:
        """Whether a failed HIP call ends the process with exit(0)."""
        return "exit(0)" in (self._read(COMMON_FILE) or "")

    @cached_property
    def aiter_tensors(self) -> bool:
        """Whether the launcher takes AITER's tensor handles and not torch's."""
        return re.search(r"\baiter_tensor_t\b|\bAiterTensor\b", self._read(LAUNCHER_FILE) or "") is not None

    def dtype(self, name: str, arch: Arch) -> Any:
        """A dtype as the launcher's tensors have it; name: as in TORCH_DTYPES."""
        return dtype_as(name, arch, self._dtypes if self.aiter_tensors else None)

    @cached_property
    def _dtypes(self) -> list[str]:
        assert self.module
        return dtype_names(self.unit.enumerators)

    @cached_property
    def _tables(self) -> dict[Arch, list[dict[str, str]]]:
        found = {}
        for arch in Arch:
            text = self._read(f"hsa/{arch}/mla/mla_asm.csv")
            if text is not None:
                found[arch] = list(csv.DictReader(without_comments(text.removeprefix("﻿")).splitlines()))
        return found

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        """Columns of the table: those of all architectures, in their order."""
        names = dict.fromkeys(name for rows in self._tables.values() for row in rows[:1] for name in row)
        return tuple(name for name in names if name not in ("knl_name", "co_name", "arch"))

    def table(self, arch: Arch) -> LauncherTable:
        """The kernel table of a build for one architecture. Missing columns are 0; a symbol's second row is dropped."""
        if arch not in self._made_tables:
            self._made_tables[arch] = self._table(arch)
        return self._made_tables[arch]

    def _table(self, arch: Arch) -> LauncherTable:
        rows: dict[str, Any] = {}
        for row in self._tables.get(arch, []):
            values = {name: _cell(row.get(name)) for name in self._columns}
            key = f"{arch}{row['knl_name']}"
            made = SimpleNamespace(knl_name=row["knl_name"], co_name=f"mla/{row['co_name']}", arch=str(arch), **values)
            rows.setdefault(key, made)
        return LauncherTable(rows)

    def _entry(self, device: TargetGpu, environment: Mapping[str, str]) -> Callable[..., Any]:
        key = (device.arch, device.num_cu, tuple(sorted(environment.items())))
        with self._lock:
            if key not in self._functions:
                names = python_names(device.arch, device.num_cu, environment)
                arch = device.arch

                def has(name: str) -> bool:
                    return self._has(f"hsa/{arch}/mla/{name}")

                names |= {
                    "AsmKernel": lambda symbol, path: AsmKernel(symbol, path, has),
                    "KernelCache": _Cache,
                    "KernelMap": _KernelMap,
                    "cfg_mla_asm": self.table(arch),
                    "log2f": log2f,
                    "dtype_text": lambda number: self._dtypes[number],
                }
                self._functions[key] = host_functions(self.module, names)[ENTRY]
            return self._functions[key]

    def _launched(self, launched: _Launch, arch: Arch) -> Launched:
        values, size, *rest = launched.arguments
        if not isinstance(values, RecordObject):
            raise CxxError(LAUNCHER_FILE, 0, "kernel arguments that are no record")
        kernargs = tuple(
            (name, offset, width, _shown(values.__dict__.get(name)) if name in values.__dict__ else None)
            for name, (offset, width) in values.offsets.items()
            if not name.startswith("_")
        )
        key = f"{arch}{launched.kernel.symbol}"
        table = self.table(arch)
        shadowed = table.matching(key, self._columns) if table.find(key) is not None else ()
        grid, block = tuple(rest[:3]), tuple(rest[3:6])
        return Launched(
            launched.kernel.symbol,
            launched.kernel.code_object,
            grid,
            block,
            int(size.value),
            kernargs,
            shadowed,
            local_at(launched, "sub_Q"),
        )


def _shown(value: Any) -> Any:
    return 0 if value is None else value.tensor if isinstance(value, Address) else value


def _cell(text: str | None) -> Any:
    """A cell as codegen.py takes it: a number where it is one, 0 where it is missing."""
    if text is None or text == "":
        return 0
    return int(float(text)) if text.replace(".", "", 1).isdigit() else text


def without_comments(text: str) -> str:
    """A table without its comments: lines that begin with //, # or ;, what follows // or #, /* ... */."""
    while "/*" in text:
        start = text.index("/*")
        end = text.find("*/", start)
        text = text[:start] + (text[end + 2 :] if end >= 0 else "")
    kept = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith(("//", "#", ";")):
            continue
        kept.append(line.split("//")[0].split("#")[0].split(" ;")[0].rstrip())
    return "\n".join(kept)


def _around(columns: tuple[str, ...]) -> Surroundings:
    row = Class(members={"knl_name": STRING, "co_name": STRING, "arch": STRING} | {c: _column_type(c) for c in columns})
    pair = Class(members={"first": STRING, "second": Opaque("kernel row")})
    table_type = Opaque("kernel table")
    table = Class(
        {"find": Pointer(Opaque("kernel pair")), "end": Pointer(Opaque("kernel pair"))}, element=Opaque("kernel pair")
    )
    return surroundings(
        Surroundings(
            functions={
                "log2f": ("log2f", FLOAT),
                "std::make_unique": ("AsmKernel", Opaque("std::unique_ptr<AiterAsmKernel>")),
            },
            constants={"cfg_mla_asm": ("cfg_mla_asm", table_type)},
            classes={
                "kernel row": row,
                "kernel pair": pair,
                "kernel table": table,
                "AiterAsmKernel": Class({"launch_kernel": VOID}),
                "SynchronizedCache": Class({"get_or_create": Opaque("AiterAsmKernel")}),
                "std::unordered_map": Class({"emplace": Opaque("emplaced")}),
                "emplaced": Class(members={"first": Pointer(Opaque("loaded")), "second": BOOL}),
                "loaded": Class(members={"second": Opaque("std::unique_ptr<AiterAsmKernel>")}),
                "std::unique_ptr": Class({"get": Pointer(Opaque("AiterAsmKernel"))}, code={"get": "{0}"}),
            },
            made={"AiterAsmKernel": "AsmKernel", "SynchronizedCache": "KernelCache", "std::unordered_map": "KernelMap"},
            types={
                "CFG": table_type,
                "AiterAsmKernel": Opaque("AiterAsmKernel"),
                "SynchronizedCache": Opaque("SynchronizedCache"),
            },
        )
    )


def _column_type(name: str) -> Any:
    return STRING if name in ("qType", "kvType") else INT


__all__ = ["BOOL", "ENTRY", "LAUNCHER_FILE", "Launched", "Launcher", "NotLaunched", "Tensor"]
