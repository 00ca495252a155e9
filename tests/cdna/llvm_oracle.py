"""LLVM's disassembler, through the C interface of the library in rocm-llvm-python (a development dependency)."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import pytest

_LARGEST_INSTRUCTION = 16


@cache
def _library() -> ctypes.CDLL:
    package = importlib.util.find_spec("rocm")
    found = (
        [path for root in (package.submodule_search_locations or ()) for path in Path(root).glob("llvm/**/librocmllvm.so")]
        if package
        else []
    )
    if not found:
        pytest.skip("needs rocm-llvm-python: pip install -e .[dev]")
    library = ctypes.CDLL(str(found[0]))
    for part in ("TargetInfo", "TargetMC", "Disassembler"):
        getattr(library, f"LLVMInitializeAMDGPU{part}")()
    library.LLVMCreateDisasmCPUFeatures.restype = ctypes.c_void_p
    text, pointer = ctypes.c_char_p, ctypes.c_void_p
    library.LLVMCreateDisasmCPUFeatures.argtypes = [text, text, text, pointer, ctypes.c_int, pointer, pointer]
    library.LLVMDisasmInstruction.restype = ctypes.c_size_t
    library.LLVMDisasmInstruction.argtypes = [pointer, pointer, ctypes.c_uint64, ctypes.c_uint64, text, ctypes.c_size_t]
    return library


@cache
def _context(arch: str) -> int:
    context = _library().LLVMCreateDisasmCPUFeatures(b"amdgcn-amd-amdhsa", arch.encode(), b"", None, 0, None, None)
    assert context, f"LLVM knows no {arch}"
    return int(context)


def disassemble_one(arch: str, code: bytes, pc: int = 0) -> tuple[int, str]:
    """(size in bytes, text with single blanks) of the first instruction; (0, "") where LLVM refuses it."""
    text = ctypes.create_string_buffer(512)
    buffer = ctypes.create_string_buffer(code, len(code))
    size = _library().LLVMDisasmInstruction(_context(arch), ctypes.addressof(buffer), len(code), pc, text, len(text))
    return size, " ".join(text.value.decode().split())


def disassemble(arch: str, code: bytes) -> list[tuple[int, int, str]]:
    """(pc, size, text) of a whole text; fails the test where LLVM refuses a word."""
    found = []
    pc = 0
    while pc < len(code):
        size, text = disassemble_one(arch, code[pc : pc + _LARGEST_INSTRUCTION], pc)
        assert size, f"LLVM refuses {code[pc : pc + 8].hex()} at {pc:#x}"
        found.append((pc, size, text))
        pc += size
    return found


def without_zero_offset(text: str) -> str:
    """LLVM's text in our spelling: an immediate SMEM offset of 0 beside an offset register is left out."""
    return text.replace(" offset:0x0", "") if text.startswith("s_") else text
