"""One outcome as people can read it, stage by stage: decision, plan, launch, what was touched, what is wrong.

It tells what the other rooms found out and decides nothing. Plain lines of text; no file, no terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from backend.aiter.launch import Launch, Refusal
from backend.aiter.planners import Plan
from backend.aiter.tensors import TensorSpec
from backend.call import Call
from backend.checks.memory import ABOUT_ROWS
from backend.decision import Decision
from backend.findings import Finding, FindingKind, Severity
from backend.host import Basis, Part
from backend.observation import Numbers, Observation, Violation, ViolationKind
from backend.outcome import Outcome
from backend.words import counted
from reprod.blame import blame
from reprod.case_line import case_line
from reprod.layouts import HEADER, Layouts, assumptions, by_access, layouts, rows
from reprod.reference import KnownReference
from reprod.text import lengths, shown, table

ITEMS_SHOWN = 12
"""Work items printed from the start, unless asked for otherwise."""

OFFENDERS_SHOWN = 8

WORK_ITEM_COLUMNS = ("batch", "partial", "q0", "q1", "kv0", "kv1", "offset")
"""AITER's MlaWorkInfo without its padding; q0..q1 and kv0..kv1 are half open, partial -1 writes o directly."""


def explain_text(
    outcome: Outcome, max_items: int = ITEMS_SHOWN, memory: Layouts | None = None, known: KnownReference | None = None
) -> str:
    """`explain` as one text; parameters as there, max_items being `items`."""
    return "\n".join(explain(outcome, max_items, memory, known)) + "\n"


def explain(
    outcome: Outcome, items: int = ITEMS_SHOWN, memory: Layouts | None = None, known: KnownReference | None = None
) -> Iterator[str]:
    """The text, line by line.

    items: work items shown from the start of the plan. memory: `layouts(outcome)` where it is known already.
    known: the corpus entry of what it shows, None where none has it.
    """
    yield f"case: {case_line(outcome.case, outcome.call.named if outcome.call is not None else '')}"
    if outcome.decision is None:
        yield f"refused by {outcome.case.backend}: {outcome.refused}"
        return
    yield from _decision(outcome.decision)
    if outcome.call is not None:
        if outcome.call.plan is not None:
            yield from _plan(outcome.call, outcome.call.plan, items, _offenders(outcome))
        yield from _launch(outcome.call.launch)
    if outcome.observation is not None:
        yield from _accesses(outcome.observation)
    yield from _memory(memory if memory is not None else layouts(outcome))
    yield ""
    yield from found_lines(outcome, known)


def bases_line(bases: Mapping[Part, Basis]) -> str:
    """What each part of a call rests on, in one line."""
    return ", ".join(f"{part.value} {basis.value}" for part, basis in bases.items())


def _decision(decision: Decision) -> Iterator[str]:
    yield ""
    yield f"decision of {decision.case.backend}: mode {decision.mode.value}"
    decode = decision.decode
    padding = len(decision.kv_lens) - decision.case.batch
    yield (f"  runs {counted(len(decision.kv_lens), 'request')} ({padding} of them padding), kv {lengths(decision.kv_lens)}")
    if decision.head_repeat > 1:
        yield f"  q's heads are repeated {counted(decision.head_repeat, 'time')}"
    rows = []
    if decision.sizing is not None and decision.planning is not None:
        sizing, planning = decision.sizing, decision.planning
        rows = [
            ("batch", sizing.batch, len(planning.qo_indptr) - 1, len(decode.qo_indptr) - 1),
            ("heads", sizing.num_head, planning.num_heads_per_head_k * planning.num_heads_k, decode.num_head),
            ("max_seqlen_q", sizing.max_seqlen_q, planning.max_seqlen_qo, decode.max_seqlen_q),
            ("q dtype", sizing.q_dtype, planning.q_dtype, decode.q_dtype),
            ("kv dtype", sizing.kv_dtype, planning.kv_dtype, decode.kv_dtype),
            ("page size", "", planning.page_size, decode.page_size),
            ("kv granularity", "", planning.kv_granularity, ""),
            ("fast_mode", sizing.fast_mode, planning.fast_mode, ""),
            ("intra_batch_mode", sizing.intra_batch_mode, planning.intra_batch_mode, decode.intra_batch_mode),
            ("splits", _or_none(sizing.num_kv_splits), planning.max_split_per_batch, _or_none(decode.num_kv_splits)),
            ("causal", "", planning.is_causal, ""),
        ]
        yield from table(("argument", "sizing", "planning", "decode"), rows)
    else:
        yield (
            f"  no metadata; {counted(decode.num_head, 'head')}, page size {decode.page_size}, splits "
            f"{_or_none(decode.num_kv_splits)}"
        )
    if decode.options:
        yield f"  further arguments of mla_decode_fwd: {', '.join(f'{name}={value}' for name, value in decode.options)}"


