"""The decoder against LLVM's disassembler: every instruction, operand and modifier of every code object at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from code_object_files import BLOBS, RELEASES, checkout_blob, checkout_files, triton_files, wheel_files
from llvm_oracle import disassemble, without_zero_offset

from backend.cdna.code_object import load_code_object
from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.errors import CannotRunError

WHEEL = sorted(wheel_files())


def assert_equals_llvm(content: bytes) -> int:
    """Every kernel of a code object decodes as LLVM says; returns the number of instructions."""
    count = 0
    for kernel in load_code_object(content).kernels:
        instructions = decode(kernel.text, kernel.arch)
        ours = [(each.pc, each.size, assembly_text(each)) for each in instructions]
        llvm = [(pc, size, without_zero_offset(text)) for pc, size, text in disassemble(kernel.arch, kernel.text)]
        different = [pair for pair in zip(ours, llvm, strict=False) if pair[0] != pair[1]]
        assert not different, f"{kernel.name}: {len(different)} differ, first {different[0]}"
        assert len(ours) == len(llvm)
        count += len(ours)
    return count


def test_the_wheel_has_36_mla_code_objects() -> None:
    assert len(WHEEL) == 36


@pytest.mark.parametrize("name", WHEEL)
def test_wheel(name: str) -> None:
    assert assert_equals_llvm(wheel_files()[name].read_bytes()) > 1000


@pytest.mark.parametrize("name", sorted(triton_files()))
def test_triton(name: str) -> None:
    assert assert_equals_llvm(triton_files()[name]) > 100


@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.parametrize(("release", "instructions"), [("2026-06", 394_084), ("2026-08", 723_566)])
def test_release(aiter_checkout: Path, release: str, instructions: int) -> None:
    """All of a release; what is for another GPU than the two is refused by name, and only that."""
    assert release in RELEASES
    count = 0
    for path, content in checkout_files(aiter_checkout, release):
        if "/gfx942/" in path or "/gfx950/" in path:
            count += assert_equals_llvm(content)
        else:
            with pytest.raises(CannotRunError, match="gfx1250"):
                load_code_object(content)
    assert count == instructions


@pytest.mark.checkout
@pytest.mark.parametrize("blob", BLOBS)
def test_blob(aiter_checkout: Path, blob: str) -> None:
    assert assert_equals_llvm(checkout_blob(aiter_checkout, blob)) > 1000
