"""Model and machine code see the same bytes and the same violations, on random cases of every kernel that a caller can reach.

AITERFUZZ_AGREEMENT_CASES: cases a kernel (3); some 36 a kernel make the thousand that the project asks of itself.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from backend.aiter.codefiles import CodeSource, installed_wheel, open_source
from backend.aiter.kernargs import kernarg_reads
from backend.aiter.launch import Refusal
from backend.aiter.release import nearest_release
from backend.case import Arch, Case, DType, MetadataMode, PageOrder
from backend.decision import Decision
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model.device import ModelDevice
from backend.devices.model.traits import HALF_MENDED, RowRule, traits_table
from backend.devices.two_devices import differences, incomparable
from backend.experiments.kernel_traits import LaunchedKernel, fitting_calls, loaded, tall_calls
from backend.experiments.probes import ReachedKernel, made_of, random_case, reached
from backend.host import BuiltIn
from backend.observation import ViolationKind
from backend.serving.policy import decide
from backend.serving.registry import policy
from tests.tiers import kernel_family, one_of_each

CASES = int(os.environ.get("AITERFUZZ_AGREEMENT_CASES", "3"))
REVISIONS = {"2026-06": "2988812e134a7dbb08948092a9d89df48a2585d3", "2026-08": "e4048607a535ace3a2b51ded31b1c8c2d45c0879"}


def disagreements(kernel: ReachedKernel, source: CodeSource, seed: int) -> list[str]:
    """What the two devices see differently in CASES random cases of a kernel, each told with its case."""
    machine, model = CdnaDevice(source, record=True, explained=False), ModelDevice(record=True)
    random_ = random.Random(f"{kernel.blob_id} {seed}")
    found, compared = [], 0
    for _ in range(20 * CASES):
        case = random_case(kernel, random_)
        made = made_of(case, source)
        if made is None or made.launched.blob_id != kernel.blob_id or incomparable(made):
            continue
        compared += 1
        for each in differences(machine.observe(made), model.observe(made)):
            found.append(f"{each.what}: machine {each.left}; model {each.right}; {case}")
        if compared == CASES:
            return found
    assert compared, "no random case leads to the kernel"
    return found


@pytest.mark.parametrize("blob", one_of_each(sorted(reached("2025-11")), kernel_family))
def test_wheel_kernels(blob: str) -> None:
    assert disagreements(reached("2025-11")[blob], installed_wheel(), seed=1) == []


@pytest.mark.parametrize(
    "blob", one_of_each((blob for blob, kernel in sorted(reached("2025-11").items()) if kernel.persistent), kernel_family)
)
def test_items_of_a_plan_for_other_rows(blob: str) -> None:
    """One row more than a decode call of the kernel's has, twice as many, one less than none: a kernel takes what its tile
    holds, or as many as it was built for, whatever the item says."""
    device = CdnaDevice(installed_wheel(), record=True, explained=False)
    calls = tall_calls(LaunchedKernel(reached("2025-11")[blob], installed_wheel()))
    assert len(calls) == 8
    assert [each for call in calls for each in differences(device.observe(call), ModelDevice(record=True).observe(call))] == []


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("case", "unwritten"),
    [
        # Rows counted as -1 (O22), by a kernel built for one row a request, on both GPUs.
        (Case(16, (40, 30), query_lens=(1, 1), mode=MetadataMode.FAKE), 1),
        (Case(16, (40, 30), query_lens=(1, 1), mode=MetadataMode.FAKE, arch=Arch.GFX942), 1),
        # Ragged rows whose heads are folded: an item of more rows than the 64 that a tile holds.
        (Case(32, (40, 30), 2, query_lens=(1, 2), q_dtype=DType.BF16, kv_dtype=DType.BF16, arch=Arch.GFX942), 1),
        (Case(32, (40, 30), 2, query_lens=(1, 2), q_dtype=DType.BF16), 1),
    ],
)
def test_plans_of_more_rows_or_less_than_none(case: Case, unwritten: int, aiter_checkout: Path) -> None:
    """Neither is held against the other in a search, being the planner's: both see the same all the same."""
    source = open_source(f"{aiter_checkout}@{REVISIONS['2026-08']}")
    mode = case.mode or MetadataMode.FAST
    made = made_of(case.replace(mode=mode, backend="direct", release="2026-08", num_cu=8), source)
    assert made is not None
    assert incomparable(made) is not None
    seen = CdnaDevice(source, record=True, explained=False).observe(made)
    assert differences(seen, ModelDevice(record=True).observe(made)) == []
    rows = [each.count for each in seen.violations if each.kind is ViolationKind.NO_OUTPUT]
    assert rows == [unwritten]


@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.parametrize("release", sorted(REVISIONS))
def test_checkout_kernels(release: str, aiter_checkout: Path) -> None:
    source = open_source(f"{aiter_checkout}@{REVISIONS[release]}")
    found = [line for kernel in reached(release, source).values() for line in disagreements(kernel, source, seed=2)]
    assert found == []


