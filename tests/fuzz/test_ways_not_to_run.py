"""The matrix of ways not to run by commands: 3, or 2 where the way is wrong usage; never 0, never 1.

Each cell is a line that is typed here, a test elsewhere that holds it, or why the way cannot come about. A command that is
added, or a way, without a cell fails. Signals are in test_commands_end.py and below; what a campaign survives is in campaign/.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
import pytest
from each_command import LEAVES, WORKS, not_run, typed

from backend.serving import own_rule
from fuzz.cli import main

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Usage:
    """A line that is wrong usage, exit code 2."""

    line: str


@dataclass(frozen=True)
class Held:
    """By a test elsewhere, a path below tests/ and its name."""

    test: str


@dataclass(frozen=True)
class Never:
    """The way cannot come about there. why: a sentence about the command."""

    why: str


Cell = str | Usage | Held | Never

NO_RULE = Never("it takes no rule of one's own")
NO_SHAPES = Never("it takes one case, log or script, and asks for no shapes")
NO_DEVICE = Never("it has no --device: nothing runs, or on the model alone")
NO_RELEASE = Never("it asks for no release by name")
NO_SCENARIOS = Never("it plays no scenarios")
NO_TIME = Never("it has no --seconds")
NO_CHECKOUT = Never("it reads no checkout")
NO_WORK = Never("it runs no case that somebody gives")
NO_FILE = Never("it writes no file")
WRITES_ALONE = Never("it writes a file and judges nothing")
NO_INPUT = Never("it reads no file that is given")
NO_CHILD = Never("nothing that it judges runs in a process of its own")
AS_RUN = Held("fuzz/campaign/test_run_is_a_campaign.py::test_both_find_the_same")
NEVER_RAN = Held("fuzz/campaign/test_campaign_damaged.py::test_what_never_ran_is_named_and_confirms_nothing")
NO_AITER_HERE = Never("it needs a checkout of AITER to come this far: fuzz/gate/test_scout.py")
BISECTS = Held("reprod/test_bisect.py::test_a_revision_that_cannot_run_is_skipped_with_its_reason")
AS_NOTHING = Never("heads that are refused are nothing to run: the way above")
AS_WRITE = Never("it opens its device by the function of corpus write")
MACHINE = Held("fuzz/test_each_command.py::test_a_machine_that_cannot_run_cases_is_3")
SAYS_VERSIONS = Never("it says versions and judges nothing")


def of_rules(rule: str, **others: Cell) -> dict[str, Cell]:
    """Of a rule that does something instead of answering."""
    lines: dict[str, Cell] = {
        "run": f"--backend {{{rule}}} --cases 1 --heads 64",
        "campaign": AS_RUN,
        "nightly": AS_RUN,
        "explain": f"--backend {{{rule}}} {{case}}",
        "gate": f"{{{rule}}} --heads 64 --kv-dtype fp8 --seconds 0.1",
        "selftest agree": f"--devices model,cdna --backends {{{rule}}} --cases 1",
        **others,
    }
    return lines | {name: NO_RULE for name in LEAVES if name not in lines}


def of_cases(file: str, asked: Callable[[str], Cell] = str) -> dict[str, Cell]:
    """Of a case's file that comes to no fault, for commands that take one. asked: how those take it that keep a fault."""
    return {
        "corpus replay": f"{{{file}}}",
        "explain": f"{{{file}}}",
        "bisect": BISECTS,
        "corpus add": asked(f"{{{file}}} --id Z9 --title x"),
        "corpus nightly-test": asked(f"{{{file}}} --out {{out}}/x.py"),
        "corpus write": asked(f"{{{file}}} --out {{out}}"),
    }


