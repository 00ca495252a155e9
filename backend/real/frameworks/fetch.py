"""Where a backend's source is: a folder, a wheel, a git revision, one file, or a release that pip fetches.

Nothing is installed, nothing of it is imported.

`open_source` understands
  sglang==0.5.13 / vllm==X     pip download --no-deps into the cache; only the wheel's Python files are read, in place
  PATH                         a folder with the package in it (a checkout, its `python` folder, an unpacked wheel), a .whl,
                               or the backend file itself inside such a folder
  PATH@REVISION                a revision of a git repository, bare or not
  ANY OF THESE:NAME.py         the same, another of its backend files under test (sglang==0.5.23:dsa_backend.py)
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from backend.errors import CannotRunError, UsageError
from backend.git import path_and_revision
from backend.real.python.slicing import IndexedTree
from backend.real.python.trees import FolderTree, GitTree, ModuleSource, Tree, WheelTree, module_source
from backend.serving.frameworks import FRAMEWORKS, TARGETS, USUAL, Framework, newest_release

FETCH_SECONDS = 600
"""A wheel of 400 MB over a slow line takes minutes; longer than this is a line that hangs."""

PREFIXES = ("", "python")
"""Where a repository keeps the package: vLLM at its root, sglang in `python`."""


@dataclass(frozen=True, slots=True)
class BackendSource:
    """A framework's source. given: as the person named it; target: the file under test; tree: everything around it."""

    given: str
    framework: Framework
    target: ModuleSource
    tree: IndexedTree

    @property
    def label(self) -> str:
        """One line: what was given, and where its files are."""
        where = self.tree.tree.description
        return self.given if self.given == where else f"{self.given} ({where})"

    @property
    def release(self) -> str | None:
        """Which release on PyPI it is, by the wheel's name; None for a tree."""
        found = re.fullmatch(rf"{self.framework.name}-([^-]+)-.*\.whl", self.tree.tree.description)
        return found[1] if found is not None else None

    def same_as(self, other: BackendSource) -> bool:
        """Whether file under test and package are the other's, byte for byte."""
        if self.framework is not other.framework or self.target.text != other.target.text:
            return False
        package = self.framework.name
        return self.tree.tree.contents(package) == other.tree.tree.contents(package)

    def beside(self, path: str) -> str | None:
        """Text of another file of the repository that the package lies in, None where there is none: a wheel has none."""
        return self.tree.tree.beside(path)


def cache_folder() -> Path:
    """Where fetched wheels are kept: AITERFUZZ_CACHE, else ~/.cache/aiterfuzz."""
    return Path(os.environ.get("AITERFUZZ_CACHE") or Path.home() / ".cache" / "aiterfuzz")


def from_here(given: str) -> str:
    """What was given, as a process elsewhere must be told it: PATH, PATH@REVISION and FILE:NAME are made absolute."""
    if Path(given).exists():
        return str(Path(given).absolute())
    for path, mark, rest in (given.rpartition("@"), given.partition(":")):
        if mark and path and Path(path).exists():
            return f"{Path(path).absolute()}{mark}{rest}"
    return given


LENT = " in the tree of "
"""Between a file that lies in no package and the source whose package gives the rest."""


def seen_from(folder: Path, given: str) -> str:
    """What was given, as it is named in a folder: paths that are relative are relative to it."""
    for path, mark, rest in ((given, "", ""), given.partition(LENT), given.rpartition("@"), given.partition(":")):
        if path and Path(path).exists():
            named = path if Path(path).is_absolute() else os.path.relpath(path, folder)
            return f"{named}{mark}{seen_from(folder, rest) if mark == LENT else rest}"
    return given


def lies_alone(given: str) -> bool:
    """Whether it is a copied file of a framework's backend, which lies in no package: by its name, or by what it defines."""
    file = Path(given)
    if file.suffix != ".py" or not file.is_file():
        return False
    return _defined_in(file) is not None and _package_of(file.resolve()) is None


