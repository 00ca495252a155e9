"""Agreement runs: devices that differ are told, in what and in which case; none is blamed for what it cannot show."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.call import Call
from backend.case import Case, MetadataMode
from backend.checks.check import check_call
from backend.child.process_end import EndKind
from backend.codec import dumps, from_plain
from backend.devices.kinds import open_device
from backend.errors import CannotRunError
from backend.fate import Fate
from backend.observation import DeviceEnd, Numbers, Observation, Violation, ViolationKind
from backend.outcome import reported
from backend.path import Path as CasePath
from fuzz.agree import Agreement, AgreementAsked, Written, compare, drawn_calls, examine
from fuzz.cli import main
from fuzz.report import render
from fuzz.report.agreement import report
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.verdict import Counts

STORE = Violation(ViolationKind.OUT_OF_BOUNDS, "", "o", True, 4096, 5120, 1024, 1, "")
RIGHT = Numbers(16, 0, 0, 0, None, None, None, 0.4, 0.002, None, "")
WRONG = dataclasses.replace(RIGHT, outside=3, first_outside=(0, 1), worst=9.0)


def lines(agreement: Agreement) -> Iterator[str]:
    return render.lines(report(agreement, AgreementAsked(("model", "cuda")), seed=0, shown=100))


class Played:
    """A device that sees what it is told to see. violations: at the launched code object."""

    def __init__(self, name: str, violations: tuple[Violation, ...] = (), **seen: object) -> None:
        self.name = name
        self._violations = violations
        self._seen = seen

    def observe(self, call: Call) -> Observation:
        found = tuple(dataclasses.replace(one, stage=call.launched.code_object) for one in self._violations)
        own = "our Triton kernel" if self.name == "cuda" else ""
        return Observation(call, self.name, found, own_kernel=own, **self._seen)  # type: ignore[arg-type]


class Absent:
    name = "cdna"

    def observe(self, call: Call) -> Observation:
        raise CannotRunError("no such code object")


@pytest.fixture(scope="module")
def sound() -> Call:
    made = CasePath().launched(Case(16, (40, 7), backend="direct", mode=MetadataMode.FAST, release="2025-11"))
    assert isinstance(made, Call)
    assert not check_call(made)
    return made


@pytest.fixture(scope="module")
def misplanned() -> Call:
    """Planned as 4 groups of 16 heads, launched for 64."""
    made = CasePath().launched(Case(64, (1,), backend="sglang-before-27188"))
    assert isinstance(made, Call)
    return made


def found(call: Call, *devices: Played) -> set[str]:
    return {one.what for one in compare(*(device.observe(call) for device in devices)).differences}


def test_a_violation_that_only_one_sees_is_a_difference(sound: Call) -> None:
    assert found(sound, Played("model", (STORE,)), Played("cdna", (STORE,))) == set()
    assert found(sound, Played("model", (STORE,)), Played("cdna")) == {"write of o, out of bounds"}
    farther = dataclasses.replace(STORE, extent=1040)
    assert found(sound, Played("model", (STORE,)), Played("cdna", (farther,))) == {"write of o, out of bounds"}


def test_a_store_that_a_gpu_saw_must_have_been_foretold(sound: Call) -> None:
    seen = Played("cuda", (STORE,), numbers=RIGHT)
    assert found(sound, Played("model"), seen) == {"write of o, out of bounds"}
    assert found(sound, Played("model", (STORE,)), seen) == set()


def test_a_store_of_a_wrong_plan_must_be_seen_on_a_gpu(misplanned: Call) -> None:
    model = open_device("model")
    (foretold,) = (v for v in model.observe(misplanned).violations if v.is_write and v.tensor == "o")
    assert found(misplanned, model, Played("cuda", numbers=WRONG)) == {"write of o, out of bounds"}  # type: ignore[arg-type]
    assert found(misplanned, model, Played("cuda", (foretold,), numbers=WRONG)) == set()  # type: ignore[arg-type]


def test_a_store_of_aiters_kernel_alone_is_set_apart(sound: Call) -> None:
    """The plan is sound, so our kernel, which runs on cuda, has no reason to make it."""
    compared = compare(Played("model", (STORE,)).observe(sound), Played("cuda", numbers=RIGHT).observe(sound))
    assert compared.differences == ()
    assert {one.what for one in compared.apart} == {"write of o, out of bounds"}


def test_wrong_numbers_must_have_been_foretold(sound: Call) -> None:
    assert found(sound, Played("model"), Played("cuda", numbers=WRONG)) == {"result"}
    assert found(sound, Played("model"), Played("cuda", numbers=RIGHT)) == set()
    fault = DeviceEnd(EndKind.MEMORY_FAULT, "an illegal memory access was encountered")
    assert found(sound, Played("model"), Played("rocm", end=fault)) == {"result"}
    assert found(sound, Played("model", (STORE,)), Played("rocm", end=fault)) == set()


def test_on_rocm_a_row_that_nobody_writes_must_be_wrong(sound: Call) -> None:
    unwritten = Violation(ViolationKind.NO_OUTPUT, "", "o", True, 0, 1024, 0, 1, "")
    assert found(sound, Played("cdna", (unwritten,)), Played("rocm", numbers=RIGHT)) == {"result"}
    assert found(sound, Played("cdna", (unwritten,)), Played("cuda", numbers=RIGHT)) == set()


def test_two_gpus_must_agree_on_the_result(sound: Call) -> None:
    assert found(sound, Played("cuda", numbers=RIGHT), Played("rocm", numbers=WRONG)) == {"result"}
    assert found(sound, Played("cuda", numbers=WRONG), Played("rocm", numbers=WRONG)) == set()


def test_sides_stay_where_they_are(sound: Call) -> None:
    seen, model = Played("cuda", (STORE,), numbers=RIGHT), Played("model")
    (one,) = compare(seen.observe(sound), model.observe(sound)).differences
    assert (one.left, one.right) == ("1024 bytes outside", "not seen")


def test_what_a_device_cannot_run_is_counted_with_its_reason(sound: Call) -> None:
    agreement = Agreement()
    written = examine(sound, [Played("model"), Absent()], {}, agreement)
    assert agreement.not_run == {("cdna", "no such code object"): 1}
    assert written.seen["cdna"] is None
    assert not agreement.compared
    assert any("no such code object" in line for line in lines(agreement))


def test_a_case_that_was_lost_is_neither_refused_nor_clean(sound: Call) -> None:
    agreement, asked = Agreement(), AgreementAsked(("model", "cuda"))
    examine(sound, [Played("model"), Played("cuda", numbers=RIGHT)], {}, agreement)
    assert agreement.verdict(asked).exit_code == 0
    for fate in (Fate.REFUSED, Fate.UNMODELLED):
        agreement.launched_nothing(reported(sound.decision.case, (), "a reason", fate))
    assert agreement.verdict(asked).exit_code == 0
    for fate in (Fate.DIED, Fate.NOT_RUN):
        agreement.launched_nothing(reported(sound.decision.case, (), None, fate))
    verdict = agreement.verdict(asked)
    assert list(lines(agreement))[-1].startswith("not all of it ran; no two devices disagree in what did (")
    assert (verdict.exit_code, verdict.counts) == (3, Counts(clean=1, refused=1, unmodelled=1, died=1, not_run=1))
    assert agreement.not_run == {("planner", "a reason"): 1, ("planner", "died"): 1, ("planner", "not run"): 1}
    assert "1 more refused" in next(lines(agreement))


def test_what_was_seen_elsewhere_is_compared_here(sound: Call) -> None:
    """Through JSON, as between two machines."""
    there = examine(sound, [Played("model"), Played("cuda", (STORE,), numbers=WRONG)], {}, Agreement())
    back = from_plain(Written, json.loads(dumps(there)))
    agreement = Agreement()
    examine(sound, [Played("cdna")], {"cuda": back.seen["cuda"]}, agreement)
    assert set(agreement.found) == {("cdna", "cuda", "result"), ("cdna", "cuda", "write of o, out of bounds")}
    assert agreement.rows["cuda"] == 16
    assert any("Not run on AMD hardware" in line for line in lines(agreement))


def test_a_difference_is_in_every_form_of_the_report(sound: Call) -> None:
    agreement = Agreement()
    examine(sound, [Played("model"), Played("cuda", (STORE,), numbers=RIGHT)], {}, agreement)
    made = report(agreement, AgreementAsked(("model", "cuda")), seed=0, shown=100)
    assert list(render.lines(made))[-1].startswith("devices disagree on 1 thing (")
    plain = json.loads(render.json_text(made))
    assert (plain["verdict"], plain["exit_code"], plain["ran"]) == ("faulty", 1, {"model": 1, "cuda": 1})
    assert [each["what"] for each in plain["found"]] == ["write of o, out of bounds"]
    assert 'failures="1"' in render.junit(made)


def test_cases_are_a_function_of_space_and_seed() -> None:
    spaces = [space(Spec(backend, releases=("2025-11",), max_batch=4, max_kv_len=64)) for backend in ("direct", "sglang-27188")]

    def first(seed: int) -> list[Case]:
        calls = (made for made in drawn_calls(spaces, seed, None) if isinstance(made, Call))
        return [next(calls).decision.case for _ in range(12)]

    assert first(3) == first(3)
    assert first(3) != first(4)
    assert {case.backend for case in first(3)} == {"direct", "sglang-27188"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "agree.jsonl"
    flags = ["--cases", "4", "--max-batch", "3", "--max-kv", "64", "--heads", "16", "--mode", "fast"]
    code = main(["agree", "--devices", "model,cdna", *flags, "--out", str(out)])
    printed = capsys.readouterr().out
    assert (code == 0) is ("no two devices disagree" in printed)
    assert "4 cases launched" in printed
    assert printed.count("Not run on hardware") == 3
    written = [from_plain(Written, json.loads(line)) for line in out.read_text().splitlines()]
    assert len(written) == 4
    assert all(set(one.seen) == {"model", "cdna"} for one in written)
    assert main(["agree", "--devices", "cdna", "--recorded", str(out)]) == code
    assert "cdna  model               4 " in capsys.readouterr().out


def test_one_device_agrees_with_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agree", "--devices", "model"]) == 2
    assert main(["agree", "--devices", "model,model"]) == 2
    assert "at least two" in capsys.readouterr().err


def test_ranks_are_for_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--heads", "16", "--kv-lens", "1", "--ranks", "2"]) == 2
    assert "devices with ranks are rocm, cuda" in capsys.readouterr().err
