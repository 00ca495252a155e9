"""The page's structure: well formed, self-contained, complete, and deaf to what texts of a campaign try to say in HTML."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_summaries import HOSTILE, REFUSED, cell, clean, everything, faulty, founding_finding, member

from fuzz.campaign.summary import CampaignSummary
from fuzz.report.campaign import campaign_report
from fuzz.report.page.campaign_page import SECTIONS, campaign_page
from fuzz.report.page.charts import SHADES, heat_map, shade_of
from fuzz.report.page.detail import details
from fuzz.report.statement import statement

SCRIPT = "import torch\nprint('<&> \"quoted\"')\n"


def write_script(root: Path) -> None:
    folder = root / "findings" / "bug-one"
    folder.mkdir(parents=True)
    (folder / "repro.py").write_text(SCRIPT, encoding="utf-8")
    (folder / "case.json").write_text("{}", encoding="utf-8")


def page_to(summary: CampaignSummary, root: Path, out: Path) -> str:
    said = statement(summary)
    return campaign_page(campaign_report(summary, said), summary, said, details(summary, root), out)


def made(summary: CampaignSummary, root: Path) -> str:
    return page_to(summary, root, root)


def parsed(text: str) -> ElementTree.Element:
    """The page by an XML parser, which forgives nothing; the bodies of style and script are no XML and are left out."""
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    bare = re.sub(r"<(style|script)>.*?</\1>", r"<\1></\1>", text.removeprefix("<!DOCTYPE html>\n"), flags=re.S)
    return ElementTree.fromstring(bare)


def told(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


@pytest.fixture(scope="module")
def bad_night(tmp_path_factory: pytest.TempPathFactory) -> ElementTree.Element:
    root = tmp_path_factory.mktemp("night")
    write_script(root)
    return parsed(made(everything(), root))


def test_ids_are_unique_and_links_lead_somewhere(bad_night: ElementTree.Element) -> None:
    ids = [each.get("id") for each in bad_night.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert {name for name, _ in SECTIONS} <= set(ids)
    inner = [each.get("href", "") for each in bad_night.iter("a") if each.get("href", "").startswith("#")]
    assert inner
    assert {href[1:] for href in inner} <= set(ids)
    named = [
        each.get(key) for each in bad_night.iter() for key in ("aria-labelledby", "data-copy", "data-readout") if each.get(key)
    ]
    assert set(named) <= set(ids)


def test_nothing_is_loaded_from_anywhere(bad_night: ElementTree.Element) -> None:
    assert [each.tag for each in bad_night.iter() if each.get("src") or each.tag in ("iframe", "object", "embed", "base")] == []
    assert [each.get("href") for each in bad_night.iter("link")] == ["data:,"]
    style = resources.files("fuzz.report.page").joinpath("page.css").read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|https?:", style)
    outside = [each.get("href", "") for each in bad_night.iter("a") if ":" in each.get("href", "")]
    assert outside
    assert all(href.startswith("https://github.com/") for href in outside)


def test_the_policy_allows_the_one_script_only(tmp_path: Path) -> None:
    text = made(clean(), tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    policy = parsed(text).findall("./head/meta")[1].get("content", "")
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_text_is_text(tmp_path: Path) -> None:
    text = made(everything(), tmp_path)
    assert text.count("<script>") == 1
    assert text.count("</script>") == 1
    assert "<img" not in text
    shown = told(parsed(text))
    visible = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    # Doubt, gone finding, known entry, signature, reasons, worker, detail: each of them is shown.
    assert shown.count(visible) >= 10


def test_headings_do_not_skip_a_level(bad_night: ElementTree.Element) -> None:
    levels = [int(each.tag[1]) for each in bad_night.iter() if re.fullmatch("h[1-6]", each.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_picture_and_table_has_a_name(bad_night: ElementTree.Element) -> None:
    for svg in bad_night.iter("svg"):
        assert svg.get("aria-label") or svg.get("aria-hidden") == "true"
    for table in bad_night.iter("table"):
        assert table.get("aria-label") or table.find("caption") is not None
        assert all(th.get("scope") for th in table.iter("th"))


def test_a_clean_night_reads_as_one(tmp_path: Path) -> None:
    tree = parsed(made(clean(), tmp_path))
    assert told(tree.find(".//h1/span[2]")) == "No memory fault on TP2 and TP4 in 900 cases, AITER 2026-06"  # type: ignore[arg-type]
    text = told(tree)
    assert "Not run on hardware" in text
    assert "Nothing was found" in text
    rows = {
        told(row[0]): [told(cell) for cell in row[1:]] for row in tree.findall(".//table[@class='statement stack']/tbody/tr")
    }
    assert rows["TP2 (64 heads)"] == ["no memory fault", "500", "0", "600", "1..320", "16..131,071"]
    assert rows["TP4 (32 heads)"] == ["no memory fault", "400", "0", "400", "1", "16..31"]
    assert REFUSED in text


def test_hardware_is_not_denied_where_it_ran(tmp_path: Path) -> None:
    from dataclasses import replace

    text = told(parsed(made(replace(clean(), members=(member(device="rocm"),)), tmp_path)))
    assert "Run on AMD hardware" in text
    assert "Not run on hardware" not in text


def test_a_card_tells_of_its_finding(bad_night: ElementTree.Element) -> None:
    founding, silent, lost = bad_night.findall(".//article")
    text = told(founding)
    for expected in ("stray write", "new", "known: F1", "40 (4.4 % of those that ran)", "5 of 5 times", "case 7/0/5"):
        assert expected in text
    first = founding.find(".//ol[@class='chain']/li/div")
    assert told(first).startswith("Planner v1_0 plans rows of 16")  # type: ignore[arg-type]
    assert "".join(founding.find(".//code[@id='finding-1-script']").itertext()) == SCRIPT  # type: ignore[union-attr]
    links = {each.text: each.get("href") for each in founding.iter("a")}
    assert links["ROCm/aiter#3496"] == "https://github.com/ROCm/aiter/issues/3496"
    assert links["repro.py"] == "findings/bug-one/repro.py"
    assert "aiterfuzz explain findings/bug-one/case.json" in text
    assert "expected" in told(silent.find(".//p[@class='badges']"))  # type: ignore[arg-type]
    assert "shows head-width" in told(silent)
    assert "not run again" in told(lost)
    assert "process lost" in told(lost)


def test_the_memory_map_has_the_figures_of_the_fault(bad_night: ElementTree.Element) -> None:
    labels = [svg.get("aria-label", "") for svg in bad_night.find(".//article").iter("svg") if svg.get("role") == "img"]  # type: ignore[union-attr]
    assert any(label.startswith("q, 36,864 bytes:") and "reads 110,592 B past the end" in label for label in labels)
    assert any(label.startswith("o, 65,536 bytes:") and "writes 196,608 B past the end" in label for label in labels)


def test_links_lead_from_another_folder_too(tmp_path: Path) -> None:
    write_script(tmp_path)
    summary = faulty(founding_finding())
    out = tmp_path / "somewhere" / "else"
    tree = parsed(page_to(summary, tmp_path, out))
    (href,) = [each.get("href") for each in tree.iter("a") if each.text == "repro.py"]
    assert href == "../../findings/bug-one/repro.py"


def test_what_is_new_gone_and_lost_is_told(bad_night: ElementTree.Element) -> None:
    text = told(bad_night)
    assert "1 new, 2 still there, 1 gone" in text
    assert "aiterfuzz itself changed in between (sources ddddeeeeffff, now aaaabbbbcccc)" in text
    assert "3/17: 64 heads" in text
    assert "Chunks set aside, and not among the counts: 9." in text


def test_the_map_says_in_words_what_it_shades(bad_night: ElementTree.Element) -> None:
    tp2, tp4 = bad_night.findall(".//table[@class='heat']")
    told_of = {cell.get("data-text", "").partition("\n")[0]: cell.get("class") for cell in tp2.iter("td")}
    assert told_of["batch 1, KV 16..31: 300 cases, 300 reached a kernel, 83 faulty"] == f"h{shade_of(300, 400)} faulty"
    assert told_of["batch 1, KV 1: not drawn"] == "none"
    # Batch 1..256 by powers of two, KV 1..65,536: 9 x 17 fields, the ones that nothing was drawn of included.
    assert len(told_of) == 9 * 17
    assert len(list(tp4.iter("td"))) == 9 * 17


def test_a_field_of_faults_alone_is_not_one_of_refusals() -> None:
    """The planner leaves its buffers and AITER refuses afterwards: faulty, and no kernel was reached."""
    base = clean()
    field = replace(cell(64, 1, 16, 300, 0, 300, "x"), refused=())
    summary = replace(base, cells=(base.cells[0], field, base.cells[2]))
    (shape,) = (shape for shape in statement(summary).shapes if shape.num_head == 64)
    told_of = {
        td.get("data-text"): td.get("class") for td in ElementTree.fromstring(heat_map(shape, summary.cells, 400)).iter("td")
    }
    assert told_of["batch 1, KV 16..31: 300 cases, 0 reached a kernel, 300 faulty"] == "h0 faulty"


@pytest.mark.parametrize("most", [1, 2, 7, 400, 1_000_000])
def test_shades_rise_with_cases_and_use_the_whole_scale(most: int) -> None:
    counts = sorted({1, most} | {most * i // 50 for i in range(1, 50)})
    shades = [shade_of(count, most) for count in counts if count]
    assert shades == sorted(shades)
    assert shades[-1] == SHADES
    assert shade_of(0, most) == 0


def test_two_campaigns_of_a_merged_store_are_told_apart(tmp_path: Path) -> None:
    from dataclasses import replace

    other = replace(member(device="rocm"), identity="fedcba9876543210")
    tree = parsed(made(replace(clean(), members=(member(), other)), tmp_path))
    header = [told(th) for th in tree.findall(".//table[@class='scope-of']/thead/tr/th")]
    assert header == ["cases drawn from", "campaign 01234567", "campaign fedcba98"]
    assert "2 campaigns merged" in told(tree)
