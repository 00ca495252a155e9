"""A kind of finding is one row: its texts, its severities and its place among the causes are there by construction."""

from __future__ import annotations

import ast
import dataclasses
import pickle
from collections import Counter
from dataclasses import fields
from pathlib import Path as FilePath

import pytest

from backend.case import Case
from backend.codec import from_plain, to_plain
from backend.findings import Finding, FindingKind, KindRow, Party, RowedKind, Severity, cause, in_causal_order
from backend.path import Path
from fuzz.report.figures import severity
from reprod.blame import blame, leaves_tensors, symptom
from reprod.corpus import load_corpus
from reprod.diagnose.candidates import Candidate
from reprod.diagnose.causes import fit
from reprod.diagnose.evidence import Ending, LogEvidence

ROOT = FilePath(__file__).parents[2]
CORPUS = ROOT / "corpus"

CASE = Case(num_head=16, kv_lens=(40,))


class MadeUp(RowedKind):
    """An enumeration of another's own: one row is all that a kind is."""

    FULL_MOON = KindRow(
        name="full-moon",
        severities=(Severity.READ,),
        title="The moon is full",
        symptom="howls",
        reason="what it is given holds, and the moon is full",
        advice="wait, and mend the {party}",
    )
    TWO_MOONS = KindRow(
        name="two-moons",
        severities=(Severity.SILENT,),
        title="There are two moons",
        symptom="sees double",
        reason="what it is given holds, and there are two moons",
        advice="take one away",
    )
    MOONLESS = KindRow(
        name="moonless",
        severities=(Severity.READ,),
        title="No moon is there",
        symptom="gropes",
        reason="what it is given holds, and it leaves its tensors in the dark",
        advice="light a lamp",
        is_stray_access=True,
    )


def found(kind: RowedKind) -> Finding:
    return Finding(kind, kind.severity, Party.REDUCTION, "somewhere", "", "it howls")  # type: ignore[arg-type]


def test_a_made_up_kind_is_one_row() -> None:
    outcome = Path().run(CASE)
    made = dataclasses.replace(outcome, findings=(found(MadeUp.FULL_MOON),))
    assert blame(made).reason == "what it is given holds, and the moon is full"
    assert blame(made).advice == "wait, and mend the reduction"
    assert symptom(made) == "howls"
    assert severity(found(MadeUp.FULL_MOON)) == "stray read"
    assert found(MadeUp.FULL_MOON).signature == "full-moon/somewhere"


def fits(ending: Ending, kind: RowedKind) -> str:
    """How a log that ends so is explained by a finding of the kind, in the heaviest reason."""
    nothing = dict.fromkeys(field.name for field in fields(LogEvidence))
    evidence = LogEvidence(**{**nothing, "ending": ending, "batches": ()})  # type: ignore[arg-type]
    outcome = dataclasses.replace(Path().run(CASE), findings=(found(kind),))
    return fit(outcome, Candidate(CASE), evidence, None)[0][1]


def test_what_a_made_up_kind_does_is_read_off_its_row() -> None:
    assert fits(Ending.WRONG_OUTPUT, MadeUp.TWO_MOONS) == "gives wrong output, as the log says"
    assert fits(Ending.WRONG_OUTPUT, MadeUp.FULL_MOON) == "no row of output is wrong by it"
    assert fits(Ending.FAULT, MadeUp.FULL_MOON) == "leaves tensors, which is what a memory fault needs"
    assert fits(Ending.FAULT, MadeUp.TWO_MOONS) == "nothing leaves a tensor, so no memory fault follows from it"
    left = {kind: leaves_tensors(dataclasses.replace(Path().run(CASE), findings=(found(kind),))) for kind in MadeUp}
    assert left == {MadeUp.FULL_MOON: False, MadeUp.TWO_MOONS: False, MadeUp.MOONLESS: True}


LISTS = {
    "reprod/blame.py": 1,  # what a title says of a wrong result, the plainest first
    "backend/experiments/gpu_selftest.py": 1,  # what a run on one device shows
}
"""Lists of three kinds and more that are kept beside rows and checks, by file."""


def test_a_new_kind_is_forgotten_in_no_list() -> None:
    """What is common to kinds stands in their rows: a list elsewhere would lack the next one."""
    kept: Counter[str] = Counter()
    for file in (file for room in ("backend", "fuzz", "reprod") for file in (ROOT / room).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name == "backend/findings.py" or name.startswith("backend/checks/"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple | ast.Set | ast.List):
                kinds = [one for one in node.elts if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "FindingKind"]
                kept[name] += len(kinds) >= 3
    assert +kept == LISTS


def test_every_kind_says_everything_in_words_of_its_own() -> None:
    rows = [kind.row for kind in FindingKind]
    for field in fields(KindRow):
        if field.default is not dataclasses.MISSING:
            continue
        assert all(getattr(row, field.name) for row in rows), field.name
    for field in ("name", "title", "symptom"):
        assert len({getattr(row, field) for row in rows}) == len(rows), field


def test_a_row_that_lacks_a_text_is_no_row() -> None:
    with pytest.raises(TypeError, match="reason"):
        KindRow(name="bare", severities=(Severity.READ,), title="Bare", symptom="is bare", advice="dress")  # type: ignore[call-arg]


def test_causes_come_first_whatever_the_order_of_discovery() -> None:
    backwards = [found(kind) for kind in reversed(FindingKind)]
    assert [finding.kind for finding in in_causal_order(backwards)] == list(FindingKind)
    first = cause(backwards)
    assert first is not None
    assert first.kind is FindingKind.BAD_INDPTR


def test_a_kind_is_its_name_wherever_it_is_kept() -> None:
    for kind in FindingKind:
        assert FindingKind(kind.value) is kind
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert from_plain(Finding, to_plain(found(kind)), "finding").kind is kind


def test_no_check_finds_worse_than_its_row_allows() -> None:
    """Over all known faults, which show most of the kinds."""
    seen = set()
    for side in (side for entry in load_corpus(CORPUS) for side in entry.faulty):
        for finding in Path().run(next(side.cases())).findings:
            assert finding.severity in finding.kind.row.severities, finding
            seen.add(finding.kind)
    assert len(seen) >= 10
