"""The standalone script of one outcome: constants from what was decided, code from templates/repro.py.txt.

The script needs torch and aiter alone. Lines of the template that end in a tag `#: ...` are for some scripts only, as are the
lines between `#: begin ...` and `#: end ...`; see `_wanted`. This module runs nothing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template

from backend.case import PageOrder
from backend.decision import Decision
from backend.errors import UsageError
from backend.findings import FindingKind
from backend.path import Outcome
from reprod.blame import blame
from reprod.text import lengths

TEMPLATE = "repro.py.txt"

MIB = 1 << 20

DEFAULT_KV_SPLITS = 32
"""num_kv_splits of get_mla_metadata_info_v1 where the caller gives none (aiter/ops/attention.py, 2026-06)."""


@dataclass(frozen=True, slots=True)
class Fix:
    """Other values of the script's constants that put the case right.

    told: what they are, in a few words. constants: Python expressions by the constant's name.
    """

    told: str
    constants: Mapping[str, str]


def script_text(outcome: Outcome, name: str = "repro.py") -> str:
    """The script of an outcome. name: of the file, for its usage lines.

    Raises UsageError for an outcome of which there is nothing to run: the backend itself refused the case.
    """
    decision, cause = outcome.decision, outcome.cause
    if decision is None or cause is None:
        raise UsageError(f"no script: {outcome.refused or 'the case shows no finding'}; give a case that shows one")
    fix = fix_of(outcome)
    tags = {"persistent" if decision.sizing is not None else "non-persistent"}
    tags.add("until 2025" if decision.case.release.startswith("2025") else "since 2026")
    tags |= {"fixed"} if fix is not None else set()
    text = "\n".join(_wanted(_template(), tags)).rstrip() + "\n"
    return Template(text).substitute(
        title=f"{cause.kind.value.replace('-', ' ').capitalize()} in AITER's MLA decode, release {decision.case.release}.",
        cause=_wrapped(blame(outcome).sentence),
        arch=decision.case.arch,
        name=name,
        fixed_told=fix.told if fix is not None else "",
        constants="\n".join(_constants(outcome, decision, fix)),
    )


def fix_of(outcome: Outcome) -> Fix | None:
    """Arguments of the caller that put a caller's fault right; None where only a change of AITER would, or none is known."""
    decision, cause = outcome.decision, outcome.cause
    if decision is None or cause is None:
        return None
    if cause.kind is FindingKind.HEAD_WIDTH:
        return Fix("fast_mode=True, intra_batch_mode=False", {"FAST_MODE": "True", "INTRA_BATCH_MODE": "False"})
    if cause.kind is FindingKind.BUFFER_TOO_SMALL and decision.sizing is not None:
        batch, rows = len(decision.kv_lens), decision.decode.max_seqlen_q
        sized = {"SIZING_BATCH": batch, "SIZING_MAX_SEQLEN_Q": rows, "KV_INDPTR_ENTRIES": batch + 1}
        return Fix("buffers sized for what runs", {name: str(value) for name, value in sized.items()})
    if cause.kind is FindingKind.BAD_LAST_PAGE_LEN:
        page = decision.decode.page_size
        lens = [(length - 1) % page + 1 if length else 0 for length in decision.kv_lens]
        return Fix("kv_last_page_lens in [1, page_size]", {"KV_LAST_PAGE_LENS": lengths(lens)})
    return None


def _template() -> list[str]:
    return resources.files("reprod").joinpath("templates", TEMPLATE).read_text(encoding="utf-8").splitlines()


_TAG = re.compile(r"\s*#: (begin |end )?([\w -]+)$")


def _wanted(lines: list[str], tags: set[str]) -> Iterator[str]:
    """The lines of a template that carry no tag or one of `tags`, without their tags."""
    inside = True
    for line in lines:
        found = _TAG.search(line)
        if found is None:
            if inside:
                yield line
        elif found[1]:
            inside = found[1] == "end " or found[2] in tags
        elif inside and found[2] in tags:
            yield line[: found.start()]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False))


