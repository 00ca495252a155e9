"""Numbers of the device `cdna`: whole kernels on drawn values, and what becomes of outputs that are wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from backend.aiter.codefiles import installed_wheel, open_source
from backend.case import Arch, Case, DType, MetadataMode, PageOrder
from backend.checks.numerics import check_numbers
from backend.devices.cdna import merged_output as merged
from backend.devices.cdna.device import CdnaDevice
from backend.devices.gpu import cdna_numbers
from backend.devices.gpu.numbers import BF16_P, NumbersTally
from backend.devices.kinds import open_device
from backend.errors import CannotRunError, UsageError
from backend.findings import FindingKind, Party
from backend.host import BuiltIn
from backend.observation import Numbers
from backend.outcome import Outcome
from backend.path import Path as CasePath
from fuzz.cli import main

BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}
FAULTY, FIXED = "6e17055ca5974cb03067fa3152b4f51f8ece5fee", "1001c077a8147d6ee9628793b3bba03bf5c9d518"
SHORT_PIECE = Case(16, (33,), 4, release="2025-11", backend="direct", mode=MetadataMode.FAST)
"""33 tokens and 4 rows: the last piece is one token, which three of the rows may not see (aiter#2106)."""


def ran(**fields: object) -> Outcome:
    wanted = {"num_head": 16, "kv_lens": (40, 130), "num_cu": 4, "mode": MetadataMode.FAST, **fields}
    case = Case(**wanted, release="2025-11", backend="direct")  # type: ignore[arg-type]
    return CasePath(BuiltIn(installed_wheel()), open_device("cdna", installed_wheel(), numbers=True)).run(case)


def numbers(outcome: Outcome) -> Numbers:
    assert outcome.observation is not None
    assert outcome.observation.numbers is not None
    return outcome.observation.numbers


@pytest.mark.parametrize(
    "fields",
    [
        {"arch": Arch.GFX942},
        {"arch": Arch.GFX950, "first_page": 7, "page_order": PageOrder.REVERSED},
        {"arch": Arch.GFX942, "num_head": 128, "max_seqlen_q": 2},
        {"arch": Arch.GFX950, "mode": MetadataMode.NON_PERSISTENT, **BF16},
        {"arch": Arch.GFX950, "max_seqlen_q": 4, **BF16},
        {"arch": Arch.GFX950, "q_dtype": DType.BF16},
    ],
    ids=str,
)
def test_a_sound_kernel_is_within_its_budget(fields: dict[str, object]) -> None:
    outcome = ran(**fields)
    assert outcome.findings == ()
    found = numbers(outcome)
    assert found.compared == sum(outcome.case.rows()) * outcome.case.num_head
    assert found.cosine is not None
    assert found.cosine > 0.999
    assert outcome.observation is not None
    assert outcome.observation.schedule == "timed"


def test_the_accesses_are_those_of_the_slice() -> None:
    case = Case(16, (0, 40), 1, release="2025-11", backend="direct", mode=MetadataMode.FAST, num_cu=1, **BF16)  # type: ignore[arg-type]
    wheel = installed_wheel()
    whole, sliced = (
        CasePath(BuiltIn(wheel), CdnaDevice(wheel, record=True, numbers=asked)).run(case).observation for asked in (True, False)
    )
    assert whole is not None
    assert sliced is not None
    assert whole.violations == sliced.violations != ()
    assert whole.coverage == sliced.coverage
    for stage, footprint in sliced.footprints.items():
        for kind in ("reads", "writes"):
            ours, theirs = getattr(whole.footprints[stage], kind), getattr(footprint, kind)
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert sliced.numbers is None


def test_a_token_that_is_not_a_number_makes_its_request_so(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = cdna_numbers.draw

    def poisoned(call: object, seed: int) -> cdna_numbers.Inputs:
        inputs = draw(call, seed)  # type: ignore[arg-type]
        inputs.pool[50] = 0x7F80  # infinity in bf16; the second request's tokens are 40 to 169
        return inputs

    monkeypatch.setattr(cdna_numbers, "draw", poisoned)
    outcome = ran(**BF16)
    # The reference is infinity minus infinity as well, so of the row's error nothing is known but that it is no number.
    (finding,) = outcome.findings
    assert (finding.kind, finding.tensor, finding.party) == (FindingKind.NOT_A_NUMBER, "o", Party.KERNEL)
    assert {name: finding.evidence[name] for name in ("rows", "compared", "query", "head")} == {
        "rows": 16,
        "compared": 32,
        "query": 1,
        "head": 0,
    }


def test_a_kernel_that_reads_other_tokens_is_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is given the second request's first 40 tokens in place of the first request's."""
    of_launch = cdna_numbers.Inputs.of_launch

    def mixed(inputs: cdna_numbers.Inputs, call: object) -> object:
        other = dict(of_launch(inputs, call))  # type: ignore[arg-type]
        other["kv_buffer"] = other["kv_buffer"].copy()
        other["kv_buffer"][:40] = other["kv_buffer"][40:80]
        return other

    monkeypatch.setattr(cdna_numbers.Inputs, "of_launch", mixed)
    (finding,) = ran().findings
    assert (finding.kind, finding.evidence["rows"], finding.evidence["query"]) == (FindingKind.NUMERICS, 16, 0)


def test_an_fp8_kernel_on_a_bf16_pool_computes_nothing_of_use() -> None:
    """Release 2025-11 launches it; bytes of bf16 numbers are NaN in fp8 now and then, and never the number meant."""
    outcome = ran(kv_dtype=DType.BF16)
    assert {finding.kind for finding in outcome.findings} >= {FindingKind.NOT_COVERED}
    found = numbers(outcome)
    assert found.not_a_number + found.outside == found.compared


def test_rows_that_nobody_writes_are_told_once() -> None:
    outcome = ran(kv_lens=(0, 40), num_cu=1, **BF16)
    kinds = [finding.kind for finding in outcome.findings]
    assert kinds.count(FindingKind.ROW_NOT_WRITTEN) == 1
    assert numbers(outcome).unwritten == 16


def test_a_pool_of_many_gigabytes_costs_what_is_held() -> None:
    """Page ids from 2^24 on: the wheel's kernel reads pages of nobody, which hold zeros, and computes nonsense (aiter#4341)."""
    outcome = ran(kv_lens=(4,), first_page=1 << 24, arch=Arch.GFX942)
    assert {finding.kind for finding in outcome.findings} == {FindingKind.FOREIGN_PAGE, FindingKind.NUMERICS}


def test_a_pool_without_addresses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(cdna_numbers, "np", SimpleNamespace(**{**vars(np), "zeros": refused}))
    with pytest.raises(CannotRunError, match="KV pool of 170 pages: no room"):
        ran()


def test_a_pool_without_pages() -> None:
    outcome = ran(kv_lens=(0, 0), **BF16)
    assert numbers(outcome).compared == 0


def test_the_reduction_of_a_masked_piece() -> None:
    """A split of which a row sees nothing, log-sum-exp -infinity, counts nothing; a NaN spreads."""
    values = np.ones((2, 1, 512), np.float32)
    values[1] = 0
    lse = np.array([[1.5], [-np.inf]], np.float32)
    o, total = merged.merge(values, lse)
    assert (o == 1).all()
    assert total.tolist() == [1.5]
    values[1] = np.nan
    assert np.isnan(merged.merge(values, lse)[0]).all()
    assert all(np.isnan(part).all() for part in merged.merge(values[:0], lse[:0]))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (1.0, 0x3F80),
        (1.0 + 2**-8, 0x3F80),  # a tie, to even
        (1.0 + 3 * 2**-8, 0x3F82),
        (-np.inf, 0xFF80),
        (3.4e38, 0x7F80),
        (2.0**-133, 0x0001),
    ],
)
def test_bf16_is_the_nearest_ties_to_even(value: float, wanted: int) -> None:
    assert int(merged.bf16_bits(np.array([value], np.float32))[0]) == wanted
    assert np.isnan(merged.bf16_values(merged.bf16_bits(np.array([np.nan], np.float32))))[0]


