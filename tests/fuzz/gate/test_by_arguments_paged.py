"""Paged attention by a table, and calls that write the KV cache: arguments of calls whose kernels are not run."""

from __future__ import annotations

import pytest
import torch

from backend.real.aiter_ops import OpCall
from backend.real.frameworks.by_arguments import OWN_KERNELS, SIGNATURES, argument_faults

INT = torch.int32
PAGES, PAGE, HEADS, KEYS, WIDTH = 6, 16, 8, 2, 128


def made(name: str, given: dict[str, object], changed: dict[str, object]) -> OpCall:
    bound = {**SIGNATURES, **OWN_KERNELS}[name].bind(**{**given, **changed})
    bound.apply_defaults()
    return OpCall(name, dict(bound.arguments))


def bf16(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


def by_table(**changed: object) -> OpCall:
    """Two requests, of 17 and 16 tokens; the kernel reads the entry behind the view of cu_query_lens."""
    given: dict[str, object] = {
        "out": bf16(2, HEADS, WIDTH),
        "workspace_buffer": torch.empty(2 * HEADS * (WIDTH * 2 + 8), dtype=torch.uint8),
        "query": bf16(2, HEADS, WIDTH),
        "key_cache": bf16(PAGES, PAGE, KEYS, WIDTH),
        "value_cache": bf16(PAGES, PAGE, KEYS, WIDTH),
        "scale": 1.0,
        "block_tables": torch.tensor([[1, 2], [5, 0]], dtype=INT),
        "cu_query_lens": torch.tensor([0, 1, 2], dtype=INT)[:2],
        "context_lens": torch.tensor([17, 16], dtype=INT),
        "max_context_len": 17,
        "alibi_slopes": None,
        "kv_cache_dtype": "auto",
        "kv_cache_layout": "NHD",
        "logits_soft_cap": 0.0,
        "k_scale": torch.ones(1),
        "v_scale": torch.ones(1),
    }
    return made("paged_attention_v1", given, changed)


def shuffled(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "Q": bf16(2, HEADS, WIDTH),
        "K": bf16(PAGES, KEYS, WIDTH // 8, PAGE, 8),
        "V": bf16(PAGES, KEYS, PAGE // 8, WIDTH, 8),
        "exp_sums": torch.empty(2, HEADS, 1),
        "max_logits": torch.empty(2, HEADS, 1),
        "tmp_out": bf16(2, HEADS, 1, WIDTH),
        "block_tables": torch.tensor([[1, 2], [5, 0]], dtype=INT),
        "context_lens": torch.tensor([17, 16], dtype=INT),
        "block_tables_stride0": 2,
        "scale": 1.0,
        "max_seq_len": 17,
        "out_": bf16(2, HEADS, WIDTH),
    }
    return made("paged_attention_common", given, changed)


def kept(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "key": bf16(3, KEYS, WIDTH),
        "value": bf16(3, KEYS, WIDTH),
        "key_cache": bf16(PAGES, PAGE, KEYS, WIDTH),
        "value_cache": bf16(PAGES, PAGE, KEYS, WIDTH),
        "slot_mapping": torch.tensor([95, -1, 0]),
        "kv_cache_dtype": "auto",
        "k_scale": torch.ones(1),
        "v_scale": torch.ones(1),
    }
    return made("reshape_and_cache_flash", given, changed)


def rotated(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "q": bf16(3, HEADS, WIDTH),
        "k": bf16(3, KEYS, WIDTH),
        "v": bf16(3, KEYS, WIDTH),
        "key_cache": bf16(PAGES, PAGE, KEYS, WIDTH),
        "value_cache": bf16(PAGES, PAGE, KEYS, WIDTH),
        "slot_mapping": torch.tensor([95, -1, 0]),
        "pos": torch.tensor([0, 39, 7]),
        "cos": bf16(40, WIDTH // 2),
        "sin": bf16(40, WIDTH // 2),
        "k_scale": torch.ones(1),
        "v_scale": torch.ones(1),
        "is_neox": True,
        "flash_layout": True,
    }
    return made("fused_qk_rope_reshape_and_cache", given, changed)


def normed(**changed: object) -> OpCall:
    given: dict[str, object] = {
        "qkv": bf16(3, HEADS + 2 * KEYS, WIDTH),
        "qw": bf16(WIDTH),
        "kw": bf16(WIDTH),
        "cos_sin": bf16(40, WIDTH),
        "positions": torch.tensor([0, 39, 7]),
        "num_tokens": 3,
        "num_heads_q": HEADS,
        "num_heads_k": KEYS,
        "num_heads_v": KEYS,
        "head_size": WIDTH,
        "is_neox_style": True,
        "eps": 1e-6,
        "q_out": bf16(3, HEADS, WIDTH),
        "k_cache": bf16(PAGES, PAGE, KEYS, WIDTH),
        "v_cache": bf16(PAGES, PAGE, KEYS, WIDTH),
        "slot_mapping": torch.tensor([95, -1, 0]),
        "per_tensor_k_scale": torch.ones(1),
        "per_tensor_v_scale": torch.ones(1),
        "k_out": bf16(3, KEYS, WIDTH),
        "v_out": None,
        "return_kv": True,
        "use_shuffle_layout": False,
        "block_size": PAGE,
        "x": 8,
    }
    return made("fused_qk_norm_rope_cache_pts_quant_shuffle", given, changed)


@pytest.mark.parametrize("call", [by_table(), by_table(cu_query_lens=None), shuffled(), kept(), rotated(), normed()])
def test_calls_that_fit_are_silent(call: OpCall) -> None:
    assert argument_faults(call) == ()


TABLE, SLOTS = torch.tensor([[1, 2], [5, 6]], dtype=INT), torch.tensor([96, -1, 0])


@pytest.mark.parametrize(
    ("call", "subject", "is_write"),
    [
        (by_table(context_lens=torch.tensor([17], dtype=INT)), "context_lens", False),
        (by_table(max_context_len=16), "max_context_len", False),
        (by_table(block_tables=TABLE, context_lens=torch.tensor([17, 17], dtype=INT)), "block_tables", False),
        (by_table(context_lens=torch.tensor([33, 16], dtype=INT), max_context_len=33), "block_tables", False),
        (by_table(cu_query_lens=torch.tensor([0, 1], dtype=INT)), "cu_query_lens", False),
        (by_table(cu_query_lens=torch.tensor([0, 1, 3], dtype=INT)[:2]), "cu_query_lens", False),
        (by_table(out=bf16(1, HEADS, WIDTH)), "out", True),
        (by_table(workspace_buffer=torch.empty(2 * HEADS * (WIDTH * 2 + 8) - 1, dtype=torch.uint8)), "workspace_buffer", True),
        (shuffled(block_tables=TABLE[:1]), "block_tables", False),
        (shuffled(block_tables_stride0=1), "block_tables_stride0", False),
        (shuffled(tmp_out=bf16(1, HEADS, 1, WIDTH)), "tmp_out", True),
        (shuffled(max_seq_len=16), "max_context_len", False),
        (shuffled(K_QScale_asm=torch.ones(PAGES, KEYS, PAGE - 1)), "K_QScale_asm", False),
        (shuffled(out_=bf16(1, HEADS, WIDTH)), "out_", True),
        (kept(slot_mapping=SLOTS), "slot_mapping", True),
        (kept(slot_mapping=torch.tensor([-2])), "slot_mapping", True),
        (kept(key=bf16(2, KEYS, WIDTH)), "slot_mapping", False),
        (kept(value_cache=bf16(PAGES - 1, PAGE, KEYS, WIDTH)), "value_cache", True),
        (rotated(pos=torch.tensor([0, 40, 7])), "pos", False),
        (rotated(slot_mapping=SLOTS), "slot_mapping", True),
        (normed(slot_mapping=SLOTS), "slot_mapping", True),
        (normed(num_tokens=4), "qkv", False),
        (normed(positions=torch.tensor([0, 40, 7])), "positions", False),
        (normed(k_out=bf16(2, KEYS, WIDTH)), "k_out", True),
    ],
)
def test_an_argument_that_does_not_fit_is_named(call: OpCall, subject: str, is_write: bool) -> None:
    faults = argument_faults(call)
    assert (subject, is_write) in {(fault.subject, fault.is_write) for fault in faults}, faults
