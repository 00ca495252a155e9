"""What the second stage (csrc/kernels/mla/reduce.cu, the Triton merge of aiter/mla.py) does otherwise by release.

A value that a Release holds, and the functions it is made of; reduction.py applies it. It knows no release by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backend.case import OutputType

WAVE = 64

OCCUPANCY = 8
"""Workgroups of the reduction that share a compute unit (MlaReduceKernelV1Traits)."""


@dataclass(frozen=True, slots=True)
class ReductionRules:
    """heads: those that mla_reduce_v1 is compiled for with 512 elements a row; it raises for any other.

    lds_bytes: that a workgroup is launched with, by the splits that it has room for. workgroups_share_lds: whether it may have
    its share of a compute unit's LDS only. keeps_map: whether reduce_partial_map is kept in LDS, so that rows past its room are
    read elsewhere. shares_queries: whether several workgroups share the queries of a tile and head.
    merges_tokens: whether the Triton merge counts the tokens of a request; without, it takes its pages for tokens.
    output_types_refused: element types of o that mla_reduce_v1 raises for, by what its message calls them.
    """

    heads: tuple[int, ...]
    lds_bytes: Callable[[int], int]
    workgroups_share_lds: bool
    keeps_map: bool
    shares_queries: bool
    merges_tokens: bool
    output_types_refused: Mapping[OutputType, str]


def lds_bytes_2025_11(max_splits: int) -> int:
    """Scales and spilled LSEs, one word a split."""
    return 8 * max_splits


def lds_bytes_2026_06(max_splits: int) -> int:
    """Map, scales and spilled LSEs, one word a split."""
    return _lds_bytes_2026(max_splits, scales=max_splits)


def lds_bytes_2026_08(max_splits: int) -> int:
    """The same, the scales in whole waves."""
    scales = WAVE if max_splits <= WAVE else 4 * WAVE if max_splits <= 4 * WAVE else -(-max_splits // WAVE) * WAVE
    return _lds_bytes_2026(max_splits, scales)


def _lds_bytes_2026(max_splits: int, scales: int) -> int:
    return 4 * (max_splits + scales + max(0, scales - 4 * WAVE))


REFUSED_BY_TORCH = {OutputType.FP8: "Float8_e4m3fn", OutputType.FP32: "Float"}
"""Output types that DISPATCH_MLA_REDUCE_KERNEL has no case for, as torch names them; gfx942's fp8 is Float8_e4m3fnuz."""

REFUSED_BY_AITER = {OutputType.FP8: "fp8", OutputType.FP32: "fp32"}
"""The same as AiterDtype_to_str names them (csrc/include/aiter_enum.h), since tensors are AITER's own (2026-08)."""