def test_an_infinity_is_no_number() -> None:
    comparison = NumbersTally(BF16_P)
    q, kv = torch.ones((1, 2, 576), dtype=torch.float64), torch.ones((3, 576), dtype=torch.float64)
    o = torch.ones((1, 2, 512), dtype=torch.float64)
    o[0, 1, 7] = float("-inf")
    comparison.add(q, kv, o, torch.zeros((1, 2), dtype=torch.bool), None, 0)
    found = comparison.result()
    assert (found["not_a_number"], found["first_not_a_number"], found["outside"]) == (1, [0, 1], 0)


@pytest.mark.checkout
@pytest.mark.parametrize(("blob", "rows"), [(FAULTY, 48), (FIXED, 0)], ids=["faulty", "fixed"])
def test_the_kernel_that_divides_zero_by_zero_and_its_fix(blob: str, rows: int, aiter_checkout: Path) -> None:
    """aiter#2128: rows 0, 1 and 2 see nothing of the last piece; 3 rows x 16 heads."""
    source = open_source(f"{aiter_checkout}@{blob}")
    outcome = CasePath(BuiltIn(source), CdnaDevice(source, numbers=True)).run(SHORT_PIECE)
    found = numbers(outcome)
    assert (found.compared, found.not_a_number, found.outside, found.unwritten) == (64, rows, 0, 0)
    assert outcome.observation is not None
    (finding,) = check_numbers(outcome.observation) if rows else (None,)
    told = [note for note in outcome.observation.notes if "partial rows" in note]
    if finding is None:
        assert told == []
        return
    assert finding.message.startswith("48 of 64 rows of o (query x head) hold a NaN or an infinity, first query 0 head 0")
    assert told == [
        "stage 1 leaves a NaN or an infinity in 3 partial rows, first of work item 2: entries [32, 33) of kv_indices, "
        "request 0, rows 0, 1, 2"
    ]
    assert outcome.cause is not None
    assert outcome.cause.kind is FindingKind.SHORT_PIECE


def test_devices_without_numbers_are_named() -> None:
    for name in ("model", "both"):
        with pytest.raises(UsageError, match=f"numbers of device: given '{name}'; allowed: cdna, rocm, cuda"):
            open_device(name, numbers=True)


def test_explain_tells_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["explain", "--heads", "16", "--kv-lens", "40", "--cus", "2", "--release", "2025-11", "--mode", "fast"]
    assert main([*command, "--device", "cdna", "--numbers"]) == 0
    printed = capsys.readouterr().out
    assert "16 rows of o (query x head) against float64 attention" in printed
    assert "all within it" in printed
    assert main([*command, "--device", "model", "--numbers"]) == 2
    assert "numbers of device: given 'model'" in capsys.readouterr().err


def test_run_with_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what = ["--heads", "16", "--release", "2025-11", "--arch", "gfx942", "--backend", "vllm", "--qlen", "1"]
    small = ["--q-dtype", "fp8", "--kv-dtype", "fp8", "--max-batch", "2", "--max-kv", "100", "--cases", "3"]
    assert main(["run", *what, *small, "--device", "cdna", "--numbers", "--out", str(tmp_path / "found")]) == 0
    assert "in 3 cases" in capsys.readouterr().out
