"""What a kernel's name says: whether it is one of MLA decode, and its row of AITER's table or, without one, what it spells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from backend.aiter.kernels import KernelTable, TableKey
from backend.case import DType

_MANGLED = re.compile(r"_ZN5aiter(?P<length>\d+)(?P<rest>\w+)")
_DTYPES = {"a8w8": (DType.FP8, DType.FP8), "a16w8": (DType.BF16, DType.FP8), "a16w16": (DType.BF16, DType.BF16)}

FAMILIES = {
    "fused MoE": r"fmoe|moe",
    "flash attention (prefill)": r"fmha|flash|BatchPrefill|mla_pfl|prefill",
    "paged attention": r"^pa_|paged|pa_bf16|pa_fwd",
    "MLA of DeepSeek-V4": r"mla_v4",
    "GEMM": r"gemm|Cijk|hgemm",
    "collective": r"nccl|rccl|all_?reduce|AllReduce|cross_device",
    "sparse indexer": r"mqa_logits|indexer|topk|top_k|kpool",
    "MLA metadata planner": r"mla_metadata|get_mla_metadata",
    "MLA reduction": r"mla_reduce|_fwd_kernel_stage2",
    "normalisation, quantisation or cache": r"rmsnorm|quant|norm|reshape_and_cache|concat_and_cache|rope",
}
"""Kernel families that logs name, by a pattern of their names; the first that fits."""


@dataclass(frozen=True, slots=True)
class NamedKernel:
    """A kernel of MLA decode that a log names. name: without mangling and ending. rows: of the table, [] where none fits.

    keys: what the table, or else the name, says of it; heads and queries are the kernel's, which may serve others.
    """

    name: str
    code_objects: tuple[str, ...]
    keys: tuple[TableKey, ...]
    label: str

    def is_code_object(self, code_object: str) -> bool:
        """Whether a launched code object is this kernel."""
        return code_object in self.code_objects or bare_name(code_object) == self.name


def bare_name(name: str) -> str:
    """A symbol or file name without mangling, path, parameter list and ending."""
    bare = name.rsplit("/", 1)[-1].removesuffix(".co").removesuffix(".kd")
    found = _MANGLED.search(bare)
    if found is not None:
        return found["rest"][: int(found["length"])] if len(found["length"]) < 4 else bare
    return re.sub(r"^(?:void )?(?:\w+::)*", "", bare).split("(")[0]


def is_decode(name: str) -> bool:
    """Whether a name is of a kernel of MLA decode's first stage."""
    bare = bare_name(name)
    return bool(re.match(r"mla_", bare, re.IGNORECASE)) and family(bare) is None and "metadata" not in bare


def family(name: str) -> str | None:
    """The family of a kernel that is not of MLA decode's first stage, None where no pattern fits."""
    bare = bare_name(name)
    return next((what for what, pattern in FAMILIES.items() if re.search(pattern, bare, re.IGNORECASE)), None)


def named_kernel(name: str, tables: Iterable[KernelTable]) -> NamedKernel:
    """The kernel of a name: its rows in the first table that has it, what its name spells where none has."""
    bare = bare_name(name)
    for table in tables:
        rows = [
            (key, row)
            for key, several in table.rows.items()
            for row in several
            if bare in (bare_name(row.symbol), bare_name(row.code_object))
        ]
        if rows:
            files = tuple(dict.fromkeys(row.code_object for _, row in rows))
            return NamedKernel(bare, files, tuple(dict.fromkeys(key for key, _ in rows)), table.label)
    spelled = _spelled(bare)
    return NamedKernel(bare, (f"{bare}.co",), (spelled,) if spelled is not None else (), "")


def _spelled(name: str) -> TableKey | None:
    dtypes = next((pair for text, pair in _DTYPES.items() if text in name.lower()), None)
    if dtypes is None:
        return None
    heads = re.search(r"gqaratio(\d+)|mqa(\d+)|qh(\d+)", name, re.IGNORECASE)
    queries = re.search(r"qseqlen(\d+)", name, re.IGNORECASE)
    found = next((int(group) for group in heads.groups() if group), 0) if heads is not None else 0
    words = re.split(r"[_.]", name.lower())
    q, kv = dtypes
    return TableKey(str(q), str(kv), found, "ps" in words, int(queries[1]) if queries else 0, 0, "lse" in words)