MATRIX: dict[str, dict[str, Cell]] = {
    "there is nothing to run": {
        "run": "--heads 7 --cases 3",
        "campaign": AS_RUN,
        "nightly": AS_RUN,
        "report": Usage("{empty}"),
        "merge": Usage("{empty} --out {out}"),
        "corpus replay": Usage("{empty}"),
        "explain": Usage("{empty}"),
        "diagnose": Usage("/dev/null"),
        "decide": "sglang==0.5.13 --heads 7",
        "gate": "sglang-27188 --heads 7 --seconds 0.1",
        "scout": Usage("sglang==0.5.13 --heads 16 --aiter {repository}@HEAD~1..HEAD"),
        "bisect": Held("reprod/test_bisect.py::test_ends_that_are_not_what_they_should_be"),
        "corpus add": Usage("{case} --id Z9 --title x"),
        "corpus nightly-test": Usage("{case} --out {out}/x.py"),
        "corpus write": Usage("{case} --out {out}"),
        "corpus mark": Usage("Z99 fixed-upstream"),
        "rule new": WRITES_ALONE,
        "selftest agree": "--devices model,cdna --recorded /dev/null",
        "selftest accuracy kernels": "--heads 7 --kv-lens 3",
        "selftest accuracy gsm8k": Usage("--url http://127.0.0.1:9 --data /dev/null --out {out}/answers"),
        "verify": "{script}",
        "takes": Held("reprod/test_takes.py::test_a_range_that_is_none"),
        "doctor": MACHINE,
        "version": SAYS_VERSIONS,
    },
    "all of it is refused": {
        **of_cases("refused_case", Usage),
        "run": "--backend {refuses} --cases 3 --heads 64",
        "campaign": AS_RUN,
        "nightly": AS_RUN,
        "report": "{refused}",
        "merge": "{refused} --out {out}",
        "diagnose": Never("a log has happened"),
        "decide": AS_NOTHING,
        "gate": "{refuses} --heads 64 --kv-dtype fp8 --seconds 0.1",
        "scout": NO_AITER_HERE,
        "corpus mark": NO_WORK,
        "rule new": WRITES_ALONE,
        "selftest agree": "--devices model,cdna --backends {refuses} --seconds 1",
        "selftest accuracy kernels": AS_NOTHING,
        "selftest accuracy gsm8k": "--url http://127.0.0.1:9 --data {questions} --out {out}/answers --retries 0 --questions 1",
        "verify": Held("reprod/test_verify.py::test_a_scripts_own_end"),
        "takes": NO_WORK,
        "doctor": NO_WORK,
        "version": NO_WORK,
    },
    "a shape that was asked for never ran": {
        **dict.fromkeys(("explain", "diagnose", "bisect", "corpus replay", "verify", "takes"), NO_SHAPES),
        **dict.fromkeys(("corpus add", "corpus nightly-test", "corpus write", "corpus mark", "rule new"), NO_SHAPES),
        **dict.fromkeys(("selftest accuracy gsm8k", "doctor", "version"), NO_SHAPES),
        "run": "--backend {half} --heads 16,64 --q-dtype fp8 --kv-dtype fp8 --query-rows 1 --cases 6",
        "campaign": AS_RUN,
        "nightly": AS_RUN,
        "report": "{halved}",
        "merge": "{halved} {store} --out {out}",
        "decide": Never("what the file itself refuses is the answer of that row"),
        "gate": "{half} --heads 16,64 --arch gfx950 --kv-dtype fp8 --seconds 0.3",
        "scout": NO_AITER_HERE,
        "selftest agree": "--devices model,cdna --backends {half} --heads 16,64 --cases 2 --max-batch 1 --max-kv 16 "
        "--q-dtype fp8 --kv-dtype fp8 --query-rows 1",
        "selftest accuracy kernels": Usage("--heads 16,7 --kv-lens 3"),
    },
    "a device is not there": {
        **dict.fromkeys(("report", "merge", "corpus replay", "diagnose", "decide", "verify", "takes"), NO_DEVICE),
        **dict.fromkeys(("corpus mark", "rule new", "selftest accuracy gsm8k", "version"), NO_DEVICE),
        "run": "--device rocm --cases 3",
        "campaign": AS_RUN,
        "nightly": AS_RUN,
        "explain": "{case} --device rocm",
        "gate": "sglang-27188 --device rocm --seconds 0.1",
        "scout": NO_AITER_HERE,
        "bisect": BISECTS,
        "corpus add": AS_WRITE,
        "corpus nightly-test": AS_WRITE,
        "corpus write": "{fault} --out {out} --device rocm",
        "selftest agree": "--devices model,rocm --cases 1",
        "selftest accuracy kernels": "--device rocm --heads 16 --kv-lens 3",
        "doctor": Never("that there is no GPU is what it says"),
    },
    "a release that was asked for never ran": {
        "run": "--releases 2025-11,2026-06 --heads 16 --cases 1",
        "campaign": AS_RUN,
        "nightly": AS_RUN,
        "explain": Usage("{case} --release 1999-01"),
        "selftest agree": "--devices model,cdna --backend direct --releases 2025-11,2026-08 --heads 16 --cases 1 --max-batch 1 "
        "--max-kv 16",
        "selftest accuracy kernels": Usage("--heads 16 --kv-lens 3 --release 1999-01"),
        "verify": Usage("--release 1999-01 {repro}"),
        **dict.fromkeys(("report", "merge"), NEVER_RAN),
        "corpus mark": Never("--release is where a fault is mended, a word that is kept"),
    },
    "a scenario or a kind of step never ran": {
        "gate": Held("fuzz/gate/test_executed.py::test_what_did_not_run_is_not_called_clean"),
        "scout": Held("fuzz/gate/test_order.py::test_what_was_left_out_is_named_once"),
        **dict.fromkeys(("run", "campaign", "nightly", "report", "merge"), NEVER_RAN),
    },
    "the rule raises": of_rules("raises"),
    "the rule leaves by SystemExit(0)": of_rules("exits"),
    "the rule ends its process with status 0": of_rules("leaves"),
    "the rule does not answer": of_rules("sleeps"),
    "the rule is killed": of_rules("killed"),
    "the rule dies of a segmentation fault": of_rules("crashes"),
    "the rule runs out of memory": of_rules("starves"),
    "a process that it judges is killed": {
        "run": Held(
            "fuzz/campaign/test_run_is_a_campaign.py::test_a_case_that_kills_its_process_is_named_and_the_rest_goes_on"
        ),
        **dict.fromkeys(
            ("campaign", "nightly"),
            Held("fuzz/campaign/test_campaign_worker.py::test_the_case_that_did_it_is_named_and_the_others_go_on"),
        ),
        "gate": "{killed_file} --base sglang==0.5.13 --heads 64 --kv-dtype fp8 --lives 0",
        "decide": Held("fuzz/test_not_run_is_never_clean.py::test_a_source_that_does_not_run"),
        "scout": NO_AITER_HERE,
        "verify": "{kills_itself}",
        "corpus write": Held("reprod/test_verify.py::test_what_a_verdict_asks_for"),
        "diagnose": Held("reprod/test_verify.py::test_what_a_verdict_asks_for"),
    },
    "a process that it judges takes too much": {
        **dict.fromkeys(
            ("run", "campaign", "nightly"),
            Held("fuzz/campaign/test_campaign_worker.py::test_the_case_that_did_it_is_named_and_the_others_go_on"),
        ),
        "gate": Held("child/test_fence.py::test_memory_of_what_a_file_under_gate_starts"),
        "decide": Held("child/test_fence.py::test_memory_of_what_a_file_under_gate_starts"),
        "scout": NO_AITER_HERE,
        "verify": Held("child/test_fence.py::test_memory_of_what_a_script_under_verify_starts"),
        "corpus write": Held("reprod/test_verify.py::test_limits_end_a_script"),
        "diagnose": Held("reprod/test_verify.py::test_limits_end_a_script"),
    },
    "a case would take gigabytes or minutes": {
        **of_cases("huge_case"),
        "run": Held("fuzz/test_too_much_work.py::test_what_is_drawn_is_small_enough"),
        "campaign": Held("fuzz/test_too_much_work.py::test_what_is_drawn_is_small_enough"),
        "nightly": Held("fuzz/test_too_much_work.py::test_what_is_drawn_is_small_enough"),
        "selftest agree": "--devices model,cdna --backends {greedy} --cases 1 --heads 16",
        "gate": "{greedy} --heads 64 --kv-dtype fp8 --seconds 0.1",
    },
    "time is over before anything ran": {
        "run": "--seconds 0.000001 --heads 64",
        "campaign": AS_RUN,
        "nightly": AS_RUN,
        "diagnose": Held("diagnose/test_log_lines.py::test_the_end_is_read_when_time_is_over"),
        "gate": "sglang==0.5.13 --heads 16 --seconds 0.000001",
        "scout": NO_AITER_HERE,
        "selftest agree": "--devices model,cdna --seconds 0.000001",
        "verify": "--seconds 0.2 {sleeping_script}",
    },
    "the checkout cannot be read": {
        "run": Usage("--aiter {torn}@HEAD --cases 1"),
        "campaign": Usage("--aiter {torn}@HEAD --cases 1 --out {out}"),
        "nightly": Usage("--aiter {torn}@HEAD --cases 1 --out {out}"),
        "explain": Usage("{case} --aiter {torn}@HEAD"),
        "corpus replay": Usage("{entry} --aiter {torn}@HEAD"),
        "diagnose": Usage("{log} --aiter {torn}@HEAD"),
        "decide": Usage("sglang==0.5.13 --heads 16 --aiter {torn}@HEAD"),
        "gate": Usage("sglang==0.5.13 --heads 16 --aiter {torn}@HEAD"),
        "scout": Usage("sglang==0.5.13 --heads 16 --aiter {torn}@HEAD"),
        "bisect": Usage("{fault} --aiter {torn} --good HEAD~1 --bad HEAD"),
        "corpus add": Usage("{fault} --id Z9 --title x --aiter {torn}@HEAD"),
        "corpus nightly-test": Usage("{fault} --out {out}/x.py --aiter {torn}@HEAD"),
        "corpus write": Usage("{fault} --out {out} --aiter {torn}@HEAD"),
        "selftest agree": Usage("--devices model,cdna --cases 1 --aiter {torn}@HEAD"),
        "selftest accuracy kernels": Usage("--heads 16 --kv-lens 3 --aiter {torn}@HEAD"),
        "verify": Usage("{script} --aiter {torn}@HEAD"),
        "takes": Usage("{torn} HEAD~1..HEAD"),
    },
    "what is given cannot be read": {
        "run": Usage("--backend {garbage} --cases 1"),
        "campaign": Usage("--config {garbage}"),
        "nightly": Usage("--config {garbage}"),
        "report": Usage("{damaged}"),
        "merge": Usage("{damaged} --out {out}"),
        "corpus replay": Usage("{garbage}"),
        "explain": Usage("{garbage}"),
        "diagnose": Usage("{garbage}"),
        "decide": Usage("{garbage}"),
        "gate": Usage("{garbage}"),
        "scout": Usage("{garbage} --aiter {repository}@HEAD"),
        "bisect": Usage("{garbage} --aiter {repository} --good HEAD --bad HEAD"),
        "corpus add": Usage("{garbage} --id Z9 --title x"),
        "corpus nightly-test": Usage("{garbage} --out {out}/x.py"),
        "corpus write": Usage("{garbage} --out {out}"),
        "corpus mark": Usage("{found} no-such"),
        "rule new": Usage("{script}"),
        "selftest agree": Usage("--devices model,cdna --recorded {garbage}"),
        "selftest accuracy kernels": NO_INPUT,
        "selftest accuracy gsm8k": Usage("--url http://127.0.0.1:9 --data {garbage} --out {out}/answers"),
        "verify": "{garbage}",
        "takes": Usage("{empty} HEAD~1..HEAD"),
        "doctor": NO_INPUT,
        "version": NO_INPUT,
    },
    "what is given is a pipe, to which nobody writes": {
        **{
            name: Usage(line.replace("{refused_case}", "{piped}"))
            for name, line in of_cases("refused_case").items()
            if isinstance(line, str)
        },
        "campaign": Usage("--config {piped}/case.json"),
        "nightly": Usage("--config {piped}/case.json"),
        "report": Usage("{piped}"),
        "merge": Usage("{piped} --out {out}"),
        "diagnose": Usage("{piped}/case.json"),
        "gate": Usage("{piped}/campaign.sqlite"),
        "decide": Usage("{piped}/case.json"),
        "run": Usage("--backend {piped}/rule.py --cases 1"),
        "selftest agree": Usage("--devices model,cdna --recorded {piped}/case.json"),
        "selftest accuracy gsm8k": Usage("--url http://127.0.0.1:9 --data {piped}/case.json --out {out}/answers"),
        "verify": Usage("{piped}/rule.py"),
    },
    "the disk is full": {
        **dict.fromkeys(
            ("corpus add", "corpus mark", "corpus nightly-test", "corpus write", "gate", "merge", "report", "rule new", "run"),
            Held("fuzz/test_each_command.py::test_a_full_disk_is_3"),
        ),
        **dict.fromkeys(
            ("campaign", "nightly"),
            Held("fuzz/campaign/test_campaign_store.py::test_a_full_disk_loses_nothing_that_was_announced"),
        ),
    },
    "standard output takes nothing": {
        **dict.fromkeys(LEAVES, Held("fuzz/test_each_command.py::test_a_full_stdout_is_no_answer")),
        **dict.fromkeys(
            ("scout", "decide", "selftest accuracy kernels", "selftest agree"),
            Never("it prints as the others do, after seconds of work"),
        ),
    },
    "the command raises": dict.fromkeys(LEAVES, Held("fuzz/test_each_command.py::test_whatever_a_command_raises_is_3")),
}
"""Way -> what each command does of it."""

