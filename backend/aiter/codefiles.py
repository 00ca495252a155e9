"""Where files of AITER are: the installed wheel, a checkout or bare repository at any revision, or one code object by blob id.

A source reads files by their path in ROCm/aiter (`hsa/gfx950/mla/NAME.co`, `aiter/mla.py`); nothing is imported, checked out
or written. This module knows no ELF and no kernel table.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from backend.case import Arch
from backend.errors import CannotRunError, UsageError
from backend.git import git, git_folder, path_and_revision

WHEEL = "amd-aiter"
WHEEL_VERSION = "0.1.7.post2.dev18"
"""The distribution of release 2025-11. PyPI's `aiter` is unrelated (asynchronous iterators) and uses the same folder name."""

ELF_MACHINE = {0x4C: Arch.GFX942, 0x4F: Arch.GFX950}
"""EF_AMDGPU_MACH, the low byte of e_flags (LLVM's AMDGPU usage guide)."""


class CodeSource(Protocol):
    """One revision of AITER's files. Sources are frozen and hashable, so that what is read from them can be remembered."""

    def __hash__(self) -> int: ...

    @property
    def label(self) -> str:
        """How a person names it: `PATH@REVISION`, `amd-aiter 0.1.7.post2.dev18`."""

    def read(self, path: str) -> bytes | None:
        """One file by its path in ROCm/aiter; None where there is none."""

    def has(self, path: str) -> bool:
        """Whether `read` finds that file."""


def code_path(arch: Arch, file_name: str) -> str:
    """Path of a decode kernel's code object in ROCm/aiter."""
    return f"hsa/{arch}/mla/{file_name}"


def open_code(source: CodeSource, arch: Arch, file_name: str) -> bytes:
    """The bytes of a code object; raises CannotRunError naming source and path where it is absent."""
    content = source.read(code_path(arch, file_name))
    if content is None:
        raise CannotRunError(
            f"code object {code_path(arch, file_name)}: not in {source.label}; "
            "give a checkout of ROCm/aiter at a revision that has it"
        )
    return content


def has_code(source: CodeSource, arch: Arch, file_name: str) -> bool:
    """Whether the source holds that code object."""
    return source.has(code_path(arch, file_name))


def kernel_csv(source: CodeSource, arch: Arch) -> str | None:
    """The source's own kernel table (hsa/<arch>/mla/mla_asm.csv, from 2026-01 on); None where it has none."""
    content = source.read(code_path(arch, "mla_asm.csv"))
    try:
        return None if content is None else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CannotRunError(
            f"{source.label}: {code_path(arch, 'mla_asm.csv')}: no UTF-8 ({error}); restore the file"
        ) from error


@lru_cache(maxsize=512)
def blob_id(content: bytes) -> str:
    """Git's object id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Files below folders, each serving the paths that begin with its prefix; for a wheel and for a plain work tree.

    folders: (prefix, folder) in order of preference; the empty prefix serves every path.
    """

    label: str
    folders: tuple[tuple[str, str], ...]

    def _locate(self, path: str) -> Path | None:
        for prefix, folder in self.folders:
            candidate = Path(folder, path.removeprefix(prefix))
            if path.startswith(prefix) and candidate.is_file():
                return candidate
        return None

    def read(self, path: str) -> bytes | None:
        found = self._locate(path)
        return None if found is None else found.read_bytes()

    def has(self, path: str) -> bool:
        return self._locate(path) is not None


