"""JSON, JUnit XML and the job summary say what the page says; files come whole; the command exits as the campaign did."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_summaries import HOSTILE, clean, everything, faulty, founding_finding, hostile_finding

from backend.codec import from_plain, to_plain
from backend.errors import UsageError
from backend.findings import FindingKind, Severity
from fuzz import cli
from fuzz.campaign.summary import CampaignSummary, Reliability
from fuzz.report.campaign import campaign_report
from fuzz.report.page.campaign_page import campaign_page
from fuzz.report.render import annotation_lines, junit, markdown
from fuzz.report.statement import statement
from fuzz.report.write import JSON, JUNIT, MARKDOWN, PAGE, report_of

CLEAN_SUMMARY = """\
## ✅ No memory fault on TP2 and TP4 in 900 cases, AITER 2026-06

**Not run on hardware: a simulation on the CPU.**

* sglang-27188, AITER 2026-06, device model, seed 7
* 1,000 cases in 1 min 40 s (10/s), 900 ran, coverage 100
* 1,000 cases drawn: 900 clean and 100 refused.

| shape | verdict | clean | faulty | drawn | batch | longest KV |
| --- | --- | --- | --- | --- | --- | --- |
| TP2 (64 heads) | no memory fault | 500 | 0 | 600 | 1..320 | 16..131,071 |
| TP4 (32 heads) | no memory fault | 400 | 0 | 400 | 1 | 16..31 |

### Query rows a request: 1 is plain decode, more are draft tokens.

| cases that ran | GPU | q | KV | AITER | 1 row |
| --- | --- | --- | --- | --- | --- |
| TP2 (64 heads) | gfx950 | fp8 | fp8 | 2026-06 | 500 and 100 refused |
| TP4 (32 heads) | gfx950 | fp8 | fp8 | 2026-06 | 400 |

### 100 of 1,000 cases were refused, which is not a fault

| cases | what is refused |
| --- | --- |
| 100 | TP2 (64 heads) with 1 query row (gfx950, q fp8, KV fp8, AITER 2026-06): AITER refuses some, \
500 ran (no row for the key); a server raises |

### Not drawn, though the framework sends it:

* requests of 131,073 to 163,840 KV tokens (--max-kv-len)
* batches of 321 to 512 requests (--max-batch)
* batches of more than 1,048,576 KV tokens
* draft extension, with query rows that differ between requests
* the draft model's own steps, one query row with the 32 splits of speculation
* the caps that DP attention puts on splits
* prefill and sparse attention
* what one step leaves to the next (aiterfuzz gate runs the backend's file through a process' life)

