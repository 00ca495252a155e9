"""Base beside change, on made-up sightings: what is new, mended, in both, known; and how each is told to people and
machines."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from backend.case import Arch, Case, DType
from backend.codec import from_plain
from backend.errors import UsageError
from backend.findings import Finding, FindingKind, Party, Severity
from backend.real.frameworks.fetch import LENT, from_here
from backend.real.frameworks.record import DecisionRow, Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.noted_call import SourceLine
from backend.real.python.outline import outline
from backend.real.python.trees import ModuleSource
from fuzz.gate.comment import SHOWN, comment, life_script
from fuzz.gate.comparison import Comparison, FaultStanding, Reference, compared
from fuzz.gate.executed import Executed
from fuzz.gate.gate import Examined, Stack
from fuzz.gate.judge import Judged, Shape, Sighting, Work
from fuzz.gate.known import Known, _has_shape
from fuzz.gate.source_report import report
from fuzz.report.page.html import report_page
from fuzz.report.render import annotation_lines, json_text, junit, lines, markdown, sarif
from fuzz.report.report import Report
from fuzz.verdict import Conclusion, Counts
from reprod.corpus import load_corpus, shipped_corpus
from reprod.reference import KnownReference

FILE = "python/sglang/srt/layers/attention/aiter_backend.py"
PLAIN = Scenario("plain", (BackendConfig(64),), (Step(StepKind.DECODE, (1,)),))
PARALLEL = Scenario("parallel", (BackendConfig(64, dp_attention=True),), (Step(StepKind.DECODE, (1,)),))
OPEN = KnownReference("O1", "open", ())
MENDED = KnownReference("F1", "mended", ("sglang#27188",))


def sighting(
    signature: str,
    heads: int = 64,
    *,
    rows: int = 1,
    phase: Phase = Phase.EAGER,
    severity: Severity = Severity.WRITE,
    kv_lens: tuple[int, ...] = (1,),
    scenario: Scenario = PLAIN,
    message: str = "reads 5% past: q, o\nand more",
) -> Sighting:
    shape = Shape(heads, Arch.GFX950, DType.FP8, DType.FP8)
    case = Case(num_head=heads, kv_lens=kv_lens, max_seqlen_q=rows)
    return Sighting(signature, severity, shape, rows, phase, message, None, case, f"{FILE}:402", scenario)


def row(heads: int, fast: bool) -> DecisionRow:
    return DecisionRow(heads, DType.FP8, True, fast, not fast, 64, 32, heads)


WORK = Work(Shape(64, Arch.GFX950, DType.FP8, DType.FP8), StepKind.DECODE, 1)
OTHER_WORK = Work(Shape(48, Arch.GFX950, DType.FP8, DType.FP8), StepKind.DECODE, 1)


def examined(
    seen: Sequence[Sighting] = (),
    ran: Sequence[Scenario] = (PLAIN, PARALLEL),
    decisions: tuple[DecisionRow, ...] = (),
    not_run: dict[str, int] | None = None,
    label: str = "sglang==1<&>",
) -> Examined:
    """A source that ran those scenarios at 48 and 64 heads, eager, captured and replayed, and was seen so."""
    scenarios = dict.fromkeys((*ran, *(each.scenario for each in seen)))
    swept = []
    for scenario in scenarios:
        judged = Judged(scenario, [each for each in seen if each.scenario is scenario])
        if scenario in ran:
            judged.ran.update({(work, phase): 2 for work in (WORK, OTHER_WORK) for phase in Phase})
        swept.append(judged)
    steps = sum(judged.ran.total() for judged in swept)
    left = sum((not_run or {}).values())
    counts = Counts(clean=steps - min(len(seen), steps), faulty=min(len(seen), steps), not_run=left)
    return Examined(
        label, "2026-06", "model", decisions, tuple(seen), tuple(swept), len(swept), 0, counts, not_run or {}, None, 5
    )


def verdict(
    change: Sequence[Sighting],
    base: Sequence[Sighting] | None = None,
    known: Reference = lambda _: None,
    tables: tuple[tuple[DecisionRow, ...], tuple[DecisionRow, ...] | None] = ((), None),
) -> Comparison:
    before = None if base is None else examined(base, decisions=tables[1] or ())
    return compared(examined(change, decisions=tables[0]), before, known, lambda reference: reference is OPEN)


def reported(found: Comparison, base: bool = True, gate: SourceLine | None = None, label: str = "sglang==1<&>") -> Report:
    return report(found, examined(label=label), examined() if base else None, gate)


def standings(of: Comparison) -> dict[tuple[str, int], FaultStanding]:
    return {(fault.signature, fault.shape.num_head): fault.standing for fault in of.faults}


def test_a_change_is_blamed_only_for_what_the_base_lacks() -> None:
    base = [sighting("a"), sighting("gone", scenario=PARALLEL), sighting("b", 48)]
    found = verdict([sighting("a"), sighting("b", 64), sighting("b", 48)], base)
    assert standings(found) == {("a", 64): FaultStanding.BEFORE, ("b", 64): FaultStanding.NEW, ("b", 48): FaultStanding.BEFORE}
    assert [(fault.signature, fault.shape.num_head) for fault in found.blamed] == [("b", 64)]
    assert [fault.signature for fault in found.mended] == ["gone"]


def test_a_fault_that_is_known_and_open_is_new_where_the_base_lacks_it() -> None:
    """The corpus excuses a file that always had it, not a change that brings it."""
    assert standings(verdict([sighting("a")], [], lambda _: OPEN)) == {("a", 64): FaultStanding.NEW}


def test_an_open_fault_that_a_worse_one_of_the_base_hid_is_not_the_change_s() -> None:
    seen = [sighting("open", severity=Severity.SILENT), sighting("new", severity=Severity.SILENT)]
    found = verdict(seen, [sighting("worse")], lambda each: OPEN if each.signature == "open" else None)
    assert standings(found) == {("open", 64): FaultStanding.KNOWN, ("new", 64): FaultStanding.NEW}
    elsewhere = verdict(seen[:1], [sighting("worse", 48)], lambda _: OPEN)
    assert standings(elsewhere) == {("open", 64): FaultStanding.NEW}


def with_behind(side: Examined, scenario: Scenario, *behind: Sighting) -> Examined:
    """A source of which steps of one scenario have further faults behind their first one."""
    swept = tuple(dataclasses.replace(each, behind=list(behind)) if each.scenario == scenario else each for each in side.swept)
    return dataclasses.replace(side, swept=swept)


def test_a_fault_that_the_base_has_behind_another_is_not_the_change_s_and_the_other_is_named() -> None:
    """In the same scenario only; and the base's own is mended nowhere where the change has it behind another."""
    hidden = dataclasses.replace(sighting("deep"), behind="first")
    base = with_behind(examined([sighting("first")]), PLAIN, hidden)
    found = compared(examined([sighting("deep")]), base, lambda _: None, lambda _: False)
    (fault,) = found.faults
    assert (fault.standing, fault.hidden_by, found.verdict.exit_code) == (FaultStanding.HIDDEN, "first", 0)
    assert "there first comes first" in "\n".join(lines(report(found, examined(), base)))
    elsewhere = compared(examined([sighting("deep", scenario=PARALLEL)]), base, lambda _: None, lambda _: False)
    assert standings(elsewhere) == {("deep", 64): FaultStanding.NEW}
    other = compared(examined([sighting("deep", 48)]), base, lambda _: None, lambda _: False)
    assert standings(other) == {("deep", 48): FaultStanding.NEW}
    still = with_behind(examined([sighting("new")]), PLAIN, dataclasses.replace(sighting("gone"), behind="new"))
    kept = compared(still, examined([sighting("gone", severity=Severity.WRITE)]), lambda _: None, lambda _: False)
    assert not kept.mended


