"""Code objects at hand for tests: of the amd-aiter wheel, of Triton (tests/data), and of a checkout of ROCm/aiter."""

from __future__ import annotations

import importlib.metadata
import lzma
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TRITON_SAMPLES = Path(__file__).parents[1] / "data" / "triton_code_objects"

RELEASES = {"2026-06": "2988812e134a7dbb08948092a9d89df48a2585d3", "2026-08": "e4048607a535ace3a2b51ded31b1c8c2d45c0879"}
"""Release -> commit of ROCm/aiter."""

BLOBS = ("7a0493c0e4", "4b1c3132de", "7c120bb006", "b98d1cd32f", "6e17055c", "1001c077", "07763aaa")
"""Git ids of single code objects of other revisions: faulty ones and their repairs."""


@cache
def wheel_files() -> dict[str, Path]:
    """The installed wheel's MLA code objects for gfx942 and gfx950, by "arch/file name"."""
    try:
        files = importlib.metadata.files("amd-aiter") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the amd-aiter wheel")
    found = {}
    for file in files:
        if file.suffix == ".co" and file.parts[-2] == "mla" and file.parts[-3] in ("gfx942", "gfx950"):
            found["/".join((file.parts[-3], file.name))] = Path(str(file.locate()))
    return found


def wheel_file(name: str) -> bytes:
    """One of the wheel's code objects, e.g. "gfx950/mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"."""
    return wheel_files()[name].read_bytes()


@cache
def triton_files() -> dict[str, bytes]:
    """Triton's samples by name and architecture, e.g. "merge_bf16_gfx950"."""
    return {path.name.split(".")[0]: lzma.decompress(path.read_bytes()) for path in sorted(TRITON_SAMPLES.glob("*.hsaco.xz"))}


def _git(repository: Path, *arguments: str) -> bytes:
    directory = repository / ".git" if (repository / ".git").exists() else repository
    return subprocess.run(["git", f"--git-dir={directory}", *arguments], capture_output=True, check=True).stdout


def checkout_files(repository: Path, release: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of a release's MLA code objects, for every architecture."""
    for line in _git(repository, "ls-tree", "-r", RELEASES[release], "hsa").decode().splitlines():
        about, path = line.split("\t")
        if path.endswith(".co") and "/mla/" in path:
            yield path, _git(repository, "cat-file", "blob", about.split()[2])


def checkout_blob(repository: Path, blob: str) -> bytes:
    """One code object by its git id."""
    return _git(repository, "cat-file", "blob", blob)