def _constants(outcome: Outcome, decision: Decision, fix: Fix | None) -> Iterator[str]:
    case, decode = decision.case, decision.decode
    yield f'WANTED_ARCH = "{case.arch}"'
    yield f"NUM_CU = {case.compute_units}"
    yield f"MODEL_HEADS = {decode.num_head // decision.head_repeat}  # query heads of this rank"
    yield f"HEAD_REPEAT = {decision.head_repeat}  # q's heads are repeated to the kernel's minimum"
    yield f"NUM_HEADS = {decode.num_head}  # what AITER is told"
    yield f"KV_LENS = {lengths(decision.kv_lens)}  # tokens of each request"
    yield f"QUERY_LENS = {lengths(decision.query_lens)}  # q rows of each request"
    yield f"MAX_SEQLEN_Q = {decode.max_seqlen_q}"
    yield f"PAGE_SIZE = {decode.page_size}"
    yield f"FIRST_PAGE = {case.first_page}  # first physical page held; the pool ends with the last"
    yield f"PAGES_REVERSED = {case.page_order is PageOrder.REVERSED}"
    yield f"KV_INDPTR_ENTRIES = {len(decode.kv_indptr)}"
    yield f"KV_LAST_PAGE_LENS = {lengths([int(n) for n in decode.kv_last_page_lens])}"
    yield f'Q_DTYPE, KV_DTYPE = "{decode.q_dtype}", "{decode.kv_dtype}"'
    yield f"NUM_KV_SPLITS = {decode.num_kv_splits}"
    if decode.intra_batch_mode or decision.planning is not None:
        yield from _metadata_constants(decision)
    else:
        yield "INTRA_BATCH_MODE = False"
    yield f"RED_ZONE = {_red_zone(outcome)} << 20  # bytes around each tensor, more than the fault reaches"
    if fix is not None:
        items = ", ".join(f'"{name}": {value}' for name, value in fix.constants.items())
        yield f"FIXED = {{{items}}}  # for --fixed"
    yield 'EXPECTATION = """\\'
    for line in _expectation(outcome):
        yield from textwrap.wrap(line, 118, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    yield '"""'


def _metadata_constants(decision: Decision) -> Iterator[str]:
    sizing, planning = decision.sizing, decision.planning
    assert sizing is not None
    assert planning is not None
    splits = DEFAULT_KV_SPLITS if sizing.num_kv_splits is None else sizing.num_kv_splits
    yield f"FAST_MODE = {planning.fast_mode}"
    yield f"INTRA_BATCH_MODE = {planning.intra_batch_mode}"
    yield f"IS_CAUSAL = {planning.is_causal}"
    yield f"SIZING_BATCH = {sizing.batch}"
    yield f"SIZING_MAX_SEQLEN_Q = {sizing.max_seqlen_q}"
    yield f"SIZING_KV_SPLITS = {splits}"
    yield f'METADATA_Q_DTYPE, METADATA_KV_DTYPE = "{planning.q_dtype}", "{planning.kv_dtype}"'
    yield f"PLANNER_PAGE_SIZE = {planning.page_size}"
    yield f"KV_GRANULARITY = {planning.kv_granularity}"
    yield f"UNI_SEQLEN_QO = {planning.uni_seqlen_qo}"
    yield f"MAX_SPLIT_PER_BATCH = {planning.max_split_per_batch}"


def _red_zone(outcome: Outcome) -> int:
    """MiB around each tensor: twice the farthest byte of any access, and at least 1."""
    reaches = [violation.extent for violation in outcome.observation.violations] if outcome.observation is not None else []
    plan = outcome.call.plan if outcome.call is not None else None
    if plan is not None:
        reaches += [4 * overrun.words for overrun in plan.overruns]
    return max(1, -(-2 * max(reaches, default=0) // MIB))


def _expectation(outcome: Outcome) -> Iterator[str]:
    """What a reader should see, faulty and right."""
    yield "expected: right numbers, nothing written outside of a tensor (exit 0)"
    yield "a fault looks like one of"
    yield "  a red zone touched, a wrong row or a NaN (exit 1)"
    yield "  Memory access fault by GPU node-N (Agent handle: 0x...) on address 0x.... Reason: Unknown. (exit 134)"
    yield f"found by aiterfuzz on device {outcome.observation.device if outcome.observation is not None else 'none'}:"
    yield from (f"  {finding.party.value}: {finding.message}" for finding in outcome.findings)
