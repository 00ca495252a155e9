"""Calls whose kernels are not run: their arguments are held against each other, and what is wrong is blamed."""

from __future__ import annotations

import pytest
import torch

from backend.real.aiter_ops import OpCall
from backend.real.frameworks.by_arguments import (
    CHECKS,
    OWN_KERNELS,
    SEGMENTED,
    SIGNATURES,
    argument_faults,
    as_addresses,
    result_of,
)
from backend.real.torch_shim import GpuFacts, VirtualGpu

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


def paged(**changed: object) -> OpCall:
    """Two requests of four and two tokens, two q heads, one key head of 128."""
    given: dict[str, object] = {
        **dict.fromkeys(SIGNATURES["paged_attention_ragged"].parameters),
        "out": torch.empty(2, 2, 128, dtype=torch.bfloat16),
        "workspace_buffer": torch.empty(2 * 2 * 4 * (8 + 256), dtype=torch.uint8),
        "query": torch.empty(2, 2, 128, dtype=torch.bfloat16),
        "key_cache": torch.empty(10, 1, 1, 128),
        "value_cache": torch.empty(10, 1, 1, 128),
        "kv_indptr": torch.tensor([0, 4, 6], dtype=INT),
        "kv_page_indices": torch.tensor([1, 2, 3, 4, 8, 9], dtype=INT),
        "kv_last_page_lens": torch.ones(2, dtype=INT),
        "block_size": 1,
        "max_num_partitions": 4,
        "partition_size": 256,
    }
    return OpCall("paged_attention_ragged", {**given, **changed})


def unified(**changed: object) -> OpCall:
    """Two requests of 17 and 16 tokens on pages of 16."""
    given: dict[str, object] = {
        **dict.fromkeys(SIGNATURES["unified_attention"].parameters),
        "q": torch.empty(3, 2, 128),
        "k": torch.empty(5, 16, 1, 128),
        "v": torch.empty(5, 16, 1, 128),
        "out": torch.empty(3, 2, 128),
        "cu_seqlens_q": torch.tensor([0, 2, 3], dtype=INT),
        "max_seqlen_q": 2,
        "seqused_k": torch.tensor([17, 16]),
        "block_table": torch.tensor([[1, 2], [4, 99]], dtype=INT),
    }
    return OpCall("unified_attention", {**given, **changed})


def batch_prefill(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "q": torch.empty(3, 2, 128),
        "k": torch.empty(10, 1, 128),
        "v": torch.empty(10, 1, 128),
        "cu_seqlens_q": torch.tensor([0, 1, 3], dtype=INT),
        "kv_indptr": torch.tensor([0, 4, 6], dtype=INT),
        "kv_page_indices": torch.tensor([1, 2, 3, 4, 8, 9], dtype=INT),
        "max_seqlen_q": 2,
        "max_seqlen_k": 4,
    }
    bound = SIGNATURES["mha_batch_prefill_func"].bind(**{**given, **changed})
    bound.apply_defaults()
    return OpCall("mha_batch_prefill_func", dict(bound.arguments))


def extended(**changed: object) -> OpCall:
    given: dict[str, object] = {
        **dict.fromkeys(OWN_KERNELS["extend_attention_fwd"].parameters),
        "q_extend": torch.empty(3, 2, 128),
        "k_buffer": torch.empty(10, 1, 128),
        "qo_indptr": torch.tensor([0, 1, 3], dtype=INT),
        "kv_indptr": torch.tensor([0, 4, 6], dtype=INT),
        "kv_indices": torch.tensor([1, 2, 3, 4, 8, 9], dtype=INT),
        "max_len_extend": 2,
    }
    return OpCall("extend_attention_fwd", {**given, **changed})


def gathered(**changed: object) -> OpCall:
    """Two requests of four and two cached tokens, pages of 2."""
    given: dict[str, object] = {
        **dict.fromkeys(OWN_KERNELS["gather_and_maybe_dequant_cache"].parameters),
        "src_cache": torch.empty(5, 2, 576),
        "dst": torch.empty(6, 576),
        "block_table": torch.tensor([[1, 2], [4, 99]], dtype=INT),
        "cu_seq_lens": torch.tensor([0, 4, 6], dtype=INT),
        "num_tokens": 6,
        "batch_size": 2,
        "seq_starts": torch.tensor([0, 0], dtype=INT),
    }
    return OpCall("gather_and_maybe_dequant_cache", {**given, **changed})


