"""Scripts on the simulated GPU: the founding fault faults and its remedy does not, limits hold, texts tell what was seen.

What only asks what a script's GPU does runs in a fork (contract_script.py); whatever a process is asked for has its own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from backend.case import Arch, Case, MetadataMode
from backend.child.tree import Limits
from backend.errors import UsageError
from backend.findings import Finding, FindingKind, Party, Severity
from backend.outcome import Outcome
from backend.path import Path as CasePath
from backend.real.script.messages import HardwareAbort, Options, ScriptReport, SeenFinding
from fuzz.cli import main
from fuzz.commands.verify import Stated, stated
from reprod.fix import fix_of
from reprod.folder import SCRIPT
from reprod.script import script_text
from reprod.verify import ScriptVerdict, Verification, verdict, verification_lines, verified, verify
from tests.reprod.contract_script import forked

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")
REVISION_2026_06 = "2988812e134a"
BUILT_IN = Options(Arch.GFX950, release="2026-06", node=2)

FAULT_LINE = "Memory access fault by GPU node-2 (Agent handle: 0x"


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return CasePath().run(FOUNDING)


@pytest.fixture(scope="module")
def script(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The founding fault's repro.py."""
    file = tmp_path_factory.mktemp("founding") / SCRIPT
    file.write_text(script_text(outcome, fix_of(outcome, CasePath())), encoding="utf-8")
    return file


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "script.py"
    file.write_text(text, encoding="utf-8")
    return file


def run(script: Path, *arguments: str, options: Options = BUILT_IN, limits: Limits | None = None) -> Verification:
    return verify(script, arguments, options, limits or Limits(seconds=300.0, memory=8 << 30), captured=True)


def overruns(done: Verification) -> set[tuple[FindingKind, str]]:
    return {(seen.finding.kind, seen.finding.tensor) for seen in done.findings if seen.finding.tensor}


FOUNDING_OVERRUNS = {
    (FindingKind.PLANNER_OVERRUN, "reduce_indptr"),
    (FindingKind.PLANNER_OVERRUN, "reduce_final_map"),
    (FindingKind.OUT_OF_BOUNDS_READ, "q"),
    (FindingKind.OUT_OF_BOUNDS_WRITE, "o"),
}


GUARDED = """\
        total = around + (size + 255) // 256 * 256 + around
        start = around
"""

AT_A_MAPPINGS_END = """\
        total = (size + (2 << 20) - 1) // (2 << 20) * (2 << 20)
        start = total - size
"""


def holds_the_founding_fault(script: Path, options: Options, engine: str) -> None:
    """Edge (tensors end with their mapping): an abort at the planner's first stray word. Guarded: red zones. Fixed: nothing."""
    text = script.read_text(encoding="utf-8")
    assert GUARDED in text
    edge = forked(written(script.parent, text.replace(GUARDED, AT_A_MAPPINGS_END)), options=options)
    assert edge.code == edge.exit_code == 134
    assert FAULT_LINE in edge.output
    assert "Reason: Unknown." in edge.output
    assert "reduce_indptr + 8 bytes, 0 bytes past its end" in edge.output  # the buffer has two words
    assert "planned 4 work items" not in edge.output  # the process is dead
    assert overruns(edge) == FOUNDING_OVERRUNS
    late = {seen.finding.tensor for seen in edge.findings if seen.after_abort}
    assert late == {"q", "o"}
    guarded = forked(script, options=options)
    assert guarded.code == guarded.exit_code == 1
    assert "reduce_indptr: 12 bytes written past the end" in guarded.output
    assert "reduce_final_map: 24 bytes written past the end" in guarded.output
    assert "o: 196,608 bytes written past the end" in guarded.output
    assert overruns(guarded) == FOUNDING_OVERRUNS
    assert not guarded.faults
    fixed = forked(script, "--fixed", options=options)
    assert fixed.code == 0
    assert not fixed.findings
    assert "fine: right result" in fixed.output
    assert {report.engine.split()[0] for done in (edge, guarded, fixed) for report in done.reports} == {engine}


def test_founding_fault_by_the_models_accesses(script: Path) -> None:
    holds_the_founding_fault(script, BUILT_IN, "the")


