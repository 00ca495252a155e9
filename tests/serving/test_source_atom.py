"""ATOM's MLA backend: a small tree of its shape everywhere, its own files where AITERFUZZ_ATOM_CHECKOUT names a repository."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_atom import BUILDER, LAYER, small_atom

from backend.case import DType
from backend.devices.kinds import open_device
from backend.errors import NoSuchStepError
from backend.findings import Party
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.python.outline import outline
from backend.serving.frameworks import ATOM, ATOM_LAYER
from fuzz.gate.executed import PACKAGE, Executed
from fuzz.gate.judge import Judge, Judged
from tests.tiers import one_of_each

RELEASE, TOPK = "2026-08", 2048
CHECKOUT = os.environ.get("AITERFUZZ_ATOM_CHECKOUT", "")
real = pytest.mark.skipif(not CHECKOUT, reason="AITERFUZZ_ATOM_CHECKOUT names no repository of ATOM")

PLAIN = BackendConfig(16, page_size=16, max_requests=8, graph_batches=(4,))
DRAFTING = dataclasses.replace(PLAIN, draft_tokens=4)


def life(name: str, config: BackendConfig, *steps: Step, lists: bool = False) -> Scenario:
    flags = (("index_topk", str(TOPK)),) if lists else ()
    return Scenario(name, (config,), steps, release=RELEASE, flags=flags)


DECODE = life(
    "decode",
    PLAIN,
    *(Step(StepKind.DECODE, lens) for lens in ((400, 17, 33), (400, 33, 17))),
    *(Step(StepKind.DECODE, lens, graph=True) for lens in ((400, 33, 17), (5, 7))),
)
VERIFY = life("verify", DRAFTING, Step(StepKind.TARGET_VERIFY, (400, 17, 33)), Step(StepKind.TARGET_VERIFY, (9,), graph=True))
PROMPTS = life(
    "prompts", PLAIN, Step(StepKind.PREFILL, (1, 300, 77)), Step(StepKind.PREFILL, (400, 9, 200), query_lens=(33, 9, 150))
)
LISTS = life(
    "lists", PLAIN, Step(StepKind.DECODE, (1, TOPK + 1)), Step(StepKind.DECODE, (TOPK, TOPK - 1), graph=True), lists=True
)
VERIFIED_LISTS = life(
    "verified lists",
    dataclasses.replace(PLAIN, draft_tokens=2),
    Step(StepKind.TARGET_VERIFY, (TOPK - 1, 9)),
    Step(StepKind.TARGET_VERIFY, (TOPK, 9, 17), graph=True),
    Step(StepKind.PREFILL, (TOPK + 30, 33, 1), query_lens=(10, 3, 1)),
    lists=True,
)

DRAFT = life("drafts", DRAFTING, Step(StepKind.MULTI_STEP_DRAFT, (400, 17, 33)), Step(StepKind.MULTI_STEP_DRAFT, (9, 700)))
DRAFT_LISTS = life("drafts of lists", DRAFTING, Step(StepKind.MULTI_STEP_DRAFT, (TOPK - 4, 17, TOPK + 90)), lists=True)
SHARED = life(
    "ranks",
    dataclasses.replace(PLAIN, context_parallel=2),
    Step(StepKind.PREFILL, (77, 300)),
    Step(StepKind.PREFILL, (400, 9), query_lens=(33, 9)),
)


def judged(session: SourceSession, scenario: Scenario) -> Judged:
    return Judge(open_device("model", None)).judged(scenario, session.run(scenario))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SourceSession]:
    with SourceSession(str(small_atom(tmp_path_factory.mktemp("tree"))), release=RELEASE) as opened:
        yield opened


def test_a_tree_of_atom_means_its_builder_and_either_file_is_named(tmp_path: Path) -> None:
    tree = small_atom(tmp_path)
    assert open_source(str(tree)).framework is ATOM
    for given in (tree / LAYER, f"{tree}:attention_mla.py"):
        assert open_source(str(given)).framework is ATOM_LAYER


def test_decode_verification_and_graphs_that_pad(small: SourceSession) -> None:
    for scenario in (DECODE, VERIFY):
        recording = small.run(scenario)
        assert (recording.refused, recording.failed, recording.unknown_calls) == (None, (), ())
        assert recording.executed
        assert all(step.decode.kv_indices[: step.slots.size].tolist() == step.slots.tolist() for step in recording.steps)
        last = recording.steps[-1]
        assert (last.phase, last.planning is not None, last.batch - last.padded) == (Phase.REPLAY, True, len(last.kv_lens))
        assert (last.padded, last.padded_kv_len, last.query_lens[0]) == (4 - len(last.kv_lens), 0, last.decode.max_seqlen_q)
        made = Judge(open_device("model", None)).judged(scenario, recording)
        assert (made.sightings, dict(made.not_run)) == ([], {})
    assert recording.steps[-1].kv_lens == (13,)  # the one draft that was rejected before is not among them


SMALL_SLIPS = {
    "sized for a request": ("model_runner.max_bs, self.rows", "1, self.rows", "buffer-too-small"),
    "padding keeps old ends": ("ends[len(lens) + 1 : bs + 1] = ends[len(lens)]", "pass", "bad-indptr/recorded/kv_indptr"),
    "rejected drafts forgotten": ("lens -= self.runner", "lens -= 0 * self.runner", "beyond-sequence"),
    "rows before": ("kept.astype(np.int32)", "np.roll(kept, 1).astype(np.int32)", "contradiction/kv_indices"),
    "nobody waits for the rows": ("        stream.wait_stream(beside)\n", "", "stream-race"),
    "index tensors on the host": (
        "self.vars[name].copy_to_gpu(count) for",
        "self.vars[name].copy_to_gpu(count).cpu() for",
        "contradiction/kv_indptr on the host",
    ),
    "planned for one row": ("max_seqlen_qo=self.rows, uni", "max_seqlen_qo=1, uni", "plan-mismatch/recorded/max_seqlen_q"),
}


@pytest.mark.parametrize("slip", one_of_each(SMALL_SLIPS))
def test_a_slip_in_the_builder_is_seen(small: SourceSession, slip: str) -> None:
    _seen(small, (DECODE, VERIFY), *SMALL_SLIPS[slip])


def test_heads_of_others_are_seen(tmp_path: Path) -> None:
    """Of 8 heads, which a kernel of 16 computes: what comes to the projection of values."""
    few = life("8 heads", dataclasses.replace(PLAIN, num_head=8), Step(StepKind.DECODE, (400, 17)))
    with SourceSession(f"{small_atom(tmp_path)}:attention_mla.py", release=RELEASE) as layer:
        assert judged(layer, few).sightings == []
        _seen(layer, (few,), "o[:, :: self.repeat]", "o[:, : self.heads]", "arguments/_forward_decode/o")


def _seen(session: SourceSession, scenarios: tuple[Scenario, ...], old: str, new: str, signature: str) -> None:
    """Once old is new, the signature is seen in one of the scenarios, and whatever else is seen is the file's doing too."""
    text = session.source.target.text
    assert text.count(old) == 1
    session.use(text.replace(old, new))
    try:
        seen = [each for scenario in scenarios for each in judged(session, scenario).sightings]
    finally:
        session.use(None)
    assert any(each.signature.startswith(signature) for each in seen), [each.signature for each in seen]
    for each in seen:
        callers = each.finding is None or each.finding.party is Party.CALLER
        assert callers or each.contradicts or each.did_not_run, each.message


