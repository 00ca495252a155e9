"""The kernel argument segment of AITER's MLA decode kernels: each field in a slot of 16 bytes of its own.

Source: struct KernelArgs of csrc/py_itfs_cu/asm_mla.cu. This module knows the layout and how to pack it, not what a call puts
into it (launch.py), and which of its fields, and of a work item's, each code object reads, as data (tables/kernarg_reads.csv):
two kernels of one name differ from release to release, so the key is the content, the git object id of the code object.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from backend.aiter.release import read_table
from backend.case import Arch
from backend.errors import UnmodelledError, UsageError

SLOT = 16
"""Bytes of a slot: a field of 4 or 8 bytes, then padding."""

FIELDS = (
    "ptr_R",  # logits: partial rows, or o where they alias
    "ptr_LSE",
    "ptr_Q",
    "ptr_KV",
    "ptr_LTP",  # kv_indptr
    "ptr_LTD",  # kv_indices
    "ptr_LTL",  # kv_last_page_lens
    "scalar",  # softmax scale, the only float
    "s_MQA",
    "s_kv_split",
    "s_Q_Bs",  # bytes of a request's q rows: row stride x max_seqlen_q
    "s_Bs",  # bytes of a KV page
    "s_log2_plen",
    "ptr_QTP",  # qo_indptr
    "ptr_STP",  # persistent: work_meta_data (addresses of work_indptr and work_info_set); else num_kv_splits_indptr
    "ptr_RP",  # o
    "ptr_QSCALE",
    "ptr_KVSCALE",
    "out_16_nosplit",
    "ptr_LSEP",  # final_lse; from 2026-06
    "ptr_GKVTP",  # global kv_indptr of context parallelism; from here on 2026-08
    "s_cp_world_size",
    "s_cp_rank",
)
"""Field of each slot in order; a release's segment is the first kernarg_size // 16 of them."""

KernargValue = int | float | str | None


class Kernarg(NamedTuple):
    """One field. offset, size: bytes (size without padding); value: a number, the name of the tensor whose address it is, 0 for
    a null pointer, or None where the launcher never sets it and does not zero it either (release 2025-11)."""

    name: str
    offset: int
    size: int
    value: KernargValue


def layout(kernarg_size: int, values: Mapping[str, KernargValue]) -> tuple[Kernarg, ...]:
    """The segment's fields with their values."""
    fields = FIELDS[: kernarg_size // SLOT]
    return tuple(Kernarg(name, SLOT * i, 8 if name.startswith("ptr_") else 4, values[name]) for i, name in enumerate(fields))


def pack(kernargs: tuple[Kernarg, ...], addresses: Mapping[str, int], unset: int = 0) -> bytes:
    """The segment's bytes, little-endian. addresses: by tensor name, in bytes; unset: the byte that fills what is not set.

    Raises UsageError where a tensor has no address or an address is not a 64-bit one.
    """
    segment = bytearray([unset]) * (SLOT * len(kernargs))
    for name, offset, size, value in kernargs:
        if value is None:
            continue
        if isinstance(value, str):
            address = addresses.get(value)
            if address is None or not 0 <= address < 1 << 64:
                raise UsageError.not_allowed(f"address of tensor {value} (kernarg {name})", address, "0..2^64-1, one a tensor")
            struct.pack_into("<Q", segment, offset, address)
        elif name == "scalar":
            struct.pack_into("<f", segment, offset, value)
        else:
            struct.pack_into("<Q" if size == 8 else "<I", segment, offset, value)
    return bytes(segment)


TABLE = "kernarg_reads.csv"

WORK_ITEM_FIELDS = ("batch", "partial_loc", "q_begin", "q_end", "kv_begin", "kv_end", "kv_offset", "pad")
"""The int32 words of a work item in order (MlaWorkInfo of csrc/include/mla.h)."""


@dataclass(frozen=True, slots=True)
class KernargReads:
    """What one code object reads. kernargs: names of backend.aiter.kernargs.FIELDS; work_item: names of WORK_ITEM_FIELDS (empty
    for a kernel without work items). code_object: file name under which it is, or was, in hsa/<arch>/mla."""

    blob_id: str
    arch: Arch
    code_object: str
    kernargs: frozenset[str]
    work_item: frozenset[str]


def kernarg_reads(blob_id: str) -> KernargReads:
    """What the code object of that git object id reads; raises UnmodelledError for one that is not in the table."""
    found = _all().get(blob_id)
    if found is None:
        raise UnmodelledError(
            f"code object {blob_id}: which kernargs it reads is not known; known are those of kernarg_reads.csv"
        )
    return found


def is_decode_kernel(blob_id: str) -> bool:
    """Whether the code object of that git object id is known to hold one of AITER's MLA decode kernels."""
    return blob_id in _all()


def know(reads: KernargReads) -> None:
    """Takes that for what its code object reads from here on, in this process: for who measures one that is in no table yet."""
    _all()[reads.blob_id] = reads


@cache
def _all() -> dict[str, KernargReads]:
    entries = {}
    for row in read_table(TABLE):
        words = frozenset(WORK_ITEM_FIELDS[int(byte) // 4] for byte in row["work_item_bytes"].split())
        reads = frozenset(row["kernargs"].split())
        entries[row["blob_id"]] = KernargReads(row["blob_id"], Arch(row["arch"]), row["code_object"], reads, words)
    return entries
