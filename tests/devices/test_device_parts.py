"""What devices share: byte ranges, rows nobody writes, tokens nobody reads, the comparison of two observations, row rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.aiter.tensors import ElementType, TensorSpec
from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.cdna.record import marked_runs
from backend.child.process_end import EndKind
from backend.decision import Decision
from backend.devices import outputs
from backend.devices.accesses import NOTHING, Accesses, Planes, bounds, footprint_of, merge, subtract
from backend.devices.model.device import ModelDevice
from backend.devices.model.traits import COLUMNS, KernelTraits, RowRule, from_row, to_row, traits_table
from backend.devices.two_devices import Difference, differences, incomparable
from backend.errors import CannotRunError, UnmodelledError
from backend.experiments.probes import backward
from backend.host import BuiltIn
from backend.observation import DeviceEnd, Footprint, Observation, Violation, ViolationKind
from backend.serving.policy import decide
from backend.serving.registry import policy

BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}


def made(**fields: object) -> Call:
    """The call of a direct caller's case, release 2025-11, 16 heads in fast mode unless said otherwise."""
    wanted = {"num_head": 16, "backend": "direct", "release": "2025-11", "mode": MetadataMode.FAST, **BF16, **fields}
    case = Case(**wanted)  # type: ignore[arg-type]
    decision = decide(policy("direct"), case)
    assert isinstance(decision, Decision)
    return BuiltIn().call(decision)


def bytes_of(ranges: np.ndarray) -> set[int]:
    """The single bytes of ranges."""
    return {byte for begin, end in ranges.tolist() for byte in range(begin, end)}


ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=8).map(
    lambda pairs: merge(np.array([b for b, _ in pairs], np.int64), np.array([b + n for b, n in pairs], np.int64))
)


@given(ranges, ranges)
def test_subtract_leaves_the_bytes_of_the_left_side_only(left: np.ndarray, right: np.ndarray) -> None:
    rest = subtract(left, right)
    assert bytes_of(rest) == bytes_of(left) - bytes_of(right)
    assert (rest[1:, 0] > rest[:-1, 1]).all()


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_marked_runs_are_the_set_bits(bits: list[bool]) -> None:
    bitmap = np.packbits(np.array(bits, np.bool_), bitorder="little")
    runs = marked_runs(bitmap, len(bits))
    assert bytes_of(runs) == {place for place, bit in enumerate(bits) if bit}
    assert (runs[1:, 0] > runs[:-1, 1]).all()


def test_long_runs_of_a_bitmap_are_found_whole() -> None:
    bits = np.zeros(10_000, np.bool_)
    bits[64:8_000] = bits[9_999] = True
    runs = marked_runs(np.packbits(bits, bitorder="little"), len(bits))
    assert runs.tolist() == [[64, 8_000], [9_999, 10_000]]


def test_planes_are_judged_as_their_accesses_one_by_one() -> None:
    tensors = {"q": TensorSpec((10,), ElementType.FP8), "o": TensorSpec((4,), ElementType.I32)}
    begin, end = np.array([[0, 5], [0, 12]], np.int64), np.array([[5, 10], [4, 17]], np.int64)
    planes = Planes((("q", False, "q + i"), ("o", True, "o + i")), begin, end, np.arange(2))
    assert not planes.inside(tensors)
    (found,) = bounds(planes.accesses(), tensors, "kernel", None)
    assert (found.tensor, found.is_write, found.first_offset, found.end_offset, found.extent) == ("o", True, 16, 17, 1)
    end[1, 1] = 16
    assert planes.inside(tensors)
    begin[0, 0] = -1
    assert not planes.inside(tensors)


def test_accesses_through_a_null_pointer_are_no_tensors_bounds() -> None:
    access = Accesses("", True, np.array([0, 64]), np.array([0, 128]), None, "ptr_RP + row")
    (found,) = bounds([access], {}, "kernel", None)
    assert (found.kind, found.tensor, found.first_offset, found.end_offset, found.count) == (ViolationKind.NULL, "", 64, 128, 1)
    assert footprint_of([access], {}).writes == {}


def test_a_footprint_holds_the_bytes_inside_the_tensor() -> None:
    access = Accesses("q", False, np.array([-4, 6]), np.array([2, 20]), None, "")
    assert footprint_of([access], {"q": TensorSpec((8,), ElementType.FP8)}).reads["q"].tolist() == [[0, 2], [6, 8]]


def test_a_row_of_which_one_head_is_not_written_is_unwritten() -> None:
    launched = made(kv_lens=(20, 20))
    row = 16 * 512 * 2
    merged = np.zeros(2, np.bool_)
    whole = np.array([0], np.int64), np.array([2 * row], np.int64)
    assert outputs.unwritten(launched, *whole, merged) is None
    short = outputs.unwritten(launched, np.array([0]), np.array([2 * row - 1024]), merged)
    assert short is not None
    assert (short.kind, short.count, short.first_offset) == (ViolationKind.NO_OUTPUT, 1, row)
    merged[1] = True
    assert outputs.unwritten(launched, np.array([0]), np.array([row]), merged) is None


def test_requests_without_kv_need_no_output() -> None:
    assert outputs.unwritten(made(kv_lens=(20, 0)), np.array([0]), np.array([16 * 1024]), np.zeros(2, np.bool_)) is None


