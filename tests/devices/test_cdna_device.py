"""The device `cdna`: real machine code of the wheel, judged by what a hand knows of the case."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from backend.aiter.codefiles import FolderSource, code_path, installed_wheel, open_code, open_source
from backend.call import Call
from backend.case import Arch, Case, DType, MetadataMode
from backend.cdna.code_object import load_code_object
from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.cdna.machine import Machine
from backend.child.process_end import EndKind
from backend.decision import Decision
from backend.devices.cdna import address_space as spaces
from backend.devices.cdna.device import CdnaDevice, instruction_limit, machine_of
from backend.errors import CannotRunError
from backend.experiments.probes import backward
from backend.findings import FindingKind, Party, Severity
from backend.host import BuiltIn
from backend.observation import Observation, Violation, ViolationKind
from backend.path import Path as CasePath
from backend.serving.policy import decide
from backend.serving.registry import policy

BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}
RELEASE_2026_06 = "2988812e134a7dbb08948092a9d89df48a2585d3"
Q_ROW, O_ROW = 64 * 576, 64 * 512 * 2
"""Bytes of a row of q in fp8 and of o, 64 heads."""


def wheel_case(**fields: object) -> Case:
    wanted = {"num_head": 16, "kv_lens": (40,), "backend": "direct", "release": "2025-11", "mode": MetadataMode.FAST, **fields}
    return Case(**wanted)  # type: ignore[arg-type]


def made(**fields: object) -> Call:
    decision = decide(policy("direct"), wheel_case(**fields))
    assert isinstance(decision, Decision)
    return BuiltIn(installed_wheel()).call(decision)


def observed(launched: Call, **options: bool) -> Observation:
    return CdnaDevice(installed_wheel(), **options).observe(launched)


def only(observation: Observation, kind: ViolationKind) -> Violation:
    (found,) = [violation for violation in observation.violations if violation.kind is kind]
    return found


@pytest.mark.parametrize("arch", list(Arch))
@pytest.mark.parametrize("mode", [MetadataMode.FAST, MetadataMode.NON_PERSISTENT])
def test_a_sound_case_shows_nothing_and_reads_all_of_q_and_kv(arch: Arch, mode: MetadataMode) -> None:
    seen = observed(made(arch=arch, mode=mode, kv_lens=(40, 130), first_page=3), record=True)
    assert seen.violations == ()
    assert seen.end is None
    launch = seen.call.launched
    reads = seen.footprints[launch.code_object].reads
    assert reads["q"].tolist() == [[0, 2 * 16 * 576]]
    assert reads["kv_indices"].tolist() == [[0, 170 * 4]]
    # Page 0 is nobody's: positions behind a request's end are clamped to it.
    assert reads["kv_buffer"].tolist() == [[0, 576], [3 * 576, 173 * 576]]
    assert "second stage by model" in seen.notes
    assert seen.schedule == "round-robin"
    assert any(identifier >> 32 for identifier in seen.coverage)


def test_what_the_planner_wrote_behind_a_buffer_is_there_for_the_kernel() -> None:
    """A work item that is moved behind work_info_set's end: read out of bounds, and done all the same."""
    launched = made(num_cu=1, kv_lens=(40,), **BF16)
    plan = launched.plan
    assert plan is not None
    buffer = plan.buffers["work_info_set"]
    short = dataclasses.replace(buffer, allocated=8)
    image = np.concatenate((np.zeros(8, np.int32), buffer.image[:8]))
    moved = dataclasses.replace(short, image=image, marks=np.ones(16, np.uint8))
    indptr = dataclasses.replace(plan.buffers["work_indptr"], image=np.array([1, 2], np.int32))
    buffers = {**plan.buffers, "work_info_set": moved, "work_indptr": indptr}
    launch = launched.launched
    tensors = {**launch.tensors, "work_info_set": launch.tensors["work_info_set"]._replace(shape=(1, 8))}
    changed = dataclasses.replace(
        launched,
        plan=dataclasses.replace(plan, buffers=buffers),
        launch=dataclasses.replace(launch, tensors=tensors),
    )
    seen = observed(changed, record=True)
    found = only(seen, ViolationKind.OUT_OF_BOUNDS)
    assert (found.tensor, found.is_write, found.first_offset, found.extent) == ("work_info_set", False, 32 + 4, 28)
    assert found.work_item_index == 1
    assert seen.footprints[launch.code_object].writes["o"].tolist() == [[0, 16 * 512 * 2]]


