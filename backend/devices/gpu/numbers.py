"""Outputs against plain attention in float64, with a stated budget for what rounding alone may do. Knows no kernel.

The reference reads the same bytes as the kernel did, in the order that the *case* says (its lengths, its page table), not
the plan's: a plan that mixes up requests shows here.

Budget of an output row o (one query, one head), u the unit roundoff of P's type, u_o that of o's (bf16: 2^-8):
  every element: |o - ref| <= u_o |ref| + (u + e) * A + floor * V,  A = sum p|v| / sum p, V = sum |v| / sum p,
  the row's rms:  rms(o - ref) <= u_o rms(ref) + u rms(E) + floor rms(W) + e rms(A),
                  E = sqrt(sum p^2 v^2) / sum p, W = sqrt(sum v^2) / sum p,  p scaled to a maximum of 1.
The first bounds the worst case. The second takes the roundings of P as independent, which they are on random inputs, with each
at its maximum instead of its mean square (a third of it): a row that lost a single token of thousands does not pass it.
e is what float32 scores, exp2 and sums may add; `floor` the absolute rounding of a P too small for its type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backend.case import QK_HEAD_DIM, V_HEAD_DIM, DType
from backend.devices.gpu.values import as_float64


@dataclass(frozen=True, slots=True)
class Budget:
    """See the module. name: what it is for, in words."""

    name: str
    p_roundoff: float
    p_floor: float
    o_roundoff: float
    score_error: float
    lse_error: float


BF16_P = Budget("P in bf16, sums in float32, o in bf16", 2.0**-8, 0.0, 2.0**-8, 1e-4, 1e-3)
"""Our Triton kernel. score_error: float32 dots of 576 products near 1 in size, measured far below."""

FP8_P = Budget("P in fp8 (e4m3), sums in float32, o in bf16", 2.0**-4, 2.0**-10, 2.0**-8, 1e-3, 5e-3)
"""AITER's kernels with fp8 q: they quantise P to the KV type before the second product."""

SOFTMAX_SCALE = QK_HEAD_DIM**-0.5
"""What mla_decode_fwd takes where the caller gives no sm_scale."""


