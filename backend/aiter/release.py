"""Which revision of AITER: what differs between the built-in releases, and how another revision is recognised.

A release fixes planners, sizing, fold rule, launcher and code objects together. This module knows where host sources are
compared, but no planner, no kernel and no simulation.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

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


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """One built-in revision of AITER. There is one object for each, so comparison is by identity; it pickles by name.

    name: as in `backend.case.RELEASES`; commit: of ROCm/aiter (2025-11 is what the wheel amd-aiter 0.1.7.post2.dev18 was
    built from: every file of the wheel but its version equals that commit's).
    kernarg_size: bytes of the launcher's KernelArgs (asm_mla.cu).
    kernargs_zeroed: whether the launcher zeroes KernelArgs; without, an unset field holds whatever was on the host's stack.
    has_v1_0: planner v1_0 and the argument intra_batch_mode exist. has_return_lse: mla_decode_fwd takes return_lse.
    host_fingerprints: sha256 (hexadecimal) by path of the host sources that the rules were verified with.
    """

    name: str
    commit: str
    kernarg_size: int
    kernargs_zeroed: bool
    has_v1_0: bool
    has_return_lse: bool
    host_fingerprints: Mapping[str, str]

    def __reduce__(self) -> tuple[Callable[[str], Release], tuple[str]]:
        return release, (self.name,)


@cache
def release(name: str) -> Release:
    """The built-in release of that name; raises UsageError for another name."""
    if name not in RELEASES:
        raise UsageError.not_allowed("release of AITER", name, ", ".join(RELEASES), "another revision: give a checkout")
    fingerprints = MappingProxyType({row["path"]: row["sha256"] for row in _host_sources() if row["release"] == name})
    if name == "2025-11":
        return Release(name, "e6015f3a6a88300a2791b2d0836b63afddff93dc", 304, False, False, False, fingerprints)
    if name == "2026-06":
        return Release(name, "2988812e134a7dbb08948092a9d89df48a2585d3", 320, True, True, True, fingerprints)
    return Release(name, "e4048607a535ace3a2b51ded31b1c8c2d45c0879", 368, True, True, True, fingerprints)


def read_table(file_name: str) -> Iterator[dict[str, str]]:
    """Rows of a table that ships with this package (tables/*.csv); lines that begin with # are its description."""
    text = resources.files("backend.aiter").joinpath("tables", file_name).read_text(encoding="utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))


@cache
def _host_sources() -> tuple[dict[str, str], ...]:
    return tuple(read_table("host_sources.csv"))


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
    for name in RELEASES:
        if release(name).host_fingerprints.get(LAUNCHER_SOURCE) == digest:
            return release(name)
    if b"s_cp_rank" in content:
        return release("2026-08")
    return release("2026-06" if b"cfg_mla_asm" in content else "2025-11")