def gluon(**changed: object) -> OpCall:
    """Two requests of two and one tokens, four heads."""
    given: dict[str, object] = {
        "q_nope": torch.empty(2, 4, 512),
        "q_pe": torch.empty(2, 4, 64),
        "kv_c": torch.empty(9, 576),
        "o": torch.empty(2, 4, 512),
        "page_table": torch.tensor([7, 8, 3], dtype=INT),
        "seq_info": torch.tensor([0, 2, 3], dtype=INT),
        "sm_scale": 1.0,
        "use_2d_view": False,
    }
    bound = SIGNATURES["mla_gluon"].bind(**{**given, **changed})
    bound.apply_defaults()
    return OpCall("mla_gluon", dict(bound.arguments))


def segmented(**changed: object) -> OpCall:
    """Two rows of 17 and 16 tokens on pages of 16."""
    given: dict[str, object] = {
        **dict.fromkeys(SIGNATURES[SEGMENTED].parameters),
        "q": torch.empty(2, 4, 576),
        "kv_buffer": torch.empty(5, 16, 1, 576),
        "cu_seqlens_q": torch.tensor([0, 1, 2], dtype=INT),
        "seqused_k": torch.tensor([17, 16], dtype=INT),
        "max_seqlen_kv": 17,
        "block_tables": torch.tensor([[1, 2], [4, 99]], dtype=INT),
    }
    return OpCall(SEGMENTED, {**given, **changed})


TABLE = torch.tensor([[7, 8], [3, 99]], dtype=INT)


@pytest.mark.parametrize(
    "call",
    [
        *(
            segmented(),
            gathered(),
            gluon(),
            gluon(use_2d_view=True, page_table=TABLE, seq_info=torch.tensor([2, 1], dtype=INT)),
        ),
        *(varlen(), absorbed(), planned(), paged(), unified(), batch_prefill(), extended()),
        *(batch_prefill(max_seqlen_k=2), batch_prefill(max_seqlen_k=2, window_size=(1, 0))),
    ],
)
def test_calls_that_fit_are_silent(call: OpCall) -> None:
    assert argument_faults(call) == ()


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
        (paged(kv_indptr=torch.tensor([0, 4], dtype=INT)), "kv_indptr", False),
        (paged(kv_page_indices=torch.tensor([1, 2, 3, 4, 8], dtype=INT)), "kv_indptr", False),
        (paged(kv_page_indices=torch.tensor([1, 2, 3, 4, 8, 10], dtype=INT)), "kv_page_indices", False),
        (paged(partition_size=1, max_num_partitions=3), "max_num_partitions", False),
        (paged(out=torch.empty(1, 2, 128, dtype=torch.bfloat16)), "out", True),
        (paged(kv_last_page_lens=torch.ones(1, dtype=INT)), "kv_last_page_lens", False),
        (paged(workspace_buffer=torch.empty(2 * 2 * 4 * (8 + 256) - 1, dtype=torch.uint8)), "workspace_buffer", True),
        (unified(seqused_k=torch.tensor([33, 16])), "block_table", False),
        (unified(seqused_k=torch.tensor([17, 17])), "block_table", False),
        (unified(block_table=torch.tensor([[1, 2]], dtype=INT)), "block_table", False),
        (unified(max_seqlen_q=1), "max_seqlen_q", False),
        (unified(out=torch.empty(2, 2, 128)), "out", True),
        (unified(cu_seqlens_q=torch.tensor([0, 2], dtype=INT)), "cu_seqlens_q", False),
        (batch_prefill(kv_indptr=torch.tensor([0, 4, 7], dtype=INT)), "kv_indptr", False),
        (batch_prefill(kv_page_indices=torch.tensor([1, 2, 3, 4, 8, -1], dtype=INT)), "kv_page_indices", False),
        (batch_prefill(cu_seqlens_q=torch.zeros(3, dtype=INT)), "cu_seqlens_q", False),
        (batch_prefill(k=torch.empty(10, 64, 1, 128)), "kv_last_page_lens", False),
        (batch_prefill(max_seqlen_k=0), "max_seqlen_k", False),
        (batch_prefill(max_seqlen_k=2, window_size=(3, 0)), "max_seqlen_k", False),
        (extended(kv_indices=torch.tensor([1, 2, 3, 4, 8], dtype=INT)), "kv_indptr", False),
        (extended(max_len_extend=1), "max_len_extend", False),
        (segmented(max_seqlen_kv=16), "max_seqlen_kv", False),
        (segmented(seqused_k=torch.tensor([17, 17], dtype=INT)), "block_tables", False),
        (segmented(block_tables=torch.tensor([[1, 2]], dtype=INT)), "block_tables", False),
        (segmented(cu_seqlens_q=torch.tensor([0, 1], dtype=INT)), "cu_seqlens_q", False),
        (gathered(dst=torch.empty(5, 576)), "dst", True),
        (gathered(num_tokens=7), "dst", True),
        (gathered(batch_size=3), "cu_seq_lens", False),
        (gathered(seq_starts=torch.tensor([1, 0], dtype=INT)), "block_table", False),
        (gathered(src_cache=torch.empty(4, 2, 576)), "block_table", False),
        (gluon(seq_info=torch.tensor([0, 2], dtype=INT)), "seq_info", False),
        (gluon(seq_info=torch.tensor([0, 2, 4], dtype=INT)), "seq_info", False),
        (gluon(kv_c=torch.empty(8, 576)), "page_table", False),
        (gluon(o=torch.empty(1, 4, 512)), "o", True),
        (gluon(q_pe=torch.empty(1, 4, 64)), "q_pe", False),
        (gluon(use_2d_view=True, page_table=TABLE, seq_info=torch.tensor([3, 1], dtype=INT)), "page_table", False),
    ],
)
def test_an_argument_that_does_not_fit_is_named(call: OpCall, subject: str, is_write: bool) -> None:
    found = argument_faults(call)
    assert (found[0].subject, found[0].is_write) == (subject, is_write)


