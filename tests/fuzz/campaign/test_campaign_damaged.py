"""A store that was damaged or edited confirms nothing: one line, exit code 2 or 3, whatever was done to it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sqlite3
from pathlib import Path
from random import Random

import pytest
from complaints import one_complaint
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_campaign_engine import CONFIG, MADE_BY, FakeCluster, session
from undisturbed import reports

from backend.aiter.codefiles import FolderSource
from backend.errors import AiterfuzzError, UsageError
from fuzz.campaign.merge import merge
from fuzz.campaign.read_summary import load_summary
from fuzz.campaign.session import require_same_content
from fuzz.campaign.soundness import DamagedStoreError, read_text_of
from fuzz.campaign.store import DIGEST, FILE_NAME
from fuzz.campaign.store_blobs import content_digest
from fuzz.campaign.summary import CampaignSummary
from fuzz.cli import main
from fuzz.provenance import contents_of
from fuzz.verdict import Conclusion

TABLES = ("campaigns", "sessions", "labels", "chunks", "cells", "findings", "losses", "set_aside", "notes")

EDITS = (
    *(f"DELETE FROM {table}" for table in ("campaigns", "sessions", "labels", "chunks", "cells", "findings")),
    "DELETE FROM chunks; DELETE FROM cells; DELETE FROM findings",
    "DELETE FROM chunks WHERE chunk = 3",
    "UPDATE findings SET count = count - 1",
    "UPDATE findings SET position = position + 1",
    "UPDATE findings SET folder = '../private'",
    "UPDATE findings SET folder = '/etc'",
    "UPDATE findings SET shown = 9, repeats = 3",
    "UPDATE labels SET fate = 'clean'",
    "UPDATE labels SET fate = 'sound'",
    "UPDATE chunks SET codes = x'00'",
    "UPDATE chunks SET reached = codes, codes = reached",
    "UPDATE chunks SET done = 9e999",
    "UPDATE cells SET counts = '[[[['",
    "UPDATE cells SET counts = '[1e400, 0, 0, {}, {}, {}, {}]'",
    "UPDATE campaigns SET config = '" + "[" * 3000 + "'",
    'UPDATE campaigns SET config = \'{"seed": ' + "9" * 5000 + "}'",
    "UPDATE campaigns SET space = '{}'",
    "UPDATE campaigns SET created = 'once'",
    "UPDATE sessions SET ended = began - 5",
    "UPDATE sessions SET reason = 'well'",
    "DROP TABLE cells",
    "UPDATE findings SET campaign = 7",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a campaign that ran to its end and found something."""
    folder = tmp_path_factory.mktemp("sound") / "c"
    assert session(folder, FakeCluster({report.chunk: report for report in reports(CONFIG)}, Random(0))) == "finished"
    assert load_summary(folder).verdict.conclusion is Conclusion.FAULTY
    return folder