@pytest.mark.checkout
def test_founding_fault_by_machine_code(script: Path, aiter_checkout: Path) -> None:
    options = Options(Arch.GFX950, aiter=f"{aiter_checkout}@{REVISION_2026_06}", node=2)
    holds_the_founding_fault(script, options, "machine")


OF_ANOTHER = f"        the finding was made with ROCm/aiter {REVISION_2026_06}: another one neither shows nor refutes it\n"


@pytest.mark.parametrize(("release", "said"), [("2026-06", False), ("2026-08", True)])
def test_a_script_says_where_another_aiter_runs_than_it_was_found_with(script: Path, release: str, said: bool) -> None:
    done = forked(script, "--fixed", options=dataclasses.replace(BUILT_IN, release=release))
    assert (OF_ANOTHER in done.output) == said
    assert "\naiter   unknown, commit not a git checkout, /virtual/" in done.output


@pytest.mark.slow(guard="reprod/test_script.py::test_the_worst_exit_code_of_the_ranks_is_told")
def test_one_of_two_ranks_dies(outcome: Outcome, tmp_path: Path) -> None:
    """aiter#3496's setting: the same step in two processes, whose memory is laid out differently."""
    script = written(tmp_path, script_text(outcome, fix_of(outcome, CasePath()), "script.py", ranks=2))
    done = run(script)
    assert len(done.reports) == 3  # the one that starts the ranks, and they
    assert done.reports[0].decode_calls == 0
    assert done.code == (134 if done.faults else done.exit_code)
    assert overruns(done) == FOUNDING_OVERRUNS
    assert all(report.decode_calls == 1 for report in done.reports[1:])


@pytest.mark.slow(guard="test_founding_fault_by_the_models_accesses")
def test_two_ranks_with_the_remedy_are_silent(outcome: Outcome, tmp_path: Path) -> None:
    script = written(tmp_path, script_text(outcome, fix_of(outcome, CasePath()), "script.py", ranks=2))
    fixed = run(script, "--fixed")
    assert (fixed.code, fixed.findings) == (0, ())


@pytest.mark.slow(guard="reprod/test_verify_triton.py::test_numbers_are_those_of_the_types")
def test_the_wheels_machine_code_gives_right_numbers(tmp_path: Path) -> None:
    """Release 2025-11: aiter's own Python and code object, a long request in many pieces, so that the merge takes part."""
    short_piece = Case(num_head=16, kv_lens=(33,), max_seqlen_q=4, backend="direct", release="2025-11", mode=MetadataMode.FAST)
    options = Options(Arch.GFX950, release="2025-11")
    text = script_text(CasePath().run(short_piece), None)
    assert "KV_LENS = [33]" in text
    faulty = forked(written(tmp_path, text), options=options)
    assert faulty.exit_code == 1
    assert "3 of 4 rows are wrong by their largest error" in faulty.output  # those that see nothing of the last piece
    sound = forked(written(tmp_path, text.replace("KV_LENS = [33]", "KV_LENS = [1000]")), options=options)
    assert "fine: right result" in sound.output
    assert (sound.code, sound.reports[0].engine, sound.reports[0].launches) == (0, "machine code", 1)


@pytest.mark.slow(guard="test_a_script_that_shows_nothing_is_told_so")
def test_a_verdict_is_told_in_the_texts(outcome: Outcome) -> None:
    text = script_text(outcome, fix_of(outcome, CasePath()))
    files = verified({SCRIPT: text, "explain.txt": "as before\n", "issue.md": "# before\n", "case.json": "{}\n"}, FOUNDING)
    assert files[SCRIPT] == text
    assert files["case.json"] == "{}\n"
    for name, before in (("explain.txt", "as before\n"), ("issue.md", "# before\n")):
        added = files[name].removeprefix(before)
        assert "repro.py was run on a simulated MI355X" in added
        assert "and shows what it is for" in added
        assert "`python repro.py`: exit 1, 5 findings" in added
        assert "`python repro.py --fixed`: exit 0, no finding" in added


def test_a_script_that_shows_nothing_is_told_so() -> None:
    found = verdict(SCRIPT, "print('all is well')", FOUNDING, None)
    assert not found.shows
    assert "does NOT show what it is for" in found.lines[0]
    assert "nothing was simulated" in found.lines[1]


