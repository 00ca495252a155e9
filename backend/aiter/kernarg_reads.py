"""Which kernarg fields and work-item fields each code object reads, as data (tables/kernarg_reads.csv).

Two kernels of one name differ from release to release, so the key is the content: the git object id of the code object.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from backend.aiter.release import read_table
from backend.case import Arch
from backend.errors import UnmodelledError

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
