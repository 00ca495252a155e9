"""An entry is its fault at whatever heads, rows and types that holds, and at no case that its condition does not hold of."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.case import Arch, Case, DType
from backend.errors import UsageError
from backend.findings import Finding, FindingKind, Party, Severity
from backend.path import Path as CasePath
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario
from fuzz.gate.judge import Shape, Sighting
from fuzz.gate.known import Known
from reprod.condition import Condition
from reprod.corpus import CorpusEntry, Side, load_corpus, load_entry
from reprod.entry import entry_text
from reprod.known import KnownFaults

CORPUS = Path(__file__).parents[2] / "corpus"
ENTRIES = load_corpus(CORPUS)
CONDITIONED = [entry for entry in ENTRIES if entry.condition is not None]
TYPES = ((DType.FP8, DType.FP8), (DType.BF16, DType.BF16), (DType.BF16, DType.FP8))
SHAPES = [*itertools.product(Arch, TYPES, (8, 16, 24, 32, 48, 64, 80, 128), (1, 2, 3, 5, 8))]
"""GPU, types of q and KV, heads, query rows."""

BOTH = {("O21", "O5"), ("O24", "O5")}
"""64 heads in fp8 on gfx942 under v1_0 and v1_1 are a case of both entries: named by the one that is of that shape alone."""


def model_sides(entry: CorpusEntry) -> Iterator[Side]:
    """Faulty sides that the model runs, at built-in releases."""
    for side in entry.faulty:
        if side.device == "model" and not (side.revision or side.needs or side.planted):
            yield side


def reshaped(side: Side) -> Iterator[Case]:
    """The side's first case in every shape; KV of a request with tokens is as long as its rows at least."""
    case = next(side.cases()).replace(release=side.releases[-1])
    for arch, (q, kv), heads, rows in SHAPES:
        if case.query_lens is None or rows == case.max_seqlen_q:
            lens = tuple(n and max(n, rows) for n in case.kv_lens)
            yield case.replace(arch=arch, q_dtype=q, kv_dtype=kv, num_head=heads, max_seqlen_q=rows, kv_lens=lens)


def sighting(finding: Finding, case: Case) -> Sighting:
    shape = Shape(case.num_head, case.arch, case.q_dtype, case.kv_dtype)
    scenario = Scenario("a step", (BackendConfig(case.num_head),), ())
    return Sighting(
        finding.signature, finding.severity, shape, case.max_seqlen_q, Phase.EAGER, "", finding, case, None, scenario
    )


@pytest.fixture(scope="module")
def gate() -> Known:
    """What a gate knows; to read the whole corpus for it takes as long as a test."""
    return Known()