def _plan(call: Call, plan: Plan, items: int, offenders: Sequence[int]) -> Iterator[str]:
    yield ""
    if plan.rejected is not None:
        yield f"plan: AITER {'ends the process' if plan.ends_process else 'raises'} before planning: {plan.rejected}"
        return
    yield (
        f"plan by {plan.planner.value}: {counted(plan.rows, 'row')} of {counted(plan.head_width, 'head')}, fold {plan.fold}; "
        f"row v reads the KV of request v // {plan.rows_per_sequence}"
    )
    yield from table(
        ("buffer", "allocated", "needed", "written", "first", "last", "outside"),
        [
            (
                name,
                buffer.allocated,
                getattr(call.needed, name),
                int(np.count_nonzero(buffer.marks)),
                buffer.first if buffer.image.size else "",
                buffer.last if buffer.image.size else "",
                sum(overrun.words for overrun in buffer.overrun) or "",
            )
            for name, buffer in plan.buffers.items()
        ],
    )
    yield "  (int32 words; outside: words written that are not the buffer's)"
    for read, count in Counter(plan.reads_past_end).items():
        often = "" if count == 1 else f", {counted(count, 'time')}"
        yield f"  the planner reads {read.array}[{read.index}], which is not there{often}"
    yield from _work_items(plan, items, offenders)


def _work_items(plan: Plan, items: int, offenders: Sequence[int]) -> Iterator[str]:
    work = plan.work_items
    allocated = plan.buffers["work_info_set"].allocated // 8
    yield f"  {counted(len(work), 'work item')}, room for {allocated}:"
    picked = sorted({*range(min(items, len(work))), *(i for i in offenders if i < len(work))})
    rows = [(i, _unit(plan, i), *(int(n) for n in work[i][:7]), "<- first to offend" if i in offenders else "") for i in picked]
    yield from table(("item", "CU", *WORK_ITEM_COLUMNS, ""), rows, indent="    ")
    if len(picked) < len(work):
        yield f"    and {len(work) - len(picked):,} more"


def _unit(plan: Plan, item: int) -> int | str:
    """The compute unit that an item is dealt to, "none" where work_indptr does not reach it."""
    indptr = plan.buffers["work_indptr"].words
    unit = int(np.searchsorted(indptr, item, side="right")) - 1
    return unit if 0 <= unit < len(indptr) - 1 else "none"


def _launch(launch: Launch | Refusal) -> Iterator[str]:
    yield ""
    if isinstance(launch, Refusal):
        yield f"launch: {launch.raised_by} {'ends the process' if launch.ends_process else 'raises'}: {launch.reason}"
        return
    yield f"launch: {launch.code_object} ({launch.symbol})"
    kind = "persistent" if launch.persistent else "non-persistent"
    yield (
        f"  {kind}, {counted(launch.heads_in_kernel, 'head')} in the kernel (fold {launch.fold}), "
        f"grid {launch.grid}, block {launch.block}, {launch.sub_q} q rows a tile; then {launch.second_stage.kind.value}"
    )
    rows = [(name, _shape(spec), spec.dtype.value, spec.nbytes) for name, spec in launch.tensors.items()]
    yield from table(("tensor", "shape", "type", "bytes"), rows)
    yield "  kernel arguments:"
    yield from table(
        ("offset", "field", "value"),
        [(f"0x{each.offset:03x}", each.name, _kernarg(each.name, each.value)) for each in launch.kernargs],
        indent="    ",
    )


def _shape(spec: TensorSpec) -> str:
    return f"{list(spec.shape)}{f', gaps of {spec.gap}' if spec.gap else ''}"


def _kernarg(name: str, value: int | float | str | None) -> str:
    if value is None:
        return "never set"
    return "null" if name.startswith("ptr_") and value == 0 else str(value)


def _accesses(observation: Observation) -> Iterator[str]:
    yield ""
    if observation.violations:
        yield from _violations(observation)
    else:
        yield f"accesses on device {observation.device}: all in bounds"
    if observation.numbers is not None:
        yield _numbers(observation.numbers)
    yield from (f"  note: {note}" for note in observation.notes)