def test_without_a_base_only_open_faults_are_excused() -> None:
    seen = [sighting("a"), sighting("b"), sighting("c")]
    known = {"a": OPEN, "b": MENDED}
    found = verdict(seen, None, lambda each: known.get(each.signature))
    assert standings(found) == {("a", 64): FaultStanding.KNOWN, ("b", 64): FaultStanding.FOUND, ("c", 64): FaultStanding.FOUND}
    assert [fault.signature for fault in found.blamed] == ["b", "c"]


def test_a_known_fault_seen_in_a_life_that_does_not_excuse_it_is_blamed() -> None:
    seen = [sighting("a", scenario=PARALLEL, kv_lens=(1,)), sighting("a", kv_lens=(5, 5))]
    (fault,) = verdict(seen, None, lambda each: OPEN if each.scenario is PARALLEL else None).faults
    assert fault.standing is FaultStanding.FOUND
    assert fault.smallest.scenario is PLAIN


def test_a_source_that_refuses_is_blamed_only_where_its_base_did_not() -> None:
    refused = [sighting("refuses/RuntimeError", severity=Severity.REFUSED)]
    key = ("refuses/RuntimeError", 64)
    for base, standing in ((None, FaultStanding.REFUSED), (refused, FaultStanding.BEFORE), ([], FaultStanding.NEW)):
        found = verdict(refused, base)
        assert standings(found) == {key: standing}
        assert bool(found.blamed) is (standing is FaultStanding.NEW)


