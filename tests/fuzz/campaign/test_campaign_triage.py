"""Which findings are known: by the corpus entry that shows the same fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.case import Arch, Case, DType, MetadataMode
from backend.findings import Finding, FindingKind, Party, Severity
from backend.path import Path as CasePath
from reprod.corpus import shipped_corpus
from reprod.known import KnownFaults
from reprod.reference import KnownReference

CORPUS = Path(__file__).parents[3] / "corpus"


@pytest.fixture(scope="module")
def known() -> KnownFaults:
    return KnownFaults(CORPUS)


@pytest.mark.parametrize(
    ("case", "entry"),
    [
        (Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188"), "F1"),
        (Case(num_head=64, kv_lens=(777, 3), backend="sglang-before-27188"), "F1"),
        (Case(num_head=32, kv_lens=(4,), max_seqlen_q=4, backend="sglang-before-20399"), "F2"),
        (Case(num_head=16, kv_lens=(5,) * 20, backend="vllm-before-41016", graph_batch=32, max_batch=16), "F3"),
        (Case(num_head=16, kv_lens=(50,), max_seqlen_q=4, backend="sglang-before-20841", graph_batch=4), "F10"),
        (Case(num_head=16, kv_lens=(77,), backend="vllm-before-31282"), "F11"),
        # 49,152 bytes past o, as many as a kernel of F8 writes, which is planted: that figure is nobody's
        (Case(16, (3,), 3, mode=MetadataMode.NON_PERSISTENT, release="2026-08", backend="direct"), "O7"),
    ],
)
def test_a_fault_of_the_corpus_is_recognised_in_other_sizes(known: KnownFaults, case: Case, entry: str) -> None:
    cause = CasePath().run(case).cause
    assert cause is not None
    reference = known.reference(cause, case)
    assert reference is not None
    assert reference.entry == entry
    assert reference.references


def test_another_fault_is_not(known: KnownFaults) -> None:
    """The tail that planner v1_0 drops on gfx942 is a find of this project, reported nowhere yet."""
    case = Case(16, (17,), arch=Arch.GFX942, q_dtype=DType.BF16, kv_dtype=DType.FP8, backend="sglang-before-27188")
    unknown = Finding(FindingKind.ROW_NOT_WRITTEN, Severity.SILENT, Party.KERNEL, "some kernel", "o", "made up")
    assert known.reference(unknown, case) is None


ROW_OF_TWO = Case(
    16, (40, 20), 2, query_lens=(2, 1), backend="direct", mode=MetadataMode.FAST, release="2026-08", arch=Arch.GFX942
)


@pytest.mark.parametrize(
    ("case", "entry"),
    [(ROW_OF_TWO, "O32"), (ROW_OF_TWO.replace(query_lens=None, qk_rope_head_dim=0), "O12")],
)
def test_rows_that_a_kernel_is_not_made_for_are_another_fault_at_the_same_place(
    known: KnownFaults, case: Case, entry: str
) -> None:
    """The same kernel reads past q in both: of a request with fewer rows, and of rows of 512."""
    cause = CasePath().run(case).cause
    assert cause is not None
    assert cause.signature == "out-of-bounds-read/mla_a8w8_qh16_qseqlen2_gqaratio16_ps.co/q"
    reference = known.reference(cause, case)
    assert reference is not None
    assert reference.entry == entry


def test_what_a_call_leaves_that_raises_afterwards_has_the_cause_that_it_follows_from(known: KnownFaults) -> None:
    """A plan of whole heads for a kernel of 16, whose 5 rows cannot be put back: the planner was blamed for it."""
    case = Case(
        128, (40, 3), 3, query_lens=(3, 2), q_dtype=DType.BF16, num_cu=8, backend="direct", mode=MetadataMode.GREEDY,
        release="2026-08",
    )  # fmt: skip
    outcome = CasePath().run(case)
    assert "o.reshape" in (outcome.refused or "")
    assert [finding.kind for finding in outcome.findings] == [FindingKind.HEAD_WIDTH, FindingKind.BEYOND_SEQUENCE]
    assert outcome.cause is not None
    reference = known.reference(outcome.cause, case)
    assert reference is not None
    assert reference.entry == "O28"


@pytest.mark.parametrize(
    ("rank", "entry"),
    [(0, None), (1, "O21")],
)
def test_a_request_is_empty_on_the_rank_that_holds_none_of_its_tokens(known: KnownFaults, rank: int, entry: str | None) -> None:
    case = Case(
        128, (9, 1, 33), backend="direct", mode=MetadataMode.FAKE, release="2026-08", return_lse=True, cp_world_size=2,
        cp_rank=rank,
    )  # fmt: skip
    cause = CasePath().run(case).cause
    found = None if cause is None else known.reference(cause, case)
    assert (None if found is None else found.entry) == entry


def test_the_repository_finds_its_own_corpus() -> None:
    assert shipped_corpus() == CORPUS


def test_a_fault_that_nobody_has_reported_is_said_to_have_no_reference() -> None:
    assert KnownReference("O1", "a title", ()).where == "O1: no public reference"
    assert KnownReference("F1", "a title", ("ROCm/aiter#3496", "x/y#1")).where == "F1: ROCm/aiter#3496, x/y#1"