def ended(*arguments: str, code: int, findings: bool = False, output: str = "") -> Verification:
    seen = (SeenFinding(Finding(FindingKind.NUMERICS, Severity.SILENT, Party.KERNEL, "x.co", "o", "wrong"), 1, False),)
    report = ScriptReport(1, "gfx950", 256, "aiter", "machine code", None, seen if findings else (), 1, 1, (), None)
    return Verification(arguments, code, (report,), output, None, 1.0)


def test_what_a_verdict_asks_for() -> None:
    wrong, right, noticed = ended(code=1), ended("--fixed", code=0), ended("--fixed", code=0, findings=True)
    unnoticed = ended(code=0, findings=True)
    assert ScriptVerdict(SCRIPT, (wrong, right)).shows
    assert ScriptVerdict(SCRIPT, (wrong,)).shows
    assert not ScriptVerdict(SCRIPT, (wrong, ended("--fixed", code=1))).shows  # a remedy that does not help proves nothing
    assert not ScriptVerdict(SCRIPT, (wrong, noticed)).shows
    assert not ScriptVerdict(SCRIPT, (ended(code=2), right)).shows
    assert "the script itself ends well" in ScriptVerdict(SCRIPT, (unnoticed, right)).in_words
    broken = ended(
        code=1, findings=True, output="Traceback (most recent call last):\n  File 'x', line 1\nTypeError: no such call\n"
    )
    assert not ScriptVerdict(SCRIPT, (broken,)).shows  # a process that ends by an exception has the same code
    assert "ends by an exception, which shows nothing" in ScriptVerdict(SCRIPT, (broken,)).lines[0]
    assert "exit 1, by an exception (TypeError: no such call), 1 finding" in ScriptVerdict(SCRIPT, (broken,)).lines[1]
    assert ScriptVerdict(SCRIPT, (dataclasses.replace(broken, output=f"{broken.output}FAULTY\n"),)).shows
    assert "does NOT" in ScriptVerdict(SCRIPT, (ended(code=0), right)).in_words
    stopped = dataclasses.replace(ended(code=137), reports=(), stopped="stopped at its limit of 5 s")
    assert ScriptVerdict(SCRIPT, (stopped,)).in_words == "was stopped before it could show what it is for"
    assert (unnoticed.code, wrong.code, right.code, ended(code=7).code) == (1, 1, 0, 7)
    fault = HardwareAbort("Memory access fault by GPU node-1 on address (nil).", 0, ())
    (report,) = wrong.reports
    reports = (dataclasses.replace(report, fault=fault),)
    aborted = dataclasses.replace(wrong, exit_code=134, reports=reports, lost=("process 1 ended without telling its end",))
    assert ScriptVerdict(SCRIPT, (aborted,)).shows  # the abort is what it is for


WRONG_ROWS = """root mean square error of a row 6.0e-01; rounding alone makes 2.0e-03, allowed 6.0e-03
wrong result:
  o: 1 of 2 rows are wrong by their largest error
  o: 1 of 2 rows are wrong by their root mean square error
FAULTY
"""


def test_a_script_whose_own_comparison_fails_is_told_so() -> None:
    """An exit code of 1 beside "no finding" would read as a script that broke."""
    alone, broken = ended(code=1, output=WRONG_ROWS), ended(code=1, output="Traceback (most recent call last):\n")
    both = ended(code=1, findings=True, output=WRONG_ROWS)
    lines = ScriptVerdict(SCRIPT, (alone, broken, both)).lines[1:]
    fails = "exit 1, the script's comparison with its reference fails (o: 1 of 2 rows are wrong by their largest error)"
    assert lines[0] == f"`python repro.py`: {fails}, no finding byte by byte"
    assert lines[1] == "`python repro.py`: exit 1, no finding"
    assert lines[2] == f"`python repro.py`: {fails}, 1 finding byte by byte"
    assert list(verification_lines(alone))[-2:] == [
        "no finding byte by byte",
        "exit 1, by the script itself: what it printed says why",
    ]
    assert list(verification_lines(both))[-1] == "exit 1"


