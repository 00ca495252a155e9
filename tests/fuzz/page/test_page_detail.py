"""Looking into a finding again: what is run, what is not, and that nothing of it can cost the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_summaries import FOUNDING, clean, faulty, founding_finding, hostile_finding, member

from fuzz.campaign.summary import TriagedFinding
from fuzz.report.page import detail as module
from fuzz.report.page.detail import Detail, details


def looked_into(finding: TriagedFinding, **config: object) -> Detail:
    (found,) = details(replace(faulty(finding), members=(member(**config),)), Path("nowhere"))
    return found


def test_the_founding_fault_is_explained() -> None:
    found = looked_into(founding_finding())
    assert found.why_not == ""
    assert found.blame is not None
    assert "plans rows of 16 heads" in found.blame.sentence
    assert found.memory is not None
    assert found.memory.strays
    assert found.hardware is not None
    assert (found.script, found.folder, found.files) == ("", None, ())


def test_a_case_that_kills_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_device", lambda *_, **__: pytest.fail("it was run"))
    found = looked_into(hostile_finding())
    assert "not run again" in found.why_not
    assert found.memory is None


def test_another_fault_than_the_one_recorded_explains_nothing() -> None:
    found = looked_into(founding_finding(signature="something/else"))
    assert found.why_not.startswith("run again for this page, the smallest case shows head-width/")
    assert found.blame is None
    assert found.hardware is None
    assert found.memory is not None


def test_no_fault_is_told_as_that() -> None:
    assert "shows no fault" in looked_into(founding_finding(smallest=FOUNDING.replace(backend="sglang-27188"))).why_not


@pytest.mark.parametrize("error", [RuntimeError("broken"), ZeroDivisionError()])
def test_an_error_of_ours_costs_one_map_and_not_the_page(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr(module, "memory_map", fails)
    found = looked_into(founding_finding())
    assert type(error).__name__ in found.why_not
    assert found.memory is None


def test_a_checkout_that_is_gone_is_a_reason() -> None:
    assert "/nowhere/aiter" in looked_into(founding_finding(), aiter="/nowhere/aiter").why_not


def test_of_merged_campaigns_the_one_that_still_shows_it_explains() -> None:
    members = (member(aiter="/nowhere/aiter"), member())
    (found,) = details(replace(faulty(founding_finding()), members=members), Path("nowhere"))
    assert found.why_not == ""
    assert found.memory is not None


def test_nothing_found_is_nothing_to_look_into() -> None:
    assert details(clean(), Path("nowhere")) == ()
