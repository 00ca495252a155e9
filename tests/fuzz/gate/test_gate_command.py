"""`aiterfuzz gate` and `decide` on sglang's own files, and what they say of files and rules that are no such thing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from backend.real.frameworks.fetch import open_source
from fuzz.cli import main
from fuzz.gate.order import everything
from reprod.folder import one_writer

pytestmark = pytest.mark.usefixtures("sources_kept_open")

BEFORE, AFTER, LATEST = "sglang==0.5.12.post1", "sglang==0.5.13", "sglang==0.5.23"
FEW = ("--heads", "48,64", "--seconds", "900", "--lives", "0")


def gate(*argv: str) -> int:
    return main(["gate", *argv])


def faults_of(folder: Path) -> dict[tuple[str, int, str], tuple[str, list[int], list[str]]]:
    """By kind, heads and KV dtype: standing, rows, phases."""
    return {
        (fault["signature"].partition("/")[0], fault["shape"]["num_head"], fault["shape"]["kv_dtype"]): (
            fault["standing"] + (f" {fault['known']['entry']}" if fault["known"] else ""),
            fault["rows"],
            fault["phases"],
        )
        for fault in json.loads((folder / "gate.json").read_text())["faults"]
    }


@pytest.mark.slow(guard="test_a_change_is_blamed_and_shown_again_by_the_command_that_is_printed")
def test_the_file_before_the_fix_is_blamed_for_64_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(BEFORE, *FEW, "--out", str(tmp_path), "--annotate") == 1
    found = faults_of(tmp_path)
    everywhere = [1, 2, 3, 4], ["eager", "capture", "replay"]
    assert found["head-width", 64, "fp8"] == ("found F1", *everywhere)
    assert found["head-width", 64, "bf16"] == ("found F1", *everywhere)
    assert found["head-width", 48, "bf16"] == ("known, open O1", *everywhere)
    assert ("head-width", 48, "fp8") not in found
    printed = capsys.readouterr().out
    file = "sglang/srt/layers/attention/aiter_backend.py"
    assert f"{file},line=280,title=head-width" in printed, "annotations point at the gate's line"
    suite = ElementTree.fromstring((tmp_path / "gate.xml").read_bytes())[0]
    assert int(suite.attrib["failures"]) == printed.count("::error ")
    assert (tmp_path / "summary.md").read_text().startswith("## ❌ FAULTY: the source has")


def holds_known_faults_only(
    found: dict[tuple[str, int, str], tuple[str, list[int], list[str]]], standing: str, bf16: bool
) -> None:
    if bf16:
        assert found["head-width", 48, "bf16"][0] == f"{standing} O1"
    assert found["buffer-too-small", 48, "fp8"][0] == f"{standing} S1"
    others = {kind: told for (kind, *_), (told, _, _) in found.items() if not told.startswith(standing)}
    assert others in ({}, {"aiter-refuses": "did not run"}), "fp8 without metadata, by a switch"
    assert ("head-width", 64, "fp8") not in found


@pytest.mark.parametrize("kv_dtype", [("--kv-dtype", "fp8"), ()])
@pytest.mark.slow(guard="test_a_change_is_blamed_and_shown_again_by_the_command_that_is_printed")
def test_the_fix_mends_64_heads_and_changes_nothing_else(
    kv_dtype: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what the later file still has is in the base too."""
    assert gate(AFTER, "--base", BEFORE, *FEW, *kv_dtype, "--out", str(tmp_path)) == 0
    holds_known_faults_only(faults_of(tmp_path), "in the base too", bf16=not kv_dtype)
    data = json.loads((tmp_path / "gate.json").read_text())
    mended = {(f["shape"]["num_head"], f["signature"].partition("/")[0]) for f in data["mended"]}
    # Fast mode's buffers do not depend on the splits (S1); ordinary attention fills what S2 makes too small as well, and a
    # replay's reads what lies behind it.
    indices = {(48, "bad-indptr"), (64, "bad-indptr")}
    assert mended == {(64, "head-width"), (64, "buffer-too-small"), (48, "arguments")} | indices
    too_short = [f for f in data["mended"] if f["signature"].endswith("past kv_indices")]
    assert {f["known"]["entry"] for f in too_short} == {"S2"}
    assert {(new["num_head"], new["fast_mode"], old["fast_mode"]) for old, new in data["changed"]} == {(64, True, False)}
    printed = capsys.readouterr().out
    assert "mended: 64 heads, gfx950 q fp8 KV fp8, 1, 2, 3, 4 rows a request: head-width" in printed
    assert "decides otherwise: 64 heads, fp8 KV: fast_mode False -> True, intra_batch_mode True -> False" in printed
    assert "no other decision differs" in printed


@pytest.mark.slow
def test_a_later_file_has_known_open_faults_only(tmp_path: Path) -> None:
    assert gate(LATEST, *FEW, "--out", str(tmp_path)) == 0
    holds_known_faults_only(faults_of(tmp_path), "known, open", bf16=True)


