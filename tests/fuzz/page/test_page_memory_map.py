"""The memory map: places and figures of the founding fault, and laws of its scale."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_summaries import FOUNDING

from backend.case import Case, MetadataMode
from backend.devices.kinds import open_device
from backend.path import Path
from fuzz.report.page.memory_map import LEAST_SHARE, MOST_SPANS, Bar, Touched, Who, _few, memory_map, scale_of

HEADS, Q_BYTES, O_BYTES = 64, 64 * 576, 64 * 512 * 2
"""Of one fp8 row of q and one bf16 row of o; the plan has 4 rows of 16 heads, and the kernel takes each for 64."""


def mapped(case: Case) -> dict[str, Bar]:
    found = memory_map(Path(device=open_device("model", record=True)).run(case))
    assert found is not None
    return {bar.tensor: bar for bar in found.bars}


def test_the_founding_fault() -> None:
    """q is read and o written for 4 rows of 64 heads, of which each tensor holds one."""
    bars = mapped(FOUNDING)
    for name, row, who in (("q", Q_BYTES, Who.READ), ("o", O_BYTES, Who.WRITE)):
        assert bars[name].nbytes == row
        assert bars[name].touched == (Touched(who, 0, 4 * row),) or bars[name].touched == (Touched(who, 0, row),)
        assert bars[name].bad == (Touched(who, row, 4 * row),)
        assert (bars[name].before, bars[name].past) == (0, 3 * row)
    # reduce_indptr: rows + 1 = 5 words in room for 2; reduce_final_map: 2 words a row in room for one row.
    assert bars["reduce_indptr"].bad == (Touched(Who.PLANNER_WRITE, 8, 20),)
    assert bars["reduce_final_map"].bad == (Touched(Who.PLANNER_WRITE, 8, 32),)
    assert (
        bars["reduce_indptr"].sentences[0].startswith("planner v1_0 writes 3 int32 words (12 B) past the end: words 2..4 of 2")
    )
    assert "reads 110,592 B past the end (bytes 36,864..147,455), 3 times, first by work item 1" in bars["q"].sentences[0]
    assert not bars["kv_buffer"].sentences


def test_a_clean_case_has_nothing_outside() -> None:
    bars = mapped(FOUNDING.replace(backend="sglang-27188", kv_lens=(100, 3)))
    assert all(not bar.bad and not bar.sentences for bar in bars.values())
    assert {"q", "o", "logits", "kv_buffer", "work_info_set"} <= set(bars)


def test_logits_that_are_a_view_of_o_are_a_bar_of_their_own() -> None:
    """Non-persistent with one split and fp8 q: logits alias o (mla.py)."""
    bars = mapped(Case(num_head=16, kv_lens=(1,), mode=MetadataMode.NON_PERSISTENT))
    assert bars["logits"].nbytes == bars["o"].nbytes == 16 * 512 * 2
    assert not bars["logits"].bad


SIZES = st.integers(0, 1 << 40)


@given(SIZES, SIZES, SIZES, st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_scale_keeps_order_and_leaves_every_zone_room(nbytes: int, before: int, past: int, picks: list[float]) -> None:
    bad = [Touched(Who.READ, -before, 0)] * bool(before) + [Touched(Who.READ, nbytes, nbytes + past)] * bool(past)
    bar = Bar("q", nbytes, "", (), tuple(bad), ())
    scale = scale_of(bar)
    assert (bar.before, bar.past) == (before, past)
    offsets = sorted(round(-before + pick * (before + nbytes + past)) for pick in picks)
    places = [scale.at(offset) for offset in offsets]
    assert places == sorted(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    for zone, share in ((before, scale.start), (past, 1 - scale.end), (1, scale.end - scale.start)):
        assert share >= LEAST_SHARE - 1e-9 if zone else share == 0
    # Of a tensor without bytes, byte 0 lies past the end already.
    assert scale.at(0) == pytest.approx(scale.start if nbytes else scale.end)
    assert scale.at(nbytes) == pytest.approx(scale.end)


def test_one_scale_where_it_can_be_read_and_a_broken_one_where_not() -> None:
    near = scale_of(Bar("q", 1000, "", (), (Touched(Who.READ, 1000, 4000),), ()))
    assert not near.broken
    assert near.end == pytest.approx(0.25)
    far = scale_of(Bar("q", 1000, "", (), (Touched(Who.READ, 1000, 1 << 33),), ()))
    assert far.broken
    assert far.at(1010) > far.end + 0.02


@given(st.lists(st.integers(-5000, 5000), min_size=2, max_size=400, unique=True), st.integers(1, 3000))
def test_few_stretches_cover_the_same_bytes_and_keep_inside_and_outside_apart(edges: list[int], size: int) -> None:
    marks = sorted(edges)[: len(edges) // 2 * 2]
    runs = [(a, b) for a, b in zip(marks[::2], marks[1::2], strict=True)]
    few = _few(Who.READ, runs, size)
    assert len(few) <= MOST_SPANS + 2
    assert all(
        any(each.begin <= a and min(b, 0 if a < 0 else size if a < size else b) <= each.end for each in few) for a, b in runs
    )
    assert all(not (each.begin < edge < each.end) for each in few for edge in (0, size))
    assert min(each.begin for each in few) == marks[0]
    assert max(each.end for each in few) == marks[-1]
