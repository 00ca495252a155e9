"""A scenario by the name that a report gives it, or out of a gate.json: whatever is no such name or file is wrong usage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.codec import to_plain
from backend.errors import UsageError
from fuzz.gate.again import scenario_named
from fuzz.gate.gate import GatePlan
from tests.scenes import eager_decode

PLAN = GatePlan(tensors=())


def test_a_life_comes_out_of_a_gate_json_as_it_was(tmp_path: Path) -> None:
    life = eager_decode(64, (10,))
    file = tmp_path / "gate.json"
    file.write_text(json.dumps({"faults": [{"scenario": to_plain(life)}]}))
    assert scenario_named(f"{file}:1", PLAN) == life


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"faults": 3}', '{"faults": [1]}', '{"faults": [{}]}', '{"faults": [{"scenario": 1}]}']
)
def test_what_is_no_gate_json_is_wrong_usage(text: str, tmp_path: Path) -> None:
    file = tmp_path / "gate.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"gate\.json") as raised:
        scenario_named(f"{file}:1", PLAN)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("number", ["0", "2", "x", "", "9" * 5000])
def test_a_number_that_no_fault_has_is_wrong_usage(number: str, tmp_path: Path) -> None:
    file = tmp_path / "gate.json"
    file.write_text('{"faults": [{"scenario": {}}]}')
    with pytest.raises(UsageError, match="--only"):
        scenario_named(f"{file}:{number}", PLAN)