def test_what_a_small_atom_refuses_is_its_refusal(small: SourceSession) -> None:
    (failed,) = small.run(PROMPTS).failed[:1]
    assert (failed.error, failed.says.is_refusal) == ("ValueError: no prompts in a small ATOM", True)


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (
            life("drafts", DRAFTING, Step(StepKind.DRAFT_EXTEND, (9,))),
            "no step of the kind draft_extend; allowed: decode",
        ),
        (
            life("graph", DRAFTING, Step(StepKind.MULTI_STEP_DRAFT, (9,), graph=True)),
            "no graph of a draft model's later passes",
        ),
        (life("idle", PLAIN, Step(StepKind.DECODE, (), graph=True)), "an idle rank of ATOM runs no attention"),
        (life("empty", PLAIN, Step(StepKind.DECODE, (0, 33))), "no request without tokens"),
        (life("rows", DRAFTING, Step(StepKind.DECODE, (9,))), "decodes all of its rows"),
        (dataclasses.replace(DECODE, flags=(("dsa_decode_backend", "aiter"),)), "flag index_topk=2048 alone"),
        (dataclasses.replace(DECODE, environment=(("SGLANG_AITER_MLA_PERSIST", "0"),)), "no variable of other frameworks"),
        (dataclasses.replace(LISTS, backends=(dataclasses.replace(PLAIN, context_parallel=2),)), "model with an indexer"),
        (dataclasses.replace(DECODE, backends=(dataclasses.replace(PLAIN, kv_heads=2),)), "no ordinary attention"),
    ],
)
def test_what_atom_has_no_part_in(small: SourceSession, scenario: Scenario, words: str) -> None:
    with pytest.raises(NoSuchStepError, match=words):
        small.run(scenario)


