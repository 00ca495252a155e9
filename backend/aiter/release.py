"""Which revision of AITER: what differs between the built-in releases, and how another revision is recognised.

A release fixes planners, sizing, fold rule, launcher and code objects together: `Release` names them all, and the built-in ones
are three values of it, put together from the rules of the modules beside this one. Nothing asks for a release by name: what a
revision does otherwise is one of its values. No planner is loaded, no kernel and no simulation known.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from backend.aiter import fold, kernel_rules, rules, sizing, splits
from backend.aiter.fold import FoldRule, NativeOrFolded
from backend.aiter.planning import BuiltInPlanning, Planning
from backend.aiter.rules import DecodeRules, FastRules, FirstFastRules, LauncherRules, PlannerRules, ReductionRules, Unfolded
from backend.aiter.sizing import Sizing, SizingRule
from backend.aiter.splits import SecondCap, SplitRule, SplitSearch
from backend.case import RELEASES
from backend.errors import CannotRunError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

LAUNCHER_SOURCE = "csrc/py_itfs_cu/asm_mla.cu"
"""AITER's launcher of the MLA kernels; its text tells which release's rules a revision is nearest to."""


class HostSources(Protocol):
    """A revision of AITER whose files can be read; see backend/aiter/codefiles.py."""

    @property
    def label(self) -> str:
        """How a person names it."""

    def read(self, path: str) -> bytes | None:
        """One file by its path in ROCm/aiter; None where this revision has none."""


class PublicCalls(Enum):
    """Which parameters AITER's three public calls have; backend/real/aiter_ops.py writes them out."""

    AS_INSTALLED = "those of the installed wheel's own Python"
    FIRST = "with intra_batch_mode and return_lse"
    CONTEXT_PARALLEL = "those of FIRST, with a split cap for sizing and context parallelism"


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """One revision of AITER by its rules: what the built-in ones differ by, each a value that another can take the place of.

    Comparison is by identity; a built-in release pickles by name, and one with another rule (dataclasses.replace) does not.

    name: as in `backend.case.RELEASES`; commit: of ROCm/aiter (2025-11 is what the wheel amd-aiter 0.1.7.post2.dev18 was
    built from: every file of the wheel but its version equals that commit's). is_wheel: whether it is the release on PyPI.
    kernarg_size: bytes of the launcher's KernelArgs (asm_mla.cu).
    kernargs_zeroed: whether the launcher zeroes KernelArgs; without, an unset field holds whatever was on the host's stack.
    has_v1_0: planner v1_0 and the argument intra_batch_mode exist. has_return_lse: mla_decode_fwd takes return_lse.
    public_calls: their parameters. sizing: get_mla_metadata_info_v1. planners: get_mla_metadata_v1. fold, splits, decode:
    mla_decode_fwd. launcher: asm_mla.cu. reduction: mla_reduce_v1 and the Triton merge.
    """

    name: str
    commit: str
    is_wheel: bool
    kernarg_size: int
    kernargs_zeroed: bool
    has_v1_0: bool
    has_return_lse: bool
    public_calls: PublicCalls
    sizing: Sizing
    planners: Planning
    fold: FoldRule
    splits: SplitRule
    launcher: LauncherRules
    decode: DecodeRules
    reduction: ReductionRules

    @property
    def host_fingerprints(self) -> Mapping[str, str]:
        """sha256 (hexadecimal) by path of the host sources that the rules were verified with."""
        return _fingerprints(self.name)

    def __reduce__(self) -> tuple[Callable[[str], Release], tuple[str]]:
        if _BUILT_IN.get(self.name) is not self:
            raise TypeError(f"release {self.name} has rules that are not built in, and cannot be pickled by its name")
        return release, (self.name,)


