"""`both`: agreement is silent, disagreement is a finding about this project, and the machine is believed.

`model` where code objects are at hand: it speaks of kernels that it was measured on, and the machine runs the others.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.aiter.codefiles import installed_wheel, open_source
from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.devices.kinds import device_kind, open_device
from backend.devices.model.device import ModelDevice
from backend.devices.model.traits import RowRule, traits
from backend.devices.two_devices import BothDevice, ModelOrMachine, incomparable
from backend.errors import UnmodelledError
from backend.fate import Fate
from backend.findings import FindingKind, Party
from backend.host import BuiltIn
from backend.observation import Observation
from backend.path import Path
from backend.revision.revision import host_of
from fuzz.campaign.config import CampaignConfig

CASE = Case(
    16,
    (40, 20),
    2,
    q_dtype=DType.BF16,
    kv_dtype=DType.BF16,
    release="2025-11",
    backend="direct",
    mode=MetadataMode.FAST,
    num_cu=1,
)


def test_it_is_silent_where_both_see_the_same() -> None:
    outcome = Path(BuiltIn(installed_wheel()), "both").run(CASE)
    assert outcome.findings == ()
    assert outcome.observation is not None
    assert outcome.observation.device == "both"
    assert outcome.observation.disagreements == ()


def test_the_machine_is_told_and_what_the_model_saw_else_is_a_finding_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_device("both", installed_wheel())
    assert isinstance(device, BothDevice)
    path = Path(BuiltIn(installed_wheel()), device)
    launched = path.run(CASE).call
    assert launched is not None
    wrong = replace(traits(launched.launched.blob_id), o_rows=RowRule.parse("64"))
    monkeypatch.setattr(device, "_model", ModelDevice(record=True, known=wrong))
    outcome = path.run(CASE)
    (finding,) = outcome.findings
    assert finding.kind is FindingKind.DEVICE_DISAGREEMENT
    assert finding.party is Party.PROJECT
    assert finding.discriminator == "write of o, out of bounds"
    outside = (64 - 2 * 16) * 512 * 2
    assert finding.evidence["cdna"] == "not seen"
    assert str(finding.evidence["model"]).startswith(f"{outside} bytes outside")
    assert outcome.observation is not None
    assert outcome.observation.violations == ()


def test_findings_of_the_case_itself_stay_one_each() -> None:
    """An empty request in front: both see the row that nobody writes, and it is told once."""
    outcome = Path(BuiltIn(installed_wheel()), "both").run(CASE.replace(kv_lens=(0, 40), max_seqlen_q=1))
    assert [finding.kind for finding in outcome.findings if finding.party is Party.KERNEL] == [FindingKind.ROW_NOT_WRITTEN]


def test_a_plan_that_leads_anywhere_is_not_compared_and_says_so() -> None:
    """v1_0 starts the second request at the first one's end, whose KV is empty, and passes the end of kv_indices."""
    case = CASE.replace(release="2026-06", mode=MetadataMode.FAKE, kv_lens=(31, 0), max_seqlen_q=1)
    observation = Path().run(case).observation
    assert observation is not None
    reason = incomparable(observation.call)
    assert reason is not None
    assert "behind the end of kv_indices" in reason


MEASURED = Case(num_head=16, kv_lens=(40, 3), backend="direct", mode=MetadataMode.FAST)


class Machine:
    name = "machine"

    def observe(self, call: Call) -> Observation:
        if call.launched.blob_id == "unheard of":
            raise UnmodelledError("an instruction")
        return Observation(call, self.name, notes=("ran",))


def made(blob_id: str | None) -> Call:
    call = Path().launched(MEASURED)
    assert isinstance(call, Call)
    return replace(call, launch=replace(call.launched, blob_id=blob_id or call.launched.blob_id))


def test_a_measured_kernel_is_the_models_and_any_other_the_machines() -> None:
    device = ModelOrMachine(ModelDevice(), Machine())
    measured, other = device.observe(made(None)), device.observe(made("0" * 40))
    assert (measured.device, other.device) == ("model", "model")
    assert measured.notes == ()
    assert other.notes == (f"{other.call.launched.code_object} was never measured: its machine code was run", "ran")


def test_what_the_machine_has_no_model_of_is_not_judged() -> None:
    with pytest.raises(UnmodelledError):
        ModelOrMachine(ModelDevice(), Machine()).observe(made("unheard of"))


def test_it_is_what_is_opened_where_there_are_files() -> None:
    assert isinstance(open_device("model"), ModelDevice)
    assert isinstance(open_device("model", installed_wheel()), ModelOrMachine)
    assert CampaignConfig().seconds_a_case == device_kind("model").case_seconds
    assert CampaignConfig(aiter="checkout").seconds_a_case == device_kind("cdna").case_seconds


@pytest.mark.checkout
@pytest.mark.slow
def test_no_fault_is_taken_from_the_contract(aiter_checkout: object) -> None:
    """v0.1.11.post1's kernel for 16 heads reads no row of a folded batch, though the contract would let it."""
    case = Case(num_head=64, kv_lens=(1,), backend="sglang-27188")
    source = open_source(f"{aiter_checkout}@v0.1.11.post1")
    assert Path(host_of(source)).run(case).fate is Fate.CLEAN
    assert Path(host_of(source), ModelDevice()).run(case).faulty
    assert Path(BuiltIn()).run(case).fate is Fate.CLEAN
