"""Which of AITER's MLA decode kernels a call gets: the kernel tables and the choice.

The rule from a call to a table key is in kernel_rules.py. A table is built in for each release (tables/kernels_*.csv) or is a
checkout's own hsa/<arch>/mla/mla_asm.csv. Where a source of code objects is given, the chosen one must be in it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType
from typing import NamedTuple

from backend.aiter.arguments import TargetGpu
from backend.aiter.codefiles import BlobSource, CodeSource, blob_id, code_path, has_code, kernel_csv, open_code
from backend.aiter.kernargs import is_decode_kernel, kernarg_reads
from backend.aiter.kernel_rules import KernelKey, NoRoute, Route
from backend.aiter.release import LAUNCHER_SOURCE, Release, read_table
from backend.case import Arch
from backend.errors import CannotRunError, UnmodelledError


class TableKey(NamedTuple):
    """Columns that AITER's launcher compares. max_seqlen_q 0: a row for any; causal: 1 under the mask of a causal call.

    cprr: for a rank of a context-parallel group (round robin).
    """

    q_dtype: str
    kv_dtype: str
    gqa_ratio: int
    persistent: bool
    max_seqlen_q: int
    causal: int
    lse: bool
    cprr: bool = False


class TableRow(NamedTuple):
    """One kernel. symbol: of the kernel in the ELF; code_object: file name; blob_id: git object id, None for a checkout."""

    symbol: str
    code_object: str
    blob_id: str | None


@dataclass(frozen=True, slots=True, eq=False)
class KernelTable:
    """A kernel table of one architecture. rows: in the table's order, more than one where its keys are not unique.

    causal: the value that the launcher which comes with the table asks for, 1 by default since 2026-08 and 0 before.
    """

    label: str
    causal: int
    rows: Mapping[TableKey, tuple[TableRow, ...]]


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The kernel of a call. blob_id: git object id of the code object (of the source's, where one is given), None if unknown.

    sub_q, s_mqa: see Route. shadowed: code objects of further rows with the same key.

    AITER keeps its rows in an unordered map, so that which of several equal keys wins differs from build to build (by the
    architectures it is built for); the first is taken here, as in a build for gfx950 alone.
    """

    symbol: str
    code_object: str
    blob_id: str | None
    sub_q: int
    s_mqa: int
    shadowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoKernel:
    """No kernel for the call: AITER raises before it launches. missing_key: the key that no row of the table has, if that."""

    reason: str
    missing_key: TableKey | None = None


def choose_kernel(
    release: Release, device: TargetGpu, key: KernelKey, table: KernelTable | None = None, source: CodeSource | None = None
) -> KernelChoice | NoKernel:
    """The kernel that the launcher takes. table: built-in where None; source: where its code object must be."""
    asked = release.launcher.route(device.arch, key)
    if isinstance(asked, NoRoute):
        return NoKernel(asked.reason)
    table = built_in_table(release, device.arch) if table is None else table
    table_key = _table_key(key, asked, table)
    rows = table.rows.get(table_key) or table.rows.get(table_key._replace(kv_dtype="any"))
    if not rows:
        return NoKernel(f"{table.label} has no row {describe_key(table_key)}", table_key)
    first = rows[0]
    content_id, code_object = first.blob_id, first.code_object
    if source is not None:
        if not has_code(source, device.arch, first.code_object):
            return NoKernel(f"{code_path(device.arch, first.code_object)} is not in {source.label}")
        content = open_code(source, device.arch, first.code_object)
        content_id = blob_id(content)
        if isinstance(source, BlobSource):
            code_object = _by_id(source, content, first)
    shadowed = tuple(row.code_object for row in rows[1:])
    return KernelChoice(first.symbol, code_object, content_id, asked.sub_q, asked.s_mqa, shadowed)


def _by_id(source: BlobSource, content: bytes, row: TableRow) -> str:
    """The file name of a code object that was named by its id, by which findings name what ran: it stands for the row's.

    Raises UnmodelledError where it neither holds the row's kernel nor is known to decode: a kernel of another operation takes
    other arguments than a decode call hands over.
    """
    if is_decode_kernel(blob_id(content)):
        return kernarg_reads(blob_id(content)).code_object
    if row.symbol.encode() not in content:
        raise UnmodelledError(
            f"code object {source.label}: holds no {row.symbol}, which the call launches, and is none that is known to decode"
        )
    return row.code_object


