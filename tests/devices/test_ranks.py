"""Ranks of a context-parallel group: what each holds and sees, AITER's kernels for them, and their results merged."""

from __future__ import annotations

import ast
import dataclasses
import random
from pathlib import Path as FilePath

import numpy as np
import pytest

from backend.aiter.codefiles import open_source
from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.checks.check import check_call
from backend.devices.cdna.device import CdnaDevice, machine_of
from backend.devices.model.device import ModelDevice
from backend.devices.two_devices import differences
from backend.errors import UsageError
from backend.fate import Fate
from backend.findings import FindingKind, Party
from backend.host import BuiltIn
from backend.path import Path
from fuzz.campaign.mutate import Mutator
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases
from reprod.script import script_text
from reprod.shrink import measure, steps

REVISION = "e4048607a5"
BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}
RANK = Case(16, (40, 123, 700), 4, release="2026-08", backend="direct", cp_world_size=2, return_lse=True)
SHAPES: tuple[dict[str, object], ...] = (
    {},
    {"num_head": 64, "max_seqlen_q": 1, **BF16},
    {"num_head": 128},
    {"num_head": 128, **BF16},
    {"num_head": 128, "causal": False},
    {"num_head": 48, "max_seqlen_q": 2, **BF16},
)


def called(case: Case, host: BuiltIn | None = None) -> Call:
    made = Path(host).call(case)
    assert isinstance(made, Call)
    return made


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_the_ranks_hold_every_token_once_and_a_row_sees_what_is_before_it(world: int) -> None:
    """By enumeration of the tokens: token p is rank p % world's, and row r of n of a request of m sees p < m - n + r + 1."""
    lens, rows = (3, 8, 41), 3
    for rank in range(world):
        decision = called(RANK.replace(kv_lens=lens, max_seqlen_q=rows, cp_world_size=world, cp_rank=rank)).decision
        held = [[p for p in range(length) if p % world == rank] for length in lens]
        assert decision.kv_lens == tuple(map(len, held))
        sees = [
            sum(p < length - rows + r + 1 for p in mine) for mine, length in zip(held, lens, strict=True) for r in range(rows)
        ]
        assert decision.visible().tolist() == sees
        assert decision.decode.g_kv_indptr is not None
        assert decision.decode.g_kv_indptr.tolist() == [0, *np.cumsum(lens).tolist()]
        assert decision.decode.kv_indptr.tolist() == [0, *np.cumsum([len(mine) for mine in held]).tolist()]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
@pytest.mark.parametrize(("world", "rank"), [(1, 0), (2, 0), (2, 1), (8, 7)])
def test_the_kernels_for_ranks_are_launched_and_clean(changes: dict[str, object], world: int, rank: int) -> None:
    outcome = Path().run(RANK.replace(**changes, cp_world_size=world, cp_rank=rank))
    assert outcome.call is not None
    launch = outcome.call.launched
    assert "_cprr_" in launch.code_object
    assert {"s_cp_world_size": world, "s_cp_rank": rank, "ptr_GKVTP": "g_kv_indptr"}.items() <= {
        kernarg.name: kernarg.value for kernarg in launch.kernargs
    }.items()
    assert (outcome.fate, outcome.findings) == (Fate.CLEAN, ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"release": "2026-06"}, "no argument is_cp_round_robin"),
        ({"max_seqlen_q": 1}, "qSeqLen=1 causal=1 lse=1 cprr=1"),  # fp8 with 16 heads: no kernel
        ({"mode": MetadataMode.NON_PERSISTENT}, "ps=0"),
        ({"page_size": 16}, "cp_world_size: "),
        ({"topk": 64}, "cp_world_size: "),
        ({"backend": "vllm", "return_lse": False}, "cp_world_size: "),
        ({"backend": "sglang-27188", "return_lse": False}, "cp_world_size: "),
    ],
    ids=str,
)
def test_what_has_no_ranks_is_refused(changes: dict[str, object], reason: str) -> None:
    outcome = Path().run(RANK.replace(**changes))
    assert outcome.fate is Fate.REFUSED
    assert reason in str(outcome.refused)


def test_a_plan_that_was_not_told_of_the_ranks_is_the_callers() -> None:
    """Plan and decode call are compared, whoever of the two forgot it."""
    made, plain = called(RANK), called(RANK.replace(cp_world_size=0))
    for call, told in ((made, False), (plain, True)):
        assert call.decision.planning is not None
        planning = dataclasses.replace(call.decision.planning, is_cp_round_robin=told)
        call = BuiltIn().call(dataclasses.replace(call.decision, planning=planning))
        (finding,) = [found for found in check_call(call) if found.kind is FindingKind.PLAN_MISMATCH]
        assert (finding.party, finding.discriminator) == (Party.CALLER, "is_cp_round_robin")
    assert check_call(made) == check_call(plain) == ()


def test_a_rank_without_tokens_returns_rows_that_nobody_wrote() -> None:
    """A rank that holds one token, hidden from most rows, is no such; nor is a request that has none at all."""
    outcome = Path().run(RANK.replace(kv_lens=(5, 40), cp_world_size=8, cp_rank=7))
    (finding,) = outcome.findings
    assert (finding.kind, finding.party, finding.tensor) == (FindingKind.ROW_NOT_WRITTEN, Party.LAUNCHER, "final_lse")
    assert finding.evidence["rows"] == 4
    for kept in ({"cp_rank": 4}, {"return_lse": False}, {"kv_lens": (0, 40)}):
        assert Path().run(RANK.replace(**{"kv_lens": (5, 40), "cp_world_size": 8, "cp_rank": 7, **kept})).findings == ()