@pytest.fixture(scope="module")
def builder() -> Iterator[SourceSession]:
    with SourceSession(f"{CHECKOUT}:{BUILDER}", release=RELEASE) as opened:
        yield opened


@pytest.fixture(scope="module")
def layer() -> Iterator[SourceSession]:
    with SourceSession(f"{CHECKOUT}:{LAYER}", release=RELEASE) as opened:
        yield opened


SAME_ENDS = "stream-race/recorded/torch's copy_ and get_mla_metadata_v1"
"""sparse_cu_seqlens_q is copied on prep_stream, and planned with on the other before it waits; nothing in it changes."""


@real
@pytest.mark.parametrize("kv", [DType.FP8, DType.BF16])
def test_what_the_builder_does_with_16_heads_is_sound(builder: SourceSession, kv: DType) -> None:
    for scenario in (DECODE, VERIFY, PROMPTS, LISTS, VERIFIED_LISTS, DRAFT, DRAFT_LISTS, SHARED):
        scenario = dataclasses.replace(scenario, backends=(dataclasses.replace(scenario.backends[0], kv_dtype=kv),))
        recording = builder.run(scenario)
        assert (recording.refused, recording.failed, recording.unknown_calls) == (None, (), ())
        seen = {each.signature for each in Judge(open_device("model", None)).judged(scenario, recording).sightings}
        assert seen == ({SAME_ENDS} if scenario.name in (VERIFIED_LISTS.name, DRAFT_LISTS.name) else set())
        assert {step.q_dtype_name for step in recording.steps} == {step.kv_dtype_name for step in recording.steps}


@real
def test_at_least_half_of_the_builder_runs(builder: SourceSession) -> None:
    ranks = dataclasses.replace(PLAIN, context_parallel=2)
    shared = life("ranks", ranks, Step(StepKind.DECODE, (17, 400)), Step(StepKind.PREFILL, (400, 9), query_lens=(33, 9)))
    verified = life("ranks", dataclasses.replace(ranks, draft_tokens=4), Step(StepKind.TARGET_VERIFY, (9, 33), graph=True))
    lines: set[int] = set()
    for scenario in (DECODE, PROMPTS, LISTS, VERIFIED_LISTS, shared, verified):
        recording = builder.run(scenario)
        assert (recording.refused, recording.failed, recording.unknown_calls) == (None, (), ())
        lines |= set(recording.executed)
    target = builder.source.target
    assert Executed(target.filename, target.text, outline(target, PACKAGE), frozenset(lines)).percent >= 50


@real
def test_each_pass_of_the_draft_model_has_one_token_more_and_what_was_rejected_less(builder: SourceSession) -> None:
    """The plan of the verification is brought up to date by AITER; of 32 heads, which that does not take, it is made anew."""
    passes = [step for step in builder.run(DRAFT).steps if step.step == 0]
    assert [step.kv_lens for step in passes] == [(404, 21, 37), (405, 21, 38), (406, 22, 39)]
    assert [step.query_lens for step in passes] == [(4, 4, 4), (1, 1, 1), (1, 1, 1)]
    assert [step.metadata_words is None for step in passes] == [True, False, False]
    many = dataclasses.replace(DRAFT, backends=(dataclasses.replace(DRAFTING, num_head=32),))
    assert all(step.metadata_words is None for step in builder.run(many).steps)
    lists = builder.run(DRAFT_LISTS).steps
    assert [step.kv_lens[-1] for step in lists] == [TOPK] * 3


@real
def test_draft_passes_of_a_single_gpu_keep_a_plan_of_all_rows(builder: SourceSession) -> None:
    """128 heads are planned row by row, which the update leaves as they are: rows that the passes do not have."""
    wide = dataclasses.replace(DRAFT, backends=(dataclasses.replace(DRAFTING, num_head=128),))
    assert {each.signature for each in judged(builder, wide).sightings} == {
        "beyond-sequence/metadata, not as planned/work_info_set"
    }