def test_a_backend_that_does_not_start_is_a_question_without_a_base_and_blamed_with_one() -> None:
    gone = dataclasses.replace(sighting("raises/NameError", severity=Severity.REFUSED), before_steps=True)
    judged = Judged(PLAIN, [gone])
    judged.did_not(WORK, "the file raises: NameError: name 'X'")
    counts = Counts(refused=1)
    change = dataclasses.replace(examined([gone], ran=()), swept=(judged,), counts=counts)
    alone = compared(change, None, lambda _: None, lambda _: False)
    assert (alone.verdict.conclusion, alone.verdict.exit_code) == (Conclusion.OPEN, 3)
    (question,) = alone.verdict.open_questions
    assert "64 heads" in question
    assert "NameError: name 'X'" in question
    beside = compared(change, examined([sighting("a")]), lambda _: None, lambda _: False)
    assert (beside.verdict.exit_code, standings(beside)) == (1, {("raises/NameError", 64): FaultStanding.NEW})
    assert not beside.mended, "what does not run mends nothing"
    neither = compared(change, dataclasses.replace(change, label="base"), lambda _: None, lambda _: False)
    assert (neither.verdict.exit_code, standings(neither)) == (3, {("raises/NameError", 64): FaultStanding.BEFORE})


SWITCHED = Scenario("switched", (BackendConfig(64),), (Step(StepKind.DECODE, (1,)),), environment=(("SGLANG_X", "1"),))


@pytest.mark.parametrize(
    ("plain_runs", "refused", "code"),
    [(True, True, 0), (True, False, 3), (False, True, 3)],
    ids=["refused under the switch alone", "raised under it", "refused without it too"],
)
def test_a_switch_that_is_refused_is_told_where_the_same_runs_without_it(plain_runs: bool, refused: bool, code: int) -> None:
    """Without a base. Nothing that raises, and nothing that is refused without the switch too, is clean."""
    plain, switched = Judged(PLAIN), Judged(SWITCHED)
    switched.did_not(Work.of(SWITCHED, 0, StepKind.DECODE), "AITER says: no kernel", refused=refused)
    plain.ran.update({(WORK, Phase.EAGER): int(plain_runs), (OTHER_WORK, Phase.EAGER): 1})
    if not plain_runs:
        del plain.ran[WORK, Phase.EAGER]
        plain.did_not(WORK, "AITER says: no kernel", refused=True)
    side = dataclasses.replace(examined(), swept=(plain, switched))
    found = compared(side, None, lambda _: None, lambda _: False)
    assert found.verdict.exit_code == code
    told = list(lines(report(found, side, None)))[-1]
    assert ("refused with SGLANG_X=1" in told) == (code == 0)


FIVE_ROWS = Scenario("corpus O11", (BackendConfig(48, draft_tokens=5),), (Step(StepKind.TARGET_VERIFY, (1,)),))


@pytest.mark.parametrize(
    ("who", "refused", "code"),
    [("corpus O11", True, 0), ("corpus O11", False, 3), ("verify 5 rows", True, 3)],
    ids=["asked by the corpus alone", "raised there", "asked by the table"],
)
def test_what_only_a_case_of_the_corpus_asks_may_be_refused(who: str, refused: bool, code: int) -> None:
    """Without a base: the fault that the case is kept for cannot be met there. What ran in the base stays blamed."""
    asked = Judged(dataclasses.replace(FIVE_ROWS, name=who))
    work = Work.of(asked.scenario, 0, StepKind.TARGET_VERIFY)
    asked.did_not(work, "AITER refuses: no kernel", refused=refused)
    side = dataclasses.replace(examined(), swept=(*examined().swept, asked))
    found = compared(side, None, lambda _: None, lambda _: False)
    assert found.verdict.exit_code == code
    told = [line for line in lines(report(found, side, None)) if "target_verify of 5 rows: AITER refuses: no kernel" in line]
    assert [line.startswith("refused, and asked by a case of the corpus alone") for line in told[:1]] == [code == 0]
    there = Judged(asked.scenario)
    there.ran.update({(work, Phase.EAGER): 1})
    beside = compared(side, dataclasses.replace(examined(), swept=(*examined().swept, there)), lambda _: None, lambda _: False)
    assert beside.verdict.exit_code == 3


@pytest.mark.parametrize(
    ("random", "lives", "said"),
    [
        (14, None, "14 random lives of seed 3 in 5.2 s; 10% of --seconds is kept for them"),
        (1, 1, "1 random life of seed 3 in 5.2 s; 10% of --seconds is kept for them"),
        (0, None, "no random life was tried, since --seconds were over first"),
        (0, 0, "no random lives were asked for (--lives 0)"),
    ],
)
def test_how_many_random_lives_were_tried_is_said(random: int, lives: int | None, said: str) -> None:
    side = dataclasses.replace(examined(), random=random, lives=lives, seed=3, lived_in=5.2)
    found = compared(side, None, lambda _: None, lambda _: False)
    assert any(line.strip().startswith(said) for line in lines(report(found, side, None)))


