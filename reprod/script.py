"""The standalone script of one outcome: constants from what was decided, code from templates/repro.py.txt.

The script needs torch and aiter alone. Lines of the template that end in a tag `#: ...` are for some scripts only, as are the
lines between `#: begin ...` and `#: end ...`; see `_wanted`. This module runs nothing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from importlib import resources
from string import Template

import numpy as np

from backend.aiter.arguments import DecodeArguments
from backend.case import Arch, OutputType, PageOrder
from backend.decision import Decision
from backend.errors import UsageError
from backend.git import shortened
from backend.outcome import Outcome
from reprod.blame import blame, leaves_tensors, only_through_null, shows_unwritten_memory
from reprod.fix import Fix
from reprod.text import lengths

TEMPLATE = "repro.py.txt"

MIB = 1 << 20

DEFAULT_KV_SPLITS = 32
"""num_kv_splits of get_mla_metadata_info_v1 where the caller gives none (aiter/ops/attention.py, 2026-06)."""


def script_text(outcome: Outcome, fix: Fix | None, name: str = "repro.py", ranks: int = 1) -> str:
    """The script of an outcome. fix: arguments for its `--fixed`, None for a script without. name: of the file.

    ranks: GPUs; from 2 on the script starts a process for each, which meet at the decode call, as under tensor parallelism.

    Raises UsageError for an outcome of which there is nothing to run: the backend itself refused the case.
    """
    decision, cause = outcome.decision, outcome.cause
    if decision is None or cause is None:
        raise UsageError(f"no script: {outcome.refused or 'the case shows no finding'}; give a case that shows one")
    tags = {"script", *(("ranks",) if ranks > 1 else ("one rank", "not ranks")), _reach(outcome)} | _tags(outcome, decision)
    tags |= {"fixed"} if fix is not None else set()
    tags |= {"switches"} if fix is not None or ranks > 1 else {"no switches"}
    return _text(
        tags,
        title=_title(outcome),
        **_widths(decision),
        cause="\n".join(_wrapped(blame(outcome).sentence)),
        arch=decision.case.arch,
        name=name,
        ranks=ranks,
        fixed_difference=fix.difference if fix is not None else "",
        constants="\n".join(_constant_lines(outcome, decision, fix)),
    )


NIGHTLY_SUITES = {Arch.GFX942: "nightly-amd-1-gpu", Arch.GFX950: "nightly-amd-1-gpu-mi35x"}
"""sglang's nightly suites of one AMD GPU (test/run_suite.py, 2026-08)."""

NIGHTLY_SECONDS = 300
"""Estimated time: AITER compiles its planner and reduction at the first call."""


def nightly_text(outcome: Outcome, fix: Fix | None) -> str:
    """A nightly test for sglang (test/registered/amd) of an outcome.

    fix: arguments under which the batch must come out right; the test then holds them. None: the arguments as found, with which
    it fails until AITER is mended. Raises UsageError as `script_text`.
    """
    found, cause = outcome.decision, outcome.cause
    if found is None or cause is None:
        raise UsageError(f"no test: {outcome.refused or 'the case shows no finding'}; give a case that shows one")
    decision = fix.decision if fix is not None else found
    now = (
        f"Runs with {fix.difference}, under which it must be right."
        if fix is not None
        else "Runs as found: it fails until AITER is mended."
    )
    return _text(
        {"nightly", "not ranks"} | _tags(outcome, decision),
        title=_title(outcome),
        **_widths(decision),
        cause="\n".join(_wrapped(blame(outcome).sentence)),
        expected_now="\n".join(_wrapped(now)),
        est_time=NIGHTLY_SECONDS,
        suite=NIGHTLY_SUITES[decision.case.arch],
        test_class="Test" + "".join(word.capitalize() for word in ("mla", "decode", *cause.kind.value.split("-"))),
        constants="\n".join(_nightly_lines(outcome, decision)),
    )


def _tags(outcome: Outcome, decision: Decision) -> set[str]:
    in_group = decision.decode.g_kv_indptr is not None
    causal = "group causal" if in_group else "causal"
    mask = "sparse" if decision.topk else causal if decision.decode.option("causal", default=True) else "not causal"
    return {
        "unwritten" if shows_unwritten_memory(outcome) else "no unwritten memory",
        "persistent" if decision.sizing is not None else "non-persistent",
        "until 2025" if decision.case.release.startswith("2025") else "since 2026",
        "lse" if decision.decode.return_lse else "no lse",
        mask,
        "group" if in_group else "no group",
        "group causal" if mask == "group causal" else "own tokens",
        "all tokens" if not decision.topk else "sparse",
        "q_scale" if decision.decode.q_scale else "no q_scale",
        "kv_scale" if decision.decode.kv_scale else "no kv_scale",
        *_output_tags(decision.decode),
        "q with gaps" if decision.decode.q_gap else "q without gaps",
        "pool with gaps" if decision.decode.kv_gap else "pool without gaps",
        "gaps" if decision.decode.q_gap or decision.decode.o_gap or decision.decode.kv_gap else "no gaps",
        "spare indices" if decision.case.spare_indices else "no spare indices",
        "options" if decision.decode.options else "no options",
        "usual scale" if decision.decode.sm_scale is None else "other scale",
    }