def edited(sound: Path, folder: Path, script: str, signed: bool) -> Path:
    """A copy with an edit. signed: whoever edits makes the digest again, so that the sums alone can tell."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(sound / FILE_NAME, folder / FILE_NAME)
    db = sqlite3.connect(folder / FILE_NAME)
    db.executescript(script)
    if signed:
        db.execute("DELETE FROM notes WHERE name = ?", (DIGEST,))
        try:
            db.execute("INSERT INTO notes SELECT MIN(number), ?, ? FROM campaigns", (DIGEST, f'"{content_digest(db)}"'))
        except sqlite3.Error:
            db.rollback()
    db.commit()
    db.close()
    return folder


@pytest.mark.parametrize("signed", [False, True], ids=["as edited", "digest made again"])
@pytest.mark.parametrize("script", EDITS, ids=[edit[:60] for edit in EDITS])
def test_an_edit_is_found(sound: Path, tmp_path: Path, script: str, signed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    folder = edited(sound, tmp_path / "c", script, signed)
    code = main(["report", str(folder)])
    printed = capsys.readouterr()
    assert code == 3, printed.out
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith(f"aiterfuzz: {folder / FILE_NAME}: damaged store")
    assert not (folder / "report.html").exists()
    assert main(["merge", str(folder), "--out", str(tmp_path / "merged")]) == 3
    assert main(["campaign", "--resume", "--out", str(folder)]) == 3
    capsys.readouterr()


def summary_or_one_line(folder: Path) -> CampaignSummary | None:
    """None where reading it is refused in one line; anything else that is raised fails the test."""
    said = ""
    try:
        return load_summary(folder)
    except AiterfuzzError as error:
        said = str(error)
    assert said
    assert "\n" not in said
    return None


def counted(summary: CampaignSummary) -> object:
    return summary.counts, summary.verdict.conclusion, [(each.signature, each.count) for each in summary.findings]


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_any_place_is_sound_or_said(sound: Path, table: str, data: st.DataObject) -> None:
    """With the digest made again: one line, or a summary; never another count of cases, never clean."""
    values = st.one_of(
        st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=9), st.binary(max_size=40),
        st.sampled_from(["[" * 4000, "9" * 5000, "{}", "null", '"x"', "\0", "../x", ":x"]),
    )  # fmt: skip
    folder = sound.parent / "edited"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(sound / FILE_NAME, folder / FILE_NAME)
    db = sqlite3.connect(folder / FILE_NAME)
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    column = data.draw(st.sampled_from(columns))
    try:
        db.execute(f'UPDATE {table} SET "{column}" = ?', (data.draw(values),))
        db.execute("DELETE FROM notes WHERE name = ?", (DIGEST,))
    except sqlite3.IntegrityError:
        return
    finally:
        db.commit()
        db.close()
    summary = summary_or_one_line(folder)
    assert summary is None or summary.counts == load_summary(sound).counts
    assert summary is None or summary.verdict.conclusion is Conclusion.FAULTY


@settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(at=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=64), cut=st.booleans())
@example(0.0, b"\0" * 16, False)
def test_any_bytes_are_sound_or_said(sound: Path, at: float, junk: bytes, cut: bool) -> None:
    folder = sound.parent / "bytes"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    content = bytearray((sound / FILE_NAME).read_bytes())
    place = int(at * len(content))
    content[place : len(content) if cut else place + len(junk)] = junk
    (folder / FILE_NAME).write_bytes(content)
    summary = summary_or_one_line(folder)
    assert summary is None or counted(summary) == counted(load_summary(sound))


def test_a_copy_that_contradicts_another_is_refused(sound: Path, tmp_path: Path) -> None:
    """The same campaign with a fault made clean, everywhere and with its digest: merging takes neither for the other."""
    forged = edited(
        sound,
        tmp_path / "forged",
        "UPDATE OR IGNORE labels SET text = 'other' WHERE fate = 'refused';"
        "UPDATE chunks SET codes = (SELECT codes FROM chunks WHERE chunk = 2) WHERE chunk IN (2, 3);",
        signed=True,
    )
    with pytest.raises((UsageError, DamagedStoreError)):
        merge([sound, forged], tmp_path / "out")


@pytest.mark.slow(guard="test_a_copy_that_contradicts_another_is_refused")
def test_a_sound_copy_that_tells_of_other_outcomes_is_refused(tmp_path: Path) -> None:
    """Each store is sound, and its rule had the same name; what holds the rule's content says that it is one campaign."""
    rule, folders = tmp_path / "rule.py", [tmp_path / "first", tmp_path / "second"]
    for folder, behind in zip(folders, ("sglang-27188", "sglang-before-27188"), strict=True):
        rule.write_text(
            f"from backend.serving.backends import BACKENDS\ndef policy(case):\n    return BACKENDS[{behind!r}].rule(case)\n"
        )
        asked = ["--backend", str(rule), "--heads", "64", "--q-dtype", "fp8", "--kv-dtype", "fp8", "--query-rows", "1"]
        main(["run", *asked, "--cases", "9", "--out", str(folder)])
    assert [load_summary(folder).counts.faulty > 0 for folder in folders] == [False, True]
    with sqlite3.connect(folders[0] / FILE_NAME) as db:
        ((identity,),) = db.execute("SELECT identity FROM campaigns").fetchall()
    forged = edited(folders[1], tmp_path / "forged", f"UPDATE campaigns SET identity = '{identity}'", signed=True)
    assert load_summary(forged).counts == load_summary(folders[1]).counts
    with pytest.raises(UsageError, match="contradicts another copy of the same campaign"):
        merge([folders[0], forged], tmp_path / "out")


def test_links_and_pipes_are_not_followed(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "repro.py").write_text("TOP SECRET")
    for name in ("running", "findings", ".lock"):
        folder = edited(sound, tmp_path / "c", "", signed=False)
        (folder / name).symlink_to(private if name != ".lock" else private / "repro.py")
        assert main(["campaign", "--resume", "--out", str(folder)]) == 2, name
        assert "is not followed" in capsys.readouterr().err
    assert (private / "repro.py").read_text() == "TOP SECRET"
    (tmp_path / "c" / "findings").mkdir()
    (tmp_path / "c" / "findings" / "linked").symlink_to(private)
    os.mkfifo(tmp_path / "c" / "findings" / "pipe")
    assert read_text_of(tmp_path / "c", "findings/linked", "repro.py") == ""
    assert read_text_of(tmp_path / "c", "findings", "pipe") == ""
    assert read_text_of(private.parent, "private", "repro.py") == "TOP SECRET"


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "rule.py"
    path.write_text("from backend.serving.sglang import SGLANG_27188\npolicy = SGLANG_27188\n")
    return path


