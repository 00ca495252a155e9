"""The corpus: every entry behaves as its file says; the loader names what is wrong with a broken file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from backend.case import Case
from backend.codec import from_plain, to_plain
from backend.devices.kinds import DEVICES
from backend.errors import UsageError
from backend.findings import Finding, FindingKind, Party, Severity
from backend.outcome import Outcome, fate_of
from backend.path import Path as CasePath
from reprod.condition import FigureRange
from reprod.corpus import (
    CorpusEntry,
    Expected,
    OpenPaths,
    ReplayDevice,
    ReplayStatus,
    load_corpus,
    load_entry,
    replay,
    replay_all,
)
from reprod.entry import entry_of, entry_text
from reprod.shrink import Runner

CORPUS = Path(__file__).parents[2] / "corpus"

ENTRIES = {entry.id: entry for entry in load_corpus(CORPUS)}

PUBLIC_FAULTS = {f"F{i}" for i in range(1, 12)} | {"C1", "C2", "C3"}

OWN_FINDS = {f"O{i}" for i in range(1, 6)}

ON_THE_MODEL = {"F1", "F2", "F3", "F5", "F7", "F8", "F10", "F11", "C1", "C2", *OWN_FINDS}
"""Entries that need nothing that is not built in."""


def expected_status(entry: CorpusEntry) -> ReplayStatus:
    return ReplayStatus.FOUND if entry.faulty else ReplayStatus.SILENT


@pytest.mark.parametrize("name", [name for name in ENTRIES if name in ON_THE_MODEL])
def test_entry_behaves(name: str) -> None:
    verdict = replay(ENTRIES[name], OpenPaths())
    assert (verdict.status, verdict.reason) == (expected_status(ENTRIES[name]), "")
    assert verdict.cases >= 2


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in ON_THE_MODEL])
def test_entry_without_a_checkout_says_what_is_missing(name: str) -> None:
    entry = ENTRIES[name]
    if "cdna" in DEVICES and not any(side.revision for _, side in entry.sides()):
        pytest.skip("runs from the installed wheel alone; see test_machine_code_entry_behaves")
    verdict = replay(entry, OpenPaths())
    assert verdict.status is ReplayStatus.CANNOT_RUN
    assert verdict.reason


@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.skipif("cdna" not in DEVICES, reason="device cdna is not built in yet")
@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in ON_THE_MODEL])
def test_machine_code_entry_behaves(name: str, aiter_checkout: Path) -> None:
    entry = ENTRIES[name]
    if any(side.needs for _, side in entry.sides()):
        pytest.skip("a side needs what no device has")
    verdict = replay(entry, OpenPaths(str(aiter_checkout)))
    assert (verdict.status, verdict.reason) == (expected_status(entry), "")


@pytest.mark.checkout
def test_revisions_are_in_the_checkout(aiter_checkout: Path) -> None:
    """Every commit and code object that an entry names is one of ROCm/aiter."""
    from backend.aiter.codefiles import open_source

    for entry in ENTRIES.values():
        for _, side in entry.sides():
            if side.revision is not None:
                assert open_source(f"{aiter_checkout}@{side.revision}").label


def test_every_public_fault_has_an_entry() -> None:
    assert set(ENTRIES) >= PUBLIC_FAULTS


def test_what_is_said_to_be_mended_is_silent_there() -> None:
    """An entry that names a release has its first faulty case among the silent ones, at that release or a later one."""
    mended = {name: entry for name, entry in ENTRIES.items() if entry.life is not None and entry.life.release}
    assert set(mended) >= {"O35", "O36", "O37"}
    for name, entry in mended.items():
        life, first = entry.life, next(entry.faulty[0].cases())
        silent = [
            case for side in entry.silent for case in side.cases() if life is not None and life.is_mended_at(case.release)
        ]
        assert first in [case.replace(release=first.release) for case in silent], name


@pytest.mark.parametrize("name", ENTRIES)
def test_file_is_as_it_would_be_written(name: str) -> None:
    """Round trip, and one form: no diff ever comes from how a file was typed."""
    entry = ENTRIES[name]
    file = next(CORPUS.glob(f"{name}-*.json"))
    assert from_plain(CorpusEntry, to_plain(entry)) == entry
    assert entry_text(entry) == file.read_text(encoding="utf-8")
    assert max(len(line) for line in file.read_text(encoding="utf-8").splitlines()) <= 128


class Altered:
    """The real path, its outcomes altered."""

    def __init__(self, alter: Any) -> None:
        self.path = CasePath()
        self.alter = alter

    def run(self, case: Case) -> Outcome:
        return self.alter(self.path.run(case))


def replaced(outcome: Outcome, findings: tuple[Finding, ...], refused: str | None = None) -> Outcome:
    fate = fate_of(findings, refused)
    return dataclasses.replace(outcome, fate=fate, findings=findings, refused=refused)


ALTERATIONS = {
    "nothing found": (lambda o: replaced(o, ()), "no head-width"),
    "another cause": (
        lambda o: replaced(o, (Finding(FindingKind.BAD_INDPTR, Severity.READ, Party.CALLER, "x", "", "x"), *o.findings)),
        "the cause is bad-indptr/x",
    ),
    "a consequence lost": (
        lambda o: replaced(o, tuple(f for f in o.findings if f.tensor != "q")),
        "no out-of-bounds-read of q",
    ),
    "another figure": (
        lambda o: replaced(
            o,
            tuple(
                Finding(f.kind, f.severity, f.party, f.stage, f.tensor, f.message, {**f.evidence, "bytes_outside": 1})
                for f in o.findings
            ),
        ),
        "bytes_outside is 1, not 110592",
    ),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_a_change_is_told(name: str) -> None:
    alter, complaint = ALTERATIONS[name]
    verdict = replay(ENTRIES["F1"], lambda machine: Altered(alter))
    assert verdict.status is ReplayStatus.CHANGED
    assert verdict.reason.startswith("faulty[0], 64 heads, fp8/fp8, qlen 1, kv [1]")
    assert complaint in verdict.reason


def test_a_noisy_or_refused_control_has_changed() -> None:
    noise = Finding(FindingKind.NUMERICS, Severity.SILENT, Party.KERNEL, "x", "o", "wrong numbers")
    noisy = replay(ENTRIES["C1"], lambda machine: Altered(lambda o: replaced(o, (noise,))))
    assert (noisy.status, "not silent: wrong numbers" in noisy.reason) == (ReplayStatus.CHANGED, True)
    refused = replay(ENTRIES["C1"], lambda machine: Altered(lambda o: replaced(o, (), "no such thing")))
    assert (refused.status, "refused (no such thing)" in refused.reason) == (ReplayStatus.CHANGED, True)


def test_a_silent_side_may_show_what_is_besides_and_nothing_else() -> None:
    entry, noise = ENTRIES["C1"], Finding(FindingKind.NUMERICS, Severity.SILENT, Party.KERNEL, "x", "o", "wrong", {"rows": 3})
    other = dataclasses.replace(noise, kind=FindingKind.HANG)
    for expected, shown, status in (
        (Expected(FindingKind.NUMERICS, figures={"rows": 3}), (noise,), ReplayStatus.SILENT),
        (Expected(FindingKind.NUMERICS, figures={"rows": 4}), (noise,), ReplayStatus.CHANGED),
        (Expected(FindingKind.NUMERICS), (noise, other), ReplayStatus.CHANGED),
    ):
        sides = tuple(dataclasses.replace(side, besides=(expected,)) for side in entry.silent)
        altered = dataclasses.replace(entry, silent=sides)
        found = replay(altered, lambda machine, shown=shown: Altered(lambda o: replaced(o, shown)))  # type: ignore[misc]
        assert found.status is status


def test_replay_all_keeps_the_order_and_opens_a_machine_once() -> None:
    opened: list[ReplayDevice] = []
    paths = OpenPaths()

    def factory(machine: ReplayDevice) -> Runner:
        opened.append(machine)
        return paths(machine)

    names = [verdict.entry for verdict in replay_all([ENTRIES["F11"], ENTRIES["F3"]], factory)]
    assert names == ["F11", "F3"]
    assert paths(ReplayDevice("model", None)) is paths(ReplayDevice("model", None))
    assert {machine.device for machine in opened} == {"model"}


def test_a_checkout_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="checkout of ROCm/aiter"):
        OpenPaths(str(tmp_path))


def test_an_outcome_becomes_an_entry(tmp_path: Path) -> None:
    outcome = CasePath().run(next(ENTRIES["F1"].faulty[0].cases()))
    file = tmp_path / "F99-again.json"
    file.write_text(entry_text(entry_of(outcome, "F99", "again")), encoding="utf-8")
    entry = load_entry(file)
    assert replay(entry, OpenPaths()).status is ReplayStatus.FOUND
    assert entry.fault_class == "head-width"
    silent = CasePath().run(Case(num_head=64, kv_lens=(1,)))
    with pytest.raises(UsageError, match="no finding"):
        entry_of(silent, "F98", "nothing")


@pytest.mark.parametrize(
    ("value", "bounds", "holds"),
    [(5, (5, 5), True), (4, (5, None), False), (6, (None, 5), False), (6, (None, None), True), ("5", (1, 9), False)],
)
def test_ranges_are_inclusive(value: int | str, bounds: tuple[int | None, int | None], holds: bool) -> None:
    assert FigureRange(*bounds).holds(value) is holds


def test_absent_figures_never_match() -> None:
    finding = Finding(FindingKind.NUMERICS, Severity.SILENT, Party.KERNEL, "x", "o", "x", {"rows": 3})
    assert Expected(FindingKind.NUMERICS, figures={"rows": FigureRange(1, 3)}).matches(finding)
    assert not Expected(FindingKind.NUMERICS, figures={"bytes": FigureRange()}).matches(finding)
    assert not Expected(FindingKind.NUMERICS, tensor="q").matches(finding)


def broken(**changes: Any) -> dict[str, Any]:
    plain = json.loads(next(CORPUS.glob("F3-*.json")).read_text(encoding="utf-8"))
    for place, value in changes.items():
        at = plain
        *way, last = place.split("__")
        for step in way:
            at = at[int(step)] if step.isdigit() else at[step]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return plain


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "id is not the file's": ({"id": "F4"}, "id: given 'F4'; allowed: the file name"),
    "unknown field": ({"colour": "red"}, "unknown field: given 'colour'"),
    "missing field": ({"title": None}, "field 'title' is missing"),
    "unknown class": ({"fault_class": "bad-luck"}, "fault_class: given 'bad-luck'"),
    "unknown verdict": ({"verdict": "fine"}, "verdict: given 'fine'"),
    "a control with a faulty side": ({"fault_class": "control"}, "faulty: given 1"),
    "a fault without one": ({"faulty": []}, "faulty: given 0"),
    "nothing expected": ({"faulty__0__expect": []}, "faulty[0].expect: given 0"),
    "something expected of a silent side": ({"silent__1__expect": [{"kind": "hang"}]}, "silent[1].expect: given 1"),
    "findings besides of a faulty side": ({"faulty__0__besides": [{"kind": "hang"}]}, "faulty[0].besides: given 1"),
    "numbers of a device without": ({"silent__1__numbers": True}, "silent[1].device: given 'model'; allowed: one with numbers"),
    "unknown kind": ({"faulty__0__expect__0__kind": "bad"}, "faulty[0].expect[0].kind: given 'bad'"),
    "unknown release": ({"faulty__0__releases": ["2024-01"]}, "faulty[0].releases: given ['2024-01']"),
    "no release": ({"silent__0__releases": []}, "silent[0].releases: given []"),
    "wrong type": ({"faulty__0__case__num_head": "many"}, "faulty[0].case.num_head: given 'many'"),
    "impossible case": ({"faulty__0__case__graph_batch": 0}, "graph_batch: given 0"),
    "sweep over no field": ({"faulty__0__over": {"heads": [1]}}, "faulty[0].over: given 'heads'"),
    "sweep over the release": ({"faulty__0__over": {"release": ["2026-06"]}}, "faulty[0].over: given 'release'"),
    "sweep over nothing": ({"faulty__0__over": {"num_head": []}}, "faulty[0].over.num_head: given []"),
    "sweep to an impossible case": ({"faulty__0__over": {"num_head": [16, 0]}}, "faulty[0].over: case field num_head: given 0"),
    "two ways to say the lengths": ({"faulty__0__over": {"batch": [2], "kv_lens": [[1]]}}, "kv_lens, or batch and kv_len"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_a_usage_error_that_names_file_and_field(name: str, tmp_path: Path) -> None:
    changes, told = BROKEN[name]
    file = tmp_path / "F3-broken.json"
    file.write_text(json.dumps(broken(**changes)), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_corpus(tmp_path)
    assert str(file) in str(caught.value) or "case field" in str(caught.value)
    assert told in str(caught.value)


def test_broken_json_two_of_an_id_and_no_entry_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder with"):
        load_corpus(tmp_path)
    text = next(CORPUS.glob("F3-*.json")).read_text(encoding="utf-8")
    for name in ("F3-one.json", "F3-two.json"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"F3-two\.json: id: given 'F3'"):
        load_corpus(tmp_path)
    (tmp_path / "F3-two.json").write_text(text[:-20], encoding="utf-8")
    with pytest.raises(UsageError, match=r"F3-two\.json: not JSON"):
        load_corpus(tmp_path)
    with pytest.raises(
        UsageError, match=r"absent\.json'; allowed: a folder of entries, one entry's file, or a known fault's id"
    ):
        load_corpus(tmp_path / "absent.json")


def test_entries_are_in_natural_order() -> None:
    names = [entry.id for entry in load_corpus(CORPUS)]
    assert (
        names.index("C3") < names.index("F1") < names.index("F2") < names.index("F7") < names.index("F7b") < names.index("F10")
    )
