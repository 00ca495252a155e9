"""A folder, a wheel and a git revision of the same files read the same."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from backend.errors import CannotRunError, UsageError
from backend.real.python.trees import FolderTree, GitTree, Tree, WheelTree, module_source

FILES = {"pkg/__init__.py": "A = 1\n", "pkg/sub/leaf.py": "B = 2\n", "pkg/data.txt": "no\n"}


def in_folder(root: Path) -> Tree:
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return FolderTree(root)


def in_wheel(root: Path) -> Tree:
    with zipfile.ZipFile(root / "pkg-1.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
    return WheelTree(root / "pkg-1.whl")


def in_git(root: Path) -> Tree:
    in_folder(root / "python")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    (root / "python" / "pkg" / "__init__.py").write_text("A = 'changed since'\n")
    return GitTree(root, "HEAD", "python")


@pytest.mark.parametrize("make", [in_folder, in_wheel, in_git])
def test_modules_of_each_kind(tmp_path: Path, make: object) -> None:
    tree = make(tmp_path)  # type: ignore[operator]
    package, leaf, namespace = (module_source(tree, name) for name in ("pkg", "pkg.sub.leaf", "pkg.sub"))
    assert (package.text, package.is_package) == ("A = 1\n", True)
    assert (leaf.text, leaf.is_package) == ("B = 2\n", False)
    assert leaf.filename.endswith("pkg/sub/leaf.py")
    assert (namespace.text, namespace.is_package) == ("", True)
    assert module_source(tree, "pkg.absent") is None
    assert module_source(tree, "pkg.sub.leaf.below") is None


def test_data_files_of_a_revision_are_where_its_modules_say(tmp_path: Path) -> None:
    (tmp_path / "python" / "pkg" / "sub" / "configs").mkdir(parents=True)
    (tmp_path / "python" / "pkg" / "sub" / "configs" / "tuned.json").write_text('{"a": 1}')
    in_git(tmp_path)
    tree = GitTree(tmp_path, "HEAD", "python", data=("pkg/sub",))
    leaf, package = module_source(tree, "pkg.sub.leaf"), module_source(tree, "pkg")
    assert Path(leaf.filename).parent.joinpath("configs/tuned.json").read_text() == '{"a": 1}'
    assert package.filename.endswith(":python/pkg/__init__.py")


def test_unknown_revision_and_broken_wheel(tmp_path: Path) -> None:
    in_git(tmp_path)
    with pytest.raises(UsageError, match=r"no-such.*PATH@REVISION"):
        GitTree(tmp_path, "no-such")
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"not a zip")
    with pytest.raises(CannotRunError, match=r"broken\.whl: not a readable wheel"):
        WheelTree(broken)


def test_equal_files_have_equal_ids_whatever_holds_them(tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    (folder / "pack" / "inner").mkdir(parents=True)
    (folder / "pack" / "inner" / "a.py").write_text("x = 1\n")
    (folder / "pack" / "notes.txt").write_text("not Python\n")
    (folder / "other.py").write_text("y = 1\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    with zipfile.ZipFile(tmp_path / "pack-1-py3-none-any.whl", "w") as archive:
        archive.write(folder / "pack" / "inner" / "a.py", "pack/inner/a.py")
    trees = (FolderTree(folder), GitTree(folder, "HEAD"), WheelTree(tmp_path / "pack-1-py3-none-any.whl"))
    first, *others = (tree.contents("pack") for tree in trees)
    assert list(first) == ["pack/inner/a.py"]
    assert others == [first, first]
    (folder / "pack" / "inner" / "a.py").write_text("x = 2\n")
    assert FolderTree(folder).contents("pack") != first
