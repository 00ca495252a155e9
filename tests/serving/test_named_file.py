"""Which of a framework's backend files is under test: by the path of the file, or named behind what holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import CannotRunError, UsageError
from backend.real.frameworks.fetch import LENT, lies_alone, named_file, open_source, same_file_of
from backend.serving.frameworks import TARGETS, VLLM, VLLM_SPARSE, Framework
from fuzz.commands.gate import _is_policy


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with every backend file, which define their classes and nothing else."""
    for target in TARGETS:
        file = tmp_path / "tree" / target.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"class {target.backend_class}:\n    pass\n")
    return tmp_path / "tree"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.file.rpartition("/")[2])
def test_by_its_path_and_by_name(tree: Path, target: Framework) -> None:
    name = Path(target.file).name
    for given in (f"{tree / target.file}", f"{tree}:{name}", f"{tree}:{target.file}"):
        opened = open_source(given)
        assert (opened.framework, opened.given) == (target, given)
        assert not _is_policy(given)
    assert not _is_policy(f"{target.name}==1.0:{name}")


def test_a_tree_alone_means_the_usual_file(tree: Path) -> None:
    assert open_source(str(tree)).framework is TARGETS[0]


def test_a_name_that_nobody_has(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"file of a backend: given 'triton_backend\.py'.*rocm_aiter_mla_sparse\.py"):
        open_source(f"{tree}:triton_backend.py")
    with pytest.raises(UsageError, match=r"file of sglang: given 'rocm_aiter_mla_sparse\.py'"):
        open_source("sglang==0.5.13:rocm_aiter_mla_sparse.py")


def test_what_is_there_is_a_path_whatever_characters_it_has(tree: Path) -> None:
    odd = tree.rename(tree.with_name("tree:rocm_aiter_mla_sparse.py"))
    assert named_file(str(odd)) == (str(odd), "")


def test_the_base_is_asked_for_the_file_of_the_change(tree: Path) -> None:
    change = str(tree / VLLM_SPARSE.file)
    assert open_source(same_file_of(str(tree), change)).framework is VLLM_SPARSE
    assert same_file_of(f"{tree}:rocm_aiter_mla_sparse.py", change) == f"{tree}:rocm_aiter_mla_sparse.py"
    assert same_file_of(str(tree), str(tree / VLLM.file)) == str(tree)


def test_a_copy_stands_in_the_place_of_the_file_that_defines_its_class(tree: Path) -> None:
    copied = tree.parent / "mine.py"
    copied.write_text(f"class {VLLM_SPARSE.backend_class}:\n    edited = True\n")
    assert lies_alone(str(copied))
    opened = open_source(f"{copied}{LENT}{tree}")
    assert opened.framework is VLLM_SPARSE
    assert "edited" in opened.target.text
    with pytest.raises(CannotRunError, match="has no class AiterMLAImpl"):
        open_source(f"{copied}{LENT}{tree}:rocm_aiter_mla.py")
