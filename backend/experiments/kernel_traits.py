"""Draws the table of kernel traits from runs of the machine code.

    python -m backend.experiments.kernel_traits --aiter CHECKOUT    # all kernels of all releases, written to traits.csv

Each kernel runs its probes on the device `cdna`; the traits are given the values with which the model touches the same bytes
and sees the same violations. A code object that several releases launch is measured by what each of them asks of it. What no
values make agree is reported, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from backend.aiter.codefiles import CodeSource, installed_wheel, open_source
from backend.aiter.release import release
from backend.call import Call
from backend.case import RELEASES
from backend.devices.agreement import Difference, differences, incomparable
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model import traits
from backend.devices.model.device import ModelDevice
from backend.devices.model.kernargs import reads_of
from backend.devices.model.traits import (
    COLUMNS,
    Backward,
    KernelPaging,
    KernelTraits,
    Layout,
    RowRule,
    Single,
    read_table,
    to_row,
)
from backend.errors import UnmodelledError
from backend.experiments.probes import ReachedKernel, backward, made_of, probes, reached, tall
from backend.observation import Observation

TABLE = Path(traits.__file__).with_name("traits.csv")
HEADER = """\
# Behaviour of AITER code objects, each row drawn from runs of the machine code (python -m backend.experiments.kernel_traits).
# Columns: see traits.py.
"""

_RULES = tuple(RowRule.parse(text) for text in ("item", "s_MQA", "16", "32", "64", "128", "<=32", "<=64", "<=128"))


Group = Mapping[str, Sequence[Any]]
"""Traits that are tried together, with their candidates; the first of several that agree equally is taken: the plainest."""

_ROWS: Group = {
    "q_rows": _RULES,
    "o_rows": _RULES,
    "partial_rows": _RULES,
    "lse_rows": _RULES,
    "final_lse_rows": _RULES,
}
_KV: tuple[Group, ...] = (
    {"paging": tuple(KernelPaging), "token_bytes": (576, 1152, 608), "page_bits": (64, 32, 24)},
    {"ahead": (False, True)},
)
_TILES = (64, 16, 32, 128, 256)
_SLACK = (0, 64, 128, 192, 256)
PERSISTENT: tuple[Group, ...] = (
    {"stops_at_empty": (True, False)},
    {"q_rows": _RULES, "q_slack": _SLACK},
    {"reads_last_page_lens": (False, True)},
    {"reads_qo_indptr": (True, False)},
    *({name: _ROWS[name]} for name in _ROWS),
    {"tile": _TILES, "ahead": (False, True)},
    *_KV,
)
NON_PERSISTENT: tuple[Group, ...] = (
    {"reads_last_page_lens": (False, True), "reads_qo_indptr": (True, False)},
    {"low_words": ("", "ptr_RP")},
    {"rows_by_request": (False, True), "single": tuple(Single)},
    {"q_by_request": (False, True), "q_by_stride": (False, True)},
    {"x_rows": (0, 8, 16, 32, 64, 128), "causal": (False, True)},
    {"tile": _TILES, "ahead": (False, True)},
    {"layout": tuple(Layout), "partial_rows": _RULES},
    {"lse_layout": tuple(Layout), "lse_rows": _RULES},
    {"q_rows": _RULES, "q_slack": _SLACK, "q_slack_clamped": (True, False)},
    *_KV,
)
PASSES = 3
"""Times that all groups are gone through: a value that is found late may change what fits best before it."""


@dataclass(frozen=True, slots=True)
class LaunchedKernel:
    """A kernel as one release launches it, and where that release's code objects are."""

    kernel: ReachedKernel
    source: CodeSource


def measure(launched: Sequence[LaunchedKernel]) -> tuple[KernelTraits, list[Difference]]:
    """The traits of one kernel, by all releases that launch it, and what still differs with them."""
    kernel = launched[0].kernel
    calls = [(CdnaDevice(each.source, record=True, explained=False), call) for each in launched for call in fitting_calls(each)]
    known = KernelTraits(kernel.blob_id, str(kernel.arch), kernel.code_object)
    if kernel.persistent:
        known = replace(known, backward=_backward(calls))
    # Until it is known whether kv_last_page_lens is read, no plan that would read it behind its end is looked at.
    guess = replace(known, reads_last_page_lens="ptr_LTL" in reads_of(calls[0][1]).kernargs)
    observed = [device.observe(call) for device, call in calls if not incomparable(call, guess)]
    fewest = _wrong(observed, known)
    for _ in range(PASSES):
        for group in PERSISTENT if kernel.persistent else NON_PERSISTENT:
            known, fewest = _best(known, group, observed, fewest)
    return known, [difference for seen in observed for difference in compared(seen, known)]