def test_the_first_bad_address_is_told_as_an_expression() -> None:
    """A work item whose rows lie behind q: kernargs and fields of the item by their names."""
    launched = made(num_cu=1, kv_lens=(40,), **BF16)
    plan = launched.plan
    assert plan is not None
    buffer = plan.buffers["work_info_set"]
    image = buffer.image.copy()
    image[2:4] = 5, 6
    buffers = {**plan.buffers, "work_info_set": dataclasses.replace(buffer, image=image)}
    changed = dataclasses.replace(launched, plan=dataclasses.replace(plan, buffers=buffers))
    seen = observed(changed)
    by_tensor = {violation.tensor: violation for violation in seen.violations if violation.kind is ViolationKind.OUT_OF_BOUNDS}
    row = 16 * 576 * 2
    assert by_tensor["q"].first_offset == 5 * row
    assert by_tensor["q"].extent == 5 * row
    assert "ptr_Q + work_info_set[work_indptr[workgroup_x]].q_begin * " in by_tensor["q"].why
    assert by_tensor["o"].extent == 5 * 16 * 512 * 2
    assert "ptr_RP + work_info_set[work_indptr[workgroup_x]].q_begin * 16384" in by_tensor["o"].why
    assert by_tensor["o"].instruction is not None
    assert by_tensor["o"].instruction in by_tensor["o"].why
    unexplained = observed(changed, explained=False)
    assert [v.extent for v in unexplained.violations] == [v.extent for v in seen.violations]
    assert all("ptr_" not in violation.why for violation in unexplained.violations)


def test_a_page_size_that_a_kernel_ignores_leaves_tokens_unread() -> None:
    """aiter#2996: blob 07763aaa takes an entry of kv_indices for one token."""
    fields = {"mode": MetadataMode.NON_PERSISTENT, "kv_lens": (100,), **BF16}
    found = only(observed(made(page_size=16, **fields)), ViolationKind.UNREAD)
    assert found.count == 100 - 7
    assert found.stage == "mla_dec_stage1_bf16_a16w16_subQ16_mqa16.co"
    assert observed(made(page_size=1, **fields)).violations == ()


