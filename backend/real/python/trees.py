"""Where a stranger's Python comes from: a folder, a wheel, a revision of a git repository. Text by module name, read lazily.

Nothing is imported or executed here. Nothing is unpacked but data files that Python opens by paths made from __file__.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backend.child.scratch import Scratch
from backend.errors import CannotRunError, UsageError
from backend.git import ObjectReader, git


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """Text of one module: `filename` is what tracebacks and findings name, `is_package` says whether it is an __init__."""

    name: str
    text: str
    filename: str
    is_package: bool


class Tree(Protocol):
    """A set of Python files, addressed by their path below the folder that is on sys.path."""

    description: str

    def read(self, path: str) -> tuple[str, str] | None:
        """(text, file name) of a path such as "sglang/srt/utils.py"; None where there is no such file."""

    def has_folder(self, path: str) -> bool:
        """Whether any file lies below the folder."""

    def beside(self, path: str) -> str | None:
        """Text of any file of the repository that the tree is part of, by its path there; None where there is none."""

    def contents(self, package: str) -> dict[str, str]:
        """Git's object id of each Python file of a top-level package, by path: equal ones of two trees have equal content."""


def module_source(tree: Tree, name: str) -> ModuleSource | None:
    """The module's text, or None. A package without __init__ has empty text, as Python's namespace packages do."""
    path = name.replace(".", "/")
    for candidate, is_package in ((f"{path}.py", False), (f"{path}/__init__.py", True)):
        found = tree.read(candidate)
        if found is not None:
            return ModuleSource(name, found[0], found[1], is_package)
    if tree.has_folder(path):
        return ModuleSource(name, "", f"{path}/", True)
    return None


def blob_id(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


class FolderTree:
    """A folder that holds the packages (the `python` folder of sglang's checkout, the root of vLLM's)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.description = str(root)

    def read(self, path: str) -> tuple[str, str] | None:
        """Text and file name, or None."""
        file = self.root / path
        try:
            return file.read_text(encoding="utf-8"), str(file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def has_folder(self, path: str) -> bool:
        """Whether it is a folder."""
        return (self.root / path).is_dir()

    def beside(self, path: str) -> str | None:
        """Below the root, or else beside it."""
        for folder in (self.root, self.root.parent):
            if (folder / path).is_file():
                return (folder / path).read_text(encoding="utf-8", errors="replace")
        return None

    def contents(self, package: str) -> dict[str, str]:
        """Ids of the files as they lie there."""
        files = [file for file in (self.root / package).rglob("*.py") if file.is_file()]
        return {file.relative_to(self.root).as_posix(): blob_id(file.read_bytes()) for file in files}


class WheelTree:
    """The Python files of a wheel, read in place."""

    def __init__(self, wheel: Path) -> None:
        self.description = wheel.name
        self._path = wheel
        try:
            self._archive = zipfile.ZipFile(wheel)
        except (OSError, zipfile.BadZipFile) as error:
            raise CannotRunError(f"{wheel}: not a readable wheel ({error}); fetch it again") from error
        self._names = {name for name in self._archive.namelist() if name.endswith(".py")}
        self._folders = {name[:i] for name in self._names for i, char in enumerate(name) if char == "/"}

    def read(self, path: str) -> tuple[str, str] | None:
        """Text and file name (wheel/path), or None."""
        if path not in self._names:
            return None
        return self._archive.read(path).decode("utf-8"), f"{self.description}/{path}"

    def has_folder(self, path: str) -> bool:
        """Whether any file lies below it."""
        return path in self._folders

    def beside(self, path: str) -> str | None:
        """A wheel holds the packages alone."""
        del path
        return None

    def contents(self, package: str) -> dict[str, str]:
        """Ids of the archive's members."""
        names = [name for name in self._names if name.startswith(f"{package}/")]
        return {name: blob_id(self._archive.read(name)) for name in names}


class GitTree:
    """One revision of a git repository (checkout or bare), without touching its work tree.

    prefix: folder of the repository that holds the packages, "" for its root. data: packages that read JSON files of their own
    (as paths, "a/b"): once a module of one is read, these files lie in a temporary folder, and its modules say that they do.
    """

    def __init__(self, repository: Path, revision: str, prefix: str = "", data: tuple[str, ...] = ()) -> None:
        self._repository = repository
        self._objects = ObjectReader(repository)
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.commit = _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
        self.description = f"{repository}@{self.commit[:12]}"
        below = [self._prefix] if self._prefix else []
        listed = _git(repository, "ls-tree", "-r", "--full-tree", self.commit, *below)
        entries = [line.partition("\t") for line in listed.splitlines()]
        self._ids = {name.removeprefix(self._prefix): entry.split()[2] for entry, _, name in entries}
        names = list(self._ids)
        self._names = {name for name in names if name.endswith(".py")}
        self._folders = {name[:i] for name in self._names for i, char in enumerate(name) if char == "/"}
        files = [name for name in names if name.endswith(".json") and ".." not in name.split("/")]
        self._data = {folder: [name for name in files if name.startswith(f"{folder}/")] for folder in data}
        self._unpacked: dict[str, Scratch] = {}

    def read(self, path: str) -> tuple[str, str] | None:
        """Text and file name (revision:path), or None."""
        if path not in self._names:
            return None
        folder = next((folder for folder, names in self._data.items() if names and path.startswith(f"{folder}/")), None)
        if folder is None:
            filename = f"{self.commit[:12]}:{self._prefix}{path}"
        else:
            filename = str(Path(self._folder_of(folder), path))
        return self._content(f"{self.commit}:{self._prefix}{path}"), filename

    def _folder_of(self, folder: str) -> str:
        """Where the data files of a package are, unpacked once."""
        if folder not in self._unpacked:
            unpacked = self._unpacked[folder] = Scratch(f"{self.commit[:12]}-")
            for name in self._data[folder]:
                file = unpacked.path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self._content(f"{self.commit}:{self._prefix}{name}"), encoding="utf-8")
        return str(self._unpacked[folder].path)

    def _content(self, name: str) -> str:
        content = self._objects.read(name)
        if content is None:
            raise CannotRunError(f"{self.description}: {name} is listed but its content is absent (a partial clone?); fetch it")
        return content.decode("utf-8")

    def has_folder(self, path: str) -> bool:
        """Whether any file lies below it."""
        return path in self._folders

    def beside(self, path: str) -> str | None:
        """A file of the same commit."""
        content = self._objects.read(f"{self.commit}:{path}")
        return None if content is None else content.decode("utf-8", "replace")

    def contents(self, package: str) -> dict[str, str]:
        """Ids as the commit lists them."""
        return {name: self._ids[name] for name in self._names if name.startswith(f"{package}/")}


def _git(repository: Path, *arguments: str) -> str:
    found = git(repository, *arguments)
    if found is None:
        asked = f"git {arguments[0]} {arguments[-1]}"
        raise UsageError(f"{repository}: {asked} failed; give PATH@REVISION of a git repository")
    return found.decode("utf-8", "replace")
