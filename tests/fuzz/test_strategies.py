"""Cases are valid by construction, taken by their backend, and dense at the edges that they are meant to reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.case import Arch, Case, DType, MetadataMode
from backend.serving.backends import BACKENDS
from backend.serving.policy import Choice
from backend.serving.registry import policy
from fuzz.hypothesis_cases import cases
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.strategies import PATTERNS, Pattern, chunk_cases


def drawn(spec: Spec, chunks: int = 8) -> list[Case]:
    return [case for chunk in range(chunks) for case in chunk_cases(space(spec), 11, chunk)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_case_is_taken_by_its_backend(backend: str) -> None:
    rule = policy(backend)
    assert all(isinstance(rule(case), Choice) for case in drawn(Spec(backend), chunks=4))  # a refusal would raise


@settings(max_examples=200, deadline=None, database=None)
@given(st.data())
def test_cases_keep_to_their_space(data: st.DataObject) -> None:
    """With Hypothesis' own choices: any space, any case of it."""
    batch = data.draw(st.integers(1, 40))
    backend, longest = data.draw(st.sampled_from(sorted(BACKENDS))), data.draw(st.integers(8, 5000))
    bounds = space(Spec(backend, max_batch=batch, max_kv_len=longest))
    case = data.draw(cases(bounds))
    assert bounds.holds(case)
    assert case.batch <= batch
    assert sum(case.kv_lens) <= bounds.max_tokens
    assert all(n <= bounds.max_kv_len and (n >= case.max_seqlen_q or n == 0) for n in case.kv_lens)
    assert bounds.empty_requests or 0 not in case.kv_lens
    assert bounds.ragged_rows or case.query_lens is None


def test_the_simplest_case_comes_first() -> None:
    first = drawn(Spec("sglang-before-27188", shapes=("tp2",)), chunks=1)[0]
    assert first == Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")


def seen(cases: Iterable[Case], what: str) -> Counter[object]:
    return Counter(getattr(case, what) for case in cases)


def test_edges_are_reached() -> None:
    found = drawn(Spec("direct"), chunks=16)
    batches = seen(found, "batch")
    assert batches[1] > 40
    for batch in (63, 64, 65, 76, 128, 255, 256, 257, 303, 304, 305):  # compute units over folds, and around them
        assert batches[batch], batch
    lengths = {n for case in found for n in case.kv_lens}
    for edge in (16, 64, 128, 196, 392, 784, 1024, 196 * 64):
        assert {edge - 1, edge, edge + 1} <= lengths, edge
    assert 0 in lengths
    assert any(case.batch > 1 and len(set(case.kv_lens)) > 4 for case in found)
    for field, values in {
        "page_size": (1, 16, 64),
        "max_seqlen_q": range(1, 9),
        "q_dtype": tuple(DType),
        "kv_dtype": tuple(DType),
        "arch": tuple(Arch),
        "mode": tuple(MetadataMode),
        "num_cu": (0, 80),
    }.items():
        assert set(seen(found, field)) == set(values), field
    assert any(case.query_lens is not None and len(set(case.query_lens)) > 1 for case in found)
    assert any(case.graph_batch is not None and case.graph_batch > case.batch for case in found)
    assert any(case.first_page * case.page_size * 576 * case.kv_dtype.itemsize >= 1 << 32 for case in found)
    assert any(case.first_page >= 1 << 24 for case in found)


def test_padding_rows_under_mtp_and_buffers_of_another_batch_are_reached() -> None:
    sglang = drawn(Spec("sglang-27188"))
    assert any(case.max_seqlen_q > 1 and case.graph_batch is not None and case.graph_batch > case.batch for case in sglang)
    vllm = drawn(Spec("vllm"))
    assert any(
        case.max_batch is not None and case.graph_batch is not None and case.max_batch < case.graph_batch for case in vllm
    )


@given(
    pattern=st.sampled_from(PATTERNS),
    batch=st.integers(1, 300),
    main=st.integers(0, 1 << 20),
    other=st.integers(0, 1 << 20),
    salt=st.integers(0, 255),
)
def test_patterns_fill_the_batch_between_their_two_lengths(
    pattern: Pattern, batch: int, main: int, other: int, salt: int
) -> None:
    lens = pattern(batch, main, other, salt)
    assert len(lens) == batch
    assert min(main, other) <= min(lens)
    assert max(lens) <= max(main, other)