def test_every_stand_in_is_checked() -> None:
    assert {*SIGNATURES, *OWN_KERNELS} == set(CHECKS)


def test_a_replayed_call_reaches_as_far_as_the_memory_of_its_indices() -> None:
    words = torch.tensor([1, 2, 3, 4, 8, 10], dtype=INT)
    captured = paged(kv_page_indices=words[:1])
    assert [each.subject for each in argument_faults(captured)] == ["kv_indptr"]
    replayed = OpCall(captured.name, as_addresses(captured.arguments))
    assert [each.subject for each in argument_faults(replayed)] == ["kv_page_indices"]
    words[5] = 9
    assert argument_faults(replayed) == ()


def listed(name: str = "triton_sparse_mla_fwd", **changed: object) -> OpCall:
    """Two rows, one of which attends to three KV rows and one to one."""
    parts = {"q_nope": torch.empty(2, 4, 512), "q_rope": torch.empty(2, 4, 64)}
    given: dict[str, object] = {
        **({"q": torch.empty(2, 4, 576)} if name == "tilelang_sparse_fwd" else parts),
        "kv": torch.empty(10, 1, 576),
        "indices": torch.tensor([[[1, 2, 9]], [[0, -1, -1]]], dtype=INT),
        "sm_scale": 1.0,
        **changed,
    }
    bound = OWN_KERNELS[name].bind(**given)
    bound.apply_defaults()
    return OpCall(name, dict(bound.arguments))


def packed(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "q": torch.empty(2, 4, 576),
        "kv_buffer": torch.empty(10, 1, 1, 576),
        "kv_indptr": torch.tensor([0, 3, 4], dtype=INT),
        "kv_indices": torch.tensor([1, 2, 9, 0], dtype=INT),
        "sm_scale": 1.0,
        "out": torch.empty(2, 4, 512),
        **changed,
    }
    return OpCall("sparse_mla_fwd", dict(SIGNATURES["sparse_mla_fwd"].bind(**given).arguments))


@pytest.mark.parametrize("name", ["triton_sparse_mla_fwd", "triton_sparse_mla_decode_splitk", "tilelang_sparse_fwd"])
def test_lists_that_fit_their_rows_and_what_comes_of_them(name: str) -> None:
    assert argument_faults(listed(name)) == ()
    with VirtualGpu(GpuFacts("gfx950", 256, "AMD Instinct MI355X")):
        assert result_of(listed(name)).shape == (1, 2, 4, 512)
    beyond = torch.tensor([[[1, 2, 10]], [[0, -1, -2]]], dtype=INT)
    messages = [fault.message for fault in argument_faults(listed(name, indices=beyond))]
    assert messages == ["indices names row 10 of kv, which has 10"]
    (one,) = argument_faults(listed(name, indices=beyond[:1, :, :2]))
    assert one.message == "indices has 1 list for 2 rows of q"


@pytest.mark.parametrize(
    ("changed", "subject", "is_write"),
    [
        ({"kv_indptr": torch.tensor([0, 3], dtype=INT)}, "kv_indptr", False),
        ({"kv_indptr": torch.tensor([0, 3, 5], dtype=INT)}, "kv_indptr", False),
        ({"kv_indices": torch.tensor([1, 2, 9, 10], dtype=INT)}, "kv_indices", False),
        ({"out": torch.empty(1, 4, 512)}, "o", True),
    ],
)
def test_lists_end_to_end(changed: dict[str, object], subject: str, is_write: bool) -> None:
    assert argument_faults(packed()) == ()
    assert {(fault.subject, fault.is_write) for fault in argument_faults(packed(**changed))} == {(subject, is_write)}
