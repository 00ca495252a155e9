"""Prefill attention, whose kernels nobody models here: arguments held against each other, numbers by attention in float32.

So a script that checks prefill on its way to decode goes on with right numbers. They say nothing of AITER's code, and the
report of the run says that. Operations and their arguments are those of ROCm/aiter e4048607a5 (aiter/ops/mha.py,
aiter/ops/attention.py). What an argument asks for beside plain or causal attention is refused by name.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch

from backend.errors import UnmodelledError
from backend.findings import Finding, FindingKind, Party
from backend.real.aiter_ops import OpCall
from backend.real.frameworks.by_arguments import CHECKS
from backend.real.torch_shim import host
from backend.words import number_of

ABSORBED, OPUS = "mla_prefill_asm_fwd", "_fmha_fwd_bf16_opus_fwd"
OPERATIONS: Mapping[str, Mapping[str, str]] = {
    "fmha_v3_varlen_fwd": {},
    "mha_varlen_fwd": {},
    OPUS: {
        "causal": "is_causal",
        "seqstart_q": "cu_seqlens_q",
        "seqstart_k": "cu_seqlens_k",
        "seqstart_q_pad": "cu_seqlens_q_padded",
        "seqstart_k_pad": "cu_seqlens_k_padded",
    },
    ABSORBED: {"Q": "q", "KV": "kv_buffer", "splitData": "o", "kv_page_indices": "kv_indices"},
}
"""Compiled operation -> its arguments by the names that AITER's public functions of the kind have for them."""

WRITTEN: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(OPERATIONS, frozenset({"out", "lse"})),
    ABSORBED: frozenset({"splitData", "splitLse"}),
}
"""By operation, what it writes."""

Tensors = Mapping[str, Any]

OFF: Mapping[str, tuple[Any, ...]] = {
    "dropout_p": (0.0,),
    "logits_soft_cap": (0.0,),
    "window_size_left": (-1,),
    "window_size_right": (-1, 0),  # 0 with is_causal
    "sink_size": (0,),
    "return_dropout_randval": (False,),
    **dict.fromkeys(("block_table", "bias", "alibi_slopes", "q_descale", "k_descale", "v_descale", "sink_ptr"), (None,)),
}
"""Argument of an operation with rows by cu_seqlens_q -> what it may be here."""


class Prefill:
    """Does the operations of prefill. calls: how many, by operation. note: called with what is wrong with their arguments.

    have_done: has work done on tensors, by name, at once or when a graph is replayed; given the operation's name.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.note: Callable[[Finding], None] = lambda finding: None
        self.have_done: Callable[[str, Tensors, Callable[[Tensors], None]], None] = lambda name, given, run: run(given)

    @staticmethod
    def serves(name: str) -> bool:
        """Whether it is an operation of prefill."""
        return name in OPERATIONS

    @property
    def notes(self) -> tuple[str, ...]:
        """For the report: what was not computed by AITER's code."""
        return tuple(
            f"aiter.{name}, calls: {count}: arguments held against each other; the numbers are a float32 reference's, "
            "not those of AITER's code"
            for name, count in self.calls.items()
        )

    def handle(self, call: OpCall) -> Any:
        """Does the operation and gives its result. Where its arguments do not fit, that is found, and nothing is written."""
        self.calls[call.name] += 1
        if call.name == ABSORBED:
            self.have_done(call.name, call.arguments, functools.partial(self._run, call.name))
            return None
        given = {OPERATIONS[call.name].get(name, name): value for name, value in call.arguments.items()}
        with torch._C.DisableTorchFunction():  # nothing that the script's GPU does
            _refuse_other(given)
        out, lse = _outputs(given)
        self.have_done(call.name, {**given, "out": out, "lse": lse}, functools.partial(self._run, call.name))
        empty = given["q"].new_empty((0,)), torch.empty((2,), dtype=torch.int64, device="cuda")
        return None if call.name == OPUS else (out, lse, *empty)

    def _run(self, name: str, arguments: Tensors) -> None:
        given = {OPERATIONS[name].get(each, each): value for each, value in arguments.items()}
        with torch._C.DisableTorchFunction():  # on the CPU, whatever the script has made the default device
            self._checked(name, given)

    def _checked(self, name: str, given: Tensors) -> None:
        faults = list(CHECKS["mla_prefill_fwd" if name == ABSORBED else "flash_attn_varlen_func"](given))
        for fault in faults:
            kind = FindingKind.OUT_OF_BOUNDS_WRITE if fault.is_write else FindingKind.OUT_OF_BOUNDS_READ
            self.note(Finding(kind, kind.severity, Party.CALLER, name, fault.subject, fault.message))
        if not faults:
            (_run_absorbed if name == ABSORBED else _run_varlen)(given)