@pytest.fixture(scope="module")
def faults() -> KnownFaults:
    """What a campaign knows."""
    return KnownFaults(CORPUS)


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.faulty], ids=lambda entry: entry.id)
def test_an_entry_knows_its_own_cases(entry: CorpusEntry, faults: KnownFaults, gate: Known) -> None:
    """Each case of a sweep, and not its first alone, as a campaign and as a gate sees it."""
    path = CasePath()
    for side in model_sides(entry):
        cases = list(side.cases())
        for case in cases[:: -(-len(cases) // 12)]:
            cause = path.run(case).cause
            assert cause is not None
            found = faults.reference(cause, case)
            if entry.life is not None and entry.life.is_mended_at(case.release):
                continue
            assert found is not None, (case, cause.signature)
            assert found.entry == entry.id or (entry.id, found.entry) in BOTH, (case, cause.signature)
            assert gate.reference(sighting(cause, case)) is not None, (case, cause.signature)


@pytest.mark.parametrize("entry", CONDITIONED, ids=lambda entry: entry.id)
def test_a_fault_of_aiter_is_known_at_whatever_shape_it_is_met(entry: CorpusEntry, gate: Known) -> None:
    """What the sides were met at is a sample: a gate without a base blames nobody for the same fault at other heads."""
    path = CasePath()
    signed = [side for side in model_sides(entry) if side.signature]
    for side in signed[:2]:
        for case in reshaped(side):
            cause = path.run(case).cause
            if cause is None or cause.severity is Severity.REFUSED or cause.party is Party.CALLER:
                continue
            if side.expect[0].whatever_kernel(cause).same_place(cause):
                assert gate.reference(sighting(cause, case)) is not None, (case, cause.signature)


OUTSIDE = (
    Case(8, (40,)),
    Case(16, (40,)),
    Case(128, (40,)),
    Case(128, (40,), arch=Arch.GFX942),
    Case(32, (40,), page_size=16, backend="direct"),
)
"""Calls that nothing is odd of."""


@pytest.mark.parametrize("entry", CONDITIONED, ids=lambda entry: entry.id)
def test_a_case_that_the_condition_does_not_hold_of_has_another_fault(entry: CorpusEntry, tmp_path: Path) -> None:
    """The same finding, of a case without what the fault takes."""
    condition = entry.condition
    assert condition is not None
    outside = [case for case in OUTSIDE if not condition.fits(case)]
    assert outside, "the condition tells nothing apart"
    (tmp_path / f"{entry.id}-it.json").write_text(entry_text(entry), encoding="utf-8")
    known = KnownFaults(tmp_path)
    side = next(side for side in entry.faulty if side.signature)
    _, place, *rest = side.signature.split("/")
    first, tensor, told_by = side.expect[0], "".join(rest[:1]), "/".join(rest[1:])
    finding = Finding(first.kind, Severity.READ, first.party or Party.KERNEL, place, tensor, "", {}, told_by)
    assert finding.signature == side.signature
    met = next(side.cases())
    assert known.reference(finding, met) is not None
    for case in outside:
        assert known.reference(finding, case.replace(release=met.release)) is None


@pytest.mark.parametrize("heads", [48, 80, 96, 112])
def test_an_empty_request_beside_any_heads_is_o21_and_none_is_not(heads: int, gate: Known) -> None:
    """The gate met it at 48 and 80 heads, where the entry had 16 and 128."""
    (o21,) = [entry for entry in ENTRIES if entry.id == "O21"]
    case = next(o21.faulty[0].cases()).replace(num_head=heads)
    cause = CasePath().run(case).cause
    assert cause is not None
    found = gate.reference(sighting(cause, case))
    assert found is not None
    assert found.entry == "O21"
    assert gate.is_open(found)
    full = case.replace(kv_lens=tuple(max(n, 1) for n in case.kv_lens))
    assert gate.reference(sighting(cause, full)) is None


def test_a_kernel_that_no_side_names_is_known_by_the_pattern_of_the_condition() -> None:
    (o34,) = [entry for entry in ENTRIES if entry.id == "O34"]
    case = Case(48, (0, 700), release="2026-08")
    stage, other = "mla_a8w8_qh99_qseqlen1_ps.co", "mla_a8w8_qh99_qseqlen1.co"
    finding = Finding(FindingKind.UNWRITTEN_READ, Severity.SILENT, Party.KERNEL, stage, "logits", "")
    known = KnownFaults(CORPUS)
    found = known.reference(finding, case)
    assert found is not None
    assert found.entry == o34.id
    assert known.reference(dataclasses.replace(finding, stage=other), case) is None
    assert known.reference(finding, case.replace(kv_lens=(700, 0))) is None


@pytest.mark.parametrize("name", ["heads", "kv_lens", ""])
def test_a_condition_of_no_figure_of_a_case_is_refused(name: str, tmp_path: Path) -> None:
    (o21,) = [entry for entry in ENTRIES if entry.id == "O21"]
    file = tmp_path / "O21-it.json"
    file.write_text(entry_text(dataclasses.replace(o21, condition=Condition({name: (1,)}))), encoding="utf-8")
    with pytest.raises(UsageError, match=r"condition\.case"):
        load_entry(file)


def test_a_condition_that_a_faulty_case_lacks_is_refused(tmp_path: Path) -> None:
    (o21,) = [entry for entry in ENTRIES if entry.id == "O21"]
    file = tmp_path / "O21-it.json"
    file.write_text(entry_text(dataclasses.replace(o21, condition=Condition({"num_head": (16,)}))), encoding="utf-8")
    with pytest.raises(UsageError, match=r"faulty\[\d\]\.case"):
        load_entry(file)