def test_an_edited_rule_is_another_campaign(
    rule: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")
    space = ["--heads", "32", "--q-dtype", "fp8", "--kv-dtype", "fp8", "--cases", "3"]
    assert main(["run", "--backend", str(rule), *space, "--out", out]) == 0
    capsys.readouterr()
    monkeypatch.setattr("backend.serving.registry._named", {})  # a command is a process of its own, in which nobody named it
    assert main(["campaign", "--resume", "--out", out, "--cases", "9"]) == 2
    assert "is not run; give --backend" in capsys.readouterr().err
    rule.write_text(rule.read_text().replace("27188", "BEFORE_27188"))
    assert main(["campaign", "--resume", "--backend", str(rule), "--out", out, "--cases", "9"]) == 2
    assert "is not what this campaign was begun with" in one_complaint(capsys.readouterr().err)


CHECKOUT = {
    "csrc/py_itfs_cu/asm_mla.cu": b"// the launcher",
    "hsa/gfx950/mla/mla_asm.csv": b"qType,co_name\nfp8,a.co\n",
    "hsa/gfx950/mla/a.co": b"machine code",
    "hsa/gfx950/mla/other.co": b"of which no table speaks",
}
DECIDES = list(CHECKOUT)[:3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, content in CHECKOUT.items():
        path = tmp_path / "aiter" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "aiter"


def test_an_edited_checkout_is_another_campaign(checkout: Path) -> None:
    """Host sources, kernel tables and the code objects that these name decide what comes of a case."""
    source = FolderSource("a checkout", (("", str(checkout)),))
    begun = dataclasses.replace(MADE_BY, contents=contents_of(source))
    assert len(begun.contents) == 3
    require_same_content(begun, dataclasses.replace(MADE_BY, contents=contents_of(source)))
    for name in DECIDES:
        (checkout / name).write_bytes(CHECKOUT[name] + b" ")
        with pytest.raises(UsageError, match=f"{name} is not what this campaign was begun with"):
            require_same_content(begun, dataclasses.replace(MADE_BY, contents=contents_of(source)))
        (checkout / name).write_bytes(CHECKOUT[name])


def test_a_campaign_does_not_go_on_with_an_edited_checkout(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever came of its cases: here none could run, the machine code being none."""
    out = str(tmp_path / "out")
    space = ["--heads", "16", "--q-dtype", "fp8", "--kv-dtype", "fp8"]
    assert main(["run", *space, "--cases", "3", "--aiter", str(checkout), "--out", out]) == 3
    for name in DECIDES:
        capsys.readouterr()
        (checkout / name).write_bytes(CHECKOUT[name] + b" ")
        assert main(["campaign", "--resume", "--out", out, "--cases", "9"]) == 2
        assert f"{name} is not what this campaign was begun with" in one_complaint(capsys.readouterr().err)
        (checkout / name).write_bytes(CHECKOUT[name])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--shapes", "tp2,tp4"], "TP2 (64 heads)"),
        pytest.param(["--heads", "32,64"], "64 heads", marks=pytest.mark.slow),
        pytest.param(["--heads", "32", "--releases", "2026-06,2025-11"], "release 2025-11", marks=pytest.mark.slow),
        pytest.param(["--heads", "32", "--archs", "gfx950,gfx942"], "architecture gfx942", marks=pytest.mark.slow),
        pytest.param(["--heads", "32", "--query-rows", "1,4"], "query rows a request of 4", marks=pytest.mark.slow),
        pytest.param(["--heads", "32", "--page-sizes", "1,64"], "page size 64", marks=pytest.mark.slow),
        pytest.param(["--heads", "32", "--modes", "fast,greedy"], "metadata mode greedy", marks=pytest.mark.slow),
        pytest.param(["--heads", "16,32", "--page-sizes", "1,16"], "32 heads with page size 16", marks=pytest.mark.slow),
    ],
)
def test_what_never_ran_is_named_and_confirms_nothing(
    flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Heads by their shape, a field by its values (the release, for all of them), and a combination of two fields."""
    rule = tmp_path / "half.py"
    rule.write_text(
        "from backend.serving.policy import CaseRefused\nfrom backend.serving.sglang import SGLANG_27188\n"
        "def policy(case):\n"
        "    if case.num_head == 64 or case.release == '2025-11' or case.arch == 'gfx942' or case.max_seqlen_q == 4 \\\n"
        "            or case.page_size == 64 or case.mode == 'greedy' \\\n"
        "            or (case.num_head, case.page_size) == (32, 16):\n"
        "        raise CaseRefused('a typo in the rule')\n"
        "    return SGLANG_27188(case)\n"
    )
    types = ["--q-dtype", "fp8", "--kv-dtype", "fp8", "--cases", "60"]
    assert main(["run", "--backend", str(rule), *flags, *types, "--out", str(tmp_path / "out")]) == 3
    assert named in capsys.readouterr().out.splitlines()[-2]
    assert main(["report", str(tmp_path / "out")]) == 3
    headline = (tmp_path / "out" / "summary.md").read_text().splitlines()[0]
    assert named in headline
    found, mark, _ = headline.partition("than was asked for")
    assert mark
    assert not ({"TP2", "64"} & set(found.replace(",", " ").split())), "what never ran has nothing found on it"