def test_a_process_without_a_report_says_nothing() -> None:
    done = Verification((), 0, (), "", None, 0.0)
    assert done.code == 3
    assert "without a report" in str(done.could_not_run)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("import sys; print('own'); sys.exit(7)", 7, "own"),
        ("raise ValueError('mine')", 3, "ValueError: mine"),
        ("import os; print('own', flush=True); os.kill(os.getpid(), 9)", 3, "own"),
        pytest.param("import os; print('own', flush=True); os.abort()", 3, "own", marks=pytest.mark.slow),  # a signal too
        ("import torch; torch.ones(3); raise ValueError('mine')", 1, "ValueError: mine"),
        # Nothing was judged: as with a script that uses no GPU, and as a library that has no model is for its processes.
        pytest.param("import aiter; aiter.rms_norm(1, 2, 3)", 3, "", marks=pytest.mark.slow),
        pytest.param(
            "import torch; print(int(torch.ones(3).sum()), 'and no decode call')",
            3,
            "and no decode call",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_scripts_own_end(tmp_path: Path, text: str, code: int, said: str) -> None:
    done = run(written(tmp_path, text))
    assert done.code == code
    assert said in done.output


def test_limits_end_a_script(tmp_path: Path) -> None:
    endless = run(written(tmp_path, "import time\nwhile True: time.sleep(1)"), limits=Limits(seconds=2.0))
    assert (endless.code, endless.could_not_run) == (3, "stopped at its limit of 2 s")
    greedy = "held = b'x' * (1 << 30)\nimport time\ntime.sleep(60)"
    large = run(written(tmp_path, greedy), limits=Limits(seconds=60.0, memory=1 << 30))
    assert (large.code, large.could_not_run) == (3, "stopped at its limit of 1024 MiB")


def test_no_script_and_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        run(tmp_path / "absent.py")
    script = written(tmp_path, "")
    with pytest.raises(UsageError):
        run(script, options=Options(Arch.GFX950, aiter=f"{tmp_path}/absent@main"))


def test_a_finding_is_verified_with_the_gpu_and_the_aiter_that_it_names(outcome: Outcome, tmp_path: Path) -> None:
    """What a script does not name stays as the help says."""
    newer = CasePath().run(FOUNDING.replace(release="2026-08", arch=Arch.GFX942, num_cu=80))
    assert stated(written(tmp_path, script_text(newer, None))) == Stated(Arch.GFX942, 80, "2026-08")
    assert stated(written(tmp_path, script_text(outcome, None))) == Stated(Arch.GFX950, 256, "2026-06")
    for text in ("", 'AITER_COMMIT = ""\nNUM_CU = many\nWANTED_ARCH = "gfx90a"\n', 'AITER_COMMIT = "ffffffffffff"\n'):
        assert stated(written(tmp_path, text)) == Stated()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--num-cu", "40", "--release", "2026-06"), "MI300X (gfx942, 40 CUs), aiter: built-in rules of release 2026-06;"),
        ((), "MI300X (gfx942, 80 CUs), aiter: built-in rules of release 2026-08;"),
        (("--arch", "gfx950"), "MI355X (gfx950, 256 CUs), aiter: built-in rules of release 2026-08;"),
    ],
)
@pytest.mark.slow(guard="test_the_command")
def test_a_flag_comes_before_what_a_script_names(
    flags: tuple[str, ...], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    named = 'WANTED_ARCH = "gfx942"\nNUM_CU = 80\nAITER_COMMIT = "e4048607a535"\n'
    script = str(written(tmp_path, f"{named}import torch\ntorch.cuda.get_device_properties(0)\n"))
    assert main(["verify", *flags, script]) == 3  # it launches nothing
    assert f"simulated {said}" in capfd.readouterr().out


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Our options before and after the script, its own after the dashes."""
    script = written(
        tmp_path, "import sys, torch\nprint(sys.argv[1:], torch.cuda.get_device_properties(0).multi_processor_count)"
    )
    assert (
        main(["verify", "--arch", "gfx942", str(script), "--num-cu", "80", "--", "--arch", "mine"]) == 3
    )  # it launches nothing
    output = capfd.readouterr().out
    assert "['--arch', 'mine'] 80" in output
    assert "simulated MI300X (gfx942, 80 CUs)" in output
    assert main(["verify", str(tmp_path / "absent.py")]) == 2