@pytest.mark.parametrize("turned_round", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_change_is_blamed_and_shown_again_by_the_command_that_is_printed(
    turned_round: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fix turned round; the same edit in a copy of the file, by the first scenarios of a sweep."""
    mine = tmp_path / "mine.py"
    text = open_source(AFTER).target.text
    assert text.count("in (32, 64, 128)") == 1
    mine.write_text(text.replace("in (32, 64, 128)", "in (32, 128)"))
    if not turned_round:
        monkeypatch.setattr("fuzz.gate.gate.everything", lambda *asked: everything(*asked)[:4])
        monkeypatch.setattr("fuzz.gate.run.cut_down", lambda *_: None)  # which test_gate_blame.py tries
    change = BEFORE if turned_round else str(mine)
    assert gate(change, "--base", AFTER, "--kv-dtype", "fp8", *FEW, "--heads", "64", "--out", str(tmp_path)) == 1
    assert faults_of(tmp_path)["head-width", 64, "fp8"][0] == "new F1"
    out = capsys.readouterr().out
    words, again = (out[out.index("planner v1_0 plans rows of 16") :].partition("  again: aiterfuzz ")[at] for at in (0, 2))
    assert "at fault: the file, which calls AITER: the flags that the caller chose" in words
    assert "changed line" in words
    command = shlex.split(again.splitlines()[0])
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "the first step that is wrong: decode" in shown
    assert "write: head-width/planner v1_0/planner folds finer, gfx950 fp8/fp8" in shown
    assert main([*command[:-1], "no such scenario"]) == 2


def test_what_time_was_over_for_is_said_and_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(AFTER, "--base", BEFORE, "--heads", "64", "--kv-dtype", "fp8", "--seconds", "0.01", "--out", str(tmp_path)) == 3
    printed = capsys.readouterr().out
    assert "time was over before" in printed
    assert re.search(
        r"^OPEN: nothing ran: 64[^:]* heads, gfx950 q fp8 KV fp8: time was over before it \(--seconds\)", printed, re.M
    )


def test_decide_prints_the_table_and_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", BEFORE, "--table", "--base", AFTER, "--heads", "16,48,64"]) == 1
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["base"], ["change"])]
    assert [(row[0], *row[1:5]) for row in rows] == [
        (side, "64", "gfx950", kv, flags) for kv in ("fp8", "bf16") for side, flags in (("base", "TTF"), ("change", "TFT"))
    ]
    assert "head-width" in out
    assert main(["gate", AFTER, "--table", "--heads", "12,64"]) == 0
    said = capsys.readouterr().out
    assert "no: refuses: AssertionError" in said
    assert said.splitlines()[-1].startswith("none of ")


Broken = Callable[[str, str], str]


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    """A tree whose backend file is sglang's with a change; returns its path."""
    counter = iter(range(9))

    def write(old: str, new: str) -> str:
        text = open_source(AFTER).target.text
        assert old in text
        file = tmp_path / str(next(counter)) / "sglang/srt/layers/attention/aiter_backend.py"
        file.parent.mkdir(parents=True)
        file.write_text(text.replace(old, new))
        return str(file)

    return write


@pytest.mark.parametrize("command", ["gate", "decide"])
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("class AiterAttnBackend", "class Other", ["defines no class AiterAttnBackend", "Other"]),
        ("class WrapperDispatch(Enum):", "class WrapperDispatch(Enum:", ["aiter_backend.py:", "syntax error"]),
    ],
)
def test_files_that_are_no_backend(
    broken: Broken, command: str, old: str, new: str, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, broken(old, new)]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(word in printed.err for word in told)


@pytest.mark.parametrize(
    ("what", "told", "code"), [("sglang==0.0.0.nothing", "not fetched", 3), ("no/such/tree", "no such file or folder", 2)]
)
def test_sources_that_are_not_there(
    what: str, told: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")  # without a network pip waits before it tries again
    assert gate(what) == code
    assert told in capsys.readouterr().err
    assert gate(AFTER, "--base", what, *FEW) == code
    assert told in capsys.readouterr().err


@pytest.mark.slow(guard="test_files_that_are_no_backend")
def test_a_signature_that_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole tree is needed for the constructor to get that far: a wheel with one file changed."""
    import zipfile

    source = open_source(AFTER)
    wheel = tmp_path / "sglang-0.5.13-changed.whl"
    text = source.target.text.replace(
        "skip_prefill: bool = False,\n        kv_indptr_buf", "unheard_of,\n        kv_indptr_buf"
    )
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("sglang/srt/layers/attention/aiter_backend.py", text)
        for name in source.tree.tree._names:  # type: ignore[attr-defined]
            if name.startswith(("sglang/srt/layers/attention/u", "sglang/srt/model_executor/", "sglang/srt/utils")):
                read = source.tree.tree.read(name)
                assert read is not None
                made.writestr(name, read[0])
    assert gate(str(wheel), "--heads", "64") == 3
    assert "parameter 'unheard_of' is not known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["--seconds", "-1"], "--seconds"),
        (["--heads", "0"], "--heads"),
        (["--device", "gpu"], "gpu"),
        (["--arch", "gfx90a"], "gfx942"),
        (["--kv-dtype", "int4"], "int4"),
    ],
)
def test_wrong_usage(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = gate(AFTER, *argv)
    except SystemExit as left:
        code = int(str(left.code))
    assert code == 2
    assert told in capsys.readouterr().err


def test_a_source_that_is_its_base_is_not_swept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither side is swept where nothing differs, and some of it runs all the same."""
    monkeypatch.setattr("fuzz.gate.gate.Examination.sweep", lambda *_: pytest.fail("it is swept"))
    assert gate(AFTER, "--base", AFTER, "--heads", "64", "--out", str(tmp_path)) == 0
    assert "clean as the base is (file and package are its, byte for byte; not swept)" in capsys.readouterr().out
    data = json.loads((tmp_path / "gate.json").read_text())
    assert data["change"]["scenarios"] == 1
    assert data["change"]["counts"]["clean"] + data["change"]["counts"]["faulty"] > 0


def test_two_gates_do_not_mix_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with one_writer(tmp_path):
        assert gate(AFTER, "--base", AFTER, "--heads", "64", "--out", str(tmp_path)) == 2
    assert "another command is writing there" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with one_writer(tmp_path), one_writer(None):
        pass
