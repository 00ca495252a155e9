"""Where code objects are found, and what a person is told when they are not."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from backend.aiter.codefiles import (
    BlobSource,
    CodeSource,
    RevisionSource,
    blob_id,
    has_code,
    installed_wheel,
    kernel_csv,
    open_code,
    open_source,
    unrelated_aiter,
)
from backend.case import Arch
from backend.errors import CannotRunError, UsageError

CODE = "mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"
PATH = f"hsa/gfx950/mla/{CODE}"


def elf(machine: int, tail: bytes = b"") -> bytes:
    """The first bytes of an AMDGPU ELF; e_flags, whose low byte is the machine, begins at byte 48."""
    return b"\x7fELF" + bytes(44) + bytes([machine]) + bytes(31) + tail


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two commits: the second replaces the code object; then the work tree is changed once more without a commit."""
    folder = tmp_path / "aiter@home"
    for path, content in (
        ("csrc/py_itfs_cu/asm_mla.cu", b"first"),
        ("hsa/gfx950/mla/mla_asm.csv", b"qType\n"),
        (PATH, elf(0x4F)),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    git(folder, "init", "-q", "-b", "main")
    for text, tail in (("one", b"1"), ("two", b"2")):
        (folder / PATH).write_bytes(elf(0x4F, tail))
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", text)
    (folder / PATH).write_bytes(elf(0x4F, b"work tree"))
    return folder


def test_a_revision_is_read_from_the_object_database_and_the_work_tree_is_left_alone(checkout: Path) -> None:
    before = git(checkout, "status", "--porcelain")
    assert open_code(open_source(f"{checkout}@main~1"), Arch.GFX950, CODE) == elf(0x4F, b"1")
    assert open_code(open_source(f"{checkout}@main"), Arch.GFX950, CODE) == elf(0x4F, b"2")
    assert open_code(open_source(str(checkout)), Arch.GFX950, CODE) == elf(0x4F, b"work tree")
    assert git(checkout, "status", "--porcelain") == before


def test_a_bare_repository_is_read_at_head(checkout: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(checkout), str(bare))
    source = open_source(str(bare))
    assert isinstance(source, RevisionSource)
    assert open_code(source, Arch.GFX950, CODE) == elf(0x4F, b"2")
    assert kernel_csv(source, Arch.GFX950) == "qType\n"
    assert kernel_csv(source, Arch.GFX942) is None
    assert pickle.loads(pickle.dumps(source)) == source


def test_a_blob_stands_for_every_code_object_of_its_architecture(checkout: Path) -> None:
    content = elf(0x4F, b"1")
    name = git(checkout, "rev-parse", f"main~1:{PATH}")
    assert blob_id(content) == name
    source = open_source(f"{checkout}@{name[:10]}")
    assert isinstance(source, BlobSource)
    assert source.blob == name
    assert open_code(source, Arch.GFX950, "any_other_name.co") == content
    assert not has_code(source, Arch.GFX942, CODE)
    assert kernel_csv(source, Arch.GFX950) is None


def test_a_blob_that_is_no_code_object_is_refused(checkout: Path) -> None:
    name = git(checkout, "rev-parse", "main:csrc/py_itfs_cu/asm_mla.cu")
    with pytest.raises(UsageError, match=r"gfx942 or gfx950"):
        has_code(open_source(f"{checkout}@{name}"), Arch.GFX950, CODE)


def test_an_absent_code_object_is_named_with_its_source(checkout: Path) -> None:
    source = open_source(f"{checkout}@main")
    assert not has_code(source, Arch.GFX942, CODE)
    with pytest.raises(CannotRunError, match=rf"hsa/gfx942/mla/{CODE}: not in .*aiter@home@main"):
        open_code(source, Arch.GFX942, CODE)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [("@no-such-branch", "given 'no-such-branch'.*git fetch"), ("@0123456789abcdef", "given '0123456789abcdef'")],
)
def test_an_unknown_revision_is_a_usage_error(checkout: Path, suffix: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(f"{checkout}{suffix}")


def test_what_is_no_checkout_of_aiter_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an existing folder"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match="neither"):
        open_source(str(tmp_path / "plain"))
    with pytest.raises(UsageError, match="is none"):
        open_source(f"{tmp_path / 'plain'}@main")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    git(other, "commit", "-q", "--allow-empty", "-m", "empty")
    with pytest.raises(UsageError, match=r"asm_mla\.cu"):
        open_source(f"{other}@main")


def test_the_installed_wheel_is_found_without_importing_it() -> None:
    source = installed_wheel()
    assert has_code(source, Arch.GFX942, CODE)
    assert open_code(source, Arch.GFX950, CODE)[:4] == b"\x7fELF"
    assert source.read("aiter/mla.py") is not None
    assert source.read("csrc/py_itfs_cu/asm_mla.cu") is not None
    assert kernel_csv(source, Arch.GFX950) is None
    probe = "import sys; from backend.aiter.codefiles import installed_wheel; installed_wheel(); print('aiter' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "False\n"


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_missing_wheel_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match=r"no amd-aiter here.*pip install amd-aiter==0\.1\.7\.post2\.dev18.*checkout"):
        installed_wheel([str(tmp_path)])


def test_the_unrelated_aiter_of_pypi_is_told_apart(tmp_path: Path) -> None:
    distribution(tmp_path, "aiter", "0.13.20191203")
    assert unrelated_aiter([str(tmp_path)]) is not None
    with pytest.raises(
        CannotRunError, match=r"`aiter` 0\.13\.20191203 is installed, which is not AMD's \(pip uninstall aiter\)"
    ):
        installed_wheel([str(tmp_path)])


def test_a_wheel_without_code_objects_is_named(tmp_path: Path) -> None:
    distribution(tmp_path, "amd-aiter", "9.9")
    with pytest.raises(CannotRunError, match=r"amd-aiter 9\.9 at .*: neither aiter_meta/hsa nor hsa"):
        installed_wheel([str(tmp_path)])


def test_a_development_install_is_read_from_its_folder(tmp_path: Path) -> None:
    distribution(tmp_path, "amd-aiter", "9.9")
    (tmp_path / PATH).parent.mkdir(parents=True)
    (tmp_path / PATH).write_bytes(elf(0x4F))
    source: CodeSource = installed_wheel([str(tmp_path)])
    assert open_code(source, Arch.GFX950, CODE) == elf(0x4F)
