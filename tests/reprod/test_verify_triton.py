"""A script's Triton kernels run as machine code: numbers as torch rounds them, and each access held against its tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.case import Arch
from backend.child.tree import Limits
from backend.findings import FindingKind
from backend.real.script.messages import Options
from reprod.verify import Verification, verify

SCRIPT = Path(__file__).parent / "triton_script.py"
LIMITS = Limits(seconds=600.0, memory=8 << 30)


def run(script: Path, arch: Arch, *arguments: str) -> Verification:
    return verify(script, arguments, Options(arch), LIMITS, captured=True)


def printed(done: Verification, arch: Arch) -> None:
    fp8 = "float8_e4m3fnuz" if arch is Arch.GFX942 else "float8_e4m3fn"
    lines = [f"arch {arch}", "twice True", "torch.bfloat16 True", f"torch.{fp8} True", "product True", "milliseconds 1.0"]
    assert done.output.splitlines() == lines
    (report,) = done.reports
    assert report.triton_launches == 3 + 2 + 1 + 1  # two configurations, and the one that stays


def test_numbers_are_those_of_the_types() -> None:
    done = run(SCRIPT, Arch.GFX942)
    printed(done, Arch.GFX942)
    assert (done.code, done.findings) == (0, ())


@pytest.mark.slow(guard="test_numbers_are_those_of_the_types")
def test_stores_past_a_tensor_are_done_and_found() -> None:
    done = run(SCRIPT, Arch.GFX950, "--stray")
    printed(done, Arch.GFX950)
    assert (done.code, done.exit_code) == (1, 0)
    (seen,) = done.findings
    assert (seen.finding.kind, seen.finding.tensor) == (FindingKind.OUT_OF_BOUNDS_WRITE, "y")
    assert seen.finding.stage == "Triton kernel twice"
    assert "writes 56 bytes outside of its tensors, the first 0 bytes past the end of y" in seen.finding.message


ENDS = {
    "unmapped": ("tl.store(x + tl.arange(0, 64) * (1 << 24), 1)", 134, "Triton kernel k writes there: "),
    "no model": ("tl.device_print('x', tl.arange(0, 64))", 3, "Triton kernel k: "),
    "hang": ("while tl.load(x, volatile=True) == 0: pass", 3, "a hang"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ENDS))
def test_ends(name: str, tmp_path: Path) -> None:
    body, code, words = ENDS[name]
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, triton, triton.language as tl\n@triton.jit\ndef k(x):\n"
        f"    {body}\n"
        "k[(1,)](torch.zeros(64, dtype=torch.int32, device='cuda'))\n",
        encoding="utf-8",
    )
    done = run(script, Arch.GFX950)
    assert done.code == code, done.output
    assert words in (done.output if code == 134 else str(done.could_not_run))
