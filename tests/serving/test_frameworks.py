"""The table of pins holds together, and a source is run on the AITER that it is built with, which is said."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
from pathlib import Path

import pytest

from backend.errors import UsageError
from backend.git import git
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.framework_run import FrameworkDriver
from backend.serving.frameworks import FRAMEWORKS, SGLANG, TARGETS, Framework, pin_of, pins
from fuzz.gate.which_aiter import NEWEST, which_aiter


def test_every_row_says_what_and_whence() -> None:
    seen = set()
    for pin in pins():
        assert pin.framework in FRAMEWORKS
        assert re.fullmatch(r"\d+(\.\d+)+(\.post\d+)?", pin.release), pin
        assert re.fullmatch(r"[0-9a-f]{40}|v\d[\w.]*", pin.aiter), pin
        assert re.match(r"[\w-]+/[\w-]+#\d+ \((opened )?\d{4}-\d\d-\d\d\)", pin.source), pin
        assert re.fullmatch(r"(\d{4}-\d\d-\d\d)?", pin.date), pin
        assert (pin.framework, pin.release) not in seen
        seen.add((pin.framework, pin.release))
        day = re.findall(r"\d{4}-\d\d-\d\d", pin.source)[0]
        assert not pin.date or day <= pin.date, f"{pin}: written after it was published"


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.backend_class)
def test_a_target_is_a_driver_of_its_own_on_shared_steps(target: Framework) -> None:
    """Under 200 lines; sglang's first, which its others build on, has 450."""
    module, _, kind = target.driver.partition(":")
    driver = importlib.import_module(module)
    assert issubclass(getattr(driver, kind), FrameworkDriver)
    assert len(inspect.getsource(driver).splitlines()) < (450 if target is SGLANG else 200)


def test_a_release_without_a_row_is_its_series() -> None:
    found = {name: pin_of("vllm", name) for name in ("0.15.1", "0.15", "0.19.1", "0.19.0", "0.1", "0.150")}
    assert {name: pin and pin.release for name, pin in found.items()} == {
        "0.15.1": "0.15", "0.15": "0.15", "0.19.1": "0.19.1", "0.19.0": "0.19", "0.1": None, "0.150": None,
    }  # fmt: skip
    patched, older = pin_of("sglang", "0.5.15.post1"), pin_of("sglang", "0.5.1")
    assert patched is not None
    assert patched.short == "9127c94a1"
    assert older is None


@pytest.mark.checkout
def test_every_pinned_revision_until_august_is_in_the_checkout(aiter_checkout: Path) -> None:
    absent = {pin.release for pin in pins() if git(aiter_checkout, "rev-parse", "--verify", f"{pin.aiter}^{{commit}}") is None}
    assert absent <= {pin.release for pin in pins() if pin.date > "2026-08-26"}


@pytest.fixture
def framework(tmp_path: Path) -> Path:
    """A repository of sglang with nothing but the file, and the image that says what it is built with."""
    file = tmp_path / "tree" / "python" / FRAMEWORKS["sglang"].file
    file.parent.mkdir(parents=True)
    file.write_text("class AiterAttnBackend: ...\n")
    image = tmp_path / "tree" / "docker" / "rocm.Dockerfile"
    image.parent.mkdir()
    image.write_text('FROM x AS gfx942\nENV AITER_COMMIT_DEFAULT="v1"\nFROM y\nARG AITER_COMMIT=""\n')
    return tmp_path / "tree"


@pytest.fixture
def aiter(tmp_path: Path) -> Path:
    """A history of AITER with two revisions of which one is pinned."""
    folder = tmp_path / "aiter"
    launcher = folder / "csrc" / "py_itfs_cu" / "asm_mla.cu"
    launcher.parent.mkdir(parents=True)
    launcher.write_text("")
    for command in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first"),
        ("tag", "v1"),
    ):
        subprocess.run(("git", "-C", str(folder), *command), check=True)
    return folder


def test_a_tree_runs_on_what_its_image_is_built_with(framework: Path, aiter: Path) -> None:
    chosen = which_aiter(str(framework), str(aiter))
    assert (chosen.aiter, chosen.release) == (f"{aiter}@v1", None)
    assert "pins v1 by docker/rocm.Dockerfile" in chosen.why
    chosen = which_aiter(str(framework), f"{aiter}@HEAD")
    assert chosen.aiter == f"{aiter}@HEAD"
    assert "as asked" in chosen.why
    assert "pins v1" in chosen.why
    chosen = which_aiter(str(framework), None)
    assert (chosen.aiter, chosen.release) == (None, NEWEST)
    assert "the newest" in chosen.why
    assert "pins v1" in chosen.why


def test_a_pin_that_the_checkout_lacks_is_said(framework: Path, aiter: Path) -> None:
    image = framework / "docker" / "rocm.Dockerfile"
    image.write_text("ENV AITER_COMMIT_DEFAULT=v2\n")
    with pytest.raises(UsageError, match=r"pins v2 .* not in .*: fetch it, or give .*@REVISION"):
        which_aiter(str(framework), str(aiter))
    image.unlink()
    chosen = which_aiter(str(framework), str(aiter))
    assert (chosen.aiter, chosen.release) == (str(aiter), None)
    assert "no pin of" in chosen.why


def test_a_git_revision_has_its_own_image(framework: Path, aiter: Path) -> None:
    for command in (("init", "-q"), ("add", "."), ("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first")):
        subprocess.run(("git", "-C", str(framework), *command), check=True)
    (framework / "docker" / "rocm.Dockerfile").unlink()
    opened = open_source(f"{framework}@HEAD")
    assert opened.release is None
    assert which_aiter(f"{framework}@HEAD", str(aiter)).aiter == f"{aiter}@v1"
