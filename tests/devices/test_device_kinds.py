"""A device is one row, and each keeps to what every device must: the ones that are there, and a made-up one."""

from __future__ import annotations

import pytest
from conformance import FAULTY, calls, conforms

from backend.aiter.codefiles import installed_wheel
from backend.call import Call
from backend.devices.kinds import DEVICES, DeviceKind, Ground, NumbersKind, Opening, Witness, device_kind, notice, open_device
from backend.errors import UsageError
from backend.observation import DeviceEnd, EndKind, Observation, Violation, ViolationKind
from backend.path import Path
from fuzz.agree import compare
from fuzz.campaign.config import CampaignConfig
from fuzz.provenance import provenance
from reprod.write import ISSUE, finding_files


class Oracle:
    """Sees a stray write in every call of more than one query a request, and nothing else."""

    name = "oracle"

    def __init__(self, asked: Opening | None = None) -> None:
        self.asked = asked

    def observe(self, call: Call) -> Observation:
        violation = Violation(ViolationKind.OUT_OF_BOUNDS, call.launched.code_object, "o", True, 10, 20, 10, 1, "foretold")
        return Observation(call, self.name, (violation,) if call.decode.max_seqlen_q > 1 else ())


ORACLE = DeviceKind(
    name="oracle",
    open=Oracle,
    witness=Witness(
        ground=Ground.SIMULATION, ran="a look into the future", sees=("what it will",), blind=("what it will not",)
    ),
    numbers=NumbersKind.NEVER,
    chunk_cases=3,
    case_seconds=1.0,
    seen_on="a vision of an {product}",
)


@pytest.fixture
def _oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICES, ORACLE.name, ORACLE)


@pytest.mark.usefixtures("_oracle")
def test_a_made_up_device_is_one_row() -> None:
    device = open_device("oracle")
    assert conforms(device, ORACLE) == []
    outcome = Path(device="oracle").run(FAULTY)
    assert outcome.faulty
    text = finding_files(outcome, provenance("oracle", ("2025-11",), None))[ISSUE]
    assert "Seen on a vision of an AMD Instinct MI355X (gfx950)." in text
    assert notice("oracle") == "device oracle: Not run on hardware: a simulation on the CPU."
    config = CampaignConfig(device="oracle")
    assert (config.cases_a_chunk, config.seconds_a_case, config.resource) == (3, 1.0, "CPU")
    assert compare(device.observe(calls()[0]), device.observe(calls()[0])).differences == ()
    with pytest.raises(UsageError, match="ranks of device oracle"):
        open_device("oracle", ranks=2)
    with pytest.raises(UsageError, match="numbers of device: given 'oracle'"):
        open_device("oracle", numbers=True)
    with pytest.raises(UsageError, match="oracle"):
        open_device("tpu")


@pytest.mark.parametrize("name", ["model", "cdna", "both"])
def test_devices_that_are_there_conform(name: str) -> None:
    assert conforms(open_device(name, installed_wheel()), device_kind(name)) == []


def test_the_machine_conforms_where_it_computes_numbers() -> None:
    device = open_device("cdna", installed_wheel(), numbers=True)
    assert conforms(device, device_kind("cdna"), asked_for_numbers=True) == []


class Forgetful(Oracle):
    """Breaks what a device must hold to: it counts its calls, under another's name."""

    name = "model"
    count = 0

    def observe(self, call: Call) -> Observation:
        self.count += 1
        call.decode.kv_indptr.flags.writeable = True
        call.decode.kv_indptr[-1] += 1
        return Observation(call, "somebody", end=DeviceEnd(EndKind.COMPLETED, f"call {self.count}"))


def test_the_kit_sees_what_is_broken() -> None:
    complaints = " / ".join(conforms(Forgetful(), ORACLE))
    for part in ("calls itself model", "holds state", "writes into the call", "says somebody"):
        assert part in complaints


def test_every_row_says_what_a_result_is_worth() -> None:
    for name, kind in DEVICES.items():
        assert kind.name == name
        assert kind.witness.ran
        assert kind.witness.sees
        assert kind.witness.blind
        assert kind.takes_ranks <= kind.is_hardware
        assert "GPU" in kind.where_seen("MI355X", numbers=False) or kind.where_seen("MI355X", numbers=False) == f"device {name}"
