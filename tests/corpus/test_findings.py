"""Our own finds, corpus/findings: each still shows what its folder says, and its script is that of today."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backend.aiter.codefiles import open_source
from backend.case import Case
from backend.codec import read_file
from backend.devices.kinds import open_device
from backend.host import BuiltIn
from backend.path import Path as CasePath
from reprod.corpus import load_corpus
from reprod.fix import fix_of
from reprod.folder import BISECTION, CASE, CAUSE, EXPLAIN, ISSUE, REQUEST, SCRIPT, quoted_script
from reprod.issue import MOST_LINES, issue_notes
from reprod.life import LifeStage
from reprod.script import script_text
from reprod.verify import verdicts

CORPUS = Path(__file__).parents[2] / "corpus"

FOLDERS = sorted(path for path in (CORPUS / "findings").iterdir() if path.is_dir())


def test_there_are_some_and_each_has_an_entry() -> None:
    named = {}
    for entry in load_corpus(CORPUS):
        found = re.findall(r"corpus/findings/([\w.-]+\w)", " ".join(entry.about))
        stage = LifeStage.NEW if entry.life is None else entry.life.stage
        if stage is LifeStage.MENDED:  # perhaps before anybody wrote it up
            assert len(found) <= 1, entry.id
        else:
            assert len(found) == (stage is not LifeStage.NEW), entry.id
        named |= dict.fromkeys(found, entry.id)
    assert sorted(named) == [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_case_still_shows_its_fault_and_no_smaller_one_does(folder: Path) -> None:
    """Smaller: a shorter request that still has a token for each query row (of a plan of lists: one more than a list), or one
    request fewer."""
    case = read_file(Case, folder / CASE)
    path = path_of(folder)
    outcome = path.run(case)
    assert outcome.cause is not None
    told = (folder / EXPLAIN).read_text(encoding="utf-8")
    assert f"\n  signature: {outcome.cause.signature}\n" in told
    assert len(set(case.kv_lens)) == 1
    least = max(case.max_seqlen_q, case.topk + 1)
    smaller = [(shorter,) * case.batch for shorter in range(least, case.kv_lens[0])]
    if case.batch > 1:
        smaller.append(case.kv_lens[1:])
    for kv_lens in smaller:
        cause = path.run(case.replace(kv_lens=kv_lens)).cause
        assert cause is None or cause.signature != outcome.cause.signature


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_folder_holds_together(folder: Path) -> None:
    """Quoted script, parts of the cause, a page; no path of the machine it was written on; not claimed as seen on a GPU."""
    names = {path.name for path in folder.iterdir()}
    must = {CASE, EXPLAIN, ISSUE, CAUSE}
    assert must <= names - {SCRIPT} <= must | {BISECTION, REQUEST}  # a script that `corpus write` left is not kept
    issue = (folder / ISSUE).read_text(encoding="utf-8")
    script = script_in(folder).rstrip()
    for name in {ISSUE, REQUEST} & names:
        text = (folder / name).read_text(encoding="utf-8")
        assert script in text
        assert len(text.replace(script, "").splitlines()) <= MOST_LINES
    notes = issue_notes((folder / CAUSE).read_text(encoding="utf-8").splitlines())
    assert notes.summary
    for part in (notes.summary, notes.cause, *notes.parts.values()):
        assert "\n".join(part) in issue
    assert {"Op test", "Who meets it", "References"} <= set(notes.parts)
    if BISECTION in names:
        assert all(line in issue for line in (folder / BISECTION).read_text(encoding="utf-8").splitlines())
    assert "### Verification" in issue
    assert "shows what it is for" in issue
    assert "not yet seen on a GPU" in issue
    assert "on device cdna" in issue
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text
        assert "/tmp/" not in text
        assert not re.search(r"(?<!planner v1_0)/work\b(?!_info)", text)


@pytest.mark.parametrize("file", sorted((CORPUS / "frameworks").glob("*.md")), ids=lambda file: file.stem)
def test_reports_to_frameworks_are_a_page(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert "not run on hardware" in text
    assert file.with_suffix(".json").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_script_is_that_of_today(folder: Path) -> None:
    path = path_of(folder)
    outcome = path.run(read_file(Case, folder / CASE))
    assert without_figures(script_in(folder)) == without_figures(script_text(outcome, fix_of(outcome, path)))


def script_in(folder: Path) -> str:
    """As the issue quotes it."""
    script = quoted_script((folder / ISSUE).read_text(encoding="utf-8"))
    assert script is not None
    return script


ONE_AFTER_THE_OTHER = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        print("ended", ended.code, flush=True)
"""


def test_the_scripts_say_that_there_is_no_gpu(tmp_path: Path) -> None:
    """In one process, which imports torch once."""
    scripts = [str(tmp_path / f"{folder.name}.py") for folder in FOLDERS]
    for folder, script in zip(FOLDERS, scripts, strict=True):
        Path(script).write_text(script_in(folder), encoding="utf-8")
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, *scripts]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [run.splitlines()[0][:17] for run in said.split("ended 3\n")[:-1]] == ["cannot run here: "] * len(scripts)


def path_of(folder: Path) -> CasePath:
    """The model, or machine code where the finding is one of numbers, of which the model knows nothing."""
    told = (folder / EXPLAIN).read_text(encoding="utf-8")
    if "\n  signature: numerics/" not in told:
        return CasePath()
    checkout = os.environ.get("AITERFUZZ_AITER_CHECKOUT")
    if checkout is None:
        pytest.skip("AITERFUZZ_AITER_CHECKOUT names no checkout of ROCm/aiter, whose machine code shows the finding")
    revision = re.search(r"^code objects: aiter@(\w+)", told, re.MULTILINE)
    assert revision is not None
    source = open_source(f"{checkout}@{revision[1]}")
    return CasePath(BuiltIn(source), open_device("cdna", source, numbers=True))


def without_figures(text: str) -> str:
    """A script without what the device saw, which is told from machine code in the folder and by the model here."""
    title, told = text.split("\n\n", 1)
    text = title + told[told.index("Needs torch and aiter") :]
    text = re.sub(r"^RED_ZONE = .*$", "", text, flags=re.MULTILINE)
    return text[: text.index('EXPECTATION = """')] + text[text.index('"""\n# ---- how it is checked') :]


@pytest.mark.slow
@pytest.mark.checkout
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_scripts_do_what_the_folder_says(folder: Path, aiter_checkout: Path) -> None:
    """Each run of each script, by machine code at the folder's revision, ends as the issue's verification tells."""
    told = (folder / EXPLAIN).read_text(encoding="utf-8")
    revision = re.search(r"^code objects: aiter@(\w+)", told, re.MULTILINE)
    assert revision is not None
    seen = verdicts({SCRIPT: script_in(folder)}, read_file(Case, folder / CASE), f"{aiter_checkout}@{revision[1]}")
    issue = (folder / ISSUE).read_text(encoding="utf-8")
    for each in seen:
        assert each.shows, each.lines
        for line in each.lines:
            assert line in issue