def fitting_calls(launched: LaunchedKernel) -> list[Call]:
    """The calls of all probes that lead to the kernel, and some whose plan was changed."""
    kernel = launched.kernel
    calls = [made_of(case, launched.source) for case in probes(kernel)]
    fitting = [each for each in calls if each is not None and each.launched.blob_id == kernel.blob_id]
    if kernel.persistent:
        most = max(kernel.cases, key=lambda case: (case.max_seqlen_q, -case.num_head))
        long = made_of(most.replace(kv_lens=(40, 33, 65), num_cu=1, first_page=7), launched.source)
        if long is not None and long.launched.blob_id == kernel.blob_id:
            fitting += tall(long)
    return fitting


def _backward(calls: Sequence[tuple[CdnaDevice, Call]]) -> Backward:
    """How the kernel takes an item that ends before it begins."""
    device, made = next(
        (device, call)
        for device, call in calls
        if call.plan is not None and len(call.plan.work_items) and not incomparable(call)
    )
    seen = device.observe(backward(made))
    if seen.end is not None:
        return Backward.HANG
    return Backward.TILE if "q" in seen.footprints[made.launched.code_object].reads else Backward.EMPTY


def _best(known: KernelTraits, group: Group, observed: list[Observation], fewest: int) -> tuple[KernelTraits, int]:
    """The values of a group with the fewest differences, and how many those are; a tie leaves what was there."""
    best = known
    for values in product(*group.values()):
        tried = replace(known, **dict(zip(group, values, strict=True)))
        wrong = _wrong(observed, tried, fewest)
        if wrong < fewest:
            best, fewest = tried, wrong
    return best, fewest


def _wrong(observed: list[Observation], known: KernelTraits, enough: int | None = None) -> int:
    """How many differences there are; counting stops at `enough`."""
    count = 0
    for seen in observed:
        count += len(compared(seen, known))
        if enough is not None and count >= enough:
            break
    return count


def compared(seen: Observation, known: KernelTraits) -> list[Difference]:
    """What differs between the machine and a model with these traits."""
    return differences(seen, ModelDevice(record=True, known=known).observe(seen.call))


def write(table: Mapping[str, KernelTraits]) -> None:
    """The table, sorted by architecture and name."""
    rows = sorted(table.values(), key=lambda known: (known.arch, known.code_object, known.blob_id))
    with TABLE.open("w", encoding="utf-8", newline="") as out:
        out.write(HEADER)
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(to_row(known) for known in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the module says what it does."""
    parser = argparse.ArgumentParser(prog="python -m backend.experiments.kernel_traits", description=__doc__)
    parser.add_argument("--aiter", metavar="PATH", required=True, help="checkout or bare repository of ROCm/aiter")
    parser.add_argument("--kernel", default="", metavar="TEXT", help="only code objects with this in name or blob id")
    given = parser.parse_args(arguments)
    complaints = 0
    for launched in sorted(_launched(given.aiter), key=lambda each: (each[0].kernel.arch, each[0].kernel.code_object)):
        kernel = launched[0].kernel
        if given.kernel not in kernel.code_object and not kernel.blob_id.startswith(given.kernel):
            continue
        shown = f"{kernel.arch} {kernel.code_object} {kernel.blob_id[:10]}"
        try:
            known, left = measure(launched)
        except UnmodelledError as error:
            print(f"{shown}: {error}")
            complaints += 1
            continue
        complaints += bool(left)
        print(f"{shown}: {len(left)} differences", flush=True)
        for difference in left[:6]:
            print(f"    {difference.what}: machine {difference.left}; model {difference.right}")
        write({**read_table(), kernel.blob_id: known})
    return 1 if complaints else 0


def _launched(checkout: str) -> list[list[LaunchedKernel]]:
    """Every kernel that a release launches, each with all releases that do."""
    found: dict[str, list[LaunchedKernel]] = {}
    for name in RELEASES:
        known = release(name)
        source = installed_wheel() if known.is_wheel else open_source(f"{checkout}@{known.commit}")
        for blob, kernel in reached(name, source).items():
            found.setdefault(blob, []).append(LaunchedKernel(kernel, source))
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main())
