"""Shrinking with a faster device: the one that was asked for has the last word, and finds what it finds by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from backend.case import Arch, Case, DType, MetadataMode
from backend.devices.kinds import DEVICES
from backend.findings import Finding, FindingKind, Party, Severity
from backend.outcome import Outcome, reported
from backend.path import Path
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.investigation import Investigated, Investigation
from fuzz.campaign.messages import WorkerSetup
from fuzz.provenance import provenance

FAULT = Finding(FindingKind.HEAD_WIDTH, Severity.SILENT, Party.CALLER, "planted", "q", "is planted")
LARGE = Case(num_head=64, kv_lens=(40, 300, 7), q_dtype=DType.FP8, kv_dtype=DType.FP8)

Shows = Callable[[Case], bool]


@dataclass
class Devices:
    """Stands for a supervisor whose devices show planted faults. ran: the cases, each with its device."""

    cdna: Shows
    model: Shows
    ran: list[tuple[str, Case]] = field(default_factory=list)

    def run(self, case: Case, device: str | None = None) -> Outcome:
        name = device or "cdna"
        self.ran.append((name, case))
        shows = self.model if name == "model" else self.cdna
        return reported(case, (FAULT,) if shows(case) else (), None)

    def texts(self, case: Case, command: str) -> tuple[str, Mapping[str, str]]:
        return "folder", {}


class InThisProcess:
    """Stands for a supervisor that runs cases on the devices here."""

    def __init__(self) -> None:
        self.paths = {name: Path(device=name) for name in ("cdna", "model")}
        self.ran: dict[str, int] = dict.fromkeys(self.paths, 0)

    def run(self, case: Case, device: str | None = None) -> Outcome:
        name = device or "cdna"
        self.ran[name] += 1
        return self.paths[name].run(case)

    def texts(self, case: Case, command: str) -> tuple[str, Mapping[str, str]]:
        return "folder", {}


def longer_than(tokens: int) -> Shows:
    return lambda case: max(case.kv_lens) > tokens


def looked_into(supervisor: Devices | InThisProcess, case: Case, signature: str) -> Investigated:
    config = CampaignConfig(backend=case.backend, releases=(case.release,), device="cdna", heads=(case.num_head,))
    made_by = provenance("cdna", (case.release,), None)
    setup = WorkerSetup(config.space(), 0, 1, True, "cdna", None, 60.0, 900, 2, 20_000, made_by)
    return Investigation(setup, supervisor, signature, "").run(case)  # type: ignore[arg-type]


def test_what_the_model_does_not_show_is_not_run_on_the_machine() -> None:
    devices = Devices(cdna=longer_than(16), model=longer_than(16))
    found = looked_into(devices, LARGE, FAULT.signature)
    assert (found.smallest.kv_lens, found.minimal) == ((17,), True)
    assert all(longer_than(16)(case) for device, case in devices.ran if device == "cdna")
    assert not all(longer_than(16)(case) for _, case in devices.ran)
    assert (found.reliability.shown, found.reliability.repeats) == (2, 2)


@pytest.mark.parametrize("model", [lambda case: False, lambda case: max(case.kv_lens) > 4], ids=["not there", "too early"])
def test_the_machine_has_the_last_word(model: Shows) -> None:
    devices = Devices(cdna=longer_than(16), model=model)
    found = looked_into(devices, LARGE, FAULT.signature)
    assert (found.smallest.kv_lens, found.minimal) == ((17,), True)
    assert found.findings == (FAULT,)
    assert (found.reliability.shown, found.reliability.repeats) == (2, 2)


def test_a_model_that_is_always_wrong_costs_no_more_time_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Investigation, "_affordable_tries", lambda self, case, device=None: 20_000 if device else 20)
    devices = Devices(cdna=lambda case: case == LARGE, model=lambda case: True)
    found = looked_into(devices, LARGE, FAULT.signature)
    assert (found.smallest, found.minimal) == (LARGE, False)
    assert sum(device == "cdna" for device, _ in devices.ran) == 1 + 20 + 2


def test_what_the_machine_shows_once_is_no_more_reliable_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Investigation, "_affordable_tries", lambda *_: 1000)
    runs = iter((True, True, True))
    devices = Devices(cdna=lambda case: next(runs, False), model=lambda case: True)
    found = looked_into(devices, LARGE, FAULT.signature)
    assert not found.minimal
    assert (found.smallest, found.reliability.shown, found.reliability.repeats) == (LARGE, 1, 3)


PAGED = Case(num_head=16, kv_lens=(300, 200, 5), arch=Arch.GFX950, page_size=16, backend="direct", mode=MetadataMode.FAKE)
SPLIT = PAGED.replace(mode=MetadataMode.NON_PERSISTENT, num_kv_splits=4)


@pytest.mark.parametrize("case", [PAGED, SPLIT], ids=["paged", "split"])
def test_the_smallest_case_is_that_of_the_machine_alone(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.setattr(Investigation, "_affordable_tries", lambda *_: 1000)
    here = InThisProcess()
    cause = here.run(case).cause
    assert cause is not None
    quick = looked_into(here, case, cause.signature)
    helped = here.ran["cdna"]
    monkeypatch.setitem(DEVICES, "cdna", dataclasses.replace(DEVICES["cdna"], shrunk_on=""))
    alone = looked_into(here, case, cause.signature)
    assert helped < here.ran["cdna"] - helped
    assert quick.minimal
    assert quick.smallest != case
    assert (quick.smallest, quick.minimal, quick.findings) == (alone.smallest, alone.minimal, alone.findings)