def _output_tags(decode: DecodeArguments) -> tuple[str, str]:
    """Of its type and of how it is made."""
    of_type = "bf16 output" if decode.o_dtype is OutputType.BF16 else "other output"
    return of_type, "o with gaps" if decode.o_gap else f"whole {of_type}"


def _reach(outcome: Outcome) -> str:
    """Tag of the lines that say how the fault shows."""
    if only_through_null(outcome):
        return "null"
    return "leaves" if leaves_tensors(outcome) else "stays"


def _title(outcome: Outcome) -> str:
    assert outcome.cause is not None
    what = outcome.cause.kind.value.replace("-", " ").capitalize()
    assert outcome.call is not None
    called = f" (here called release {outcome.case.release})" if outcome.call.is_a_release_s else ""
    return f"{what} in AITER's MLA decode, ROCm/aiter {shortened(outcome.call.commit)}{called}."


def _text(tags: set[str], **values: object) -> str:
    return Template("\n".join(_wanted(_template(), tags)).rstrip() + "\n").substitute(values)


def _widths(decision: Decision) -> dict[str, float]:
    latent, whole = decision.decode.v_head_dim, decision.decode.qk_head_dim
    return {"qk_head_dim": whole, "latent": latent, "rope": whole - latent, "sm_scale": decision.decode.softmax_scale}


def _template() -> list[str]:
    return resources.files("reprod").joinpath("templates", TEMPLATE).read_text(encoding="utf-8").splitlines()


_TAG = re.compile(r"\s*#: (begin |end )?([\w -]+)$")


def _wanted(lines: list[str], tags: set[str]) -> Iterator[str]:
    """The lines of a template that carry no tag or one of `tags`, without their tags; at most two empty ones together."""
    empty = 0
    for line in _tagged(lines, tags):
        empty = 0 if line else empty + 1
        if empty <= 2:
            yield line


def _tagged(lines: list[str], tags: set[str]) -> Iterator[str]:
    """The lines of a template that carry no tag or one of `tags`, without their tags, empty ones included."""
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


def _wrapped(text: str, further: str = "") -> list[str]:
    return textwrap.wrap(text, 118, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)


_COMMENTS: Mapping[str, str] = {
    "MODEL_HEADS": "query heads of this rank",
    "HEAD_REPEAT": "how often q's heads are repeated, to the kernel's minimum of 16",
    "NUM_HEADS": "what AITER is told",
    "KV_LENS": "tokens of each request",
    "QUERY_LENS": "q rows of each request",
    "FIRST_PAGE": "first physical page held; the pool ends with the last",
    "Q_GAP": "elements between the rows of q that are not its own",
    "O_GAP": "elements between the rows of o that are not its own",
    "KV_GAP": "elements between the pages of the pool that are not its own",
    "OPTIONS": "further arguments of mla_decode_fwd",
    "METADATA_Q_DTYPE": "what the metadata calls are told",
}


def _constant_lines(outcome: Outcome, decision: Decision, fix: Fix | None) -> Iterator[str]:
    assert outcome.call is not None
    constants = _constants(decision)
    commit = outcome.call.commit
    shown = commit[:12] if re.match("[0-9a-f]{40}", commit) else commit
    yield f'AITER_COMMIT = "{shown}"  # of ROCm/aiter, with which this was found'
    yield from _case_lines(decision)
    if fix is not None:
        yield "FIXED = {  # for --fixed"
        yield from (f'    "{name}": {value},' for name, value in _constants(fix.decision).items() if value != constants[name])
        yield "}"
    yield _red_zone_line(outcome)
    yield 'EXPECTATION = """\\'
    for line in _expectation(outcome):
        yield from _wrapped(line, "    ")
    yield '"""'


def _nightly_lines(outcome: Outcome, decision: Decision) -> Iterator[str]:
    yield from _case_lines(decision)
    yield _red_zone_line(outcome)


def _case_lines(decision: Decision) -> Iterator[str]:
    yield f'WANTED_ARCH = "{decision.case.arch}"'
    yield f"NUM_CU = {decision.case.compute_units}"
    for name, value in _constants(decision).items():
        comment = f"  # {_COMMENTS[name]}" if name in _COMMENTS else ""
        yield f"{name} = {value}{comment}"