PINNED = {
    "v0.1.10.post3": "sglang 0.5.9, vLLM 0.19.1",
    "32e1e6d76988e4fbc67cabd9eb72a45a3c6a1bab": "sglang 0.5.12.post1",
    "d9e5ef7ce08ee7045d583aed768cff41aa9210fe": "sglang 0.5.17",
}
"""Revisions that launch code objects of their own, and who is built with them."""


@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.parametrize("revision", sorted(PINNED))
def test_kernels_of_no_built_in_release(revision: str, aiter_checkout: Path) -> None:
    source = open_source(f"{aiter_checkout}@{revision}")
    built_in = {blob for release in ("2025-11", "2026-06", "2026-08") for blob in reached(release)}
    launched = reached(nearest_release(source).name, source)
    own = [kernel for blob, kernel in launched.items() if blob in traits_table() and blob not in built_in]
    assert len(own) >= 3
    assert [line for kernel in own for line in disagreements(kernel, source, seed=3)] == []


@pytest.mark.parametrize("blob", sorted(reached("2025-11"))[::6])
def test_what_a_kernel_reads_of_its_arguments_is_seen_in_a_few_runs(blob: str) -> None:
    """The table of the built-in releases was read from disassembly; a kernel of another revision's is measured so."""
    kernel, source = reached("2025-11")[blob], installed_wheel()
    device = CdnaDevice(source, record=True, explained=False)
    calls = [(device, call) for call in fitting_calls(LaunchedKernel(kernel, source))[:5]]
    seen, known = loaded(kernel, calls), kernarg_reads(blob)
    passed = {kernarg.name for kernarg in calls[0][1].launched.kernargs}
    assert seen.kernargs == known.kernargs & passed
    assert seen.work_item == known.work_item


def test_every_kernel_that_a_release_launches_was_measured() -> None:
    launched = {blob: kernel for release in ("2025-11", "2026-06", "2026-08") for blob, kernel in reached(release).items()}
    assert [kernel.code_object for blob, kernel in launched.items() if blob not in traits_table()] == []


@pytest.mark.parametrize("times", [1, 2, 3])
def test_pages_across_a_multiple_of_4_gib(times: int) -> None:
    """The kernel keeps 32 bits of page * stride, so that a page lies across 2^32 again and again."""
    page = times * (1 << 32) // 1152 - 1
    case = Case(16, (3, 40) * 8, q_dtype=DType.BF16, kv_dtype=DType.BF16, release="2025-11", backend="direct",
                mode=MetadataMode.FAST, first_page=page)  # fmt: skip
    made = BuiltIn(installed_wheel()).call(decide(policy("direct"), case))
    machine = CdnaDevice(installed_wheel(), record=True, explained=False).observe(made)
    assert differences(machine, ModelDevice(record=True).observe(made)) == []


def test_a_product_of_which_the_low_half_alone_takes_24_bits_of_a_page() -> None:
    """Code objects of AITER d9e5ef7ce0: high half of all bits, low half of 24 of the page: here (2^24 + 5) * 1152 =
    0x480001680, of which 5 * 1152 = 0x1680 is the low half then."""
    case = Case(16, (3,), q_dtype=DType.BF16, kv_dtype=DType.BF16, release="2026-06", backend="direct",
                mode=MetadataMode.FAST, first_page=(1 << 24) + 5)  # fmt: skip
    decision = decide(policy("direct"), case)
    assert isinstance(decision, Decision)
    made = BuiltIn().call(decision)
    for bits, address in ((HALF_MENDED, 0x400001680), (64, None)):
        known = replace(traits_table()[made.launched.blob_id or ""], page_bits=bits)
        found = [each for each in ModelDevice(known=known).observe(made).violations if each.tensor == "kv_buffer"]
        assert [f"is read at {address}, not at" in each.why for each in found] == [True] * (address is not None)


def test_a_wrong_trait_is_noticed() -> None:
    """The comparison can fail: a kernel taken for one that writes whole tiles differs in what it writes, and by how much."""
    case = Case(
        16,
        (40,),
        2,
        q_dtype=DType.BF16,
        kv_dtype=DType.BF16,
        release="2025-11",
        backend="direct",
        mode=MetadataMode.FAST,
        num_cu=1,
        page_order=PageOrder.REVERSED,
    )
    decision = decide(policy("direct"), case)
    assert isinstance(decision, Decision)
    made = BuiltIn(installed_wheel()).call(decision)
    assert not isinstance(made.launch, Refusal)
    known = replace(traits_table()[made.launch.blob_id or ""], o_rows=RowRule.parse("64"))
    machine = CdnaDevice(installed_wheel(), record=True, explained=False).observe(made)
    assert differences(machine, ModelDevice(record=True).observe(made)) == []
    found = differences(machine, ModelDevice(record=True, known=known).observe(made))
    outside = (64 - 2 * 16) * 512 * 2
    assert [each.what for each in found] == ["write of o, out of bounds"]
    assert found[0].left == "not seen"
    assert found[0].right.startswith(f"{outside} bytes outside")