class NumbersTally:
    """Adds up requests; `result` gives the fields of backend.observation.Numbers.

    Nothing is read back from the device before `result`: a wait for each request would take longer than the reference.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._queries: list[int] = []
        self._rows: list[_Rows] = []

    def add(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        o: torch.Tensor,
        unwritten: torch.Tensor,
        lse: torch.Tensor | None,
        first_query: int,
        visible: npt.NDArray[np.int64] | None = None,
        scale: float | None = None,
    ) -> None:
        """One request. q: [n, heads, 576] and kv: [tokens, 576] in float64; o: [n, heads, 512] float64 as the kernel left it;
        unwritten: [n, heads] bool; lse: [n, heads] or None. first_query: its first row of o.
        visible: [n] tokens that each query sees, from the first on; None: by the causal mask. scale: of the scores, None:
        1 / sqrt(elements of a row)."""
        of_one = None if lse is None else lse[None]
        if visible is None:
            visible = kv.shape[0] - np.arange(len(q) - 1, -1, -1)
        self.add_alike(q[None], kv[None], o[None], unwritten[None], of_one, visible[None], [first_query], scale)

    def add_alike(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        o: torch.Tensor,
        unwritten: torch.Tensor,
        lse: torch.Tensor | None,
        visible: npt.NDArray[np.int64],
        first_queries: Sequence[int],
        scale: float | None = None,
    ) -> None:
        """Requests of as many queries, all at once: tensors as of `add` with a dimension of requests before.

        visible: [requests, queries]; what kv holds beyond is finite and not looked at. first_queries: their first rows of o.
        """
        count, queries, heads = q.shape[:3]
        if not (visible > 0).any():
            return
        reference = _attention(q, kv, torch.from_numpy(visible).to(q.device), self._budget.p_floor > 0, scale)
        rows = self._compare(reference, o, unwritten, lse)
        seen = np.flatnonzero(visible.reshape(-1) > 0)
        where = torch.from_numpy(seen).to(q.device)
        self._queries += (np.array(first_queries)[:, None] + np.arange(queries)).reshape(-1)[seen].tolist()
        self._rows.append(tuple(part.reshape(count * queries, heads)[where] for part in rows))

    def result(self) -> dict[str, Any]:
        """Fields of Numbers, as JSON values."""
        counts: dict[str, Any] = dict.fromkeys(_KINDS, 0)
        firsts: dict[str, Any] = {f"first_{name}": None for name in _KINDS}
        found = {"compared": 0, **counts, **firsts, "worst": 0.0, "relative_rms": 0.0, "lse_error": None}
        found |= {"cosine": None, "largest_error": None}
        found["budget"] = self._budget.name
        if not self._rows:
            return found
        queries = np.array(self._queries)
        by_query = np.argsort(queries)
        in_order = torch.from_numpy(by_query)
        parts = torch.stack([torch.cat(each) for each in zip(*self._rows, strict=True)]).cpu()  # one wait for the device
        ratio, error, square, lse_error, cosine, largest = parts[:, in_order]
        unwritten, nan = ratio == _UNWRITTEN, ratio.isnan()
        for name, rows in zip(_KINDS, (nan, unwritten, ratio > 1.0), strict=True):
            found[name] = int(rows.sum())
            if found[name]:
                query, head = divmod(int(rows.view(-1).int().argmax()), ratio.shape[1])
                found[f"first_{name}"] = [int(queries[by_query[query]]), head]
        found["compared"] = ratio.numel()
        good = ~nan & ~unwritten
        if bool(good.any()):
            found["worst"] = min(float(ratio[good].amax()), _LARGEST)
            found["relative_rms"] = min(float((error[good].sum() / square[good].sum()).sqrt()), _LARGEST)
            found["cosine"] = float(cosine[good].amin())
            found["largest_error"] = min(float(largest[good].amax()), _LARGEST)
            if not bool(lse_error.isnan().all()):
                found["lse_error"] = min(float(lse_error[good].nan_to_num(nan=0.0).amax()), _LARGEST)
        return found

    def _compare(self, reference: _Reference, o: torch.Tensor, unwritten: torch.Tensor, lse: torch.Tensor | None) -> _Rows:
        budget = self._budget
        o = torch.where(o.isinf(), float("nan"), o)  # float64 attention of finite numbers is finite
        error = (o - reference.o).abs()
        slack = (budget.p_roundoff + budget.score_error) * reference.mean_size
        allowed = budget.o_roundoff * _rms(reference.o) + budget.p_roundoff * _rms(reference.spread)
        allowed = allowed + budget.score_error * _rms(reference.mean_size)
        if reference.flat is not None:
            flat_size, flat_spread = reference.flat
            slack = slack + budget.p_floor * flat_size
            allowed = allowed + budget.p_floor * _rms(flat_spread)
        element = error / (budget.o_roundoff * reference.o.abs() + slack)
        ratio = torch.maximum(element.amax(-1), _rms(error) / allowed)
        off = torch.full_like(ratio, float("nan"))
        if lse is not None:
            off = (lse.double() - reference.lse).abs()
            # A row without NaN in o but with one in lse is outside.
            ratio = torch.where(ratio.isnan(), ratio, torch.maximum(ratio, off.nan_to_num(nan=float("inf")) / budget.lse_error))
        ratio = torch.where(unwritten, _UNWRITTEN, ratio)
        square = (reference.o**2).sum(-1)
        cosine = (o * reference.o).sum(-1) / ((o**2).sum(-1) * square).sqrt().clamp(min=_SMALLEST)
        return ratio, (error**2).sum(-1), square, off, cosine, error.amax(-1)


_Rows = tuple[torch.Tensor, ...]
"""Of queries, [queries, heads] each, six: error / budget (NaN: the row has one; _UNWRITTEN), error^2, reference^2, |lse error|
or NaN, cosine with the reference, largest error of an element."""

_KINDS = ("not_a_number", "unwritten", "outside")

_UNWRITTEN = -1.0

_SMALLEST = 1e-300
"""Keeps the cosine of a row of zeros at 0."""

_LARGEST = 1e30
"""Stands for infinity, which JSON has none of."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a decode left, and what it read.

    queries: raw q [queries, heads, 576]; pool: raw tokens [slots, 576]; table: page ids of all requests, one after the other,
    int64; o: raw bf16 bits [queries, heads, 512], all ones where nothing was written; lse: [queries, heads] or None.
    kv_lens, query_lens: tokens and queries of each request. fnuz: fp8 is e4m3fnuz.
    visible: [queries] tokens that each query sees of its request (Decision.visible). scale: of the scores, None: as of add.
    """

    queries: torch.Tensor
    pool: torch.Tensor
    table: torch.Tensor
    o: torch.Tensor
    lse: torch.Tensor | None
    page_size: int
    kv_lens: Sequence[int]
    query_lens: Sequence[int]
    q_dtype: DType
    kv_dtype: DType
    fnuz: bool
    visible: npt.NDArray[np.int64]
    scale: float | None = None

    def compared(self, budget: Budget) -> dict[str, Any]:
        """Gives the fields of a Numbers."""
        found = NumbersTally(budget)
        first_query = [0, *accumulate(self.query_lens)]
        first_page = [0, *accumulate(-(-length // self.page_size) for length in self.kv_lens)]
        for group in alike(self.kv_lens, self.query_lens, self.queries.shape[1]):
            tokens = [self.kv_lens[each] for each in group]
            first = [first_query[each] for each in group]
            kv = self._tokens(tokens, [first_page[each] for each in group])
            rows = self._index(first)[:, None] + torch.arange(self.query_lens[group[0]], device=self.pool.device)
            o = self.o[rows]
            q, lse = self.queries[rows], None if self.lse is None else self.lse[rows]
            values = as_float64(q, self.q_dtype, self.fnuz), kv, o.view(torch.bfloat16).double()
            visible = self.visible[np.array(first)[:, None] + np.arange(self.query_lens[group[0]])]
            found.add_alike(*values, (o == -1).all(-1), lse, visible, first, self.scale)
        return found.result()

    def _tokens(self, tokens: Sequence[int], first_page: Sequence[int]) -> torch.Tensor:
        """KV of requests, [requests, longest, 576] in float64, zeros behind the end of the shorter ones."""
        position = torch.arange(max(tokens), device=self.pool.device)
        is_token = position < self._index(tokens)[:, None]
        page = self._index(first_page)[:, None] + torch.where(is_token, position // self.page_size, 0)
        slots = self.table[page] * self.page_size + position % self.page_size
        kv = as_float64(self.pool[slots], self.kv_dtype, self.fnuz)
        if min(tokens) < max(tokens):
            kv.masked_fill_(~is_token[..., None], 0.0)
        return kv

    def _index(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.pool.device)


def alike(kv_lens: Sequence[int], query_lens: Sequence[int], heads: int) -> Iterator[list[int]]:
    """Requests that are compared at once: as many queries, lengths that differ little, and no more of them than fit into
    MOST_TOKENS and MOST_SCORES. Those that nothing is known of, without tokens or queries, are left out."""
    group: list[int] = []
    present = [each for each in range(len(kv_lens)) if kv_lens[each] and query_lens[each]]
    for each in sorted(present, key=lambda one: (query_lens[one], kv_lens[one])):
        tokens = kv_lens[each] * (len(group) + 1)
        if group and (
            query_lens[each] != query_lens[group[0]]
            or kv_lens[each] > 2 * kv_lens[group[0]] + 64
            or tokens > MOST_TOKENS
            or tokens * heads * query_lens[each] > MOST_SCORES
        ):
            yield group
            group = []
        group.append(each)
    if group:
        yield group


MOST_TOKENS = 1 << 16
"""Tokens at once, 576 float64 each: 300 MB, and as much for what is made of them."""

MOST_SCORES = 1 << 26
"""Scores at once: 512 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """o, mean_size (A), spread (E): [..., heads, 512]; flat: flat_size (V) and flat_spread (W), None where the budget has no
    use for them; lse: [..., heads]; float64."""

    o: torch.Tensor
    mean_size: torch.Tensor
    spread: torch.Tensor
    flat: tuple[torch.Tensor, torch.Tensor] | None
    lse: torch.Tensor