def _refuse_other(given: Mapping[str, Any]) -> None:
    """UnmodelledError for what is asked for beside plain or causal attention of packed rows."""
    for name, allowed in OFF.items():
        if name in given and not any(given[name] is each or given[name] == each for each in allowed):
            raise UnmodelledError(f"attention forward with {name}={given[name]!r}: only {allowed[0]!r} has a reference")
    for name in ("cu_seqlens_q", "cu_seqlens_k"):
        padded = given.get(f"{name}_padded")
        if given[name] is None or not (padded is None or host(padded).equal(host(given[name]))):
            raise UnmodelledError(
                f"attention forward without {name}, or with other padded ones: only packed rows have a reference"
            )


def _outputs(given: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [rows, heads, width of v], the caller's where it gives them, and their log-sum-exp [heads, rows] in float32."""
    q, out = given["q"], given.get("out")
    lse = torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device="cuda")
    return q.new_empty((*q.shape[:-1], given["v"].shape[-1])) if out is None else out, lse


def _run_varlen(given: Mapping[str, Any]) -> None:
    """q [rows, heads, width] against k and v [tokens, KV heads, ...]. Fills out and lse."""
    q, k, v, out, lse = (host(given[name]) for name in ("q", "k", "v", "out", "lse"))
    for rows, tokens in zip(_pieces(given["cu_seqlens_q"]), _pieces(given["cu_seqlens_k"]), strict=True):
        result, total = _attention(q[rows], k[tokens], v[tokens], given["softmax_scale"], given["is_causal"])
        out[rows] = result.to(out.dtype)
        lse[:, rows] = total


def _run_absorbed(given: Mapping[str, Any]) -> None:
    """q [rows, heads, 576] against pages [1 token, 1 head, 576], V its first columns; causal. Fills o and splitLse."""
    pool, o, width = host(given["kv_buffer"]), host(given["o"]), given["o"].shape[-1]
    if pool.shape[1] != 1:
        raise UnmodelledError(f"{ABSORBED} with pages of {number_of(pool.shape[1], 'token')}: only those of 1 have a reference")
    indices = host(given["kv_indices"])
    for rows, pages in zip(_pieces(given["qo_indptr"]), _pieces(given["kv_indptr"]), strict=True):
        kv = pool[indices[pages].long(), 0]
        result, total = _attention(host(given["q"])[rows], kv, kv[..., :width], given["softmax_scale"], causal=True)
        o[rows] = result.view(o[rows].shape).to(o.dtype)
        host(given["splitLse"])[rows] = total.T.reshape(host(given["splitLse"])[rows].shape)


def _pieces(indptr: torch.Tensor) -> list[slice]:
    """Of each request, the elements that are its own."""
    ends = host(indptr).tolist()
    return [slice(begin, end) for begin, end in itertools.pairwise(ends)]


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [rows, heads, width of v] and log-sum-exp [heads, rows] in float32; the last row sees the last token.

    A row that sees no token is 0, its log-sum-exp -inf. Heads of q share those of k and v in groups.
    """
    group = q.shape[1] // k.shape[1]
    q, k, v = q.float(), k.float().repeat_interleave(group, 1), v.float().repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if causal:
        seen = torch.ones(q.shape[0], k.shape[0], dtype=torch.bool).tril(k.shape[0] - q.shape[0])
        scores = scores.masked_fill(~seen, -torch.inf)
    total = scores.logsumexp(-1)
    weights = (scores - total.clamp(min=torch.finfo(torch.float32).min)[..., None]).exp()
    return torch.einsum("hqk,khd->qhd", weights, v), total
