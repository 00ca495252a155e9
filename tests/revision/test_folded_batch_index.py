"""The folded batch index that aiter#3310 took out of sparse plans: who reads it, and who does not.

With 32 heads in fp8 v1_2 of v0.1.14 plans two rows of 16 for each request, and hands out the row's number as a work item's
batch index. The kernel for 16 heads and pages of one token does not load that word; the planner itself reads
kv_last_page_lens by it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from backend.aiter.arguments import BufferSizes, PlanArguments, TargetGpu
from backend.aiter.codefiles import open_source
from backend.aiter.kernargs import kernarg_reads
from backend.aiter.planners import Plan
from backend.call import Call
from backend.case import Arch, Case, DType
from backend.devices.cdna.device import CdnaDevice
from backend.host import Host
from backend.path import Path as CasePath
from backend.revision.revision import host_of

BEFORE, AFTER = "v0.1.14", "979024c692d7a63fd5520295d890a2b153211302"
SPARSE = Case(32, (256, 256, 40, 256), topk=256, backend="direct", release="2026-06")
BATCH, REST = 0, slice(1, 7)
POISON = 0x5A5A5A5A

pytestmark = pytest.mark.checkout


def called(host: Host) -> Call:
    made = CasePath(host).launched(SPARSE)
    assert isinstance(made, Call)
    return made


@pytest.fixture(scope="module")
def hosts(aiter_checkout: Path) -> dict[str, Host]:
    return {revision: host_of(open_source(f"{aiter_checkout}@{revision}")) for revision in (BEFORE, AFTER)}


def test_it_is_all_that_differs_in_a_plan_of_pages_of_one_token(hosts: dict[str, Host]) -> None:
    plans = {revision: called(host).plan for revision, host in hosts.items()}
    before, after = plans[BEFORE], plans[AFTER]
    assert before is not None
    assert after is not None
    assert sorted(set(before.work_items[:, BATCH])) == list(range(8))  # two rows a request
    assert sorted(set(after.work_items[:, BATCH])) == list(range(4))
    assert np.array_equal(before.work_items[:, REST], after.work_items[:, REST])
    for name, buffer in before.buffers.items():
        if name != "work_info_set":
            assert np.array_equal(buffer.image, after.buffers[name].image), name


def test_the_kernel_never_loads_it(hosts: dict[str, Host], aiter_checkout: Path) -> None:
    """Whatever stands there, the machine code touches the same bytes and its numbers are within the budget."""
    made = called(hosts[BEFORE])
    assert made.plan is not None
    assert made.launched.code_object == "mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"
    assert "batch" not in kernarg_reads(made.launched.blob_id or "").work_item
    device = CdnaDevice(open_source(f"{aiter_checkout}@{BEFORE}"), record=True, numbers=True)
    planned = made.plan.buffers["work_info_set"]
    image = planned.image.copy()
    image[::8] = POISON
    buffers = {**made.plan.buffers, "work_info_set": dataclasses.replace(planned, image=image)}
    poisoned = dataclasses.replace(made, plan=dataclasses.replace(made.plan, buffers=buffers))
    seen, with_poison = device.observe(made), device.observe(poisoned)
    for one in (seen, with_poison):
        assert one.numbers is not None
        assert (one.numbers.compared, one.numbers.not_a_number, one.numbers.unwritten, one.numbers.outside) == (128, 0, 0, 0)
    stage = made.launched.code_object
    for direction in ("reads", "writes"):
        left, right = (getattr(one.footprints[stage], direction) for one in (seen, with_poison))
        assert left.keys() == right.keys()
        for name in left:
            assert np.array_equal(left[name], right[name]), name


@pytest.mark.parametrize(("revision", "reads"), [(BEFORE, 4), (AFTER, 0)])
def test_the_planner_reads_the_last_page_of_a_request_that_is_not_there(
    hosts: dict[str, Host], revision: str, reads: int
) -> None:
    """With larger pages the tail of a split is counted by kv_lens of the row's number: rows 4 to 7 of 4 requests."""
    planned = pages_of_16(hosts[revision])
    past = {each.index for each in planned.reads_past_end if each.array == "kv_last_page_lens"}
    assert past == set(range(4, 4 + reads))


def pages_of_16(host: Host) -> Plan:
    flags = {"fast_mode": True, "max_split_per_batch": -1, "intra_batch_mode": False}
    given = PlanArguments(
        qo_indptr=np.arange(5, dtype=np.int32),
        kv_indptr=np.arange(5, dtype=np.int32) * 64,
        kv_last_page_lens=np.full(4, 16, np.int32),
        num_heads_per_head_k=32,
        num_heads_k=1,
        is_causal=True,
        page_size=16,
        kv_granularity=16,
        max_seqlen_qo=1,
        uni_seqlen_qo=1,
        topk=1024,
        q_dtype=DType.FP8,
        kv_dtype=DType.FP8,
        **flags,
    )
    return host.plan("2026-06", TargetGpu(Arch.GFX950, 256), given, BufferSizes(257, 8 * 4096, 513, 1024, 4096))