def _table_key(key: KernelKey, asked: Route, table: KernelTable) -> TableKey:
    # The mask of a single query hides nothing: the launcher then asks for the masked kernel whatever the caller says.
    causal = int(bool(table.causal) and (key.causal or key.max_seqlen_q == 1))
    return TableKey(
        q_dtype=str(key.q_dtype),
        kv_dtype=str(key.kv_dtype),
        gqa_ratio=asked.gqa_ratio,
        persistent=asked.persistent,
        max_seqlen_q=asked.max_seqlen_q,
        causal=causal,
        lse=asked.lse,
        cprr=key.round_robin,
    )


def describe_key(key: TableKey) -> str:
    """A table key in the words of mla_asm.csv's header."""
    return (
        f"qType={key.q_dtype} kvType={key.kv_dtype} Gqa={key.gqa_ratio} ps={key.persistent:d} "
        f"qSeqLen={key.max_seqlen_q} causal={key.causal} lse={key.lse:d}" + (" cprr=1" if key.cprr else "")
    )


@cache
def built_in_table(release: Release, arch: Arch) -> KernelTable:
    """The table that a release ships (2025-11: what its launcher has compiled in)."""
    rows = [row for row in read_table(release.launcher.table) if row["arch"] == arch]
    entries = []
    for row in rows:
        key = TableKey(
            row["q_dtype"],
            row["kv_dtype"],
            int(row["gqa_ratio"]),
            row["persistent"] == "1",
            int(row["max_seqlen_q"]),
            int(row["causal"]),
            row["lse"] == "1",
            row["cprr"] == "1",
        )
        entries.append((key, TableRow(row["symbol"], row["code_object"], row["blob_id"])))
    return _table(f"release {release.name} on {arch}", int(release.launcher.asks_for_causal), entries)


@lru_cache(maxsize=64)
def source_table(source: CodeSource, arch: Arch) -> KernelTable | None:
    """The table that a source brings along, None where it has none; raises CannotRunError where it cannot be read."""
    text = kernel_csv(source, arch)
    if text is None:
        return None
    asks_for_causal = b"config_causal" in (source.read(LAUNCHER_SOURCE) or b"")
    return parse_kernel_csv(text, f"{source.label}:{code_path(arch, 'mla_asm.csv')}", int(asks_for_causal))


def parse_kernel_csv(text: str, label: str, causal: int) -> KernelTable:
    """AITER's mla_asm.csv without its prefill rows; columns that a revision lacks are 0.

    causal: see KernelTable. Raises CannotRunError for a row that is not one.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "//", ";"))]
    entries: dict[str, tuple[TableKey, TableRow]] = {}
    reader, number = csv.DictReader(lines), 1
    while True:
        number += 1
        try:
            if (row := next(reader, None)) is None:
                break
            if int(row.get("prefill") or 0):
                continue
            flags = {name: int(row.get(name) or 0) for name in ("ps", "causal", "lse", "cprr")}
            key = TableKey(
                q_dtype=row["qType"],
                kv_dtype=row["kvType"],
                gqa_ratio=int(row["Gqa"]),
                persistent=bool(flags["ps"]),
                max_seqlen_q=int(row["qSeqLen"]),
                causal=flags["causal"],
                lse=bool(flags["lse"]),
                cprr=bool(flags["cprr"]),
            )
            # AITER's map is keyed by symbol: a second row of one symbol is dropped.
            entries.setdefault(row["knl_name"], (key, TableRow(row["knl_name"], row["co_name"], None)))
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise CannotRunError(
                f"{label}, row {number}: {error!r}; expected the columns qType, kvType, Gqa, ps, qSeqLen, knl_name, co_name"
            ) from error
    return _table(label, causal, entries.values())


def _table(label: str, causal: int, entries: Iterable[tuple[TableKey, TableRow]]) -> KernelTable:
    rows: dict[TableKey, tuple[TableRow, ...]] = {}
    for key, row in entries:
        rows[key] = (*rows.get(key, ()), row)
    return KernelTable(label, causal, MappingProxyType(rows))