ELSE = {
    "a release that was asked for never ran": NO_RELEASE,
    "a scenario or a kind of step never ran": NO_SCENARIOS,
    "a process that it judges is killed": NO_CHILD,
    "a process that it judges takes too much": NO_CHILD,
    "a case would take gigabytes or minutes": NO_WORK,
    "time is over before anything ran": NO_TIME,
    "the checkout cannot be read": NO_CHECKOUT,
    "what is given is a pipe, to which nobody writes": NO_INPUT,
    "the disk is full": NO_FILE,
}
"""What a command says that is not named in a way, by the flags that it has not."""

FLAG = {NO_RULE: "--backend", NO_DEVICE: "--device", NO_RELEASE: "--releases", NO_TIME: "--seconds", NO_CHECKOUT: "--aiter"}
"""A command that has the flag cannot say so."""


def cell(way: str, command: str) -> Cell | None:
    return MATRIX[way].get(command, ELSE.get(way))


def test_the_matrix_is_whole() -> None:
    """Every command has a cell in every way; tests that are named are there; no flag belies a reason."""
    for way, cells in MATRIX.items():
        assert set(cells) <= set(LEAVES), way
        for command in LEAVES:
            found = cell(way, command)
            assert found is not None, f"{way}: no cell of {command}"
            if isinstance(found, Held):
                file, _, name = found.test.partition("::")
                tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
                assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, found
            if isinstance(found, Never) and found in FLAG:
                flags = {name for action in LEAVES[command]._actions for name in action.option_strings}
                assert FLAG[found] not in flags, (way, command)


