"""Draws the table of kernel traits from runs of the machine code.

    python -m backend.experiments.kernel_traits --aiter CHECKOUT                    # what the built-in releases launch
    python -m backend.experiments.kernel_traits --aiter CHECKOUT --new REV [REV ...]    # what these launch and is in no table

Each kernel runs its probes on the device `cdna`; the traits are given the values with which the model touches the same bytes
and sees the same violations (traits.csv). Which kernargs and which words of a work item it reads comes first, for a kernel
that is not in kernarg_reads.csv yet. A code object that several revisions launch is measured by what each of them asks of it;
of many that are named with --new, by the first and the last. What no values make agree is reported and not written, and the
exit code is 1: such a kernel goes on being run by its machine code.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from backend.aiter import kernargs
from backend.aiter.codefiles import CodeSource, installed_wheel, open_source
from backend.aiter.kernargs import TABLE as READS
from backend.aiter.kernargs import WORK_ITEM_FIELDS, KernargReads, kernarg_reads, know
from backend.aiter.release import nearest_release, release
from backend.call import Call
from backend.case import RELEASES
from backend.devices.accesses import INT32
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model import traits
from backend.devices.model.device import ModelDevice
from backend.devices.model.kernargs import reads_of
from backend.devices.model.traits import (
    COLUMNS,
    HALF_MENDED,
    Backward,
    KernelPaging,
    KernelTraits,
    Layout,
    RowRule,
    Single,
    read_table,
    to_row,
)
from backend.devices.two_devices import Difference, differences, incomparable
from backend.errors import UnmodelledError
from backend.experiments.probes import EDGES, ReachedKernel, backward, made_of, probes, reached, tall
from backend.observation import Observation
from backend.words import number_of

TABLE = Path(traits.__file__).with_name("traits.csv")
READS_TABLE = Path(kernargs.__file__).parent / "tables" / READS
HEADER = """\
# Behaviour of AITER code objects, each row drawn from runs of the machine code (python -m backend.experiments.kernel_traits).
# Columns: see traits.py.
"""

_RULES = tuple(
    RowRule.parse(text) for text in ("item", "s_MQA", "16", "32", "40", "64", "128", "<=16", "<=32", "<=40", "<=64", "<=128")
)
"""Numbers of rows that kernels were seen to touch; 40 are those of four waves of 16 rows each that begin 8 rows apart."""


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
    {"paging": tuple(KernelPaging), "token_bytes": (576, 1152, 608), "page_bits": (64, 32, 24, HALF_MENDED)},
    {"ahead": (False, True)},
)
_TILES = (64, 16, 32, 128, 256)
_SLACK = (0, 64, 128, 192, 256)
PERSISTENT: tuple[Group, ...] = (
    {"stops_at_empty": (True, False), "rows_of_s_mqa": (False, True)},
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
    {"runs_without_rows": (False, True), "rows_by_request": (False, True), "single": tuple(Single)},
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
    """The traits of one kernel, by all revisions that launch it, and what still differs with them.

    What it reads of its kernargs is taken for known from then on, if it was in no table. Raises UnmodelledError where the
    machine has no model of it.
    """
    kernel = launched[0].kernel
    devices = [(CdnaDevice(each.source, record=True, explained=False), each) for each in launched]
    calls = [(device, call) for device, each in devices for call in fitting_calls(each)]
    overlong = [(device, call) for device, each in devices for call in tall_calls(each)]
    if not _reads_are_known(kernel.blob_id):
        know(loaded(kernel, calls[:_PLAIN]))
    known = KernelTraits(kernel.blob_id, str(kernel.arch), kernel.code_object)
    # Until it is known whether kv_last_page_lens is read, no plan that would read it behind its end is looked at.
    guess = replace(known, reads_last_page_lens="ptr_LTL" in reads_of(calls[0][1]).kernargs)
    observed = [device.observe(call) for device, call in calls if not incomparable(call, guess)]
    observed += [device.observe(call) for device, call in overlong]
    ends = _backward(calls) if kernel.persistent else known.backward
    fewest, known = min(((_wrong(observed, each), each) for each in _first_guesses(known, ends)), key=lambda tried: tried[0])
    for _ in range(PASSES):
        before = fewest
        for group in PERSISTENT if kernel.persistent else NON_PERSISTENT:
            known, fewest = _best(known, group, observed, fewest) if fewest else (known, 0)
        if fewest in (0, before):
            break
    return known, [difference for seen in observed for difference in compared(seen, known)]


def _first_guesses(unknown: KernelTraits, backward: Backward) -> list[KernelTraits]:
    """What a kernel is taken for at first: one that nobody measured, or any kernel of the same name that was."""
    alike = (each for each in read_table().values() if (each.arch, each.code_object) == (unknown.arch, unknown.code_object))
    return [replace(each, blob_id=unknown.blob_id, backward=backward) for each in (unknown, *alike)]


_PLAIN = len(EDGES)
"""So many of the first probes are of one request, of whose plans there is nothing that could lead a kernel astray."""


def _reads_are_known(blob_id: str) -> bool:
    try:
        return bool(kernarg_reads(blob_id).kernargs)
    except UnmodelledError:
        return False


def loaded(kernel: ReachedKernel, calls: Sequence[tuple[CdnaDevice, Call]]) -> KernargReads:
    """What a kernel reads of its kernargs and of work items in these calls, of which one at least has work."""
    names: set[str] = set()
    words: set[str] = set()
    for device, call in calls:
        read = device.observe(call).footprints[kernel.code_object].reads
        for begin, end in read.get("kernarg", ()):
            names |= {each.name for each in call.launched.kernargs if each.offset < end and begin < each.offset + each.size}
        for begin, end in read.get("work_info_set", ()):
            words |= {WORK_ITEM_FIELDS[byte // INT32 % len(WORK_ITEM_FIELDS)] for byte in range(begin, end, INT32)}
    return KernargReads(kernel.blob_id, kernel.arch, kernel.code_object, frozenset(names), frozenset(words))


def fitting_calls(launched: LaunchedKernel) -> list[Call]:
    """The calls of all probes that lead to the kernel."""
    calls = [made_of(case, launched.source) for case in probes(launched.kernel)]
    return [each for each in calls if each is not None and each.launched.blob_id == launched.kernel.blob_id]


def tall_calls(launched: LaunchedKernel) -> list[Call]:
    """Calls of the kernel whose plan was changed: see probes.tall."""
    kernel = launched.kernel
    if not kernel.persistent:
        return []
    most = max(kernel.cases, key=lambda case: (case.max_seqlen_q, -case.num_head))
    long = made_of(most.replace(kv_lens=(40, 33, 65), num_cu=1, first_page=7), launched.source)
    return tall(long) if long is not None and long.launched.blob_id == kernel.blob_id else []


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


def write_reads(reads: KernargReads) -> None:
    """Its row in kernarg_reads.csv, in place of one that is there, by architecture and name."""
    lines = READS_TABLE.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#")) + 1
    fields = " ".join(name for name in kernargs.FIELDS if name in reads.kernargs)
    item = " ".join(str(place * INT32) for place, name in enumerate(WORK_ITEM_FIELDS) if name in reads.work_item)
    row = ",".join((str(reads.arch), reads.code_object, reads.blob_id, fields, item))
    rows = [line for line in lines[first:] if line.split(",")[2] != reads.blob_id]
    rows = sorted((*rows, row), key=lambda line: line.split(",")[:2])
    READS_TABLE.write_text("\n".join((*lines[:first], *rows)) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the module says what it does."""
    parser = argparse.ArgumentParser(prog="python -m backend.experiments.kernel_traits", description=__doc__)
    parser.add_argument("--aiter", metavar="PATH", required=True, help="checkout or bare repository of ROCm/aiter")
    parser.add_argument(
        "--new", metavar="REV", nargs="+", default=(), help="revisions whose kernels are measured that are in no table"
    )
    parser.add_argument("--kernel", default="", metavar="TEXT", help="only code objects with this in name or blob id")
    given = parser.parse_args(arguments)
    launched = (
        _launched_by([open_source(f"{given.aiter}@{each}") for each in given.new]) if given.new else _launched(given.aiter)
    )
    complaints = 0
    for every in sorted(launched, key=lambda each: (each[0].kernel.arch, each[0].kernel.code_object)):
        kernel = every[0].kernel
        if given.kernel in kernel.code_object or kernel.blob_id.startswith(given.kernel):
            complaints += not _drawn(every)
    return 1 if complaints else 0


