"""What is claimed of a campaign is exactly what its figures allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_summaries import REFUSED, cell, clean, everything, faulty, founding_finding, hostile_finding, member

from backend.devices.kinds import DEVICES
from backend.findings import FindingKind, Severity
from fuzz.campaign.summary import CampaignSummary, Reason, Span
from fuzz.report.statement import ShapeVerdict, refusals, statement
from fuzz.verdict import Counts


def silent() -> CampaignSummary:
    """Forty wrong results on TP2 and nothing else."""
    return faulty(founding_finding(severity=Severity.SILENT, kind=FindingKind.NOT_COVERED))


def test_a_clean_campaign_is_confirmed_shape_by_shape() -> None:
    said = statement(clean())
    assert said.headline == "No memory fault on TP2 and TP4 in 900 cases, AITER 2026-06"
    assert [(s.name, s.verdict, s.clean, s.cases) for s in said.shapes] == [
        ("TP2 (64 heads)", ShapeVerdict.CONFIRMED, 500, 600),
        ("TP4 (32 heads)", ShapeVerdict.CONFIRMED, 400, 400),
    ]
    assert said.shapes[0].sentence == "no memory fault on TP2 (64 heads) in 500 cases"
    assert said.details == ("1,000 cases drawn: 900 clean and 100 refused.",)


def test_what_ran_ends_where_the_search_ends() -> None:
    """Batch 256..511 and KV 65,536..131,071 are buckets; the search draws up to 320 requests."""
    tp2, tp4 = statement(clean()).shapes
    assert (tp2.batch, tp2.kv_len) == (Span(1, 320), Span(16, 131_071))
    assert (tp4.batch, tp4.kv_len) == (Span(1, 1), Span(16, 31))


def test_a_simulation_says_so_and_a_gpu_does_not() -> None:
    assert "Not run on hardware" in statement(clean()).notice
    assert any("AMD hardware" in limit for limit in statement(clean()).not_covered)
    on_gpu = statement(replace(clean(), members=(member(device="rocm"),)))
    assert "Not run" not in on_gpu.notice
    assert not any(limit.startswith("AMD hardware") for limit in on_gpu.not_covered)
    assert "Not run on AMD hardware" in statement(replace(clean(), members=(member(device="cuda"),))).notice


def test_a_memory_fault_is_one_of_its_shape_alone() -> None:
    said = statement(faulty(founding_finding()))
    assert said.headline == "1 memory fault found on TP2"
    assert [s.verdict for s in said.shapes] == [ShapeVerdict.FAULTY, ShapeVerdict.CONFIRMED]
    assert said.shapes[0].sentence == "memory fault on TP2 (64 heads): 40 of 500 cases are faulty"


def test_wrong_results_are_no_memory_fault_and_no_clean_cases() -> None:
    shape = statement(silent()).shapes[0]
    assert (shape.verdict, shape.clean, shape.faulty) == (ShapeVerdict.WRONG_RESULTS, 460, 40)
    assert statement(silent()).headline == "1 wrong result found on TP2"


def test_nothing_is_confirmed_of_a_shape_that_loses_processes() -> None:
    shape = statement(faulty(hostile_finding())).shapes[0]
    assert (shape.verdict, shape.clean) == (ShapeVerdict.UNKNOWN, 497)


def test_a_signature_without_an_entry_counts_as_the_worst() -> None:
    base = clean()
    cells = (*base.cells[:2], cell(64, 256, 65_536, 300, 200, 1, "unheard of"))
    assert statement(replace(base, cells=cells)).shapes[0].verdict is ShapeVerdict.FAULTY


def test_cases_that_are_not_modelled_are_not_clean() -> None:
    """The map does not tell where they are, so that each shape is short of all that could be its own."""
    base = clean()
    cells = (replace(base.cells[0], ran=390), *base.cells[1:])
    counts = replace(base.counts, clean=890, unmodelled=10)
    shapes = {s.label: s for s in statement(replace(base, cells=cells, counts=counts)).shapes}
    assert (shapes["TP2"].clean, shapes["TP4"].clean) == (500, 390)


def test_a_fault_before_a_refusal_is_not_clean_either() -> None:
    """The planner leaves a buffer and AITER refuses afterwards: faulty, and reaches no kernel."""
    base = clean()
    cells = (cell(32, 1, 16, 400, 400), replace(cell(64, 1, 16, 300, 290, 10, "x"), refused=()), base.cells[2])
    assert statement(replace(base, cells=cells)).shapes[0].clean == 490
    cells = (cell(32, 1, 16, 400, 400), replace(cell(64, 1, 16, 300, 100, 200, "x"), refused=()))
    assert statement(replace(base, cells=cells)).shapes[0].sentence.endswith(": 200 of 300 cases are faulty")


def test_expected_faults_do_not_make_the_headline() -> None:
    assert (
        statement(faulty(founding_finding(expected=True))).headline
        == "Nothing but 1 expected fault on TP2 and TP4 in 900 cases, AITER 2026-06"
    )


def test_a_campaign_that_broke_off_confirms_nothing() -> None:
    said = statement(replace(clean(), complete=False, doubts=("the campaign did not run to its end",)))
    assert said.headline.startswith("Incomplete")
    assert "the campaign did not run to its end" in said.headline


def test_nothing_ran() -> None:
    counts, reasons = Counts(refused=10), (Reason(REFUSED, 10),)
    base = replace(clean(), counts=counts, refused_reasons=reasons, cells=(cell(64, 1, 16, 10, 0),), doubts=("no case ran",))
    said = statement(base)
    assert [s.verdict for s in said.shapes] == [ShapeVerdict.NOTHING_RAN] * 2
    assert said.shapes[0].batch is None
    assert said.headline == "Incomplete: less ran than was asked for: no case ran"


def test_a_shape_that_never_ran_is_in_the_headline_of_what_was_found_on_another() -> None:
    never = "no case of TP8 (16 heads) ran"
    said = statement(replace(faulty(founding_finding()), doubts=(never,), never_ran=(never,)))
    assert said.headline == f"1 memory fault found on TP2; {never}"


def test_limits_name_what_is_missing() -> None:
    limits = " ".join(statement(everything()).not_covered)
    for expected in ("100 cases that the serving rule or AITER refuses", "10 cases that the device has no model", "1 chunk"):
        assert expected in limits


def test_refusals_by_shape() -> None:
    assert refusals(statement(clean()).shapes) == [(REFUSED, {64: 100})]


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_is_known_as_a_witness(device: str) -> None:
    assert DEVICES[device].witness.blind
