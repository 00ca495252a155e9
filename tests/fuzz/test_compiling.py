"""What is compiled while a case runs is no part of the case's time."""

from __future__ import annotations

from pathlib import Path

import numba
import pytest

from fuzz.campaign.case_process import At, Slot, read_slot
from fuzz.compiling import noticed


def twice(number: int) -> int:
    return number + number


def test_a_case_that_compiles_is_paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that are compiled for another one do not end its pause."""
    file = tmp_path / "slot"
    slot = Slot(file)
    seen: list[At] = []
    note = slot.note

    def recorded(chunk: int, position: int) -> None:
        note(chunk, position)
        seen.append(read_slot(file))

    monkeypatch.setattr(slot, "note", recorded)
    inner = numba.njit(twice)
    with noticed(slot.pause, slot.resume):
        slot.note(3, 7)
        assert numba.njit(lambda number: inner(number) + 1)(4) == 9
    assert [(at.chunk, at.position) for at in seen] == [(3, 7), (-1, -1), (3, 7)]
    assert [at.running for at in seen] == [True, False, True]
    assert len({at.beat for at in seen}) == 3, "the supervisor sees that the case began anew"