def _defined_in(file: Path) -> Framework | None:
    """Whose backend file it is, by the class that it defines."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return next((each for each in TARGETS if re.search(rf"^class {each.backend_class}\b", text, re.MULTILINE)), None)


def _in_a_lent_tree(given: str, file: Path, tree: str) -> BackendSource:
    """The file in the place of the one that the tree has."""
    place, asked = named_file(tree)
    defined = _defined_in(file)
    lender = open_source(tree if asked or defined is None else f"{place}:{defined.file}")
    if defined is not lender.framework:
        raise CannotRunError(f"{given}: {file} has no class {lender.framework.backend_class}, and is no file of that framework")
    return dataclasses.replace(with_text(lender, file.read_text(encoding="utf-8")), given=given)


def named_file(given: str) -> tuple[str, str]:
    """SOURCE[:NAME.py] in its two parts, "" for no name. What is there is a path, whatever characters it has.

    UsageError where no backend file that can be run is called so.
    """
    place, colon, name = given.rpartition(":")
    if not colon or not name.endswith(".py") or Path(given).exists():
        return given, ""
    if not any(target.is_called(name) for target in TARGETS):
        raise UsageError.not_allowed("file of a backend", name, ", ".join(target.file for target in TARGETS))
    return place, name


def same_file_of(base: str, change: str) -> str:
    """The base with the file of the change under test, where it names none of its own."""
    framework = open_source(change).framework
    return base if named_file(base)[1] or framework in USUAL else f"{base}:{framework.file}"


def open_source(given: str) -> BackendSource:
    """Open what a person named; UsageError for a form that is not understood, CannotRunError for what is not to be had."""
    file, lent, tree = given.partition(LENT)
    if lent:
        return _in_a_lent_tree(given, Path(file), tree)
    place, name = named_file(given)
    pinned = re.fullmatch(r"([A-Za-z0-9_-]+)==([A-Za-z0-9.+!_-]+)", place)
    if pinned is not None:
        framework, version = FRAMEWORKS.get(pinned[1].lower()), pinned[2]
        if framework is None:
            raise UsageError.not_allowed("source", given, " or ".join(f"{name}==VERSION" for name in FRAMEWORKS))
        asked = next((target for target in TARGETS if target.name == framework.name and target.is_called(name)), None)
        if name and asked is None:
            raise UsageError.not_allowed(f"file of {framework.name}", name, _files(framework.name))
        return _with_target(given, asked if asked is not None else framework, WheelTree(fetched_wheel(framework, version)))
    path, revision = path_and_revision(place)
    where = Path(path)
    if not where.exists():
        if (named := path.partition("==")[0].lower()) in FRAMEWORKS:
            raise UsageError(f"{given}: names no release; give {newest_release(named)}, the newest known here, or another")
        raise UsageError(f"{given}: no such file or folder; give a checkout, a wheel, PATH@REVISION or sglang==VERSION")
    if revision:
        return _in_one_of(given, [GitTree(where, revision, prefix) for prefix in PREFIXES], name)
    if where.suffix == ".whl":
        return _in_one_of(given, [WheelTree(where)], name)
    if where.is_file():
        return _single_file(given, where.resolve())
    return _in_one_of(given, [FolderTree(where / prefix) for prefix in PREFIXES], name)


def with_text(source: BackendSource, text: str, filename: str | None = None) -> BackendSource:
    """The same tree with another text of the file under test: a pull request's file, a mutant."""
    target = ModuleSource(source.target.name, text, filename or source.target.filename, source.target.is_package)
    return BackendSource(source.given, source.framework, target, source.tree)


def fetched_wheel(framework: Framework, version: str) -> Path:
    """The wheel of a release, from the cache or through pip; CannotRunError with pip's last line where it has none."""
    folder = cache_folder() / "wheels"
    found = sorted(folder.glob(f"{framework.name}-{version}-*.whl")) if folder.is_dir() else []
    if found:
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as scratch:
        arrived = _python_only(framework.name, version, Path(scratch)) if framework.is_large_wheel else None
        arrived = arrived or _whole_wheel(framework.name, version, Path(scratch))
        kept = folder / arrived.name
        arrived.replace(kept)
    return kept


def _python_only(framework: str, version: str, scratch: Path) -> Path | None:
    """The Python files of a large wheel by range reads; None where that does not work here."""
    out = scratch / f"{framework}-{version}-python-only.whl"
    command = [sys.executable, "-m", "backend.real.frameworks.python_only", framework, version, str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return out if done.returncode == 0 and out.is_file() else None


def _whole_wheel(framework: str, version: str, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(scratch)]
    try:
        wanted = [*command, f"{framework}=={version}"]
        done = subprocess.run(wanted, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CannotRunError(
            f"{framework}=={version}: pip gave no wheel in {FETCH_SECONDS} s; try again, or give a path"
        ) from error
    arrived = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or not arrived:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no wheel"]
        raise CannotRunError(f"{framework}=={version}: not fetched: {lines[-1]}; check the version, or give a path")
    return arrived[0]


def _files(framework: str) -> str:
    return ", ".join(target.file for target in TARGETS if target.name == framework)


def _in_one_of(given: str, trees: list[Tree], name: str) -> BackendSource:
    """name: of the file under test, "" for the usual one."""
    asked = [target for target in TARGETS if target.is_called(name)] if name else list(USUAL)
    for tree in trees:
        for framework in asked:
            if module_source(tree, framework.module) is not None:
                return _with_target(given, framework, tree)
    wanted = " or ".join(framework.file for framework in asked)
    raise UsageError(f"{given}: holds no {wanted}; give the folder that has the package in it, or its checkout")


def _with_target(given: str, framework: Framework, tree: Tree) -> BackendSource:
    target = module_source(tree, framework.module)
    if target is None:
        raise CannotRunError(f"{given}: has no {framework.file}")
    return BackendSource(given, framework, target, IndexedTree(tree))


def _package_of(file: Path) -> tuple[Framework, Path] | None:
    """The framework whose backend file it is where it lies, and the folder with the package in it."""
    for framework in TARGETS:
        parts = framework.module.split(".")
        if file.name == f"{parts[-1]}.py" and len(file.parents) >= len(parts):
            root = file.parents[len(parts) - 1]
            if (root / parts[0]).is_dir() and file == root.joinpath(*parts).with_suffix(".py"):
                return framework, root
    return None


def _single_file(given: str, file: Path) -> BackendSource:
    """The file itself is under test; the package around it gives the rest."""
    if (found := _package_of(file)) is not None:
        framework, root = found
        return _with_target(given, framework, FolderTree(root))
    names = ", ".join(framework.file for framework in TARGETS)
    raise UsageError(
        f"{given}: does not lie in its package ({names}); give the whole tree, put the file into one, or give a changed file a "
        "--base that is one"
    )
