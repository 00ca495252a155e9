"""AITER's own op test of MLA decode, unmodified, on the simulated GPU by its own machine code, against its own references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from backend.aiter.codefiles import open_source
from backend.case import Arch
from backend.child.tree import Limits
from backend.findings import FindingKind
from backend.real.script.messages import Options
from reprod.verify import Verification, verify

PERSISTENT, NON_PERSISTENT = "test_mla_persistent.py", "test_mla.py"

pytestmark = pytest.mark.checkout


def op_test(
    checkout: Path,
    tmp_path: Path,
    arguments: Sequence[str],
    name: str = PERSISTENT,
    revision: str = "2988812e134a",
    arch: Arch = Arch.GFX950,
) -> Verification:
    pytest.importorskip("pandas", reason="AITER's op tests need pandas")
    aiter = f"{checkout}@{revision}"
    content = open_source(aiter).read(f"op_tests/{name}")
    assert content is not None
    script = tmp_path / name
    script.write_bytes(content)
    return verify(script, arguments, Options(arch, aiter), Limits(seconds=300.0, memory=16 << 30), captured=True)


def comparisons(output: str) -> list[tuple[str, str]]:
    """(what is compared, AITER's word for how it came out) of each checkAllclose."""
    found = re.findall(r"\[([^\]]* vs [^\]]*)\]:[^\[]*\[checkAllclose[^\x1b]*\x1b\[\d+m(\w+)", output)
    return [(what, word) for what, word in found]


def test_references_and_partial_rows_agree(aiter_checkout: Path, tmp_path: Path) -> None:
    """bf16 with 48 heads: a kernel borrowed from 64; one request and two, merged from pieces."""
    done = op_test(aiter_checkout, tmp_path, ["-n", "48,1", "-b", "1", "2", "-c", "77", "-d", "bf16", "-kvd", "bf16"])
    each = ["golden vs aiter_asm", "golden split_out_ref vs aiter_asm", "partial_out_ref vs attn_logits"]
    assert comparisons(done.output) == [(what, "passed") for what in each * 2]
    assert not done.findings
    assert (done.reports[0].launches, done.reports[0].engine) == (2, "machine code")


def test_fp8_agrees_with_its_own_reference(aiter_checkout: Path, tmp_path: Path) -> None:
    """Two queries: the kernel whose waves reuse LDS without a barrier. What is quantised is not compared with what is not.

    The test draws unseeded inputs. Its "warning" is for at most 5 % of elements off by more than 1 %, as fp8 has now and then.
    """
    done = op_test(aiter_checkout, tmp_path, ["-n", "16,2", "-b", "1", "-c", "30", "-d", "fp8", "-kvd", "fp8"])
    found = dict(comparisons(done.output))
    for what in ("golden fp8 split_out_ref vs aiter_asm", "partial_out_ref vs attn_logits", "golden fp8 vs aiter_asm"):
        assert found[what] in ("passed", "warning")
    assert not done.findings


def test_prefill_goes_before_decode_and_says_what_computed_it(aiter_checkout: Path, tmp_path: Path) -> None:
    """In bf16 the test runs prefill first, whose kernels have no model; its decode then shows the grid of half the queries."""
    arguments = ["-n", "32,2", "-d", "bf16", "-kvd", "bf16", "-b", "1", "-c", "21"]
    done = op_test(aiter_checkout, tmp_path, arguments, NON_PERSISTENT, "e4048607a535", Arch.GFX942)
    assert dict(comparisons(done.output))["torch vs  aiter_ck"] == "passed"
    assert any("fmha_v3_varlen_fwd, calls: 1" in note for note in done.reports[0].notes)
    assert [(seen.finding.kind, seen.finding.tensor) for seen in done.findings] == [(FindingKind.UNWRITTEN_READ, "logits")]
    assert done.reports[0].decode_calls == 1