_RELEASE_2025_11 = Release(
    name="2025-11",
    commit="e6015f3a6a88300a2791b2d0836b63afddff93dc",
    is_wheel=True,
    kernarg_size=304,
    kernargs_zeroed=False,
    has_v1_0=False,
    has_return_lse=False,
    public_calls=PublicCalls.AS_INSTALLED,
    sizing=SizingRule(
        head_multiple=16,
        tiles=sizing.query_tiles_2025_11,
        fast_work_items=sizing.work_items_2025_11,
        has_intra_batch_mode=False,
        counts_split_cap=False,
    ),
    planners=BuiltInPlanning(
        PlannerRules(has_v1_0=False, has_page_size=False, fast=FirstFastRules(), checks_end_process=False)
    ),
    fold=NativeOrFolded(native=fold.native_2025_11, foldable=range(32, 512 + 1, 16), only_one_query=True),
    splits=SplitSearch(head_counts=(16, 128), fp8_blocks=splits.FP8_BLOCK, rounds_total_up=False, second_cap=SecondCap.NONE),
    launcher=LauncherRules(
        route=kernel_rules.route_2025_11,
        table="kernels_2025-11.csv",
        asks_for_causal=False,
        always_passes_o=True,
        out_16_nosplit=rules.zero_without_o,
        fp8_q_needs_scales=False,
        checks_end_process=False,
    ),
    decode=DecodeRules(
        leaves_persistent_mode=rules.stays_persistent,
        logits_are_o=rules.logits_are_o_2025_11,
        least_split_tokens=rules.least_split_tokens_2025_11,
        merging_heads=(16,),
        reduces_by_splits=False,
        counts_valid_splits=False,
        unfolded=Unfolded.LOGITS_BY_VIEW,
    ),
    reduction=ReductionRules(
        heads=(16, 128),
        lds_bytes=rules.lds_bytes_2025_11,
        workgroups_share_lds=True,
        keeps_map=False,
        shares_queries=False,
        merges_tokens=False,
        output_types_refused=rules.REFUSED_BY_TORCH,
    ),
)

_RELEASE_2026_06 = Release(
    name="2026-06",
    commit="2988812e134a7dbb08948092a9d89df48a2585d3",
    is_wheel=False,
    kernarg_size=320,
    kernargs_zeroed=True,
    has_v1_0=True,
    has_return_lse=True,
    public_calls=PublicCalls.FIRST,
    sizing=SizingRule(
        head_multiple=8,
        tiles=sizing.query_tiles_2026_06,
        fast_work_items=sizing.work_items_2026,
        has_intra_batch_mode=True,
        counts_split_cap=False,
    ),
    planners=BuiltInPlanning(
        PlannerRules(
            has_v1_0=True,
            has_page_size=True,
            fast=FastRules(
                native=rules.native_2026_06,
                accepts=rules.accepted_2026_06,
                packed_rows=rules.packed_rows_2026_06,
                trims_causal=rules.trims_always,
                has_parallel_path=False,
            ),
            checks_end_process=False,
        )
    ),
    fold=NativeOrFolded(native=fold.native_2026_06, foldable=range(32, 128 + 1, 16), only_one_query=False),
    splits=SplitSearch(head_counts=None, fp8_blocks=splits.FP8_BLOCK, rounds_total_up=False, second_cap=SecondCap.FLOAT),
    launcher=LauncherRules(
        route=kernel_rules.route_2026_06,
        table="kernels_2026-06.csv",
        asks_for_causal=False,
        always_passes_o=False,
        out_16_nosplit=rules.zero_without_o,
        fp8_q_needs_scales=True,
        checks_end_process=True,
    ),
    decode=DecodeRules(
        leaves_persistent_mode=rules.stays_persistent,
        logits_are_o=rules.logits_are_o_2026_06,
        least_split_tokens=rules.least_split_tokens_2026_06,
        merging_heads=(8, 16),
        reduces_by_splits=False,
        counts_valid_splits=False,
        unfolded=Unfolded.O_BY_RESHAPE,
    ),
    reduction=ReductionRules(
        heads=(8, 16, 32, 48, 64, 80, 96, 112, 128),
        lds_bytes=rules.lds_bytes_2026_06,
        workgroups_share_lds=False,
        keeps_map=True,
        shares_queries=True,
        merges_tokens=False,
        output_types_refused=rules.REFUSED_BY_TORCH,
    ),
)