def test_page_ids_beyond_24_bits_read_somebody_elses_page_of_a_64_gib_pool() -> None:
    """aiter#4341, in a pool whose contents nobody keeps: (2^24 + 65536) * 576 bytes, 32-bit offsets."""
    seen = observed(made(first_page=(64 << 30) // 576, kv_lens=(4,)))
    found = only(seen, ViolationKind.FOREIGN_PAGE)
    assert found.tensor == "kv_buffer"
    assert seen.call.launched.tensors["kv_buffer"].nbytes >= 64 << 30
    assert 0 <= found.first_offset < 1 << 32
    assert observed(made(first_page=1 << 22, kv_lens=(4,))).violations == ()


def test_fp8_kernels_that_2025_11_gives_a_bf16_pool_read_half_of_each_token() -> None:
    found = only(observed(made(q_dtype=DType.FP8, kv_dtype=DType.BF16)), ViolationKind.UNREAD)
    assert found.count == 40


def test_an_item_that_ends_before_it_begins_is_a_hang() -> None:
    launched = made(num_head=128, max_seqlen_q=1, kv_lens=(40,), num_cu=1)
    seen = observed(backward(launched))
    assert seen.end is not None
    assert seen.end.kind is EndKind.HANG
    # What the other workgroups of a launch have to do gives the one that hangs no more time.
    assert instruction_limit(made(kv_lens=(4000,) * 64, num_cu=64)) < 10 * instruction_limit(made(kv_lens=(4000,), num_cu=64))
    assert observed(launched).end is None


@pytest.mark.parametrize("mode", [MetadataMode.FAST, MetadataMode.NON_PERSISTENT])
def test_the_watchdog_counts_tokens_whatever_the_pages(mode: MetadataMode) -> None:
    wide = {"kv_lens": (131_072,), "mode": mode, "num_cu": 80, **BF16}
    assert instruction_limit(made(page_size=64, **wide)) >= instruction_limit(made(page_size=1, **wide))


def test_an_empty_request_ends_its_workgroup_and_leaves_rows_unwritten() -> None:
    """The planner gives a request without KV an item [0, 0), and the kernel leaves at it whatever comes behind."""
    path = CasePath(BuiltIn(installed_wheel()), CdnaDevice(installed_wheel()))
    outcome = path.run(wheel_case(kv_lens=(0, 40), num_cu=1, **BF16))
    (finding,) = [each for each in outcome.findings if each.party is Party.KERNEL]
    assert finding.kind is FindingKind.ROW_NOT_WRITTEN
    assert finding.evidence["count"] == 1


def test_a_sound_kernel_waits_and_runs_no_race() -> None:
    launched = made(kv_lens=(40,), num_cu=1)
    assert observed(launched, hazards=True).notes == observed(launched).notes
    assert observed(launched, hazards=True).violations == ()


def test_workgroups_that_write_the_same_bytes_are_found_when_asked_for() -> None:
    """Release 2025-11, gfx950, 16 heads in fp8 with 4 queries: every split stores at its request's first partial row."""
    launched = made(mode=MetadataMode.NON_PERSISTENT, max_seqlen_q=4, kv_lens=(600,))
    assert launched.launched.num_kv_splits > 1
    kinds = {(violation.kind, violation.tensor) for violation in observed(launched, hazards=True).violations}
    assert (ViolationKind.RACE, "logits") in kinds
    plain = {(violation.kind, violation.tensor) for violation in observed(launched).violations}
    assert plain == {(ViolationKind.UNWRITTEN, "logits")}


def test_pages_of_a_request_are_bits_of_its_row() -> None:
    launched = made(kv_lens=(3, 2), first_page=6)
    space, _ = spaces.build(launched)
    paging = space["kv_buffer"].paging
    assert paging is not None
    assert paging.allowed is not None
    bits = np.unpackbits(paging.allowed.view(np.uint8), axis=1, count=11, bitorder="little")
    assert np.flatnonzero(bits[0]).tolist() == [0, 6, 7, 8]
    assert np.flatnonzero(bits[1]).tolist() == [0, 9, 10]


def folder_with(tmp_path: Path, arch: Arch, name: str, content: bytes) -> FolderSource:
    """A source that holds one code object."""
    file = tmp_path / code_path(arch, name)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return FolderSource("a folder of the test", (("", str(tmp_path)),))


def without_waits(content: bytes) -> bytes:
    """A code object whose waits for scalar loads and LDS are gone: s_waitcnt becomes s_nop."""
    kernel = load_code_object(content).kernels[0]
    at = content.index(kernel.text)
    spoilt = bytearray(content)
    for instruction in decode(kernel.text, kernel.arch):
        if assembly_text(instruction) == "s_waitcnt lgkmcnt(0)":
            spoilt[at + instruction.pc : at + instruction.pc + 4] = (0xBF80_0000).to_bytes(4, "little")
    return bytes(spoilt)


def test_missing_waits_are_told_when_asked_for(tmp_path: Path) -> None:
    launched = made(kv_lens=(40,), num_cu=1)
    launch = launched.launched
    content = open_code(installed_wheel(), launch.arch, launch.code_object)
    source = folder_with(tmp_path, launch.arch, launch.code_object, without_waits(content))
    told = CdnaDevice(source, hazards=True).observe(launched).notes
    assert [note for note in told if note.startswith("missing wait, s")]
    # Registers are there at once on the machine, so nothing else tells of it.
    assert CdnaDevice(source).observe(launched).notes == observed(launched).notes


def test_threads_do_not_share_a_machine() -> None:
    """The gate judges with two threads; a machine's working memory is one run's."""
    source, launch = installed_wheel(), made().launched

    def mine() -> tuple[Machine, Machine]:
        asked = source, launch.arch, launch.code_object, launch.symbol
        return machine_of(*asked), machine_of(*asked)

    with ThreadPoolExecutor(1) as other:
        (here, again), (there, _) = mine(), other.submit(mine).result()
    assert here is again
    assert here is not there
    assert here.kernel == there.kernel


def test_a_code_object_that_the_source_lacks_is_named(tmp_path: Path) -> None:
    source = folder_with(tmp_path, Arch.GFX950, "other.co", b"")
    with pytest.raises(
        CannotRunError, match=r"hsa/gfx950/mla/mla_a8w8_qh16_qseqlen1_gqaratio16_ps\.co: not in a folder of the"
    ):
        CdnaDevice(source).observe(made())


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("kv_len", "outside"),
    [
        (1, {"q": 3 * Q_ROW, "o": 3 * O_ROW}),
        (4096, {"q": 3 * Q_ROW, "work_info_set": 16 * 32 - 4, "logits": 2 << 20, "attn_lse": 16 * 64 * 4}),
    ],
)
def test_the_founding_fault_by_machine_code(kv_len: int, outside: dict[str, int], aiter_checkout: Path) -> None:
    """aiter#3496: 64 heads, release 2026-06, planned as four times sixteen. The figures follow from the shapes."""
    source = open_source(f"{aiter_checkout}@{RELEASE_2026_06}")
    path = CasePath(BuiltIn(source), "cdna")
    broken = path.run(Case(num_head=64, kv_lens=(kv_len,), backend="sglang-before-27188"))
    kernel = [each for each in broken.findings if each.party is Party.KERNEL]
    assert {each.tensor: each.evidence["bytes_outside"] for each in kernel if each.severity > Severity.SILENT} == outside
    assert all(("pc" in each.evidence and "ptr_" in each.message) or each.tensor == "work_info_set" for each in kernel)
    assert broken.cause is not None
    assert broken.cause.kind is FindingKind.HEAD_WIDTH
    assert path.run(Case(num_head=64, kv_lens=(kv_len,), backend="sglang-27188")).findings == ()


def test_a_launch_that_this_machine_has_no_room_for_cannot_run() -> None:
    """AITER would ask for 480 TB of partial rows: no finding of ours, and no word that nothing is wrong."""
    launched = made(kv_lens=(40,), num_cu=1)
    launch = launched.launched
    wide = launch.tensors["logits"]._replace(shape=(1 << 38, *launch.tensors["logits"].shape[1:]))
    changed = dataclasses.replace(launched, launch=dataclasses.replace(launch, tensors={**launch.tensors, "logits": wide}))
    with pytest.raises(CannotRunError, match=r"logits [\d,]+ bytes.*more than this machine can keep account of"):
        observed(changed)
