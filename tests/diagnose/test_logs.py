"""Logs of the forms that people post (tests/data/logs, written after public threads): kernel, cause and what cannot be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from reprod.corpus import load_corpus, shipped_corpus
from reprod.diagnose.diagnosis import diagnose
from reprod.diagnose.page import page

LOGS = Path(__file__).parents[1] / "data" / "logs"

CORPUS = load_corpus(shipped_corpus())


@dataclass(frozen=True)
class Told:
    """What a log must come to. kernel: named by it. known, cause: of the first cause, in its entry's id or its finding's kind.

    cannot: a part of the reason where nothing can be told. refused: a part of a refusal's words.
    """

    log: str
    kernel: str = ""
    cause: str = ""
    known: str = ""
    cannot: str = ""
    refused: str = ""
    case: tuple[tuple[str, object], ...] = ()


QH64 = "mla_a8w8_qh64_qseqlen1_gqaratio64_v3_ps"
QH16 = "mla_a8w8_qh16_qseqlen1_gqaratio16_ps"
M32 = "MLA_A16W16_1TG_4W_32mx1_16nx1_Coex0_Msk1_QH16"

TOLD = (
    Told("founding.log", QH64, "head-width", "F1", case=(("num_head", 64), ("backend", "sglang-before-27188"))),
    Told("capture_bucket.log", QH16, "buffer-too-small", "F3", case=(("backend", "vllm-before-41016"),)),
    Told("null_pointer_gfx942.log", M32, "null-pointer", "O8", case=(("arch", "gfx942"), ("num_head", 32))),
    Told("far_pages.log", QH16, "foreign-page", "F6"),
    Told("rope_free.log", QH16, "out-of-bounds-read", case=(("qk_rope_head_dim", 0), ("num_head", 16))),
    Told("qh64_gfx942.log", QH64, "head-width", "O5", case=(("arch", "gfx942"), ("mode", "fake"))),
    Told("garbage_tail.log", "mla_a16w8_qh16_m16x4_n16x1_coex0_mask1_ps", "not-covered", "O3", case=(("kv_dtype", "fp8"),)),
    Told("debug_agent.log", QH64, "head-width", "F1"),
    Told("rocgdb.log", QH64, "head-width", "F1"),
    Told("queue_dump.log", QH64, "head-width", "O5", case=(("backend", "direct"),)),
    Told("amd_log.log", QH64, "head-width", "O5", case=(("arch", "gfx942"),)),
    Told("drafts_32_heads.log", "mla_a8w8_qh32_qseqlen4_gqaratio32_ps", "head-width", "F2", case=(("max_seqlen_q", 4),)),
    Told("log_sum_exp.log", "mla_a8w8_qh32_qseqlen1_gqaratio32_lse_ps", "row-not-written", "O4"),
    Told("no_scale_null.log", "mla_a16w8_qh16_m16x4_n16x1_coex0_mask1_ps", "null-pointer", case=(("kv_scale", False),)),
    Told("padding_drafts.log", "mla_a8w8_qh128_m32x4_n16x2_msk0_ps", "short-sequence", "F10", case=(("num_head", 128),)),
    Told("scheduler_dump.log", QH16, "buffer-too-small", "F3"),
    Told("docker_ansi.log", QH64, "head-width", "F1", case=(("num_head", 64), ("backend", "sglang-before-27188"))),
    Told("interleaved.log", QH64, "head-width", "F1", case=(("num_head", 64), ("backend", "sglang-before-27188"))),
    Told("docker_json.log", QH64, "head-width", "F1", case=(("num_head", 64), ("backend", "sglang-before-27188"))),
    Told("journald_json.log", QH16, "buffer-too-small", "F3", case=(("backend", "vllm-before-41016"),)),
    Told("kubectl_cut.log", QH64, "head-width", "F1", case=(("num_head", 64),)),
    Told("merged_lines.log", QH64, "head-width", "F1", case=(("num_head", 64),)),
    Told("no_kernel_named.log", "", "head-width", "F1", case=(("num_head", 64),)),
    Told("syslog_demangled.log", "mla_a8w8_qh32_qseqlen4_gqaratio32_ps", "head-width", "F2", case=(("max_seqlen_q", 4),)),
    Told("v1_engine_dead.log", QH16, "out-of-bounds-read", case=(("qk_rope_head_dim", 0), ("num_head", 16))),
    Told("wave_dump.log", QH64, "head-width", "F1"),
    Told("core_dump.log", QH16, "buffer-too-small", "F3"),
    Told("vllm_args.log", QH16, "buffer-too-small", "F3", case=(("backend", "vllm-before-41016"),)),
    Told("batch_dump.log", "mla_a16w8_qh16_m16x4_n16x1_coex0_mask1_ps", "not-covered", "O3", case=(("arch", "gfx942"),)),
    Told("module_load.log", QH16, cannot="did not load a code object"),
    Told("dmesg_vm_l2.log", cannot="names no kernel, no model and no shape"),
    Told("dmesg_only.log", cannot="names no kernel, no model and no shape"),
    Told("traceback.log", QH16, cannot="ended by an exception"),
    Told("refused_scales.log", refused="fp8 Q requires q_scale and kv_scale"),
    Told("no_kernel.log", refused="qType=bf16 kvType=fp8 Gqa=16 ps=1 qSeqLen=5"),
    Told("out_of_memory.log", cannot="memory ran out"),
    Told("hang.log", cannot="did not come back"),
    Told("collective.log", cannot="a collective failed"),
    Told("other_family.log", cannot="FmhaBatchPrefillWithPagedKVCache"),
    Told("moe_fault.log", cannot="fmoe_bf16_blockscaleFp8_g1u1_vs_silu_32x384 (fused MoE)"),
    Told("no_clue.log", cannot="names no kernel, no model and no shape"),
)


def test_every_log_is_told_of() -> None:
    told = {each.log for each in TOLD} | {"null_pointer_32_heads.log"}
    assert told == {file.name for file in LOGS.iterdir()}


@pytest.mark.parametrize("told", TOLD, ids=lambda told: told.log.removesuffix(".log"))
def test_a_log_comes_to_its_cause(told: Told) -> None:
    done = diagnose([LOGS / told.log], None, CORPUS, seconds=60.0, script=False)
    assert (done.kernel.name if done.kernel is not None else "") == told.kernel
    assert told.cannot in done.cannot_tell
    assert bool(told.cannot) == bool(done.cannot_tell)
    assert (done.refusal[0] if done.refusal is not None else "").find(told.refused) >= 0
    assert bool(told.refused) == (done.refusal is not None)
    assert done.shown == bool(told.cause)
    if told.cause:
        first = done.causes[0]
        assert first.finding is not None
        assert first.finding.kind.value == told.cause
        assert told.known == "" or told.known in first.entries
        assert done.outcome is not None
        for name, value in told.case:
            assert getattr(done.outcome.case, name) == value
        assert all(length >= rows for length, rows in zip(done.outcome.case.kv_lens, done.outcome.case.rows(), strict=True))
    text = "\n".join(page(done))
    assert ("cannot tell, because" in text) == bool(told.cannot)
    assert ("cause: refused" in text) == bool(told.refused)
    numbered = re.findall(r"^  \d\. (.*)$", text, re.MULTILINE)
    assert len(set(numbered)) == len(numbered), "causes that read alike say what differs"


def test_a_known_fault_of_machine_code_is_told_and_not_shown_without_a_checkout() -> None:
    """The kernel is in no built-in table, and the entry's code objects are in none: said, and not called shown."""
    done = diagnose([LOGS / "null_pointer_32_heads.log"], None, CORPUS, seconds=60.0, script=False)
    assert done.kernel is not None
    assert done.kernel.name == M32
    assert not done.shown
    assert [list(cause.entries) for cause in done.causes][:1] == [["F4"]]
    assert "no checkout" in done.causes[0].missing
