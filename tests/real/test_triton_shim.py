"""Triton kernels run on the virtual GPU's memory, and lanes outside every tensor are noted instead of done."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.child.service import Child

GUARD = 0xA5A5A5A5


KERNELS = pytest.mark.parametrize("kernel", ["copy_words", "copy_a_row"])


@KERNELS
def test_in_bounds(child: Child, kernel: str) -> None:
    seen = child.request("copy", length=100, asked=100, room=100, kernel=kernel)
    assert seen["target"] == list(range(100))
    assert seen["strays"] == []


@KERNELS
def test_store_past_the_end_is_noted_and_not_done(child: Child, kernel: str) -> None:
    seen = child.request("copy", length=100, asked=100, room=70, kernel=kernel)
    assert seen["target"] == list(range(70))
    assert seen["neighbour"] == 70 + 64
    assert seen["strays"] == [[kernel, True, 30, 0]]


@KERNELS
def test_load_past_the_end_gives_other(child: Child, kernel: str) -> None:
    seen = child.request("copy", length=10, asked=20, room=20, kernel=kernel)
    assert seen["target"] == [*range(10), *[0] * 10]
    assert seen["strays"] == [[kernel, False, 10, 0]]


INTO = "into_the_other", "counted_in_the_other", "swapped_in_the_other", "block_in_the_other"


@pytest.mark.parametrize("kernel", INTO)
def test_what_lands_in_another_tensor_is_noted_and_not_done(child: Child, kernel: str) -> None:
    seen = child.request("astray", kernel=kernel)
    assert seen["strays"] == [[True, 8, "source", 0]]
    assert seen["target"] == [-1] * 8


def test_a_load_from_another_tensor_is_noted(child: Child) -> None:
    assert child.request("astray", kernel="into_the_other", write=False)["strays"] == [[False, 8, "source", 0]]


@pytest.mark.parametrize("kernel", INTO)
def test_what_leaves_a_view_is_noted_and_done_as_on_a_gpu(child: Child, kernel: str) -> None:
    seen = child.request("astray", kernel=kernel, of="view")
    assert seen["strays"] == [[True, 8, "source", 0]]
    assert -1 not in seen["target"]


def test_a_replay_knows_no_end_of_a_view(child: Child) -> None:
    assert child.request("astray", kernel="into_the_other", of="view", replayed=True)["strays"] == []
    assert child.request("astray", kernel="into_the_other", replayed=True)["strays"] == [[True, 8, "source", 0]]


@pytest.mark.parametrize("kernel", ["masked_in_the_other", "one_of_both", "by_table"])
def test_masked_lanes_pointers_of_several_tensors_and_loaded_ones_are_silent(child: Child, kernel: str) -> None:
    seen = child.request("astray", kernel=kernel)
    assert seen["strays"] == []
    assert seen["target"] == {"masked_in_the_other": [-1] * 8, "one_of_both": [-1] * 4 + [7] * 4, "by_table": [7] * 8}[kernel]


def test_lines_of_kernels_of_the_measured_file_are_noted_and_nobody_traces_them(child: Child) -> None:
    other, own = child.request("measure", own_file=False), child.request("measure", own_file=True)
    assert other["of_kernel"] == other["taken_over"] == []
    kernel = (Path(__file__).parent / "kernels_under_test.py").read_text().splitlines()
    body = kernel.index("    offset = tl.arange(0, BLOCK)") + 1
    assert own["of_kernel"] == own["taken_over"] == list(range(body, body + 5))
    assert other["traced"] == own["traced"] == 0
    assert other["behind"]
    assert own["behind"]


def test_triton_is_itself_again_behind_the_interpreter(child: Child) -> None:
    assert child.request("measure", own_file=True)["restored"]
