"""Code objects that cannot be run lead the command line to exit 3 and one line that names what is wrong, never to "no fault".

The checkout is a folder made of the wheel's files, with one code object spoilt; the same as a git repository.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from backend.aiter.codefiles import CodeSource, code_path, installed_wheel, open_code
from backend.case import Arch
from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.cdna.machine import LDS_BYTES
from fuzz.cli import main
from tests.tiers import one_of_each

CODE_OBJECT = "mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"
LAUNCHER = "csrc/py_itfs_cu/asm_mla.cu"
EXPLAIN = ["--heads", "16", "--kv-lens", "40", "--cus", "2", "--release", "2025-11", "--mode", "fast", "--backend", "direct"]
SEARCH = ["--heads", "16", "--release", "2025-11", "--arch", "gfx950", "--mode", "fast", "--backend", "vllm", "--qlen", "1"]
SMALL = ["--q-dtype", "fp8", "--kv-dtype", "fp8", "--max-batch", "2", "--max-kv", "100", "--cases", "3"]

UNKNOWN = b"\xff" * 4
"""No encoding of gfx942 or gfx950."""

S_SETPC_B64 = (0xBE80_1D02).to_bytes(4, "little")
"""s_setpc_b64 s[2:3]: SOP1, opcode 29. Where it goes nobody knows before it runs."""

FLOAT_ROUND_32 = 12
"""First bit of FLOAT_ROUND_MODE_32 in compute_pgm_rsrc1 (LLVM's AMDGPU usage guide)."""

OFFSET = b"\xa7.offset"
"""The key of an argument's offset in the metadata note (MessagePack)."""

Spoil = Callable[[bytes], bytes]


def old_exponential(register: int) -> bytes:
    """v_exp_legacy_f32 of a register into itself: VOP1, opcode 75. It exists, and the machine has no model of it."""
    return (0x7E00_0000 | register << 17 | 75 << 9 | 256 + register).to_bytes(4, "little")


def kernel_of(content: bytes) -> Kernel:
    return load_code_object(content).kernels[0]


def with_instruction(content: bytes, wanted: str, word: bytes) -> bytes:
    """The first instruction whose text begins with `wanted` is overwritten with copies of a dword."""
    kernel = kernel_of(content)
    found = next(each for each in decode(kernel.text, kernel.arch) if assembly_text(each).startswith(wanted))
    assert len(kernel.text) > found.pc + found.size
    at = content.index(kernel.text) + found.pc
    return content[:at] + word * (found.size // 4) + content[at + found.size :]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def pointer_file(content: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 29464\n"


def of_gfx942(content: bytes) -> bytes:
    return open_code(installed_wheel(), Arch.GFX942, CODE_OBJECT)


def of_gfx90a(content: bytes) -> bytes:
    return content[:48] + bytes([0x3F]) + content[49:]


def unknown_encoding(content: bytes) -> bytes:
    return with_instruction(content, "s_load_dwordx2", UNKNOWN)


def jump_to_anywhere(content: bytes) -> bytes:
    return with_instruction(content, "s_load_dword", S_SETPC_B64)


def unmodelled_in_an_address(content: bytes) -> bytes:
    """What stands before the first load through a descriptor takes an exponential of the register of the load's address."""
    kernel = kernel_of(content)
    instructions = decode(kernel.text, kernel.arch)
    number = next(at for at, each in enumerate(instructions) if re.match("buffer_load.* offen", assembly_text(each)))
    found = re.search(r"v(\d+), s\[", assembly_text(instructions[number]))
    assert found is not None
    before, at = instructions[number - 1], content.index(kernel.text) + instructions[number - 1].pc
    return content[:at] + old_exponential(int(found[1])) * (before.size // 4) + content[at + before.size :]


def other_rounding(content: bytes) -> bytes:
    """FP32 rounds towards zero."""
    descriptor = content.index(kernel_descriptor(content))
    at = descriptor + 48  # compute_pgm_rsrc1
    word = int.from_bytes(content[at : at + 4], "little") | 3 << FLOAT_ROUND_32
    return content[:at] + word.to_bytes(4, "little") + content[at + 4 :]


def other_arguments(content: bytes) -> bytes:
    """The softmax scale, a number, is said to be taken where the call hands kv_indices over."""
    at = content.index(OFFSET + b"\x70") + len(OFFSET)  # 112, the slot of `scalar`
    return content[:at] + b"\x50" + content[at + 1 :]


def other_operation(content: bytes) -> bytes:
    """The kernel has the name of none that decodes, as long as its own."""
    return content.replace(b"gqaratio16_ps", b"gqaratio16_nm")


def asking_for(lds: int) -> Spoil:
    """The kernel's descriptor asks for so many bytes of LDS: group_segment_fixed_size, its first word."""

    def spoil(content: bytes) -> bytes:
        at = content.index(kernel_descriptor(content))
        return content[:at] + lds.to_bytes(4, "little") + content[at + 4 :]

    return spoil


def kernel_descriptor(content: bytes) -> bytes:
    """The 64 bytes of the kernel's descriptor, by the symbol NAME.kd."""
    elf = ELFFile(BytesIO(content))
    symbols = elf.get_section_by_name(".dynsym")
    assert isinstance(symbols, SymbolTableSection)
    name = f"{kernel_of(content).name}.kd"
    (symbol,) = [each for each in symbols.iter_symbols() if each.name == name]
    (section,) = [
        each for each in elf.iter_sections() if each["sh_addr"] <= symbol["st_value"] < each["sh_addr"] + each["sh_size"] != 0
    ]
    at = section["sh_offset"] + symbol["st_value"] - section["sh_addr"]
    return content[at : at + 64]


def as_is(content: bytes) -> bytes:
    return content


NAMED = f"code object {re.escape(CODE_OBJECT)} of .*aiter.*: "

SPOILT: dict[str, tuple[Spoil, str]] = {
    "cut": (cut, f"{NAMED}given .* bytes that end or differ where an AMDGPU ELF file would not"),
    "a pointer file": (pointer_file, f"{NAMED}given 130 bytes .*a Git LFS pointer or a cut download looks like this"),
    "another architecture": (of_gfx942, f"{NAMED}given one for gfx942; needed: gfx950"),
    "an architecture that is not modelled": (of_gfx90a, f"{NAMED}given one for .*0x3f; modelled: gfx942 and gfx950"),
    "an encoding that is not known": (unknown_encoding, f"{NAMED}instruction at pc 0x8: given bytes ff ff ff ff"),
    "an instruction that is not modelled": (unmodelled_in_an_address, f"{NAMED}.*v_exp_legacy_f32"),
    "a jump that cannot be followed": (jump_to_anywhere, f"{NAMED}.*s_setpc_b64"),
    "a float mode that is not modelled": (other_rounding, f"{NAMED}float mode of .*allowed: rounding to nearest even"),
    "a kernel of other arguments": (other_arguments, f"{NAMED}takes other arguments .* at 0x50, where there is ptr_LTD"),
    "a kernel of another operation": (other_operation, f"{NAMED}given kernels .*_nmE'.*; needed: .*_psE"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[Spoil], Path]:
    """Makes a checkout whose code object is spoilt in a way."""

    def make(spoil: Spoil) -> Path:
        wheel = installed_wheel()
        content = open_code(wheel, Arch.GFX950, CODE_OBJECT)
        write(tmp_path / "aiter", code_path(Arch.GFX950, CODE_OBJECT), spoil(content))
        write(tmp_path / "aiter", LAUNCHER, known(wheel, LAUNCHER))
        return tmp_path / "aiter"

    return make


def known(source: CodeSource, path: str) -> bytes:
    content = source.read(path)
    assert content is not None
    return content


def write(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def committed(root: Path) -> str:
    """The folder as a repository of one commit, `PATH@HEAD`."""
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(root), *command], check=True, capture_output=True)
    return f"{root}@HEAD"


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The line in which a command that exits 3 says why."""
    assert main(argv) == 3
    printed = capsys.readouterr()
    assert "no memory fault" not in printed.out.lower()
    assert "Traceback" not in printed.err
    lines = [line for line in printed.err.splitlines() if line.startswith("aiterfuzz: ")]
    return lines[0] if lines else printed.out + printed.err


def test_the_folder_runs_where_nothing_is_spoilt(tree: Callable[[Spoil], Path], tmp_path: Path) -> None:
    assert main(["explain", *EXPLAIN, "--device", "cdna", "--aiter", str(tree(as_is))]) == 0


@pytest.mark.parametrize("name", SPOILT)
def test_explain_names_it(name: str, tree: Callable[[Spoil], Path], capsys: pytest.CaptureFixture[str]) -> None:
    spoil, told = SPOILT[name]
    said = complaint(capsys, "explain", *EXPLAIN, "--device", "cdna", "--aiter", str(tree(spoil)))
    assert re.search(told, said)


@pytest.mark.parametrize("name", one_of_each(SPOILT))
def test_run_names_it(name: str, tree: Callable[[Spoil], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, told = SPOILT[name]
    out = str(tmp_path / "found")
    said = complaint(capsys, "run", *SEARCH, *SMALL, "--device", "cdna", "--aiter", str(tree(spoil)), "--out", out)
    assert re.search(told, said)


@pytest.mark.parametrize("name", one_of_each(SPOILT))
def test_replay_names_it(name: str, tree: Callable[[Spoil], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry that expects silence is not silent: it could not run."""
    spoil, told = SPOILT[name]
    root = tree(spoil)
    source = committed(root).removesuffix("@HEAD")
    side = {
        "case": {"num_head": 16, "kv_lens": [40], "num_cu": 2, "backend": "direct", "mode": "fast"},
        "releases": ["2025-11"],
        "device": "cdna",
        "revision": "HEAD",
    }
    entry = {"id": "C9", "title": "x", "references": [], "fault_class": "control", "verdict": "not-a-fault", "about": ["x"]}
    file = tmp_path / "C9-x.json"
    file.write_text(json.dumps({**entry, "faulty": [], "silent": [side]}), encoding="utf-8")
    said = complaint(capsys, "replay", str(file), "--aiter", source)
    assert "C9    cannot run" in said
    assert re.search(told, said)
    assert "silent\n" not in said


def test_all_the_lds_that_the_gpu_has_may_be_asked_for(tree: Callable[[Spoil], Path]) -> None:
    root = tree(asking_for(LDS_BYTES["gfx950"]))
    assert main(["explain", *EXPLAIN, "--device", "cdna", "--aiter", str(root)]) == 0


def test_more_lds_than_the_gpu_has_is_a_finding_of_that_file(
    tree: Callable[[Spoil], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(asking_for(LDS_BYTES["gfx950"] + 1))
    assert main(["explain", *EXPLAIN, "--device", "cdna", "--aiter", str(root)]) == 1
    told = capsys.readouterr().out
    assert f"[silent] too-much-lds (kernel, {CODE_OBJECT}): its descriptor asks for 163,841 bytes of LDS" in told
    assert f"  signature: too-much-lds/{CODE_OBJECT}\n" in told


@pytest.mark.checkout
@pytest.mark.parametrize(("revision", "code"), [("12c7120b86^", 1), ("12c7120b86", 0)])
def test_8_heads_on_gfx942_were_shipped_so(
    revision: str, code: int, aiter_checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until ROCm/aiter#3128 of 2026-05-19, which says so."""
    types = ["--q-dtype", "bf16", "--kv-dtype", "bf16", "--arch", "gfx942", "--mode", "non-persistent", "--backend", "direct"]
    command = ["explain", "--heads", "8", "--kv-lens", "64", *types, "--device", "cdna"]
    assert main([*command, "--aiter", f"{aiter_checkout}@{revision}"]) == code
    finding = "too-much-lds (kernel, mla_a16w16_qh8_qseqlen1_gqaratio8_v3.co): its descriptor asks for 163,840 bytes of LDS"
    assert (finding in capsys.readouterr().out) is bool(code)


def by_id(root: Path) -> str:
    """The code object of a folder as one of a git repository, `PATH@ID`."""
    committed(root)
    path = code_path(Arch.GFX950, CODE_OBJECT)
    found = subprocess.run(["git", "-C", str(root), "rev-parse", f"HEAD:{path}"], check=True, capture_output=True, text=True)
    return f"{root}@{found.stdout.strip()}"


def test_a_code_object_by_id_stands_for_that_of_the_call_and_is_named(
    tree: Callable[[Spoil], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is known to decode runs in place of the call's, whose name is another."""
    other = "mla_a8w8_qh16_qseqlen2_gqaratio16_ps.co"
    source = by_id(tree(lambda content: open_code(installed_wheel(), Arch.GFX950, other)))
    main(["explain", *EXPLAIN, "--device", "cdna", "--aiter", source])
    told = capsys.readouterr().out
    assert f"launch: {other} (" in told
    assert CODE_OBJECT not in told


def test_a_code_object_by_id_that_takes_other_arguments_is_not_run(
    tree: Callable[[Spoil], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "explain", *EXPLAIN, "--device", "cdna", "--aiter", by_id(tree(other_arguments)))
    assert re.search(SPOILT["a kernel of other arguments"][1], said)


OF_ANOTHER_OPERATION = re.compile(r"code object .*@[0-9a-f]{40}: holds no \w+, which the call launches, and is none that")


@pytest.mark.parametrize("device", ["model", "cdna"])
def test_a_code_object_by_id_of_another_operation_is_not_run(
    device: str, tree: Callable[[Spoil], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "explain", *EXPLAIN, "--device", device, "--aiter", by_id(tree(other_operation)))
    assert OF_ANOTHER_OPERATION.search(said)


V4 = ("b9c61eb59db42fbb8e190a07a800fd6135ec2813", "8789648641201291b7bf2d94f19a7b9399125312")
"""hsa/gfx950/mla_v4/mla_a8w8_qh64_qseqlen1_gqaratio64_nm.co of ROCm/aiter as it was added, and as of 2026-08."""


@pytest.mark.checkout
@pytest.mark.parametrize("device", ["model", "cdna"])
@pytest.mark.parametrize("blob", V4)
def test_a_kernel_for_deepseek_v4_is_not_run_in_place_of_one_that_decodes(
    blob: str, device: str, aiter_checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = ["--heads", "64", "--kv-lens", "100", "--release", "2026-08", "--mode", "fast", "--backend", "direct"]
    said = complaint(capsys, "explain", *case, "--device", device, "--aiter", f"{aiter_checkout}@{blob}")
    assert OF_ANOTHER_OPERATION.search(said)


def test_what_only_numbers_need_is_named_when_they_are_asked_for(
    tree: Callable[[Spoil], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    root = tree(lambda content: with_instruction(content, "v_exp_f32", old_exponential(1)))
    command = ["explain", *EXPLAIN, "--device", "cdna", "--aiter", str(root)]
    assert main(command) == 0  # no address depends on it
    capsys.readouterr()
    assert "v_exp_legacy_f32" in complaint(capsys, *command, "--numbers")


def test_a_code_object_that_is_not_there(
    tree: Callable[[Spoil], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """AITER raises there as well, so every case is refused, which confirms nothing."""
    root = tree(as_is)
    (root / code_path(Arch.GFX950, CODE_OBJECT)).rename(root / code_path(Arch.GFX950, "other.co"))
    said = complaint(capsys, "run", *SEARCH, *SMALL, "--device", "cdna", "--aiter", str(root), "--out", str(tmp_path / "found"))
    assert f"hsa/gfx950/mla/{CODE_OBJECT} is not in {root}" in said
    assert said.count("no case ran: ") == 1
