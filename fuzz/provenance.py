"""Where a result comes from: everything that could make it come out differently, in one record that goes with each result."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from backend.aiter.codefiles import CodeSource, code_path, kernel_csv
from backend.aiter.release import Release, fingerprint, release, unknown_fingerprint_warning
from backend.case import Arch

PACKAGES = ("numpy", "numba", "amd-aiter", "torch", "triton", "ray")
"""Distributions whose versions can change a result or a rate."""

ROOMS = ("backend", "fuzz", "reprod")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a result.

    project: version of aiterfuzz; rules: fingerprint of its own source files, which tells two unreleased states apart.
    python, system, versions: of this machine; a package that is not installed is left out. device: what cases ran on.
    releases: AITER commits by release name. source: the checkout or wheel that code objects come from, None: built-in tables.
    host_sources: sha256 by path of the AITER host files in `source`; empty without one. warnings: to be shown with results.
    contents: sha256 of each file that decides what comes of a case and is none of ours, by what it is: rules, and what
    `contents_of` names.
    """

    project: str
    rules: str
    python: str
    system: str
    versions: dict[str, str]
    device: str
    releases: dict[str, str]
    source: str | None
    host_sources: dict[str, str]
    warnings: tuple[str, ...]
    contents: dict[str, str] = field(default_factory=dict)


def contents_of(source: CodeSource | None) -> dict[str, str]:
    """sha256 by path of what a code source decides with: host sources, kernel tables and the code objects that these name."""
    if source is None:
        return {}
    found = {f"{source.label}: {path}": digest for path, digest in fingerprint(source).items()}
    for arch in Arch:
        table = kernel_csv(source, arch) or ""
        for name in ("mla_asm.csv", *sorted(set(re.findall(r"[\w.]+\.co\b", table)))):
            path = code_path(arch, name)
            content = source.read(path)
            if content is not None:
                found[f"{source.label}: {path}"] = hashlib.sha256(content).hexdigest()
    return found


def provenance(device: str, releases: Sequence[str], source: CodeSource | None) -> Provenance:
    """The record for runs on a device with rules of these releases."""
    rules = {name: release(name) for name in releases}
    warnings = [] if source is None else _warnings(source, rules.values())
    return Provenance(
        project=_version("aiterfuzz") or "from a source tree",
        rules=own_fingerprint(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions=versions(),
        device=device,
        releases={name: each.commit for name, each in rules.items()},
        source=None if source is None else source.label,
        host_sources={} if source is None else dict(fingerprint(source)),
        warnings=tuple(warning for warning in warnings if warning is not None),
    )


def _warnings(source: CodeSource, rules: Iterable[Release]) -> list[str | None]:
    """What to say of a source whose rules are not those that are built in."""
    from backend.revision.revision import Revision, host_of

    host = host_of(source)
    if isinstance(host, Revision):
        return [host.warning()]
    return [unknown_fingerprint_warning(each, source) for each in rules]


def versions() -> dict[str, str]:
    """Versions of PACKAGES as installed."""
    found = {name: _version(name) for name in PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


@lru_cache(maxsize=1)
def own_fingerprint() -> str:
    """First 12 hexadecimal digits of a sha256 over our own source files and tables, in the order of their paths."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((root / room).rglob("*")):
            if path.suffix in (".py", ".csv", ".txt") and path.is_file():
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
