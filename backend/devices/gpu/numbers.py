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

from dataclasses import dataclass
from typing import Any

import torch

from backend.case import QK_HEAD_DIM, V_HEAD_DIM


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


class Comparison:
    """Adds up requests; `result` gives the fields of backend.observation.Numbers.

    Nothing is read back from the device before `result`: a wait for each row would take longer than the reference.
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
    ) -> None:
        """One request. q: [n, heads, 576] and kv: [tokens, 576] in float64; o: [n, heads, 512] float64 as the kernel left it;
        unwritten: [n, heads] bool; lse: [n, heads] or None. first_query: its first row of o."""
        tokens, queries = kv.shape[0], q.shape[0]
        for index in range(queries):
            visible = tokens - (queries - 1 - index)
            if visible <= 0:
                continue
            reference = _attention(q[index], kv[:visible])
            self._queries.append(first_query + index)
            self._rows.append(self._compare(reference, o[index], unwritten[index], None if lse is None else lse[index]))

    def result(self) -> dict[str, Any]:
        """Fields of Numbers, as JSON values."""
        counts: dict[str, Any] = dict.fromkeys(_KINDS, 0)
        firsts: dict[str, Any] = {f"first_{name}": None for name in _KINDS}
        found = {"compared": 0, **counts, **firsts, "worst": 0.0, "relative_rms": 0.0, "lse_error": None}
        found |= {"cosine": None, "largest_error": None}
        found["budget"] = self._budget.name
        if not self._rows:
            return found
        ratio, error, square, lse_error, cosine, largest = (torch.stack(parts).cpu() for parts in zip(*self._rows, strict=True))
        unwritten, nan = ratio == _UNWRITTEN, ratio.isnan()
        for name, rows in zip(_KINDS, (nan, unwritten, ratio > 1.0), strict=True):
            found[name] = int(rows.sum())
            if found[name]:
                query, head = divmod(int(rows.view(-1).int().argmax()), ratio.shape[1])
                found[f"first_{name}"] = [self._queries[query], head]
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
        slack = (budget.p_roundoff + budget.score_error) * reference.mean_size + budget.p_floor * reference.flat_size
        element = error / (budget.o_roundoff * reference.o.abs() + slack)
        allowed = budget.o_roundoff * _rms(reference.o) + budget.p_roundoff * _rms(reference.spread)
        allowed = allowed + budget.p_floor * _rms(reference.flat_spread) + budget.score_error * _rms(reference.mean_size)
        ratio = torch.maximum(element.amax(1), _rms(error) / allowed)
        off = torch.full_like(ratio, float("nan"))
        if lse is not None:
            off = (lse.double() - reference.lse).abs()
            # A row without NaN in o but with one in lse is outside.
            ratio = torch.where(ratio.isnan(), ratio, torch.maximum(ratio, off.nan_to_num(nan=float("inf")) / budget.lse_error))
        ratio = torch.where(unwritten, _UNWRITTEN, ratio)
        square = (reference.o**2).sum(1)
        cosine = (o * reference.o).sum(1) / ((o**2).sum(1) * square).sqrt().clamp(min=_SMALLEST)
        return ratio, (error**2).sum(1), square, off, cosine, error.amax(1)


_Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Of one query, [heads] each: error / budget (NaN: the row has one; _UNWRITTEN), error^2, reference^2, |lse error| or NaN,
cosine with the reference, largest error of an element."""

_KINDS = ("not_a_number", "unwritten", "outside")

_UNWRITTEN = -1.0

_SMALLEST = 1e-300
"""Keeps the cosine of a row of zeros at 0."""

_LARGEST = 1e30
"""Stands for infinity, which JSON has none of."""


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """o, mean_size (A), flat_size (V), spread (E), flat_spread (W): [heads, 512]; lse: [heads]; float64."""

    o: torch.Tensor
    mean_size: torch.Tensor
    flat_size: torch.Tensor
    spread: torch.Tensor
    flat_spread: torch.Tensor
    lse: torch.Tensor


def _attention(q: torch.Tensor, kv: torch.Tensor) -> _Reference:
    """One query row of all heads. q: [heads, 576], kv: [tokens, 576], float64."""
    score = (q @ kv.T) * SOFTMAX_SCALE
    lse = torch.logsumexp(score, 1)
    p = torch.exp(score - lse[:, None])
    v = kv[:, :V_HEAD_DIM]
    size = v.abs()
    peak = p.amax(1, keepdim=True)
    square = v**2
    return _Reference(
        p @ v,
        p @ size,
        size.sum(0)[None, :] * peak,
        (p**2 @ square).sqrt(),
        square.sum(0).sqrt()[None, :] * peak,
        lse,
    )


def _rms(rows: torch.Tensor) -> torch.Tensor:
    return (rows**2).mean(1).sqrt()
