"""A search on the machine runs a share of its calls whole: the first of each kind, and the same ones when it is begun again."""

from __future__ import annotations

import pytest

from backend.case import Case
from backend.devices.kinds import open_device, open_searching
from backend.devices.two_devices import WholeWhereNew, ran_whole
from backend.path import Path

pytest.importorskip("torch")

FIRST = Case(16, (40, 20), release="2025-11", backend="direct", num_cu=8)
SAME_KIND, OTHER_KERNEL = FIRST.replace(kv_lens=(70, 9)), FIRST.replace(max_seqlen_q=4)
LARGE = OTHER_KERNEL.replace(kv_lens=(9000,))


def ran(path: Path, *cases: Case) -> list[bool]:
    """Which of the cases ran whole, in this order."""
    outcomes = [path.run(case) for case in cases]
    assert all(outcome.observation is not None for outcome in outcomes)
    return [outcome.observation.numbers is not None for outcome in outcomes if outcome.observation is not None]


def test_the_first_of_each_kind() -> None:
    device = open_searching("cdna")
    assert isinstance(device, WholeWhereNew)
    path = Path(device=device)
    assert ran(path, FIRST, SAME_KIND, LARGE, OTHER_KERNEL, OTHER_KERNEL) == [True, False, False, True, False]
    device.begin(())
    outcome = path.run(SAME_KIND)
    assert outcome.observation is not None
    kind = ran_whole(outcome.observation.call)
    assert kind in outcome.observation.coverage
    device.begin({kind})
    assert ran(path, FIRST, OTHER_KERNEL) == [False, True]


@pytest.mark.slow(guard="test_the_first_of_each_kind")
def test_wrong_numbers_without_a_stray_access_are_found() -> None:
    """Rows that see nothing of a short last piece are wrong (F7): of that a slice shows the plan alone."""
    short = Case(16, (33,), max_seqlen_q=4, backend="direct", release="2025-11")
    sliced = Path(device=open_device("cdna")).run(short)
    whole = Path(device=open_searching("cdna")).run(short)
    assert sliced.observation is not None
    assert whole.observation is not None
    assert not sliced.observation.violations
    assert "numerics" not in {finding.kind.value for finding in sliced.findings}
    assert "numerics" in {finding.kind.value for finding in whole.findings}


def test_only_a_device_that_computes_where_it_is_asked_to() -> None:
    assert not isinstance(open_searching("model"), WholeWhereNew)
    assert not isinstance(open_searching("cdna", numbers=True), WholeWhereNew)