@dataclass(frozen=True, slots=True)
class RevisionSource:
    """The tree of one commit, read from the object database. git_dir: of a checkout or a bare repository.

    switches: environment variables of AITER's, with which its host code runs.
    """

    label: str
    git_dir: str
    commit: str
    switches: tuple[tuple[str, str], ...] = ()

    def read(self, path: str) -> bytes | None:
        if not self.has(path):
            return None
        content = _git_object(self.git_dir, f"{self.commit}:{path}")
        if content is None:
            raise CannotRunError(
                f"{self.label}: {path} is listed but its content is absent (a partial clone?); fetch it with git"
            )
        return content

    def has(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in _git_folder(self.git_dir, self.commit, folder)


@dataclass(frozen=True, slots=True)
class BlobSource:
    """One code object by its git object id: it stands for every code object of its architecture, and there is nothing else."""

    label: str
    git_dir: str
    blob: str

    def read(self, path: str) -> bytes | None:
        return _git_object(self.git_dir, self.blob) if self.has(path) else None

    def has(self, path: str) -> bool:
        return path.endswith(".co") and path.startswith(f"hsa/{_blob_arch(self.git_dir, self.blob)}/mla/")


def open_source(text: str | None) -> CodeSource:
    """The source that a person named: `PATH[@REVISION[,SWITCH=VALUE...]]`, or None for the installed wheel.

    PATH: a checkout or a bare repository of ROCm/aiter. Without REVISION: the files as they lie in the work tree, HEAD where
    the repository is bare. REVISION: a commit, tag or branch, or the object id of one code object. SWITCH: an environment
    variable of AITER's, such as AITER_ENABLE_EXPERIMENTAL, in place of any that is set here.
    Raises UsageError where PATH or REVISION is not that, CannotRunError where no wheel is installed.
    """
    if text is None:
        return installed_wheel()
    path, revision = path_and_revision(text)
    if not Path(path).is_dir():
        raise UsageError.not_allowed(
            "checkout of ROCm/aiter", text, "PATH[@REVISION] of an existing folder", "clone ROCm/aiter"
        )
    git_dir = git_folder(path)
    if revision:
        if git_dir is None:
            raise UsageError.not_allowed("checkout of ROCm/aiter", text, "a revision of a git repository", f"{path} is none")
        return _at_revision(text, git_dir, revision)
    if Path(path, "hsa").is_dir():
        return _checked_for_aiter(FolderSource(path, (("", path),)), text)
    if git_dir is None:
        raise UsageError.not_allowed("checkout of ROCm/aiter", text, "a checkout or bare repository", f"{path} is neither")
    return _at_revision(text, git_dir, "HEAD")


def installed_wheel(search: Sequence[str] | None = None) -> CodeSource:
    """The installed distribution amd-aiter, found by its metadata and never imported. search: folders in place of sys.path.

    Raises CannotRunError where it is not installed, naming PyPI's unrelated `aiter` where that is.
    """
    found = _distribution(WHEEL, search)
    if found is None:
        advice = f"pip install {WHEEL}=={WHEEL_VERSION}, or give a checkout of ROCm/aiter"
        unrelated = unrelated_aiter(search)
        if unrelated is not None:
            raise CannotRunError(f"no {WHEEL} here: {unrelated}; {advice}")
        raise CannotRunError(f"no {WHEEL} here, so no code objects; {advice}")
    root = str(found.locate_file(""))
    label = f"{WHEEL} {found.version}"
    if Path(root, "aiter_meta", "hsa").is_dir():
        meta = os.path.join(root, "aiter_meta", "")
        return FolderSource(label, (("aiter/", os.path.join(root, "aiter")), ("", meta)))
    if Path(root, "hsa").is_dir():
        return FolderSource(f"{label} (in development, {root})", (("", root),))
    raise CannotRunError(f"{label} at {root}: neither aiter_meta/hsa nor hsa; reinstall it, or give a checkout of ROCm/aiter")


def unrelated_aiter(search: Sequence[str] | None = None) -> str | None:
    """One line about PyPI's unrelated distribution `aiter`, which overwrites files of the same folder; None if it is absent."""
    found = _distribution("aiter", search)
    if found is None:
        return None
    return f"the distribution `aiter` {found.version} is installed, which is not AMD's (pip uninstall aiter)"


def _distribution(name: str, search: Sequence[str] | None) -> importlib.metadata.Distribution | None:
    folders = sys.path if search is None else list(search)
    return next(iter(importlib.metadata.distributions(name=name, path=folders)), None)


def _at_revision(text: str, git_dir: str, revision: str) -> CodeSource:
    kind = git(git_dir, "cat-file", "-t", revision)
    if kind == b"blob\n":
        blob = git(git_dir, "rev-parse", "--verify", revision)
        assert blob is not None
        return BlobSource(text, git_dir, blob.decode().strip())
    revision, *given = revision.split(",")
    switches = tuple(sorted(_switch(each) for each in given))
    commit = git(git_dir, "rev-parse", "--verify", f"{revision}^{{commit}}")
    if commit is None:
        raise UsageError.not_allowed(
            "revision of ROCm/aiter", revision, f"a commit, tag, branch or blob id in {git_dir}", "is it fetched? (git fetch)"
        )
    return _checked_for_aiter(RevisionSource(text, git_dir, commit.decode().strip(), switches), text)


def _switch(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(AITER_[A-Z0-9_]+)=([\w./-]*)", text)
    if found is None:
        raise UsageError.not_allowed("switch of AITER", text, "AITER_NAME=VALUE", "see docs/revisions.md")
    return found[1], found[2]


def revision_of(source: CodeSource) -> str:
    """Which ROCm/aiter a source is, wherever it lies: its commit, with the switches that are set; of files, what is known."""
    if isinstance(source, RevisionSource):
        return ",".join((source.commit, *(f"{name}={value}" for name, value in source.switches)))
    return f"the work tree {Path(source.label).name}" if Path(source.label).is_dir() else source.label


def switches_of(source: CodeSource | None) -> dict[str, str]:
    """Environment variables with which a source's host code runs."""
    return dict(source.switches) if isinstance(source, RevisionSource) else {}


def _checked_for_aiter(source: CodeSource, text: str) -> CodeSource:
    if not source.has("csrc/py_itfs_cu/asm_mla.cu"):
        raise UsageError.not_allowed("checkout of ROCm/aiter", text, "a tree with csrc/py_itfs_cu/asm_mla.cu (since 2025-05)")
    return source


@lru_cache(maxsize=512)
def _git_object(git_dir: str, name: str) -> bytes | None:
    return git(git_dir, "cat-file", "blob", name)


@lru_cache(maxsize=64)
def _git_folder(git_dir: str, commit: str, folder: str) -> frozenset[str]:
    """File names directly in a folder of a commit's tree."""
    listed = git(git_dir, "ls-tree", "-z", f"{commit}:{folder}") or b""
    entries = (line.split(b"\t", 1) for line in listed.split(b"\0") if line)
    return frozenset(name.decode() for mode, name in entries if mode.split()[1] == b"blob")


@lru_cache(maxsize=64)
def _blob_arch(git_dir: str, blob: str) -> Arch:
    content = _git_object(git_dir, blob) or b""
    machine = content[48] if content[:4] == b"\x7fELF" and len(content) > 64 else None
    if machine not in ELF_MACHINE:
        raise UsageError.not_allowed(
            "code object", blob, "an AMDGPU ELF for gfx942 or gfx950", "give the id of an MLA .co file"
        )
    return ELF_MACHINE[machine]
