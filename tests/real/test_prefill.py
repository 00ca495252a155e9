"""Prefill under verify: right numbers by a reference, arguments that do not fit are found, all else is refused by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from backend.errors import UnmodelledError
from backend.findings import Finding, FindingKind, Party
from backend.real.aiter_ops import OpCall
from backend.real.script.prefill import Prefill
from backend.real.torch_shim import GpuFacts, VirtualGpu

ROWS, TOKENS, HEADS, SCALE = (0, 3, 4, 9), (0, 3, 8, 10), 4, 0.125
"""qo_indptr and kv_indptr: as many rows as tokens, fewer, more (whose first rows see nothing)."""


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with VirtualGpu(GpuFacts("gfx950", 256, "AMD Instinct MI355X")):
        torch.manual_seed(0)
        yield


def on_gpu(values: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device="cuda")


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def unwritten(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.full(shape, torch.nan, device="cuda", dtype=dtype)


def varlen(**changed: Any) -> OpCall:
    given: dict[str, Any] = {
        "q": drawn(ROWS[-1], HEADS, 192),
        "k": drawn(TOKENS[-1], 2, 192),
        "v": drawn(TOKENS[-1], 2, 128),
        "cu_seqlens_q": on_gpu(ROWS),
        "cu_seqlens_k": on_gpu(TOKENS),
        "max_seqlen_q": 5,
        "max_seqlen_k": 5,
        "dropout_p": 0.0,
        "softmax_scale": SCALE,
        "is_causal": True,
        "window_size_left": -1,
        "window_size_right": 0,
        "out": None,
    }
    return OpCall("fmha_v3_varlen_fwd", {**given, **changed})


def absorbed(**changed: Any) -> OpCall:
    pages = (5, 0, 7, 2, 11, 3, 1, 6, 9, 4)
    given: dict[str, Any] = {
        "Q": drawn(ROWS[-1], HEADS, 576),
        "KV": drawn(12, 1, 1, 576),
        "qo_indptr": on_gpu(ROWS),
        "kv_indptr": on_gpu(TOKENS),
        "kv_page_indices": on_gpu(pages),
        "kv_last_page_lens": on_gpu((1, 1, 1)),
        "max_seqlen_q": 5,
        "softmax_scale": SCALE,
        "splitData": unwritten(ROWS[-1], 1, HEADS, 512),
        "splitLse": unwritten(ROWS[-1], 1, HEADS, 1, dtype=torch.float32),
    }
    return OpCall("mla_prefill_asm_fwd", {**given, **changed})


def expected(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's own attention in float64, request by request; a row that sees no token is 0."""
    q, k, v = (each.cpu().double() for each in (q, k, v))
    made = []
    for (a, b), (c, d) in zip(itertools.pairwise(ROWS), itertools.pairwise(TOKENS), strict=True):
        group = q.shape[1] // k.shape[1]
        keys, values = (each[c:d].repeat_interleave(group, 1).transpose(0, 1) for each in (k, v))
        seen = torch.tensor([[token - (d - c) <= row - (b - a) for token in range(d - c)] for row in range(b - a)])
        made.append(scaled_dot_product_attention(q[a:b].transpose(0, 1), keys, values, seen, scale=SCALE).transpose(0, 1))
    return torch.cat(made).nan_to_num(0.0)


def test_attention_forward_is_torchs_attention() -> None:
    call = varlen()
    out, lse, *_ = Prefill().handle(call)
    wanted = expected(*(call.arguments[name] for name in "qkv"))
    assert (out.dtype, out.is_cuda, tuple(lse.shape)) == (torch.bfloat16, True, (HEADS, ROWS[-1]))
    assert (out.cpu().double() - wanted).abs().max() < 0.02
    unseen = torch.isinf(lse.cpu())
    assert unseen[:, 4:7].all()
    assert unseen.sum() == 3 * HEADS  # five rows over two tokens: the first three see none


def test_the_output_that_is_given_is_filled() -> None:
    given = unwritten(ROWS[-1], HEADS, 128)
    out, *_ = Prefill().handle(varlen(out=given))
    assert out is given
    assert not given.isnan().any()


def test_the_operation_of_gfx950_fills_what_it_is_given() -> None:
    names = {"is_causal": "causal", "cu_seqlens_q": "seqstart_q", "cu_seqlens_k": "seqstart_k"}
    plain = varlen(out=unwritten(ROWS[-1], HEADS, 128)).arguments
    given = {names.get(name, name): value for name, value in plain.items() if "window" not in name and name != "dropout_p"}
    given |= {"seqstart_q_pad": given["seqstart_q"], "seqstart_k_pad": given["seqstart_k"]}
    assert Prefill().handle(OpCall("_fmha_fwd_bf16_opus_fwd", given)) is None
    assert (given["out"].cpu().double() - expected(given["q"], given["k"], given["v"])).abs().max() < 0.02


def test_absorbed_prefill_takes_the_pages_of_the_request() -> None:
    call = absorbed()
    prefill = Prefill()
    assert prefill.handle(call) is None
    kv = call.arguments["KV"][:, 0][call.arguments["kv_page_indices"].long()]
    wanted = expected(call.arguments["Q"], kv, kv[..., :512])
    assert (call.arguments["splitData"][:, 0].cpu().double() - wanted).abs().max() < 0.02
    assert not call.arguments["splitLse"].isnan().any()
    assert "not those of AITER's code" in prefill.notes[0]
    assert "mla_prefill_asm_fwd, calls: 1" in prefill.notes[0]


@pytest.mark.parametrize(
    ("call", "subject", "kind"),
    [
        (
            lambda: varlen(cu_seqlens_k=on_gpu((0, 3, 8, 11)), out=unwritten(9, HEADS, 128)),
            "cu_seqlens_k",
            FindingKind.OUT_OF_BOUNDS_READ,
        ),
        (lambda: varlen(max_seqlen_q=4, out=unwritten(9, HEADS, 128)), "max_seqlen_q", FindingKind.OUT_OF_BOUNDS_READ),
        (lambda: absorbed(kv_page_indices=on_gpu((12, *range(9)))), "kv_indices", FindingKind.OUT_OF_BOUNDS_READ),
        (lambda: absorbed(splitData=unwritten(8, 1, HEADS, 512)), "o", FindingKind.OUT_OF_BOUNDS_WRITE),
    ],
)
def test_arguments_that_do_not_fit_are_found_and_nothing_is_computed(call: Any, subject: str, kind: FindingKind) -> None:
    found: list[Finding] = []
    prefill = Prefill()
    prefill.note = found.append
    made = call()
    result = prefill.handle(made)
    assert [(each.tensor, each.kind, each.party) for each in found] == [(subject, kind, Party.CALLER)]
    output = made.arguments["splitData"] if result is None else result[0]
    assert output.isnan().all()


def test_what_has_no_reference_is_refused_by_name() -> None:
    with pytest.raises(UnmodelledError, match=r"window_size_left=16"):
        Prefill().handle(varlen(window_size_left=16))
    with pytest.raises(UnmodelledError, match=r"sink_ptr"):
        Prefill().handle(varlen(sink_ptr=torch.zeros(4, device="cuda")))
    with pytest.raises(UnmodelledError, match=r"without cu_seqlens_k, or with other padded ones"):
        Prefill().handle(varlen(cu_seqlens_k_padded=on_gpu((0, 4, 8, 10))))
    with pytest.raises(UnmodelledError, match=r"pages of 2 tokens"):
        Prefill().handle(absorbed(KV=drawn(12, 2, 1, 576)))
