"""Where code objects are at hand the model speaks of kernels that it was measured on, and the machine runs the others."""

from __future__ import annotations

import dataclasses

import pytest

from backend.aiter.codefiles import installed_wheel, open_source
from backend.call import Call
from backend.case import Case, MetadataMode
from backend.devices.kinds import device_kind
from backend.devices.model.device import ModelDevice
from backend.devices.model_or_machine import ModelOrMachine
from backend.devices.registry import open_device
from backend.errors import UnmodelledError
from backend.fate import Fate
from backend.host import BuiltIn
from backend.observation import Observation
from backend.path import Path
from backend.revision.revision import host_of
from fuzz.campaign.config import CampaignConfig

CASE = Case(num_head=16, kv_lens=(40, 3), backend="direct", mode=MetadataMode.FAST)


class Machine:
    name = "machine"

    def observe(self, call: Call) -> Observation:
        if call.launched.blob_id == "unheard of":
            raise UnmodelledError("an instruction")
        return Observation(call, self.name, notes=("ran",))


def made(blob_id: str | None) -> Call:
    call = Path().launched(CASE)
    assert isinstance(call, Call)
    return dataclasses.replace(call, launch=dataclasses.replace(call.launched, blob_id=blob_id or call.launched.blob_id))


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
