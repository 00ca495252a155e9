"""Prefill attention, whose kernels nobody models here: arguments held against each other, numbers by attention in float32.

So a script that checks prefill on its way to decode goes on with right numbers. They say nothing of AITER's code, and the
report of the run says that. Operations and their arguments are those of ROCm/aiter e4048607a5 (aiter/ops/mha.py,
aiter/ops/attention.py). What an argument asks for beside plain or causal attention is refused by name.
"""

from __future__ import annotations

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
    """Does the operations of prefill. calls: how many, by operation. note: called with what is wrong with their arguments."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.note: Callable[[Finding], None] = lambda finding: None

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
        given = {OPERATIONS[call.name].get(name, name): value for name, value in call.arguments.items()}
        if call.name != ABSORBED:
            _refuse_other(given)
        faults = list(CHECKS["mla_prefill_fwd" if call.name == ABSORBED else "flash_attn_varlen_func"](given))
        for fault in faults:
            kind = FindingKind.OUT_OF_BOUNDS_WRITE if fault.is_write else FindingKind.OUT_OF_BOUNDS_READ
            self.note(Finding(kind, kind.severity, Party.CALLER, call.name, fault.subject, fault.message))
        if call.name == ABSORBED:
            return _run_absorbed(given, not faults)
        made = _run_varlen(given, not faults)
        return None if call.name == OPUS else made


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


def _run_varlen(given: Mapping[str, Any], fits: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [rows, heads, width] against k and v [tokens, KV heads, ...]: (out, log-sum-exp [heads, rows], two that stay empty)."""
    q, k, v = (given[name] for name in "qkv")
    out = given["out"] if given.get("out") is not None else q.new_empty((*q.shape[:-1], v.shape[-1]))
    lse = torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device="cuda")
    if fits:
        ends = zip(_pieces(given["cu_seqlens_q"]), _pieces(given["cu_seqlens_k"]), strict=True)
        for rows, tokens in ends:
            result, total = _attention(
                host(q)[rows], host(k)[tokens], host(v)[tokens], given["softmax_scale"], given["is_causal"]
            )
            host(out)[rows] = result.to(host(out).dtype)
            host(lse)[:, rows] = total
    return out, lse, q.new_empty((0,)), torch.empty((2,), dtype=torch.int64, device="cuda")


def _run_absorbed(given: Mapping[str, Any], fits: bool) -> None:
    """q [rows, heads, 576] against pages [1 token, 1 head, 576], V its first columns; causal. Fills o and splitLse."""
    pool, o, width = host(given["kv_buffer"]), host(given["o"]), given["o"].shape[-1]
    if pool.shape[1] != 1:
        raise UnmodelledError(f"{ABSORBED} with pages of {pool.shape[1]} tokens: only those of 1 have a reference")
    if not fits:
        return
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
    with torch._C.DisableTorchFunction():  # on the CPU, whatever the script has made the default device
        group = q.shape[1] // k.shape[1]
        q, k, v = q.float(), k.float().repeat_interleave(group, 1), v.float().repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if causal:
            seen = torch.ones(q.shape[0], k.shape[0], dtype=torch.bool).tril(k.shape[0] - q.shape[0])
            scores = scores.masked_fill(~seen, -torch.inf)
        total = scores.logsumexp(-1)
        weights = (scores - total.clamp(min=torch.finfo(torch.float32).min)[..., None]).exp()
        return torch.einsum("hqk,khd->qhd", weights, v), total