def _numbers(numbers: Numbers) -> str:
    wrong = (
        (numbers.not_a_number, "hold a NaN or an infinity"),
        (numbers.unwritten, "are not written"),
        (numbers.outside, "leave it"),
    )
    rows_wrong = ", ".join(f"{count:,} {what}" for count, what in wrong if count) or "all within it"
    return (
        f"{counted(numbers.compared, 'row')} of o (query x head) against float64 attention, budget {numbers.budget}: "
        f"{rows_wrong}"
    )


def access_line(violation: Violation) -> str:
    """What is wrong with an access in a few words: "write of o, out of bounds", "write through a null pointer"."""
    verb = "write" if violation.is_write else "read"
    if violation.kind is ViolationKind.NULL:
        return f"{verb} through a {violation.kind.value}"
    if violation.kind in ABOUT_ROWS or (violation.kind is ViolationKind.UNWRITTEN and violation.is_write):
        return f"{violation.tensor}, {violation.kind.value}"
    return f"{verb} of {violation.tensor or 'LDS'}, {violation.kind.value}"


def figures_line(finding: Finding) -> str:
    """A finding's figures as people read them; where nothing lies outside of a tensor, no zero says so."""
    through_null = finding.kind is FindingKind.NULL_POINTER  # there offsets are addresses
    names = {"first_offset": "first_address", "end_offset": "end_address"} if through_null else {}
    return ", ".join(
        f"{names.get(name, name)} {f'0x{value:x}' if name == 'pc' and isinstance(value, int) else shown(value)}"
        for name, value in finding.evidence.items()
        if (name, value) != ("bytes_outside", 0)
    )


def _violations(observation: Observation) -> Iterator[str]:
    yield f"accesses on device {observation.device} that break the contract:"
    for violation in observation.violations:
        outside = f", {violation.extent:,} of them outside" if violation.extent else ""
        yield (
            f"  {violation.stage}: {access_line(violation)}: bytes {violation.first_offset:,} to "
            f"{violation.end_offset:,}{outside}; {counted(violation.count, 'time')}"
        )
        if violation.instruction is not None and violation.pc is not None:
            yield f"    first at pc 0x{violation.pc:x}: {violation.instruction}"
        if violation.why:
            yield f"    {violation.why}"


def _memory(found: Layouts | None) -> Iterator[str]:
    if found is None:
        return
    yield ""
    yield "would hardware fault? in so many layouts of torch's memory an access reaches an unmapped page:"
    yield from table(HEADER, rows(found))
    yield "  each access alone:"
    yield from (f"    {line}" for line in by_access(found))
    yield "  assumed:"
    yield from (f"    {line}" for line in assumptions(found))


def found_lines(outcome: Outcome, known: KnownReference | None) -> Iterator[str]:
    """What is wrong with it, line by line: refusal, findings, whose fault it is. known: the entry, where it has one."""
    if outcome.refused is not None:
        yield f"{'not modelled' if outcome.unknown else 'refused'}: {outcome.refused}"
    if not outcome.findings:
        yield "nothing found" if outcome.refused is None else "nothing found besides"
        return
    yield "findings, causes first:"
    for finding in outcome.findings:
        mark = "refused" if finding.severity is Severity.REFUSED else finding.severity.name.lower()
        yield f"  [{mark}] {finding.kind.value} ({finding.party.value}, {finding.stage}): {finding.message}"
        if finding.evidence:
            yield "    " + figures_line(finding)
    yield from _blame(outcome, known)


def _blame(outcome: Outcome, known: KnownReference | None) -> Iterator[str]:
    cause = outcome.cause
    if cause is None:
        return
    found = blame(outcome, known)
    yield ""
    yield f"at fault: {found.who}: {found.reason}"
    yield f"  cause: {found.sentence}"
    yield f"  to put it right: {found.advice}"
    yield f"  contract: {found.verdict.value}"
    yield f"  signature: {cause.signature}"


def _offenders(outcome: Outcome) -> tuple[int, ...]:
    """Work items that accesses outside of a tensor began with."""
    observation = outcome.observation
    violations: Iterable[Violation] = () if observation is None else observation.violations
    return tuple({each.work_item_index: None for each in violations if each.work_item_index is not None})[:OFFENDERS_SHOWN]


def _or_none(value: int | None) -> int | str:
    return "None" if value is None else value
