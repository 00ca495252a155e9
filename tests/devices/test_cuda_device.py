"""Device cuda without a GPU: the real kernels, worker and red zones in Triton's interpreter, on calls small enough for it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("triton")

from backend.call import Call
from backend.case import Arch, Case, DType, MetadataMode, PageOrder
from backend.checks.check import check
from backend.child.process_end import EndKind
from backend.codec import from_plain, to_plain
from backend.decision import Decision
from backend.devices.child_device import NOT_HARDWARE
from backend.devices.cuda import CudaDevice
from backend.devices.cuda.device import kept_bytecode
from backend.devices.cuda.kernel_run import KernelRun, kernel_run_of
from backend.devices.kinds import open_device
from backend.errors import CannotRunError
from backend.experiments.gpu_selftest import random_case, well_formed_calls, wild_call
from backend.findings import FindingKind, Severity
from backend.host import BuiltIn
from backend.observation import Observation, ViolationKind
from backend.serving.policy import decide
from backend.serving.registry import policy

BF16, FP8 = DType.BF16, DType.FP8
FAST, FAKE, GREEDY, PLAIN = MetadataMode.FAST, MetadataMode.FAKE, MetadataMode.GREEDY, MetadataMode.NON_PERSISTENT


@pytest.fixture(scope="module")
def device() -> Iterator[CudaDevice]:
    with CudaDevice(interpret=True) as opened:
        yield opened


def make(heads: int, lens: tuple[int, ...], mode: MetadataMode | None = FAST, backend: str = "direct", **more: object) -> Call:
    fields = {"num_cu": 4, "backend": backend, "mode": mode, **more}
    decision = decide(policy(backend), Case(heads, lens, **fields))  # type: ignore[arg-type]
    assert isinstance(decision, Decision)
    return BuiltIn().call(decision)


WELL_FORMED = {
    "fast, split": make(16, (300, 20)),
    "fast, folded and copied": make(48, (70, 5), max_seqlen_q=2),
    "fast, pages, reversed": make(16, (100, 33), page_size=16, page_order=PageOrder.REVERSED, first_page=3),
    "fast, native 64 heads, several tiles of rows": make(64, (40,), max_seqlen_q=2),
    "fake": make(16, (400,), FAKE),
    "fake, each query its own end": make(128, (9, 4), FAKE, max_seqlen_q=2),
    "greedy, bf16": make(16, (90, 20), GREEDY, q_dtype=BF16, kv_dtype=BF16),
    "non-persistent, splits, bf16": make(16, (200, 70), PLAIN, q_dtype=BF16, kv_dtype=BF16, num_cu=0),
    "non-persistent, one split into o": make(16, (60,), PLAIN, page_size=16),
    "release 2025-11, which stores the lse": make(16, (300,), release="2025-11", arch=Arch.GFX942),
    "ragged": make(16, (50, 20), GREEDY, max_seqlen_q=3, query_lens=(3, 1), q_dtype=BF16, kv_dtype=BF16),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_calls_are_within_the_budget_and_touch_no_red_zone(device: CudaDevice, name: str) -> None:
    made = WELL_FORMED[name]
    observed = device.observe(made)
    numbers = observed.numbers
    assert numbers is not None
    assert observed.violations == ()
    assert numbers.compared == sum(made.decision.query_lens) * made.decode.num_head
    assert (numbers.not_a_number, numbers.unwritten, numbers.outside) == (0, 0, 0)
    assert 1e-4 < numbers.relative_rms < 5e-3
    assert (numbers.lse_error is not None) == (name == "release 2025-11, which stores the lse")
    assert observed.notes[0].startswith(NOT_HARDWARE)


def test_the_founding_fault_shows_to_the_byte(device: CudaDevice) -> None:
    """64 heads planned as 4 x 16: o is written 3 rows of 64 heads x 512 bf16 past its one row."""
    observed = device.observe(make(64, (1,), None, "sglang-before-27188", num_cu=0))
    (violation,) = observed.violations
    row = 64 * 512 * 2
    assert (violation.kind, violation.tensor, violation.is_write) == (ViolationKind.OUT_OF_BOUNDS, "o", True)
    assert (violation.first_offset, violation.end_offset, violation.extent) == (row, 4 * row, 3 * row)
    kinds = {finding.kind for finding in check(observed)}
    assert {FindingKind.OUT_OF_BOUNDS_WRITE, FindingKind.PLANNER_OVERRUN, FindingKind.HEAD_WIDTH} <= kinds
    assert not device.observe(make(64, (1,), None, "sglang-27188", num_cu=0)).violations


def test_rows_that_read_another_requests_tokens_leave_the_budget(device: CudaDevice) -> None:
    observed = device.observe(make(64, (30, 31), None, "sglang-before-27188", num_cu=0))
    assert observed.numbers is not None
    assert observed.numbers.outside == 64  # request 0 reads its own tokens, request 1 those of request 0
    assert observed.numbers.first_outside is not None
    assert observed.numbers.first_outside[0] == 1


def test_a_read_past_a_float_tensor_shows_as_nan(device: CudaDevice) -> None:
    """A reduction led past the partial rows meets poison, as a kernel led past q or the KV pool does on a GPU.

    The interpreter cuts a NaN of all ones to a bf16 of all ones, which is what a row holds that nobody wrote.
    """
    made = make(16, (300, 20))
    plan = made.plan
    assert plan is not None
    buffer = plan.buffers["reduce_partial_map"]
    image = buffer.image.copy()
    image[0] = made.launched.tensors["logits"].shape[0]
    buffers = {**plan.buffers, "reduce_partial_map": dataclasses.replace(buffer, image=image)}
    observed = device.observe(dataclasses.replace(made, plan=dataclasses.replace(plan, buffers=buffers)))
    numbers = observed.numbers
    assert numbers is not None
    assert (numbers.not_a_number + numbers.unwritten, numbers.outside) == (16, 0)
    assert (0, 0) in (numbers.first_not_a_number, numbers.first_unwritten)
    assert {f.kind for f in check(observed)} & {FindingKind.NOT_A_NUMBER, FindingKind.ROW_NOT_WRITTEN}


def test_a_wild_access_is_named_and_nothing_is_lost(device: CudaDevice) -> None:
    before, after = make(16, (20,)), make(16, (25,))
    starts = device.starts
    observed = [one for one in device.observe_all([before, wild_call(), after]) if isinstance(one, Observation)]
    assert [one.end and one.end.kind for one in observed] == [EndKind.COMPLETED, EndKind.MEMORY_FAULT, EndKind.COMPLETED]
    fault = observed[1].end
    assert fault is not None
    assert fault.again
    assert device.starts > starts
    assert observed[2].numbers is not None
    assert observed[2].numbers.outside == 0
    assert Severity.READ in {f.severity for f in check(observed[1]) if f.kind is FindingKind.MEMORY_FAULT}


def test_a_rejected_plan_is_not_launched_and_keeps_its_place(device: CudaDevice) -> None:
    good = make(16, (20,))
    plan = good.plan
    assert plan is not None
    rejected = dataclasses.replace(good, plan=dataclasses.replace(plan, rejected="AITER raises"))
    first, second, third, fourth = device.observe_all([rejected, good, rejected, good])
    for one in (first, third):
        assert isinstance(one, Observation)
        assert one.numbers is None
        assert "not launched" in one.notes[0]
    for one in (second, fourth):
        assert isinstance(one, Observation)
        assert one.numbers is not None


@pytest.mark.slow(guard="child/test_supervisor.py::test_ranks_meet_before_the_launch_and_outlive_one_of_them")
def test_two_ranks_launch_the_same_call_together() -> None:
    with CudaDevice(ranks=2, interpret=True) as ranks:
        observed = ranks.observe(make(16, (20,)))
    assert observed.notes[-1].startswith("2 ranks, launched within ")
    assert observed.numbers is not None
    assert observed.numbers.outside == 0


def test_orders_round_trip_and_carry_the_planners_overrun() -> None:
    made = make(64, (1,), None, "sglang-before-27188", num_cu=0)
    wanted = kernel_run_of(made)
    again = from_plain(KernelRun, to_plain(wanted))
    assert to_plain(again) == to_plain(wanted)
    words = again.words["reduce_indptr"]
    plan = made.plan
    assert plan is not None
    assert plan.overruns
    assert words.first == plan.buffers["reduce_indptr"].first
    assert np.array_equal(words.array, plan.buffers["reduce_indptr"].image)
    assert len(words.array) * 4 > again.sizes["reduce_indptr"]


def test_selftest_cases_cover_what_they_say() -> None:
    calls = list(well_formed_calls(0, 64, 400))
    cases = [made.decision.case for made in calls]
    assert [made.decision.mode for made in calls] == list(MetadataMode) * 16
    assert {case.q_dtype for case in cases} == set(DType)
    assert {case.page_size for case in cases} == {1, 16, 64}
    assert len({case.num_head for case in cases}) >= 6
    assert random_case(random.Random(3), FAST) == random_case(random.Random(3), FAST)


def test_without_a_gpu_it_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(CannotRunError, match="no GPU"):
        open_device("cuda")


FILLED_ALIKE = """
import torch
from backend.case import DType
from backend.devices.gpu.decode import launch_fill
from backend.devices.gpu.values import RAW_TYPE, fill_rows