TYPED = [(way, command) for way in MATRIX for command in LEAVES if isinstance(cell(way, command), str | Usage)]


QUICK = {"explain": 0, "run": 2, "gate": 3, "selftest agree": 4}
"""Which command stands for a way that several have: explain asks in this process, a run starts one, a gate two."""


def always() -> set[tuple[str, str]]:
    """Wrong usage, which is told at once; else the quickest command of each way, and a way of each command."""
    chosen: set[tuple[str, str]] = set()
    for way, command in sorted(TYPED, key=lambda row: QUICK.get(row[1], 1)):
        first = way not in {row[0] for row in chosen} or command not in {row[1] for row in chosen}
        if isinstance(cell(way, command), str) and first:
            chosen.add((way, command))
    return chosen | {row for row in TYPED if isinstance(cell(*row), Usage)}


ALWAYS = always()


@pytest.mark.usefixtures("sources_kept_open")
@pytest.mark.parametrize(
    ("way", "command"),
    [pytest.param(*row, id="-".join(row), marks=() if row in ALWAYS else pytest.mark.slow) for row in TYPED],
)
def test_it_is_never_clean(
    way: str,
    command: str,
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_rule, "LIMITS", dataclasses.replace(own_rule.LIMITS, seconds=1.0 if "answer" in way else 60.0))
    line = cell(way, command)
    code, line = (2, line.line) if isinstance(line, Usage) else (3, line)
    assert isinstance(line, str)
    not_run(main(typed(command, line, places, tmp_path)), capfd.readouterr(), (code,))


