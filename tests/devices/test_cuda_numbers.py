"""The reference and its budget: rounding passes, a lost token does not; values are the same everywhere."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from backend.case import Arch, DType  # noqa: E402
from backend.decision import seen_under_mask  # noqa: E402
from backend.devices.gpu.numbers import (  # noqa: E402
    BF16_P,
    FP8_P,
    MOST_TOKENS,
    SOFTMAX_SCALE,
    Budget,
    NumbersTally,
    Outputs,
    alike,
)
from backend.devices.gpu.values import as_float64, fill, fp8_values, is_fnuz  # noqa: E402

HEADS = 16


def batch(tokens: int, queries: int, dtype: DType = DType.BF16) -> tuple[torch.Tensor, torch.Tensor]:
    raw = {DType.FP8: torch.uint8, DType.BF16: torch.int16}[dtype]
    q, kv = torch.empty((queries, HEADS, 576), dtype=raw), torch.empty((tokens, 576), dtype=raw)
    fill(q, dtype, False, 5, 0)
    fill(kv, dtype, False, 5, 1)
    return as_float64(q, dtype, False), as_float64(kv, dtype, False)


def attention(q: torch.Tensor, kv: torch.Tensor, p_type: torch.dtype, lost: int | None = None) -> torch.Tensor:
    """An honest kernel: float32 scores, P in p_type, o in bf16. lost: a token that it forgets."""
    rows = []
    for index in range(q.shape[0]):
        seen = kv[: kv.shape[0] - (q.shape[0] - 1 - index)].float()
        score = q[index].float() @ seen.T * SOFTMAX_SCALE
        if lost is not None:
            score[:, lost] = float("-inf")
        p = torch.exp(score - score.amax(1, keepdim=True))
        rows.append((p.to(p_type).float() @ seen[:, :512] / p.sum(1, keepdim=True)).to(torch.bfloat16))
    return torch.stack(rows)


def compared(o: torch.Tensor, q: torch.Tensor, kv: torch.Tensor, budget: Budget = BF16_P, **more: torch.Tensor) -> dict:
    unwritten = more.get("unwritten", torch.zeros(o.shape[:2], dtype=torch.bool))
    found = NumbersTally(budget)
    found.add(q, kv, o.double(), unwritten, more.get("lse"), 0)
    return found.result()


@pytest.mark.parametrize(
    "tokens", [1, 2, 63, pytest.param(1000, marks=pytest.mark.slow), pytest.param(4096, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dtype", list(DType))
def test_rounding_alone_is_within_the_budget(tokens: int, dtype: DType) -> None:
    queries = min(tokens, 3)
    q, kv = batch(tokens, queries, dtype)
    for p_type, budget in ((torch.bfloat16, BF16_P), (torch.float8_e4m3fn, FP8_P)):
        result = compared(attention(q, kv, p_type), q, kv, budget)
        assert (result["compared"], result["outside"], result["not_a_number"]) == (queries * HEADS, 0, 0)
        assert 0.05 < result["worst"] < 0.9 or tokens == 1


def test_one_lost_token_of_a_thousand_is_outside() -> None:
    q, kv = batch(1000, 1)
    lost = compared(attention(q, kv, torch.bfloat16, lost=500), q, kv)
    assert lost["outside"] > HEADS // 2  # not for a head that gives it no weight
    assert lost["first_outside"] is not None
    assert lost["worst"] > 2


def test_one_lost_token_of_many_thousands_is_outside_for_some_head() -> None:
    q, kv = batch(8192, 1)
    score = (q[0] @ kv.T) * SOFTMAX_SCALE
    heaviest = int(score.amax(0).argmax())
    assert compared(attention(q, kv, torch.bfloat16, lost=heaviest), q, kv)["outside"] >= 1


def test_a_row_of_another_request_is_outside() -> None:
    q, kv = batch(64, 2)
    swapped = attention(q, kv, torch.bfloat16).flip(0)
    assert compared(swapped, q, kv)["outside"] == 2 * HEADS


def test_nan_unwritten_and_outside_rows_are_told_apart() -> None:
    q, kv = batch(20, 2)
    o = attention(q, kv, torch.bfloat16)
    o[1, 3, 500] = float("nan")
    o[0, 2] *= 1.5
    o[1, 5] = float("nan")
    unwritten = torch.zeros((2, HEADS), dtype=torch.bool)
    unwritten[1, 5] = True
    result = compared(o, q, kv, unwritten=unwritten)
    assert [result[name] for name in ("not_a_number", "unwritten", "outside")] == [1, 1, 1]
    assert result["first_not_a_number"] == [1, 3]
    assert result["first_unwritten"] == [1, 5]
    assert result["first_outside"] == [0, 2]


def test_lse_is_held_to_its_own_budget() -> None:
    q, kv = batch(50, 1)
    o, lse = attention(q, kv, torch.bfloat16), torch.logsumexp(q[0] @ kv.T * SOFTMAX_SCALE, 1)[None].float()
    assert compared(o, q, kv, lse=lse)["outside"] == 0
    assert compared(o, q, kv, lse=lse)["lse_error"] < 1e-5
    lse[0, 4] += 0.01
    result = compared(o, q, kv, lse=lse)
    assert (result["outside"], result["first_outside"]) == (1, [0, 4])


def test_a_query_that_sees_nothing_is_not_compared() -> None:
    q, kv = batch(1, 3)
    o = torch.zeros((3, HEADS, 512), dtype=torch.bfloat16)
    o[2] = attention(q[2:], kv, torch.bfloat16)[0]
    result = compared(o, q, kv)
    assert (result["compared"], result["outside"]) == (HEADS, 0)


def test_a_batch_is_compared_as_its_requests_are_one_by_one() -> None:
    """Lengths far apart and close together, several queries, requests without tokens, pages in any order, wrong rows among
    them: the figures of the whole are those of its requests, and the first wrong rows are those of the lowest query."""
    heads, page_size = 2, 4
    kv_lens = (70, 5, 0, 9, 300, 6, 7, 2, 64)
    query_lens = (2, 1, 1, 2, 2, 0, 1, 3, 2)
    counts = [-(-length // page_size) for length in kv_lens]
    pages = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(3))
    pool = torch.empty((len(pages) * page_size, 576), dtype=torch.int16)
    queries = torch.empty((sum(query_lens), heads, 576), dtype=torch.int16)
    fill(pool, DType.BF16, False, 5, 1)
    fill(queries, DType.BF16, False, 5, 0)
    o = torch.full((len(queries), heads, 512), -1, dtype=torch.int16)
    lse = torch.zeros((len(queries), heads))
    one_by_one, query, page = NumbersTally(BF16_P), 0, 0
    for length, rows, held in zip(kv_lens, query_lens, counts, strict=True):
        slots = (pages[page : page + held, None] * page_size + torch.arange(page_size)).view(-1)[:length]
        q, kv = (as_float64(raw, DType.BF16, False) for raw in (queries[query : query + rows], pool[slots]))
        here = slice(query, query + rows)
        if length:
            visible = [max(length - (rows - 1 - index), 1) for index in range(rows)]
            for i, seen in enumerate(visible):
                o[query + i] = attention(q[i : i + 1], kv[:seen], torch.bfloat16)[0].view(torch.int16)
                lse[query + i] = torch.logsumexp(q[i] @ kv[:seen].T * SOFTMAX_SCALE, 1).float()
        if length in (64, 9):
            o[query + 1, 1] = o[0, 0]
        unwritten = (o[here] == -1).all(2)
        one_by_one.add(q, kv, o[here].view(torch.bfloat16).double(), unwritten, lse[here], query)
        query, page = query + rows, page + held
    whole = Outputs(
        *(queries, pool, pages, o, lse, page_size, kv_lens, query_lens, DType.BF16, DType.BF16, False),
        visible=seen_under_mask(kv_lens, query_lens),
    ).compared(BF16_P)
    expected = one_by_one.result()
    for name in ("worst", "relative_rms", "lse_error", "cosine", "largest_error"):
        assert whole.pop(name) == pytest.approx(expected.pop(name), rel=1e-9)
    assert whole == expected
    assert whole["outside"] == 2
    assert whole["first_outside"] == [sum(query_lens[:3]) + 1, 1]


def test_batches_are_divided_by_what_is_alike() -> None:
    kv_lens = (1, 2, 100, 65_000, 64_000, 0, 30_000, 40_000, 5)
    query_lens = (1, 1, 1, 1, 1, 1, 1, 1, 2)
    divided = list(alike(kv_lens, query_lens, 64))
    assert sorted(each for group in divided for each in group) == [0, 1, 2, 3, 4, 6, 7, 8]
    for group in divided:
        longest, shortest = max(kv_lens[each] for each in group), min(kv_lens[each] for each in group)
        assert longest <= 2 * shortest + 64
        assert len(group) == 1 or longest * len(group) <= MOST_TOKENS
        assert len({query_lens[each] for each in group}) == 1
    assert [0, 1] in divided


@pytest.mark.parametrize(("fnuz", "name"), [(False, "float8_e4m3fn"), (True, "float8_e4m3fnuz")])
def test_fp8_values_are_torchs(fnuz: bool, name: str) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name)).double()
    assert torch.equal(fp8_values(fnuz).nan_to_num(nan=1e9), every.nan_to_num(nan=1e9))
    assert is_fnuz(Arch.GFX942)
    assert not is_fnuz(Arch.GFX950)


def test_values_do_not_depend_on_where_a_tensor_is_cut() -> None:
    whole, part = torch.empty(5000, dtype=torch.uint8), torch.empty(1000, dtype=torch.uint8)
    fill(whole, DType.FP8, False, 3, 1)
    fill(part, DType.FP8, False, 3, 1, first=2500)
    assert torch.equal(whole[2500:3500], part)
    other = torch.empty(5000, dtype=torch.uint8)
    fill(other, DType.FP8, False, 4, 1)
    assert not torch.equal(whole, other)


def test_values_are_normal_and_never_nan() -> None:
    for dtype, raw in ((DType.FP8, torch.uint8), (DType.BF16, torch.int16)):
        tensor = torch.empty(200_000, dtype=raw)
        fill(tensor, dtype, False, 0, 0)
        values = as_float64(tensor, dtype, False)
        assert not values.isnan().any()
        assert abs(float(values.mean())) < 0.02
        assert abs(float(values.std()) - 1) < 0.05
        assert abs(float((values[1:] * values[:-1]).mean())) < 0.02
