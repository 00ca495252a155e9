"""Calls whose kernels are not run: their arguments are held against each other, and what is wrong is blamed."""

from __future__ import annotations

import pytest
import torch

from backend.real.aiter_ops import OpCall
from backend.real.frameworks.by_arguments import CHECKS, SIGNATURES, argument_faults

INT = torch.int32


def varlen(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "q": torch.empty(5, 2, 192),
        "k": torch.empty(5, 2, 192),
        "v": torch.empty(5, 2, 128),
        "cu_seqlens_q": torch.tensor([0, 2, 5], dtype=INT),
        "cu_seqlens_k": torch.tensor([0, 2, 5], dtype=INT),
        "max_seqlen_q": 3,
        "max_seqlen_k": 3,
    }
    bound = SIGNATURES["flash_attn_varlen_func"].bind(**{**given, **changed})
    return OpCall("flash_attn_varlen_func", dict(bound.arguments))


def absorbed(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "q": torch.empty(3, 2, 576),
        "kv_buffer": torch.empty(10, 1, 1, 576),
        "o": torch.empty(3, 2, 512),
        "qo_indptr": torch.tensor([0, 1, 3], dtype=INT),
        "kv_indptr": torch.tensor([0, 4, 6], dtype=INT),
        "kv_indices": torch.tensor([1, 2, 3, 4, 8, 9], dtype=INT),
        "kv_last_page_lens": torch.ones(2, dtype=INT),
        "max_seqlen_q": 2,
    }
    bound = SIGNATURES["mla_prefill_fwd"].bind(**{**given, **changed})
    return OpCall("mla_prefill_fwd", dict(bound.arguments))


def planned(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "seqlens_qo_indptr": torch.tensor([0, 300, 301], dtype=INT),
        "pages_kv_indptr": torch.tensor([0, 300, 301], dtype=INT),
        "context_lens": torch.tensor([300, 1], dtype=INT),
        "gqa_ratio": 1,
        "num_heads_k": 16,
        "work_metadata_ptrs": torch.zeros(2, dtype=INT),
        "work_indptr": torch.zeros(257, dtype=INT),
        "work_info": torch.zeros(80, dtype=INT),
        "reduce_indptr": torch.zeros(5, dtype=INT),
        "reduce_final_map": torch.zeros((4, 2), dtype=INT),
        "reduce_partial_map": torch.zeros(60, dtype=INT),
    }
    bound = SIGNATURES["get_ps_metadata_v1"].bind(**{**given, **changed})
    bound.apply_defaults()
    return OpCall("get_ps_metadata_v1", dict(bound.arguments))


def test_calls_that_fit_are_silent() -> None:
    assert argument_faults(varlen()) == argument_faults(absorbed()) == argument_faults(planned()) == ()


@pytest.mark.parametrize(
    ("call", "subject", "is_write"),
    [
        (varlen(cu_seqlens_k=torch.tensor([0, 2, 6], dtype=INT), max_seqlen_k=4), "cu_seqlens_k", False),
        (varlen(cu_seqlens_q=torch.tensor([0, 4, 2], dtype=INT), max_seqlen_q=4), "cu_seqlens_q", False),
        (varlen(max_seqlen_q=2), "max_seqlen_q", False),
        (varlen(v=torch.empty(4, 2, 128)), "v", False),
        (absorbed(o=torch.empty(2, 2, 512)), "o", True),
        (absorbed(kv_indices=torch.tensor([1, 2, 3, 4, 8, 10], dtype=INT)), "kv_indices", False),
        (absorbed(kv_indices=torch.tensor([1, 2, 3, 4, 8], dtype=INT)), "kv_indptr", False),
        (absorbed(kv_last_page_lens=torch.ones(1, dtype=INT)), "kv_last_page_lens", False),
        (planned(reduce_final_map=torch.zeros((3, 2), dtype=INT)), "reduce_final_map", True),
        (planned(context_lens=torch.tensor([300], dtype=INT)), "context_lens", False),
    ],
)
def test_an_argument_that_does_not_fit_is_named(call: OpCall, subject: str, is_write: bool) -> None:
    found = argument_faults(call)
    assert (found[0].subject, found[0].is_write) == (subject, is_write)


def test_every_stand_in_is_checked() -> None:
    assert set(SIGNATURES) == set(CHECKS)