SHORT = sorted(set(LEAVES) - {"scout", "campaign", "nightly", "version", "rule new", "selftest accuracy kernels", "decide"})
"""Commands that come to an end here, in a second, and do something that takes time."""


class Middle:
    """Sends this process a signal at the so manieth call of a function in this thread. calls: made so far."""

    def __init__(self, at: int, number: signal.Signals) -> None:
        self.calls, self._at, self._number = 0, at, number

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self.calls += event == "call"
        if event == "call" and self.calls == self._at:
            sys.setprofile(None)
            os.kill(os.getpid(), self._number)


AS_OTHERS_END = ("doctor", "corpus write", "selftest agree", "gate")
"""For slow runs: they do what `run` and `corpus add` do, for seconds under a profile."""

IN_THE_MIDDLE = [(command, number) for command in SHORT for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("command", "number"),
    [
        pytest.param(
            *row,
            id=f"{row[0]}-{row[1].name}",
            marks=() if (row[1] is signal.SIGINT and row[0] not in AS_OTHERS_END) or row[0] == "explain" else pytest.mark.slow,
        )
        for row in IN_THE_MIDDLE
    ],
)
def test_a_signal_in_the_middle_is_3(
    command: str, number: signal.Signals, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is when the signal comes in, which is after half of what it called the time before.

    SIGTERM is caught as SIGINT is, by what stands around every command: explain's row is for all.
    """
    monkeypatch.chdir(tmp_path)
    before, at, code = psutil.Process().children(recursive=True), sys.maxsize, 0
    for attempt in range(9):  # the first one counts; what is imported and compiled in it is not called in the next
        middle = Middle(at, number)
        words = typed(command, WORKS[command], places, tmp_path / f"{attempt}")
        sys.setprofile(middle)
        try:
            code = main(words)
        finally:
            sys.setprofile(None)
        if middle.calls >= at:
            break
        at = middle.calls // 2
    assert middle.calls == at
    assert code == 3
    assert not [one for one in psutil.Process().children(recursive=True) if one not in before]