def _red_zone_line(outcome: Outcome) -> str:
    size = _red_zone(outcome)
    reach = ", at least twice what the fault reaches" if size <= MOST_RED_ZONE else "; the fault reaches farther than any could"
    said = reach if _reach(outcome) == "leaves" else ""
    return f"RED_ZONE = {min(size, MOST_RED_ZONE)} << 20  # bytes around each tensor{said}"


def _constants(decision: Decision) -> dict[str, str]:
    """Python expressions of everything that the caller decides, by the name of the script's constant."""
    case, decode, sizing, planning = decision.case, decision.decode, decision.sizing, decision.planning
    constants: dict[str, object] = {
        "MODEL_HEADS": decode.num_head // decision.head_repeat,
        "HEAD_REPEAT": decision.head_repeat,
        "NUM_HEADS": decode.num_head,
        "KV_LENS": lengths(case.kv_lens if decision.topk else decision.kv_lens),
        "QUERY_LENS": lengths(case.rows() if decision.topk else decision.query_lens),
        **({"TOPK": decision.topk} if decision.topk else {}),
        **_group(decode),
        **({"SPARE_INDICES": case.spare_indices} if case.spare_indices else {}),
        "MAX_SEQLEN_Q": decode.max_seqlen_q,
        "PAGE_SIZE": decode.page_size,
        "FIRST_PAGE": case.first_page,
        "PAGES_REVERSED": case.page_order is PageOrder.REVERSED,
        "KV_INDPTR_ENTRIES": len(decode.kv_indptr),
        "KV_LAST_PAGE_LENS": lengths([int(length) for length in decode.kv_last_page_lens]),
        "Q_DTYPE": f'"{decode.q_dtype}"',
        "KV_DTYPE": f'"{decode.kv_dtype}"',
        **({} if decode.o_dtype is OutputType.BF16 and not decode.o_gap else {"O_DTYPE": f'"{decode.o_dtype}"'}),
        **_gaps(decode),
        "NUM_KV_SPLITS": decode.num_kv_splits,
        "INTRA_BATCH_MODE": decode.intra_batch_mode,
    }
    if sizing is not None and planning is not None:
        constants |= {
            "FAST_MODE": planning.fast_mode,
            "IS_CAUSAL": planning.is_causal,
            "SIZING_BATCH": sizing.batch,
            "SIZING_MAX_SEQLEN_Q": sizing.max_seqlen_q,
            "SIZING_KV_SPLITS": DEFAULT_KV_SPLITS if sizing.num_kv_splits is None else sizing.num_kv_splits,
            "METADATA_Q_DTYPE": f'"{planning.q_dtype}"',
            "METADATA_KV_DTYPE": f'"{planning.kv_dtype}"',
            "PLANNER_PAGE_SIZE": planning.page_size,
            "KV_GRANULARITY": planning.kv_granularity,
            "UNI_SEQLEN_QO": planning.uni_seqlen_qo,
            "MAX_SPLIT_PER_BATCH": planning.max_split_per_batch,
        }
    if decode.options:
        constants["OPTIONS"] = dict(decode.options)
    return {name: str(value) for name, value in constants.items()}


MOST_RED_ZONE = 16
"""MiB: a wild index reaches gibibytes far, and a zone on both sides of a dozen tensors must fit a GPU that others use too."""


def _gaps(decode: DecodeArguments) -> dict[str, object]:
    """Of tensors that are views."""
    return {name.upper(): gap for name in ("q_gap", "o_gap", "kv_gap") if (gap := getattr(decode, name))}


def _group(decode: DecodeArguments) -> dict[str, object]:
    """Of a rank of a context-parallel group."""
    if decode.g_kv_indptr is None:
        return {}
    lens = lengths([int(length) for length in np.diff(decode.g_kv_indptr)])
    return {"TOKENS_OF_ALL_RANKS": lens, "CP_WORLD_SIZE": decode.cp_world_size, "CP_RANK": decode.cp_rank}


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
    reach = _reach(outcome)
    yield "  a red zone touched, a wrong row or a NaN (exit 1)" if reach == "leaves" else "  a wrong row or a NaN (exit 1)"
    if reach != "stays":
        yield "  Memory access fault by GPU node-N (Agent handle: 0x...) on address 0x.... Reason: Unknown. (exit 134)"
    yield f"found by aiterfuzz on device {outcome.observation.device if outcome.observation is not None else 'none'}:"
    yield from (f"  {finding.party.value}: {finding.message}" for finding in outcome.findings)