def test_a_case_of_the_corpus_asks_what_the_table_does_too() -> None:
    """It is the table's then, also where time was over before the table's own scenario."""
    asked = Judged(FIVE_ROWS)
    asked.did_not(Work.of(FIVE_ROWS, 0, StepKind.TARGET_VERIFY), "AITER refuses: no kernel", refused=True)
    left = dataclasses.replace(FIVE_ROWS, name="verify 5 rows")
    side = dataclasses.replace(examined(), swept=(*examined().swept, asked), asked=4, left_out=(left,), swept_in=9.0)
    found = compared(side, None, lambda _: None, lambda _: False)
    assert found.verdict.exit_code == 3
    (cut,) = [line for line in lines(report(found, side, None)) if "time was over before" in line]
    assert "1 of 4 scenarios: verify 5 rows (--seconds: about 12 for all of them at the pace of the others)" in cut


def test_what_time_was_over_for_is_named_once_for_both_sides() -> None:
    left = dataclasses.replace(FIVE_ROWS, name="verify 5 rows")
    side = dataclasses.replace(examined(), asked=1, left_out=(left,))
    found = compared(side, side, lambda _: None, lambda _: False)
    cut = [line.strip() for line in lines(report(found, side, side)) if "time was over before" in line and "--seconds:" in line]
    assert cut == [
        "time was over before 1 of 1 scenario: verify 5 rows (--seconds: too few for any of them, give more)",
        "time was over before the same scenarios (--seconds: too few for any of them, give more)",
    ]
    other = dataclasses.replace(side, left_out=(left, FIVE_ROWS), asked=2)
    both = [line for line in lines(report(found, side, other)) if "scenarios: verify 5 rows" in line]
    assert len(both) == 1, "another list is named in full"


def test_a_refusal_that_the_base_has_too_names_its_step_and_whose_words_they_are() -> None:
    """64 heads run; what is refused is one step of them, which "refused, 64 heads" alone does not say."""
    told = dataclasses.replace(
        sighting("aiter-refuses/no-kernel", severity=Severity.REFUSED, message="no kernel"), scenario=PLAIN
    )
    for base, standing in (([told], "in the base too"), (None, "did not run")):
        found = verdict([told], base)
        made = list(lines(reported(found, base is not None)))
        wanted = f'refused ({standing}): 64 heads, gfx950 q fp8 KV fp8, 1 row a request, decode, in "plain": no kernel'
        assert wanted in made


def test_a_fault_of_replays_excuses_none_of_eager_steps_that_ran_without_one() -> None:
    """In one scenario. Where the base's steps of that kind and phase have another fault, or did not run, it is excused."""
    eager, replay = sighting("a"), sighting("a", phase=Phase.REPLAY)
    assert standings(verdict([eager, replay], [replay])) == {("a", 64): FaultStanding.NEW}
    assert standings(verdict([replay], [eager, replay])) == {("a", 64): FaultStanding.BEFORE}
    other = sighting("b", severity=Severity.SILENT)
    assert standings(verdict([eager, replay], [replay, other])) == {("a", 64): FaultStanding.BEFORE}
    base = examined([replay])
    for judged in base.swept:
        for work in (WORK, OTHER_WORK):
            del judged.ran[work, Phase.EAGER]
    found = compared(examined([eager, replay]), base, lambda _: None, lambda _: False)
    assert standings(found) == {("a", 64): FaultStanding.BEFORE}


def test_blame_is_by_scenario() -> None:
    """The base's fault under DP attention is no excuse for plain decode."""
    found = verdict([sighting("a"), sighting("a", scenario=PARALLEL)], [sighting("a", scenario=PARALLEL)])
    assert standings(found) == {("a", 64): FaultStanding.NEW}
    assert found.faults[0].smallest.scenario is PLAIN
    assert verdict([sighting("a", scenario=PARALLEL)], [sighting("a", scenario=PARALLEL)]).verdict.exit_code == 0


def test_what_a_new_fault_hides_is_not_mended() -> None:
    found = verdict([sighting("b")], [sighting("a"), sighting("a", 48)])
    assert [(fault.signature, fault.shape.num_head) for fault in found.mended] == [("a", 48)]
    nowhere = compared(examined(ran=(PARALLEL,)), examined([sighting("a")]), lambda _: None, lambda _: False)
    assert not nowhere.mended, "the change did not run the scenario"


def test_what_the_base_did_and_the_change_did_not_is_asked() -> None:
    found = compared(examined(ran=(PARALLEL,)), examined(), lambda _: None, lambda _: False)
    assert found.verdict.exit_code == 3
    assert any("64" in question and "decode" in question for question in found.verdict.open_questions)


def test_what_is_not_modelled_leaves_the_question_open_unless_the_base_is_no_better() -> None:
    change = examined(not_run={"element type int8": 3})
    assert compared(change, None, lambda _: None, lambda _: False).verdict.open_questions == (
        "3 steps not judged: element type int8",
    )
    assert compared(change, change, lambda _: None, lambda _: False).verdict.exit_code == 0


