"""AITER's own Triton operations by `verify`, compiled and run as machine code, against torch in float64.

The script is scripts/aiter_triton_ops.py. Each run is one process with every operation. What is left out of a run, and what is
found, is named here with its reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.case import Arch
from backend.child.tree import Limits
from backend.findings import FindingKind
from backend.real.script.messages import Options
from reprod.verify import Verification, verify

SCRIPT = Path(__file__).parent / "scripts" / "aiter_triton_ops.py"
OPERATIONS = (
    "rope", "rms_norm", "layer_norm", "softmax", "gemm_a16w16", "gemm_a8w8", "flash_attention", "routing_sigmoid_top1",
    "dynamic_per_token_quant", "dynamic_mxfp4_quant", "topk", "moe_align_block_size", "paged_attention",
)  # fmt: skip
REVISION = "e4048607a535"

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("arch", list(Arch))]


def run(options: Options, *arguments: str) -> Verification:
    return verify(SCRIPT, arguments, options, Limits(seconds=1800.0, memory=12 << 30), captured=True)


def holds(done: Verification) -> None:
    lines = dict(line.split(": ", 1) for line in done.output.splitlines() if line.split(":")[0] in OPERATIONS)
    assert {name: lines.get(name, "").split(":")[0] for name in OPERATIONS} == dict.fromkeys(OPERATIONS, "right"), done.output
    assert done.could_not_run is None
    # AITER's _routing_sigmoid_top1_kernel stores its last block of rows without a mask.
    assert {(seen.finding.kind, seen.finding.tensor) for seen in done.findings} == {
        (FindingKind.OUT_OF_BOUNDS_WRITE, "topk_ids_ptr"),
        (FindingKind.OUT_OF_BOUNDS_WRITE, "topk_weights_ptr"),
    }
    assert all("_routing_sigmoid_top1_kernel" in seen.finding.stage for seen in done.findings)
    assert done.exit_code == 0


def test_operations_of_the_wheel(arch: Arch) -> None:
    holds(run(Options(arch, release="2025-11"), "--flat"))


@pytest.mark.checkout
def test_operations_of_2026_08(arch: Arch, aiter_checkout: Path) -> None:
    holds(run(Options(arch, aiter=f"{aiter_checkout}@{REVISION}")))