def _drawn(launched: Sequence[LaunchedKernel]) -> bool:
    """Measures a kernel, says how far that went, and writes its rows where nothing differs."""
    kernel = launched[0].kernel
    shown = f"{kernel.arch} {kernel.code_object} {kernel.blob_id[:10]}"
    try:
        known, left = measure(launched)
    except UnmodelledError as error:
        print(f"{shown}: {error}", flush=True)
        return False
    print(f"{shown}: {number_of(len(left), 'difference')}", flush=True)
    for difference in left[:6]:
        print(f"    {difference.what}: machine {difference.left}; model {difference.right}")
    if not left:
        write_reads(kernarg_reads(kernel.blob_id))
        write({**read_table(), kernel.blob_id: known})
    return not left


def _launched(checkout: str) -> list[list[LaunchedKernel]]:
    """Every kernel that a built-in release launches, each with all releases that do."""
    sources = ((name, release(name)) for name in RELEASES)
    return _gathered(
        (name, installed_wheel() if known.is_wheel else open_source(f"{checkout}@{known.commit}")) for name, known in sources
    )


def _launched_by(sources: Sequence[CodeSource]) -> list[list[LaunchedKernel]]:
    """Every kernel in no table that one of the revisions launches, each with the first and the last of those that do."""
    every = _gathered((nearest_release(source).name, source) for source in sources)
    return [[*each[:1], *each[1:][-1:]] for each in every if each[0].kernel.blob_id not in traits.traits_table()]


def _gathered(revisions: Iterable[tuple[str, CodeSource]]) -> list[list[LaunchedKernel]]:
    found: dict[str, list[LaunchedKernel]] = {}
    for name, source in revisions:
        for blob, kernel in reached(name, source).items():
            found.setdefault(blob, []).append(LaunchedKernel(kernel, source))
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main())