def test_sightings_fold_into_one_fault_with_the_smallest_case() -> None:
    seen = [
        sighting("a", rows=2, phase=Phase.REPLAY, kv_lens=(3, 3)),
        sighting("a", phase=Phase.EAGER, kv_lens=(9,)),
        sighting("a", phase=Phase.EAGER, kv_lens=(4,), severity=Severity.READ),
        sighting("z", severity=Severity.SILENT),
    ]
    fault, last = verdict(seen).faults
    assert (fault.rows, fault.phases, fault.severity) == ((1, 2), (Phase.EAGER, Phase.REPLAY), Severity.WRITE)
    assert fault.smallest.case is not None
    assert fault.smallest.case.kv_lens == (4,)
    assert last.severity is Severity.SILENT, "worst first"


def test_what_is_blamed_stands_first_and_of_that_the_worst_and_the_simplest() -> None:
    """The reader of a gate of 0.5.12 met S1, known and open, above F1, by the alphabet of their signatures."""
    seen = [
        sighting("buffer-too-small", kv_lens=(1, 1)),
        sighting("covered-twice", kv_lens=(9, 9)),
        sighting("head-width", 48, kv_lens=(7, 7)),
        sighting("head-width", kv_lens=(1,)),
        sighting("index", severity=Severity.READ),
    ]
    found = verdict(seen, None, lambda each: OPEN if each.signature.startswith("buffer") else None)
    order = [(fault.signature, fault.shape.num_head) for fault in found.faults]
    assert order == [("head-width", 48), ("head-width", 64), ("covered-twice", 64), ("index", 64), ("buffer-too-small", 64)]


def test_decisions_that_differ() -> None:
    before, after = (row(32, True), row(64, False)), (row(32, True), row(64, True), row(12, True))
    assert verdict([], [], tables=(after, before)).changed == ((row(64, False), row(64, True)),)
    assert verdict([], [], tables=(before, before)).changed == ()
    assert verdict([], None, tables=(after, None)).changed is None


def test_people_read_one_line_for_shapes_that_differ_in_their_heads() -> None:
    told = list(lines(reported(verdict([sighting("a", 48), sighting("a", 96), sighting("b", 48)], []))))
    assert sum("48, 96 heads, gfx950 q fp8 KV fp8" in line for line in told) == 2, "a row of the table and its message"
    assert told[-1] == "FAULTY: the change brings 3 faults (device model: Not run on hardware: a simulation on the CPU.)"
    clean = list(lines(reported(verdict([], [sighting("a", 48), sighting("a", 64)]))))
    assert "mended: 48, 64 heads, gfx950 q fp8 KV fp8, 1 row a request: a" in clean
    assert clean[-1].startswith("clean: no memory fault that the change brings (device model: Not run on hardware")


def test_annotations_point_at_the_deciding_line_and_are_escaped() -> None:
    seen = [sighting("head-width/x"), sighting("bad,indptr:y"), sighting("known")]
    found = verdict(seen, None, lambda each: OPEN if each.signature == "known" else None)
    other, width = annotation_lines(reported(found, base=False, gate=SourceLine("gate,file.py", 312, "__init__")))
    assert width.startswith("::error file=gate%2Cfile.py,line=312,title=head-width/x::64 heads")
    assert other.startswith(f"::error file={FILE},line=402,title=bad%2Cindptr%3Ay::")
    assert width.endswith("reads 5%25 past: q, o and more")
    assert "\n" not in width + other


FORGED = "boom\n::stop-commands::tok\r\n##[error]forged\x1b[2J\u202e| `a` <b> [c](d)"


def test_a_stranger_s_text_commands_nobody() -> None:
    """Terminal, Markdown, annotations: it begins no line, and no mark of a command or of markup is left whole."""
    found = verdict([sighting("raises/X", message=FORGED, severity=Severity.REFUSED)], [])
    made = reported(found, label=FORGED)
    printed = [*lines(made), *annotation_lines(made)]
    assert not any("\n" in line or "\r" in line or "\x1b" in line or "\u202e" in line for line in printed)
    assert not any("##[" in line for line in printed)
    assert all(line.startswith("::error ") for line in annotation_lines(made))
    assert not any(line.lstrip().startswith("::") for line in lines(made))
    page = re.sub(r"`[^`\n]*`", "", markdown(made))  # our own code spans, which hold no backtick
    assert not re.search(r"^\s*::|##\[|<b>|(?<!\\)\]\(d\)|(?<!\\)`|\x1b", page, re.MULTILINE), page