<details><summary>What this covers, and what not</summary>
"""


def xml(summary: CampaignSummary) -> ElementTree.Element:
    return ElementTree.fromstring(junit(campaign_report(summary)))


def outcomes(summary: CampaignSummary) -> dict[str, str]:
    """Test -> passed, failure, error or skipped."""
    tags = ("failure", "error", "skipped")
    tests = xml(summary).findall("testsuite/testcase")
    return {test.get("name", ""): next((child.tag for child in test if child.tag in tags), "passed") for test in tests}


def test_json_holds_the_summary_and_the_statement(tmp_path: Path) -> None:
    summary = everything()
    read = json.loads(report_of(summary, tmp_path, tmp_path).json.read_text(encoding="utf-8"))
    assert from_plain(CampaignSummary, read["summary"]) == summary
    assert read["exit_code"] == summary.exit_code == 1
    assert read["statement"] == to_plain(statement(summary))
    first, _, lost = read["findings"]
    strays = {bar["tensor"]: [[each["begin"], each["end"]] for each in bar["bad"]] for bar in first["memory_map"]["bars"]}
    assert strays["q"] == [[36_864, 147_456]]
    assert first["blame"]["party"] == "caller"
    assert lost["memory_map"] is None
    assert "not run again" in lost["why_not_run_again"]


def test_junit_of_a_clean_night_passes() -> None:
    assert outcomes(clean()) == {
        "the campaign ran what it was asked to": "passed",
        "nothing wrong on TP2 (64 heads)": "passed",
        "nothing wrong on TP4 (32 heads)": "passed",
    }


def test_junit_blames_the_shape_and_names_the_fault() -> None:
    finding = founding_finding()
    found = outcomes(faulty(finding))
    assert found["nothing wrong on TP2 (64 heads)"] == "failure"
    assert found["nothing wrong on TP4 (32 heads)"] == "passed"
    assert found[finding.signature] == "failure"
    suite = xml(faulty(finding)).find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "2",
        "errors": "0",
        "skipped": "0",
    }


def test_junit_of_expected_gone_and_incomplete() -> None:
    expected = founding_finding(expected=True)
    assert set(outcomes(faulty(expected)).values()) == {"passed", "skipped"}
    assert outcomes(everything())["planner-overrun/planner v1_0/reduce_indptr/past the end"] == "passed"
    assert outcomes(replace(clean(), doubts=("it broke off",)))["the campaign ran what it was asked to"] == "error"


def test_junit_of_a_wrong_result_fails_its_shape_too() -> None:
    silent = founding_finding(severity=Severity.SILENT, kind=FindingKind.NOT_COVERED)
    found = outcomes(faulty(silent))
    assert found["nothing wrong on TP2 (64 heads)"] == "failure"
    assert found[silent.signature] == "failure"


def test_junit_takes_any_text() -> None:
    names = [test.get("name", "") for test in xml(everything()).iter("testcase")]
    assert any("</script>" in name and "\ufffd" in name for name in names)


def test_the_job_summary_of_a_clean_night() -> None:
    assert markdown(campaign_report(clean())).startswith(CLEAN_SUMMARY)


def test_the_job_summary_takes_any_text_as_text() -> None:
    summary = everything()
    text = markdown(campaign_report(summary))
    outside_code = "".join(text.split("`")[::2])
    assert "<script" not in outside_code
    assert "<img" not in outside_code
    for is_table, rows in itertools.groupby(text.splitlines(), lambda line: line.startswith("| ")):
        assert len({row.replace("\\|", "").count("|") for row in rows}) == 1 or not is_table
    assert "1 gone since last time" in text
    assert "❌ 1 memory fault and 1 lost process found on TP2" in text


def test_a_campaign_annotates_what_failed_and_what_did_not_run() -> None:
    """The same workflow commands as a gate: an error for the shape and the fault, one for what never ran."""
    summary = replace(faulty(founding_finding()), doubts=("no case of TP8 ran",))
    titles = [line.partition("title=")[2].partition("::")[0] for line in annotation_lines(campaign_report(summary))]
    assert titles == ["nothing wrong on TP2 (64 heads)", founding_finding().signature.replace(",", "%2C"), "not run"]


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    report_of(clean(), tmp_path, tmp_path)
    (tmp_path / PAGE).write_text("old", encoding="utf-8")
    report = report_of(clean(), tmp_path, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([PAGE, JSON, JUNIT, MARKDOWN])
    assert report.page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--out: given .*give another"):
        report_of(clean(), tmp_path, tmp_path / "file" / "below")


SUMMARIES: dict[str, tuple[Callable[[], CampaignSummary], int]] = {
    "clean": (clean, 0),
    "faulty": (lambda: faulty(hostile_finding()), 1),
    "broken off": (lambda: replace(clean(), doubts=("it broke off",)), 3),
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make, code = SUMMARIES[name]
    summary = make()
    (tmp_path / "campaign.sqlite").write_bytes(b"")
    monkeypatch.setattr("fuzz.report.write.load_summary", lambda store: summary)
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == code
    assert capsys.readouterr().out.splitlines()[-4:] == [str(tmp_path / "out" / name) for name in (PAGE, JSON, JUNIT, MARKDOWN)]


def test_the_command_without_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "campaign.sqlite" in capsys.readouterr().err


def test_hostile_text_is_hostile_enough() -> None:
    assert all(part in HOSTILE for part in ("</script>", "<img", "`", "|", "\x00", '"', "'"))


def test_a_death_that_did_not_come_again_is_told_apart_and_fails_nothing() -> None:
    unclear = hostile_finding(reliability=Reliability(0, 5), folder="findings/bug-one")
    summary = replace(clean(), not_reproduced=(unclear,))
    said = statement(summary)
    assert said.headline == statement(clean()).headline
    assert any(detail.startswith("Not reproduced: 1 case lost its process once") for detail in said.details)
    assert list(outcomes(summary).values()).count("skipped") == 1
    report = campaign_report(summary, said)
    assert "### 1 not reproduced" in markdown(report)
    written = campaign_page(report, summary, said, (), Path("nowhere"))
    assert "1 not reproduced: no finding, kept for a retry" in written
    assert "findings/bug-one/case.json" in written
    assert HOSTILE not in written