@real
def test_an_update_is_what_aiters_own_kernel_leaves(builder: SourceSession, aiter_checkout: Path) -> None:
    with SourceSession(f"{CHECKOUT}:{BUILDER}", aiter=f"{aiter_checkout}@e4048607a5") as own:
        for heads in (16, 128):
            once = dataclasses.replace(DRAFT, steps=DRAFT.steps[:1], backends=(dataclasses.replace(DRAFTING, num_head=heads),))
            ours, theirs = (each.run(once).steps for each in (builder, own))
            assert len(ours) == len(theirs) == 3
            for one, other in zip(ours[1:], theirs[1:], strict=True):
                assert one.metadata_words is not None
                assert other.metadata_words is not None
                used = 8 * int(one.metadata_words["work_indptr"][-1])
                for role, words in one.metadata_words.items():
                    assert words[:used].tolist() == other.metadata_words[role][:used].tolist(), role


@real
def test_padding_of_no_tokens_is_planned_backwards_where_heads_are_folded_by_rows(builder: SourceSession) -> None:
    """Entry O20, which ATOM's graphs of verification meet in capture and in every replay that pads."""
    wide = dataclasses.replace(VERIFY, backends=(dataclasses.replace(DRAFTING, num_head=128),))
    seen = {(each.phase, each.signature) for each in judged(builder, wide).sightings}
    backward = "backward-item/planner v1_2/work_info_set/KV positions"
    assert seen == {(Phase.CAPTURE, backward), (Phase.REPLAY, backward)}


BUILDERS_SLIPS = {
    "stale plan": (
        "        if only_update:\n            decode_update",
        '        if getattr(self, "_for", None) == (bs, max_q_len):\n            pass\n'
        '        elif setattr(self, "_for", (bs, max_q_len)) or only_update:\n            decode_update',
        "plan-mismatch/recorded/kv_indptr",
    ),
    "padding keeps old ends": (
        '        var["kv_indptr"].np[scheduled_bs + 1 : bs + 1] = sum_blocks\n',
        "",
        "bad-indptr/recorded/kv_indptr/not monotonic",
    ),
    "sized for a request": (
        "get_mla_metadata_info_v1(\n            self.max_bs,\n            max_seqlen_qo,",
        "get_mla_metadata_info_v1(\n            1,\n            max_seqlen_qo,",
        "buffer-too-small/recorded/sized for another batch, num_kv_splits",
    ),
    "rejected drafts forgotten": (
        "context_lens -= num_rejected",
        "context_lens -= 0 * num_rejected",
        "beyond-sequence/planner",
    ),
    "tables of the batch before": (
        '        self.prepare_block_tables(batch)\n        var["kv_indptr"]',
        '        var["kv_indptr"]',
        "contradiction/kv_indices",
    ),
    "more than a chunk": (
        "seq_hi = np.minimum(seq_offsets[1 : bs + 1], g_end)",
        "seq_hi = seq_offsets[1 : bs + 1]",
        "arguments/gather_kv_b_proj/kv_indptr",
    ),
    "rejected rows kept in the update": (
        "num_reject_tokens=num_reject_tokens,\n            )\n        else:\n            get_mla",
        "num_reject_tokens=None,\n            )\n        else:\n            get_mla",
        "beyond-sequence/metadata, not as planned",
    ),
    "all tokens planned for lists": (
        "use_sparse_meta = self.is_sparse and (max_q_len == 1 or sparse_decode)",
        "use_sparse_meta = False",
        "plan-mismatch/recorded/kv_indptr",
    ),
}


@real
@pytest.mark.parametrize("slip", one_of_each(BUILDERS_SLIPS))
def test_a_slip_in_atoms_builder_is_blamed_on_it(builder: SourceSession, slip: str) -> None:
    _seen(builder, (DECODE, VERIFY, PROMPTS, LISTS, DRAFT), *BUILDERS_SLIPS[slip])


LAYERS_SLIPS = {
    "no scales": (
        "q_scale=self._q_scale,\n                kv_scale=self._k_scale,\n                return_lse",
        "q_scale=None,\n                kv_scale=None,\n                return_lse",
        "aiter-refuses/mla_decode_stage1_asm_fwd",
    ),
    "another buffer": (
        "work_indptr = attn_metadata.work_indptr",
        "work_indptr = attn_metadata.reduce_indptr",
        "contradiction/work_indptr",
    ),
    "heads not repeated": ("return q.repeat_interleave(self.head_repeat_factor, dim=1)", "return q", "aiter-refuses/no-kernel"),
}


@real
@pytest.mark.parametrize("slip", one_of_each(LAYERS_SLIPS))
def test_a_slip_in_atoms_layer_is_blamed_on_it(layer: SourceSession, slip: str) -> None:
    few = dataclasses.replace(DECODE, backends=(dataclasses.replace(PLAIN, num_head=8),))
    assert not judged(layer, few).sightings
    _seen(layer, (few,), *LAYERS_SLIPS[slip])