for dtype, seed, first in ((DType.FP8, 0, 0), (DType.BF16, 7, 5)):
    rows = torch.tensor([0, 3, 2]) + first
    made = [torch.full(((first + 4) * 1500,), -1 if dtype is DType.BF16 else 255, dtype=RAW_TYPE[dtype]) for _ in range(2)]
    launch_fill(made[0].view(-1, 1500), rows, dtype, False, seed, 1)
    fill_rows(made[1].view(-1, 1500), rows, dtype, False, seed, 1)
    assert torch.equal(made[0][first * 1500 :], made[1][first * 1500 :])
    assert (made[0].view(-1, 1500)[first + 1] == made[0][-1500 * 3]).all()
print("alike")
"""


def test_the_kernel_fills_with_the_very_values_that_torch_does() -> None:
    """Otherwise what ran on a GPU could not be held against the simulated machine."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", FILLED_ALIKE], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "alike\n", done.stderr


def test_bytecode_is_kept_where_torch_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(package / "__init__.py")))
    kept = kept_bytecode({"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert kept == {"PYTHONPYCACHEPREFIX": str(tmp_path / "cache" / "aiterfuzz" / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    assert kept_bytecode({"PYTHONPYCACHEPREFIX": "/elsewhere"}) == {}
    (package / "__pycache__").mkdir()
    assert kept_bytecode({}) == {}
