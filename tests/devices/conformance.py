"""What every device must hold to, whatever it is: `conforms(device, kind)` complains in words, one line a breach.

For whoever adds a device: open it, hand it over with its row, and the list must be empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.codec import to_plain
from backend.devices.device import Device
from backend.devices.kinds import DeviceKind, NumbersKind
from backend.observation import Observation, ViolationKind
from backend.path import Path

SOUND = Case(num_head=16, kv_lens=(40, 7), backend="direct", mode=MetadataMode.FAST, release="2025-11", num_cu=4)
"""Nothing is wrong with it."""

OTHER = SOUND.replace(kv_lens=(3,), q_dtype=DType.BF16, kv_dtype=DType.BF16, mode=MetadataMode.NON_PERSISTENT)
"""Another kernel, to come between two runs of the first."""

FAULTY = SOUND.replace(num_head=128, kv_lens=(16, 20), max_seqlen_q=2, mode=MetadataMode.GREEDY)
"""Launched by the wheel, for devices that run its machine code; what it does there is its own affair."""


def calls() -> tuple[Call, Call, Call]:
    """The three, as built-in rules make them; each has a launch."""
    made = [Path().launched(case) for case in (SOUND, OTHER, FAULTY)]
    assert all(isinstance(each, Call) for each in made), made
    return made[0], made[1], made[2]  # type: ignore[return-value]


def conforms(device: Device, kind: DeviceKind, asked_for_numbers: bool = False) -> list[str]:
    """Every rule that the device breaks, as a sentence; none for a device that is one."""
    sound, other, faulty = calls()
    before = [_contents(each) for each in (sound, other, faulty)]
    seen, between, wild, again = (device.observe(each) for each in (sound, other, faulty, sound))
    complaints = list(_breaches(kind, seen, sound, asked_for_numbers))
    if device.name != kind.name:
        complaints.append(f"the device calls itself {device.name}, its row {kind.name}")
    if _facts(seen) != _facts(again):
        complaints.append("the same call gives another observation after other calls: it holds state")
    if [_contents(each) for each in (sound, other, faulty)] != before:
        complaints.append("it writes into the call's own arrays")
    if seen.violations:
        complaints.append(f"it sees violations in a sound call: {[each.kind.value for each in seen.violations]}")
    if between.call is not other or wild.call is not faulty:
        complaints.append("an observation is of another call than was asked for")
    return complaints


def _breaches(kind: DeviceKind, seen: Observation, call: Call, asked_for_numbers: bool) -> Iterator[str]:
    if seen.call is not call:
        yield "the observation is not of the call"
    if seen.device != kind.name:
        yield f"the observation says {seen.device}, the row {kind.name}"
    has, may = seen.numbers is not None, kind.numbers
    if has and may is NumbersKind.NEVER:
        yield "it computes numbers, which its row says it never does"
    if not has and (may is NumbersKind.ALWAYS or (may is NumbersKind.ASKED and asked_for_numbers)):
        yield "it computes no numbers, which its row says it does"
    if not all(isinstance(each.kind, ViolationKind) and each.stage for each in seen.violations):
        yield "a violation has no kind or no stage"


def _facts(seen: Observation) -> object:
    """What of an observation must be equal for equal calls; notes name times and processes."""
    return to_plain(dataclasses.replace(seen, call=None, notes=(), coverage=frozenset())), seen.coverage  # type: ignore[arg-type]


def _contents(call: Call) -> list[bytes]:
    decode = call.decode
    arrays = [decode.qo_indptr, decode.kv_indptr, decode.kv_indices, decode.kv_last_page_lens]
    if call.plan is not None:
        arrays += [buffer.image for buffer in call.plan.buffers.values()]
    return [np.asarray(array).tobytes() for array in arrays]