def test_tokens_are_read_whole_or_counted() -> None:
    launched = made(kv_lens=(20, 3), page_size=16, first_page=1)
    token, page = 576 * 2, 16 * 576 * 2
    everything = np.array([[page, 4 * page]], np.int64)
    assert outputs.may_differ(launched)
    assert outputs.unread(launched, everything) is None
    # One token a page: of 20 and 3 tokens in three pages, 20 are left out, the second token of the first page first.
    first_only = np.array([[number * page, number * page + token] for number in (1, 2, 3)], np.int64)
    found = outputs.unread(launched, first_only)
    assert found is not None
    assert (found.count, found.first_offset, found.end_offset) == (20, page + token, page + 2 * token)
    # The last page holds three tokens; what is read behind them matters to nobody.
    assert outputs.unread(launched, np.array([[page, 3 * page + 3 * token]], np.int64)) is None


@pytest.mark.parametrize(
    ("text", "bounds_of"),
    [("item", (0, 1 << 30)), ("s_MQA", (48, 48)), ("64", (64, 64)), ("<=128", (0, 128))],
)
def test_row_rules_read_as_written(text: str, bounds_of: tuple[int, int]) -> None:
    rule = RowRule.parse(text)
    assert rule.bounds(48) == bounds_of
    assert str(rule) == text


@pytest.mark.parametrize("text", ["", "-1", "<64", "rows", "6.4"])
def test_other_row_rules_are_refused_by_name(text: str) -> None:
    with pytest.raises(CannotRunError, match=r"row rule .*allowed: item, s_MQA, N, <=N"):
        RowRule.parse(text)


def test_the_table_reads_back_as_written() -> None:
    assert len(traits_table()) > 60
    for known in traits_table().values():
        assert from_row(to_row(known)) == known
    assert tuple(to_row(KernelTraits())) == COLUMNS


def observation(launched: Call, **fields: object) -> Observation:
    return Observation(launched, "one", **fields)  # type: ignore[arg-type]


def test_observations_differ_in_bytes_violations_and_ends() -> None:
    launched = made(kv_lens=(20,))
    stage = launched.launched.code_object
    read = {stage: Footprint(reads={"q": np.array([[0, 8]], np.int64)})}
    less = {stage: Footprint(reads={"q": np.array([[0, 6]], np.int64)})}
    assert differences(observation(launched, footprints=read), observation(launched, footprints=read)) == []
    assert differences(observation(launched, footprints=read), observation(launched)) == []
    assert differences(observation(launched, footprints=read), observation(launched, footprints=less)) == [
        Difference("reads of q", "alone 2 bytes from [6, 8) on", "alone nothing")
    ]
    bad = Violation(ViolationKind.OUT_OF_BOUNDS, stage, "q", False, 8, 16, 8, 1, "why")
    (found,) = differences(observation(launched, violations=(bad,)), observation(launched))
    assert found == Difference("read of q, out of bounds", "8 bytes outside (why)", "not seen")
    worse = dataclasses.replace(bad, extent=9)
    assert len(differences(observation(launched, violations=(bad,)), observation(launched, violations=(worse,)))) == 2
    other = dataclasses.replace(bad, stage="mla_reduce_v1")
    assert differences(observation(launched, violations=(other,)), observation(launched)) == []
    hung = observation(launched, end=DeviceEnd(EndKind.HANG), footprints=read)
    assert differences(hung, observation(launched, footprints=less)) == [Difference("end", "hang", "completed")]
    assert differences(hung, dataclasses.replace(hung, footprints=less)) == []


def test_plans_that_lead_anywhere_are_not_compared() -> None:
    launched = made(kv_lens=(40, 20), num_cu=1, max_seqlen_q=2)
    assert incomparable(launched) is None
    plan = launched.plan
    assert plan is not None
    buffer = plan.buffers["work_info_set"]
    image = buffer.image.copy()
    image[3] = image[2]
    buffers = {**plan.buffers, "work_info_set": dataclasses.replace(buffer, image=image)}
    empty = dataclasses.replace(launched, plan=dataclasses.replace(plan, buffers=buffers))
    assert "rows end before they begin" in (incomparable(empty) or "")
    assert backward(launched).plan.work_items[0, 5] < backward(launched).plan.work_items[0, 4]  # type: ignore[union-attr]
    assert subtract(NOTHING, NOTHING).shape == (0, 2)


def test_a_plan_of_more_work_than_is_followed_has_no_model() -> None:
    """As planners make one of memory that is nobody's: 25 million items were met (v0.1.14, a request without queries)."""
    launched = made(kv_lens=(4096,), num_cu=1)
    plan = launched.plan
    assert plan is not None
    buffer = plan.buffers["work_info_set"]
    count = 1 << 15
    many = dataclasses.replace(
        buffer, allocated=8 * count, image=np.tile(buffer.image[:8], count), marks=np.ones(8 * count, np.uint8)
    )
    endless = dataclasses.replace(launched, plan=dataclasses.replace(plan, buffers={**plan.buffers, "work_info_set": many}))
    with pytest.raises(UnmodelledError, match=r"a plan of 32,768 work items with 138,\d+,\d+ KV positions"):
        ModelDevice().observe(endless)