def test_junit_fails_what_is_blamed_and_skips_the_rest() -> None:
    found = verdict([sighting("a<&>"), sighting("b", message="bell \x07")], [sighting("b")])
    suite = ElementTree.fromstring(junit(reported(found)).encode())[0]
    assert dict(suite.attrib) == {
        "name": "aiterfuzz gate sglang==1<&>",
        "tests": "2",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    assert [(test.get("name"), test[0].tag) for test in suite] == [("a<&>", "failure"), ("b", "skipped")]
    assert str(suite[1][0].get("message")).endswith("bell \ufffd")
    clean = ElementTree.fromstring(junit(reported(verdict([], []))).encode())[0]
    assert (clean.get("tests"), clean.get("failures"), len(clean[0])) == ("1", "0", 0)


def test_every_form_says_what_did_not_run() -> None:
    found = compared(examined(ran=(PARALLEL,)), examined(), lambda _: None, lambda _: False)
    made = reported(found)
    assert list(lines(made))[-1].startswith("OPEN: not run: ")
    assert markdown(made).startswith("## ❔ OPEN: not run: ")
    suite = ElementTree.fromstring(junit(made).encode())[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", str(len(found.verdict.open_questions)))
    assert [line.partition("::")[0] for line in annotation_lines(made)] == [""] * len(found.verdict.open_questions)
    data = json.loads(json_text(made))
    assert (data["verdict"], data["exit_code"], data["not_run"]) == ("open", 3, list(found.verdict.open_questions))


BASE_TEXT = """\
def planned(heads):
    if heads in (32, 64):
        return True
    print("slow")
    return False
def other():
    return 2
"""


def ran(text: str, lines: set[int], seen: Sequence[Sighting] = ()) -> Examined:
    """A file of which those lines ran in one scenario, and all with code somewhere."""
    made = examined(seen)
    swept = tuple(dataclasses.replace(each, executed=frozenset(lines if each.scenario == PLAIN else ())) for each in made.swept)
    whole = outline(ModuleSource("file", text, FILE, False), "aiter")
    return dataclasses.replace(made, swept=swept, executed=Executed(FILE, text, whole, whole.lines))


@pytest.mark.parametrize(
    ("edit", "lines", "at"),
    [
        ((("(32, 64)", "(32,)"), ("return 2", "return 3")), {1, 2, 4, 5}, (2,)),
        ((('    print("slow")\n', ""),), {1, 2, 4}, (4,)),
        ((("return 2", "return 3"),), {1, 2, 4, 5}, ()),
    ],
    ids=["of two changed lines the one that ran", "a line that is gone", "no changed line ran there"],
)
def test_a_new_fault_names_the_changed_lines_that_ran_in_its_scenario(
    edit: Sequence[tuple[str, str]], lines: set[int], at: tuple[int, ...]
) -> None:
    text = BASE_TEXT
    for old, new in edit:
        text = text.replace(old, new)
    change = ran(text, lines, [sighting("a")])
    found = compared(change, ran(BASE_TEXT, {1, 2, 4, 5}), lambda _: None, lambda _: False)
    (fault,) = found.faults
    assert fault.edited == at
    made = report(found, change, examined())
    assert made.tests[0].place == (FILE, at[0] if at else 402)
    (table, *_) = made.sections
    assert table.rows[0][-1] == f"aiter_backend.py:{at[0] if at else 402}"
    assert any("changed line that ran there" in line for line in made.explained) == bool(at)


def test_a_fault_is_told_with_its_party_what_follows_and_how_to_see_it_again() -> None:
    case = Case(num_head=64, kv_lens=(1,))
    planners = Finding(FindingKind.NOT_COVERED, Severity.SILENT, Party.PLANNER, "planner v1_2", "work_info_set", "left out")
    plain = dataclasses.replace(sighting("a", severity=Severity.SILENT), finding=planners, case=case)
    callers = dataclasses.replace(plain, signature="b", contradicts="kv_indptr[1] is 4, not 6")
    found = verdict([plain, callers], [])
    made = report(found, examined(), examined(), again=lambda fault: f"aiterfuzz gate x --only {fault.signature}")
    told = "\n".join(made.explained)
    assert "at fault: AITER's planner: " in told
    assert "at fault: the file: it passes AITER what its batch does not have" in told
    assert "the step itself is wrong: kv_indptr[1] is 4, not 6" in told
    assert told.count("The output is wrong, and nothing says so.") == 2
    assert "again: aiterfuzz gate x --only a" in told


def test_ids_are_told_by_title_and_reference() -> None:
    found = verdict([sighting("a"), sighting("b")], None, lambda each: OPEN if each.signature == "a" else MENDED)
    (legend,) = (section for section in reported(found, base=False).sections if section.heading == "Known faults:")
    assert sorted(legend.rows) == [("F1", "mended", "sglang#27188"), ("O1", "open", "no public reference")]


def test_markdown_and_json() -> None:
    found = verdict([sighting("a|b")], [sighting("gone", 48)], tables=((row(64, True),), (row(64, False),)))
    made = reported(found)
    page = markdown(made)
    assert page.startswith("## ❌ FAULTY: the change brings 1 fault\n")
    assert re.search(r"^\| write \| .* `a\\\|b` .*\| new ", page, re.MULTILINE), page
    assert "* mended: 48 heads" in page
    assert r"* decides otherwise: 64 heads, fp8 KV: fast\_mode False -&gt; True, intra\_batch\_mode True -&gt; False" in page
    data = json.loads(json_text(made))
    assert data["verdict"] == "faulty"
    assert data["faults"][0] | {"scenario": None, "smallest": None} == {
        "signature": "a|b",
        "severity": "write",
        "shape": {"num_head": 64, "arch": "gfx950", "q_dtype": "fp8", "kv_dtype": "fp8"},
        "rows": [1],
        "phases": ["eager"],
        "message": "reads 5% past: q, o\nand more",
        "line": f"{FILE}:402",
        "edited": [],
        "standing": "new",
        "hidden_by": "",
        "blamed": True,
        "known": None,
        "smallest": None,
        "scenario": None,
    }
    assert data["mended"][0]["signature"] == "gone"
    assert markdown(reported(verdict([]), base=False)).startswith("## ✅ clean: ")


def told(
    faults: Sequence[Sighting], base: Sequence[Sighting] | None = (), expected: Sequence[str] = ()
) -> tuple[Report, Comparison]:
    before = None if base is None else examined(base)
    found = compared(examined(faults), before, lambda _: None, lambda _: False, expected)
    return report(found, examined(faults), before), found


def test_what_is_expected_is_nobody_s_and_what_is_not_is_blamed() -> None:
    both = [sighting("a/x"), sighting("b/y", scenario=PARALLEL)]
    _, found = told(both, expected=("a/x",))
    assert {fault.signature: fault.standing for fault in found.faults} == {
        "a/x": FaultStanding.EXPECTED,
        "b/y": FaultStanding.NEW,
    }
    assert told(both, expected=("a/x", "b/y"))[1].verdict.exit_code == 0
    assert told(both, expected=("c/z",))[1].verdict.exit_code == 1


def test_an_expected_name_that_nothing_has_is_refused() -> None:
    Known().require_expected(["S1", "O1", "arguments/x", "raises/NameError"])
    for name in ("S99", "arguments", "nothing/x"):
        with pytest.raises(UsageError, match="--expect"):
            Known().require_expected([name])


def test_a_fault_of_16_heads_is_known_where_fewer_reach_aiter_as_16() -> None:
    (entry,) = [each for each in load_corpus(shipped_corpus()) if each.id == "O7"]
    for heads, known in ((4, True), (8, True), (16, True), (32, False)):
        assert _has_shape(entry, sighting("out-of-bounds-write/x/o", heads)) == known


def test_sarif_has_a_result_for_each_fault_and_says_what_did_not_run() -> None:
    made, _ = told([sighting("a/x")], [sighting("b/y", scenario=PARALLEL)])
    (run,) = json.loads(sarif(made))["runs"]
    (result,) = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (result["ruleId"], result["level"]) == ("a/x", "error")
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == (FILE, 402)
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["a/x"]
    assert (run["invocations"][0]["exitCode"], run["invocations"][0]["executionSuccessful"]) == (1, True)
    in_base, _ = told([sighting("a/x")], [sighting("a/x")])
    (excused,) = json.loads(sarif(in_base))["runs"][0]["results"]
    assert (excused["level"], len(excused["suppressions"])) == ("note", 1)
    moved = dataclasses.replace(sighting("a/x"), line=f"{FILE}:999")
    fingerprints = [
        json.loads(sarif(told([each])[0]))["runs"][0]["results"][0]["partialFingerprints"] for each in (sighting("a/x"), moved)
    ]
    assert fingerprints[0] == fingerprints[1]


def test_a_file_below_the_working_directory_is_named_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file, named in ((str(tmp_path / "head" / "a.py"), "head/a.py"), ("/elsewhere/a.py", "/elsewhere/a.py")):
        made, _ = told([dataclasses.replace(sighting("a/x"), line=f"{file}:7")])
        (result,) = json.loads(sarif(made))["runs"][0]["results"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == named
        (annotation,) = annotation_lines(made)
        assert f"file={named},line=7" in annotation


def test_sarif_of_an_open_question_is_no_success() -> None:
    found = compared(examined(ran=()), None, lambda _: None, lambda _: False)
    (run,) = json.loads(sarif(report(found, examined(ran=()), None)))["runs"]
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"], run["results"]) == (False, 3, [])
    assert invocation["toolExecutionNotifications"]


def test_a_comment_has_the_life_as_a_script_that_python_takes() -> None:
    made, found = told([sighting("a/x", message="`` ``` <b>", scenario=dataclasses.replace(PLAIN, name="a ``` name"))])
    text = comment(made, found, "sglang==1", None)
    assert text.startswith("<!-- aiterfuzz gate -->")
    assert text.count("```") == 2, "a stranger's text opens no block"
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, object] = {}
    exec(
        compile(script.split("raise SystemExit")[0].replace("from fuzz.gate.again import run_life", ""), "life", "exec"), scope
    )
    life = from_plain(Scenario, scope["LIFE"], "LIFE")
    assert life.steps == PLAIN.steps
    assert "```python" not in comment(*told([]), "sglang==1", None)


def test_what_did_not_run_floods_neither_comment_nor_page() -> None:
    """A comment cuts it short and says how much is left out; the page folds it, and has all of it."""
    made, found = told([])
    questions = tuple(f"step {number}: {'a kind of step, ' * 40}" for number in range(30))
    made = dataclasses.replace(made, verdict=dataclasses.replace(made.verdict, missing=questions))
    lines = [line for line in comment(made, found, "sglang==1", None).splitlines() if line.startswith("* ")]
    assert max(map(len, lines)) < 300
    assert len(lines) == 1, "one line for what did not run for one reason"
    head = report_page(made).partition("</header>")[0]
    shown, fold, folded = head.partition("<details>")
    assert fold
    assert "step 4: " in shown
    assert "step 5: " not in shown
    assert all(f"step {number}: " in folded for number in range(5, 30))


def bullets(questions: Sequence[str], changed: Sequence[tuple[DecisionRow, DecisionRow]] = ()) -> list[str]:
    """What a comment lists where nobody is blamed."""
    made, found = told([])
    made = dataclasses.replace(made, verdict=dataclasses.replace(made.verdict, missing=tuple(questions)))
    text = comment(made, dataclasses.replace(found, changed=tuple(changed)), "sglang==1", None)
    return [line for line in text.splitlines() if line.startswith("* ")]


def test_a_comment_names_functions_that_did_not_run_in_one_line() -> None:
    """Eight of them, and how many there are besides; what has a reason of its own has a line of its own."""
    changed = [f"changed lines that no scenario reached: {line} (f{line})" for line in range(12)]
    one, other = bullets([*changed, "16 heads: refused"])
    assert one.startswith(r"* not run: changed lines that no scenario reached: 0 (f0), 1 (f1)")
    assert one.endswith("7 (f7) and 4 more")
    assert other == "* not run: 16 heads: refused"
    assert bullets(["8 heads: time was over", "16 heads: time was over"]) == ["* not run: time was over: 8 heads and 16 heads"]
    reasons = [f"{heads} heads: reason {heads}" for heads in range(9)]
    assert bullets(reasons)[SHOWN:] == [f"* and {9 - SHOWN} more not run"]


def test_a_comment_says_what_is_decided_otherwise_where_nothing_ran() -> None:
    rows = [(row(heads, True), row(heads, False)) for heads in range(8, 15)]
    decided, *_ = lines = bullets(["everything: nobody has a model"], rows)
    assert decided.startswith("* decides otherwise: 8 heads, ")
    assert lines[SHOWN:] == [f"* and {7 - SHOWN} more decided otherwise", "* not run: everything: nobody has a model"]


@pytest.mark.parametrize("given", ["head/mine.py", f"head/mine.py{LENT}sglang==1", "head@v1", "sglang==1"])
def test_the_script_of_a_life_runs_from_any_folder(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names files from where it lies itself: beside the report, which is not where the gate was run."""
    file, out, elsewhere = tmp_path / "head" / "mine.py", tmp_path / "reports" / "gate", tmp_path / "elsewhere"
    for folder in (file.parent, out, elsewhere):
        folder.mkdir(parents=True)
    file.write_text("pass")
    monkeypatch.chdir(tmp_path)
    _, found = told([sighting("a/x")])
    script = out / "life.py"
    script.write_text(life_script(found.blamed[0], given, "head@v2", Path("reports/gate")))
    ran: list[str] = []

    def again(stack: Stack, plan: object, life: Scenario) -> tuple[list[str], SimpleNamespace]:
        assert life.steps == PLAIN.steps
        ran.extend(from_here(each) for each in (*stack.source.split(LENT), str(stack.aiter)))
        return [], SimpleNamespace(exit_code=1)

    monkeypatch.setattr("fuzz.gate.again.run_again", again)
    monkeypatch.setattr("fuzz.gate.again.which_aiter", lambda source, aiter: SimpleNamespace(aiter=aiter, release=None))
    monkeypatch.chdir(elsewhere)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script))
    assert ended.value.code == 1
    monkeypatch.chdir(tmp_path)
    place = re.compile(r"/reports/gate/\.\./\.\.")
    assert [place.sub("", each) for each in ran] == [from_here(each) for each in (*given.split(LENT), "head@v2")]


def test_a_comment_points_at_the_line_which_decides() -> None:
    made, found = told([sighting("a/x")])
    fault = dataclasses.replace(found.blamed[0], line="/tree/backend.py:434", edited=(312, 320))
    edited = dataclasses.replace(found, faults=(fault,))
    assert "(backend.py:312)" in comment(made, edited, "sglang==1", None)
    unedited = dataclasses.replace(found, faults=(dataclasses.replace(fault, edited=()),))
    assert "(backend.py:434)" in comment(made, unedited, "sglang==1", None)