_RELEASE_2026_08 = dataclasses.replace(
    _RELEASE_2026_06,
    name="2026-08",
    commit="e4048607a535ace3a2b51ded31b1c8c2d45c0879",
    kernarg_size=368,
    public_calls=PublicCalls.CONTEXT_PARALLEL,
    sizing=SizingRule(
        head_multiple=8,
        tiles=sizing.query_tiles_2026_08,
        fast_work_items=sizing.work_items_2026,
        has_intra_batch_mode=True,
        counts_split_cap=True,
    ),
    planners=BuiltInPlanning(
        PlannerRules(
            has_v1_0=True,
            has_page_size=True,
            fast=FastRules(
                native=rules.native_2026_08,
                accepts=rules.accepted_2026_08,
                packed_rows=rules.packed_rows_2026_08,
                trims_causal=rules.trims_if_causal,
                has_parallel_path=True,
            ),
            checks_end_process=True,
            has_round_robin=True,
        )
    ),
    fold=NativeOrFolded(native=fold.native_2026_08, foldable=range(32, 128 + 1, 16), only_one_query=False),
    splits=SplitSearch(
        head_counts=None, fp8_blocks=splits.FP8_BLOCK_2026_08, rounds_total_up=True, second_cap=SecondCap.INTEGER
    ),
    launcher=LauncherRules(
        route=kernel_rules.route_2026_08,
        table="kernels_2026-08.csv",
        asks_for_causal=True,
        always_passes_o=False,
        out_16_nosplit=rules.one_for_one_split,
        fp8_q_needs_scales=True,
        checks_end_process=True,
    ),
    decode=DecodeRules(
        leaves_persistent_mode=rules.leaves_at_large_batches,
        logits_are_o=rules.logits_are_o_2026_08,
        least_split_tokens=rules.least_split_tokens_2026_08,
        merging_heads=(8, 16),
        reduces_by_splits=True,
        counts_valid_splits=True,
        unfolded=Unfolded.O_BY_RESHAPE,
    ),
    reduction=ReductionRules(
        heads=(8, 16, 24, 32, 48, 64, 80, 96, 112, 128),
        lds_bytes=rules.lds_bytes_2026_08,
        workgroups_share_lds=False,
        keeps_map=True,
        shares_queries=True,
        merges_tokens=True,
        output_types_refused=rules.REFUSED_BY_AITER,
    ),
)

_BUILT_IN: dict[str, Release] = {each.name: each for each in (_RELEASE_2025_11, _RELEASE_2026_06, _RELEASE_2026_08)}


def release(name: str) -> Release:
    """The built-in release of that name; raises UsageError for another name."""
    found = _BUILT_IN.get(name)
    if found is None:
        raise UsageError.not_allowed("release of AITER", name, ", ".join(RELEASES), "another revision: give a checkout")
    return found


def read_table(file_name: str) -> Iterator[dict[str, str]]:
    """Rows of a table that ships with this package (tables/*.csv); lines that begin with # are its description."""
    text = resources.files("backend.aiter").joinpath("tables", file_name).read_text(encoding="utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))


@cache
def _host_sources() -> tuple[dict[str, str], ...]:
    return tuple(read_table("host_sources.csv"))


@cache
def _fingerprints(name: str) -> Mapping[str, str]:
    return MappingProxyType({row["path"]: row["sha256"] for row in _host_sources() if row["release"] == name})


def fingerprint(source: HostSources) -> Mapping[str, str]:
    """sha256 by path of the host sources that matter, as far as `source` has them."""
    found = {}
    for path in sorted({row["path"] for row in _host_sources()}):
        content = source.read(path)
        if content is not None:
            found[path] = hashlib.sha256(content).hexdigest()
    return MappingProxyType(found)


def unknown_fingerprint_warning(rules: Release, source: HostSources) -> str | None:
    """One line naming the host sources of `source` that `rules` were not verified with; None where all are the same."""
    found = fingerprint(source)
    unknown = [path for path, digest in found.items() if rules.host_fingerprints.get(path) != digest]
    unknown += [f"{path} (absent)" for path in rules.host_fingerprints if path not in found]
    if not unknown:
        return None
    return f"{source.label}: the rules of release {rules.name} were verified with other host sources: {', '.join(unknown)}"


def nearest_release(checkout: HostSources) -> Release:
    """The built-in release whose rules a revision of AITER takes.

    The release with the same launcher source, byte for byte; otherwise by what the launcher's source speaks of: the
    context-parallel kernargs came with #3750 (2026-06-19, rules of 2026-08), dispatch by mla_asm.csv with #1857 (2026-01-19,
    rules of 2026-06). Say `unknown_fingerprint_warning` with every result. Raises CannotRunError where there is no launcher.
    """
    content = checkout.read(LAUNCHER_SOURCE)
    if content is None:
        raise CannotRunError(f"{checkout.label}: no {LAUNCHER_SOURCE}, so no launcher to take rules from; give ROCm/aiter")
    digest = hashlib.sha256(content).hexdigest()
    for each in _BUILT_IN.values():
        if each.host_fingerprints.get(LAUNCHER_SOURCE) == digest:
            return each
    if b"s_cp_rank" in content:
        return _RELEASE_2026_08
    return _RELEASE_2026_06 if b"cfg_mla_asm" in content else _RELEASE_2025_11