def _attention(q: torch.Tensor, kv: torch.Tensor, visible: torch.Tensor, with_flat: bool, scale: float | None) -> _Reference:
    """All queries of requests. q: [requests, n, heads, 576]; kv: [requests, tokens, 576]; float64. visible: [requests, n]
    tokens that a query sees, from the first on; rows that see none come out as NaN."""
    requests, queries, heads, elements = q.shape
    score = (q.reshape(requests, queries * heads, elements) @ kv.transpose(1, 2)).mul_(
        elements**-0.5 if scale is None else scale
    )
    hidden = torch.arange(kv.shape[1], device=kv.device) >= visible[..., None]
    score = score.view(requests, queries, heads, -1).masked_fill_(hidden[:, :, None, :], float("-inf"))
    lse = torch.logsumexp(score, -1)
    p = score.sub_(lse[..., None]).exp_().view(requests, queries * heads, -1)
    v = kv[..., :V_HEAD_DIM]
    size, square = v.abs(), v**2
    shape = (requests, queries, heads, V_HEAD_DIM)
    flat = None
    if with_flat:
        peak = p.amax(-1).view(requests, queries, heads, 1)
        seen = (~hidden).double()
        flat = (seen @ size)[:, :, None, :] * peak, (seen @ square).sqrt()[:, :, None, :] * peak
    o, mean_size = (p @ v).view(shape), (p @ size).view(shape)
    return _Reference(o, mean_size, (p.square_() @ square).sqrt().view(shape), flat, lse)


def _rms(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().mean(-1).sqrt()