def test_they_are_drawn_mutated_and_made_smaller() -> None:
    wanted = Spec(backend="direct", releases=("2026-08",), cp_world_size=(0, 2, 8), cp_rank=(0, 1, 7))
    cases = chunk_cases(space(wanted), 1, 0, 120)
    assert {(case.cp_world_size, case.cp_rank) for case in cases} == {(0, 0), (2, 0), (2, 1), (8, 0), (8, 1), (8, 7)}
    mutator, chance = Mutator(space(wanted)), random.Random(3)
    for case in cases:
        mutated = mutator.mutate(case, lambda: cases[0], chance)
        assert mutated.cp_rank < max(mutated.cp_world_size, 1)
    tried = {(case.cp_world_size, case.cp_rank) for case in steps(RANK.replace(cp_world_size=8, cp_rank=5))}
    assert {(0, 0), (8, 0)} <= tried
    assert measure(RANK.replace(cp_world_size=0)) < measure(RANK)
    with pytest.raises(UsageError, match=r"cp_rank.*0\.\.1, with cp_world_size 2"):
        RANK.replace(cp_rank=2)


def test_the_script_hands_them_over() -> None:
    text = script_text(Path().run(RANK.replace(kv_lens=(5, 40), cp_world_size=8, cp_rank=7)), None)
    ast.parse(text)
    for said in (
        "TOKENS_OF_ALL_RANKS = [5, 40]",
        "KV_LENS = [0, 5]",
        "CP_RANK = 7",
        "is_cp_round_robin=True",
        "cp_rank=CP_RANK",
    ):
        assert said in text
    plain = script_text(Path().run(RANK.replace(cp_world_size=0, num_head=32, max_seqlen_q=1, kv_lens=(10,))), None)
    assert "round_robin" not in plain
    assert "cp_" not in plain.lower().replace("tcp_", "")


@pytest.mark.checkout
@pytest.mark.parametrize("changes", SHAPES, ids=str)
@pytest.mark.parametrize("world", [2, 8])
def test_the_merged_ranks_are_attention_over_all_tokens(
    changes: dict[str, object], world: int, aiter_checkout: FilePath
) -> None:
    """On the machine code. Each rank's result and log-sum-exp within the budget, and so the merge of all; the model sees the
    same accesses. Token j of rank r is token j * world + r: each rank's pool holds values of its own."""
    torch = pytest.importorskip("torch")
    from backend.devices.cdna.merged_output import outputs
    from backend.devices.gpu import cdna_numbers
    from backend.devices.gpu.numbers import BF16_P, FP8_P, NumbersTally
    from backend.devices.gpu.values import as_float64

    source = open_source(f"{aiter_checkout}@{REVISION}")
    device, addresses, host = CdnaDevice(source, numbers=True), CdnaDevice(source, record=True), BuiltIn(source)
    case = RANK.replace(**changes, kv_lens=(40, 123), cp_world_size=world)
    parts, lses, pools = [], [], []
    for rank in range(world):
        call = called(case.replace(cp_rank=rank), host)
        drawn_here, of_rank = cdna_numbers.draw(call, 0), cdna_numbers.draw(call, rank + 1)
        inputs = cdna_numbers.Inputs(drawn_here.q, of_rank.pool)
        launch = call.launched
        machine = machine_of(source, launch.arch, launch.code_object, launch.symbol)
        ran = device._launched(call, machine, inputs)
        alone = cdna_numbers.judge(call, ran.space, inputs)
        assert (alone.not_a_number, alone.unwritten, alone.outside) == (0, 0, 0)
        assert alone.lse_error is not None
        left = outputs(call, ran.space)
        assert left.lse is not None
        parts.append(torch.from_numpy(left.values))
        lses.append(torch.from_numpy(left.lse).double())
        pools.append(as_float64(of_rank.pool, case.kv_dtype, fnuz=False))
        seen = ModelDevice(record=True).observe(call)
        assert differences(addresses.observe(call), seen) == []
    weights = torch.stack(lses)
    merged_lse = torch.logsumexp(weights, 0)
    merged = (torch.exp(weights - merged_lse)[..., None] * torch.stack(parts)).sum(0)
    q = as_float64(drawn_here.q, case.q_dtype, fnuz=False)
    tally = NumbersTally(FP8_P if case.q_dtype is DType.FP8 else BF16_P)
    starts, rows = [0] * world, case.max_seqlen_q
    for number, length in enumerate(case.kv_lens):
        whole = torch.empty((length, 576), dtype=torch.float64)
        for rank in range(world):
            count = len(range(rank, length, world))
            whole[rank::world] = pools[rank][starts[rank] : starts[rank] + count]
            starts[rank] += count
        here = slice(number * rows, (number + 1) * rows)
        visible = None if case.causal else np.full(rows, length)
        none = torch.zeros(merged[here].shape[:2], dtype=torch.bool)
        tally.add(q[here], whole, merged[here], none, merged_lse[here], number * rows, visible)
    found = tally.result()
    assert found["compared"] == 2 * rows * case.num_head
    assert (found["not_a_number"], found["outside"]) == (0, 0)
    assert found["worst"] < 1.0
