"""How far a revision is reproduced: by files of our own, and by those of a checkout."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.aiter.codefiles import open_source
from backend.aiter.release import release
from backend.aiter.text.reduction import KEEPS_MAP, REDUCTION_FILE, kernels_of
from backend.case import RELEASES
from backend.errors import UsageError
from backend.host import Basis
from backend.revision.assess import PARTS, assess
from fuzz.cli import main
from fuzz.commands.takes import finds_lines
from reprod.takes import commits_of, takes

PARAMETERS = "batch_size, max_seqlen_qo, num_head_qo, q_dtype, kv_dtype, is_sparse, fast_mode=True, num_kv_splits=32"
ENTRY = """
void get_mla_metadata_v1(const torch::Tensor& seqlens_kv_indptr, const int32_t page_size)
{{
    TORCH_CHECK((page_size & 1) == 1, "odd pages")
    const dim3 grid = dim3(1, 1, 1);
    {body}
}}
"""


@dataclass(frozen=True)
class Files:
    """A revision of few files."""

    texts: tuple[tuple[str, str], ...]
    label: str = "files"

    def read(self, path: str) -> bytes | None:
        found = dict(self.texts).get(path)
        return None if found is None else found.encode()

    def has(self, path: str) -> bool:
        return path in dict(self.texts)


def planner(body: str, kernel: str = "") -> Files:
    return Files(
        (
            ("csrc/kernels/mla/metadata/v1_2_device.cuh", kernel),
            ("csrc/kernels/mla/metadata.cu", ENTRY.format(body=body)),
        )
    )


def test_a_part_is_evaluated_or_says_what_is_not_provided_for() -> None:
    launch = "kn_v1_2<<<grid, 64, 128, 0>>>(page_size);"
    good = planner(launch, "void kn_v1_2(int32_t n) { if(n > 3) { n += 1; } }")
    assert assess(good, "planner v1_2").basis is Basis.EVALUATED
    unknown = assess(planner(launch, "void kn_v1_2(int32_t n) {\n n += mystery(n);\n}"), "planner v1_2")
    assert unknown.basis is Basis.STAND_IN
    assert unknown.reason == "v1_2_device.cuh:2: the function `mystery(n)` is not provided for"
    host = assess(planner("lost(page_size); " + launch, "void kn_v1_2(int32_t n) { }"), "planner v1_2")
    assert host.reason == "metadata.cu:6: the function `lost(page_size)` is not provided for"


def test_sizing_is_python() -> None:
    path = "aiter/ops/attention.py"
    made = "return [((1,), 'u64'), ((9,), 'i32'), ((8, 8), 'i32'), ((2,), 'i32'), ((1, 2), 'i32'), ((1,), 'i32')]"
    good = Files(((path, f"def get_mla_metadata_info_v1({PARAMETERS}, intra_batch_mode=False):\n    {made}\n"),))
    assert assess(good, "sizing").basis is Basis.EVALUATED
    bad = Files(((path, f"def get_mla_metadata_info_v1({PARAMETERS}, intra_batch_mode=False):\n    return mystery(1)\n"),))
    assert assess(bad, "sizing").reason == "mystery is not provided for"


def test_the_reduction_is_known_by_its_kernels() -> None:
    kernel = "__global__ void kn(int a) { a += 1; }\n"
    digest = kernels_of(kernel)
    assert kernels_of("// another\n__global__ void kn(int a)\n{ a += 1; }\nvoid mla_reduce_v1() { f(); }\n") == digest
    assert kernels_of(kernel.replace("1", "2")) != digest
    found = assess(Files(((REDUCTION_FILE, kernel),)), "second stage")
    assert (found.basis, REDUCTION_FILE in found.reason) == (Basis.STAND_IN, True)


@pytest.mark.checkout
def test_reduction_kernels_are_those_of_the_releases(aiter_checkout: Path) -> None:
    """Of each built-in release the kernels are known, and by the same rule."""
    for name in RELEASES:
        content = open_source(f"{aiter_checkout}@{release(name).commit}").read(REDUCTION_FILE)
        assert content is not None
        assert KEEPS_MAP[kernels_of(content.decode())] == release(name).reduction.keeps_map


def test_a_range_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    with pytest.raises(UsageError, match=r"range of ROCm/aiter"):
        commits_of(str(tmp_path), "a..b")
    assert main(["takes", str(tmp_path / "nowhere")]) == 2
    assert "CHECKOUT" in capsys.readouterr().err


@pytest.mark.checkout
def test_a_range_of_a_checkout(aiter_checkout: Path) -> None:
    """b0fd63cd9d changed functions of the launcher alone; it and the commit before it are evaluated."""
    commits = commits_of(str(aiter_checkout), "b0fd63cd9d~1..b0fd63cd9d")
    first, second = takes(str(aiter_checkout), commits, lambda _: None)
    assert [each.part for each in second.parts] == list(PARTS)
    assert not second.stands_in
    assert first.changed == ()
    assert "asm_mla.cu: mla_decode_stage1_asm_fwd" in second.changed
    assert {each.partition(": ")[0] for each in second.changed} == {"asm_mla.cu"}


@pytest.mark.checkout
def test_known_faults_that_a_range_brings_or_mends(aiter_checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With #4521 came O11, whose kernel for 64 heads is another one, and O18's kernels; what stands as before is left out."""
    assert main(["takes", str(aiter_checkout), "ca1c24a9dd^..ca1c24a9dd", "--finds"]) == 0
    printed = capsys.readouterr().out
    told = [line for line in printed.splitlines() if line.endswith(" found at ca1c24a9dd")]
    assert [line.split(",")[0] for line in told] == ["O11", "O18"]
    assert "silent at aded0f8401" in told[0]
    assert "--good aded0f8401 --bad ca1c24a9dd" in printed
    assert "corpus mark" not in printed


@pytest.mark.slow
@pytest.mark.checkout
def test_known_faults_that_a_release_mends(aiter_checkout: Path) -> None:
    """F6: 2026-08's kernel multiplies page ids in full."""
    lines = [*finds_lines(str(aiter_checkout), release("2026-06").commit, release("2026-08").commit)]
    (at,) = [at for at, line in enumerate(lines) if line.startswith("F6, ")]
    assert "found at 2988812e13, fixed at e4048607a5" in lines[at]
    assert lines[at + 2] == "    then: aiterfuzz corpus mark F6 mended --commit THAT_COMMIT"
