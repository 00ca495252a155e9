"""The text of an issue, in the headings of the ROCm organisation's form. It is written into a folder and never posted.

What is not known here (the machine with the GPU) is left clearly to fill in.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.aiter.release import release
from backend.call import Call
from backend.case import Arch
from backend.codec import dumps
from backend.devices.kinds import device_kind
from backend.errors import UsageError
from backend.observation import ViolationKind
from backend.outcome import Outcome
from backend.serving.backends import BACKENDS, OWN_GIVES
from reprod.blame import ContractVerdict, blame, flags, leaves_tensors, only_through_null, symptom
from reprod.case_line import case_line
from reprod.explain import WORK_ITEM_COLUMNS, access_line, figures_line
from reprod.fix import Fix
from reprod.layout_text import HEADER, assumptions, rows
from reprod.layouts import Layouts
from reprod.sweep import DTYPE_PAIRS, Effect, SweptShape, SweptSurroundings
from reprod.text import listed, markdown_table


class Context(Protocol):
    """Where a finding comes from; fuzz.provenance.Provenance is one."""

    @property
    def project(self) -> str:
        """The version of aiterfuzz that found it."""

    @property
    def rules(self) -> str:
        """Fingerprint of its source files."""

    @property
    def python(self) -> str:
        """The version of Python that ran."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Of installed distributions, by name."""

    @property
    def device(self) -> str:
        """What the cases ran on."""

    @property
    def source(self) -> str | None:
        """Checkout or wheel of code objects, None: built-in tables."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """To be shown with every result."""


_GPU = {Arch.GFX942: "AMD Instinct MI300X (gfx942)", Arch.GFX950: "AMD Instinct MI355X (gfx950)"}

_CONTRACT = {
    ContractVerdict.SUPPORTED_BUT_WRONG: "a shape that AITER supports and gets wrong",
    ContractVerdict.UNSUPPORTED_AND_SILENT: "a combination that AITER does not support and accepts; asked for: a refusal",
    ContractVerdict.UNSUPPORTED_AND_REFUSED: "a combination that AITER does not support and refuses; no bug",
    ContractVerdict.NOT_A_FAULT: "no fault",
}

_TO_FILL = "_To fill in, on the machine with the GPU: {}._"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is told of an outcome beside itself.

    around: shapes swept about it. script: the reproduction, quoted in full. fix: the caller's remedy, if there is one.
    memory: in how many layouts of memory hardware would fault, None where nothing leaves a tensor. seed, command: of the run
    that found it, as far as they are known. bisection: of reprod.bisect, one sentence a line. cause: read off the sources by a
    person, lines of markdown; a first paragraph that is no list opens the issue. ranks: processes of a further script, 1 for
    none.
    """

    around: SweptSurroundings
    script: str
    fix: Fix | None
    memory: Layouts | None
    seed: int | None
    command: str
    bisection: tuple[str, ...] = ()
    cause: tuple[str, ...] = ()
    ranks: int = 1


def issue_text(outcome: Outcome, evidence: Evidence, context: Context) -> str:
    """The issue of an outcome.

    Raises UsageError for an outcome without a finding.
    """
    if outcome.cause is None or outcome.call is None:
        raise UsageError(f"no issue: {outcome.refused or 'the case shows no finding'}; give a case that shows one")
    sections = {
        "Problem Description": _problem(outcome, outcome.call, evidence),
        "Operating System": [_TO_FILL.format("`head -3 /etc/os-release`")],
        "CPU": [_TO_FILL.format("`lscpu | grep 'Model name'`")],
        "GPU": [f"{_GPU[outcome.case.arch]}. " + _TO_FILL.format("`rocminfo | grep 'Marketing Name'`, number of GPUs in use")],
        "ROCm Version": [_TO_FILL.format("`cat /opt/rocm/.info/version`")],
        "ROCm Component": [_component(outcome)],
        "Steps to Reproduce": _steps(outcome, evidence),
        "(Optional for Linux users) Output of /opt/rocm/bin/rocminfo --support": [_TO_FILL.format("its output")],
        "Additional Information": _additional(outcome, context, evidence),
    }
    lines = [f"# {_title(outcome)}"]
    for heading, body in sections.items():
        lines += ["", f"### {heading}", "", *body]
    return "\n".join(lines) + "\n"


def _title(outcome: Outcome) -> str:
    case, cause = outcome.case, outcome.cause
    assert cause is not None
    assert outcome.call is not None
    return (
        f"[Issue]: MLA decode {symptom(outcome)}: {case.arch}, {case.num_head} heads, q {case.q_dtype}, KV {case.kv_dtype}, "
        f"max_seqlen_q {case.max_seqlen_q}, {flags(outcome.call)}"
    )


def _component(outcome: Outcome) -> str:
    rules = release(outcome.case.release)
    return f"aiter, ROCm/aiter at {rules.commit} (here called release {rules.name})"


def _problem(outcome: Outcome, call: Call, evidence: Evidence) -> list[str]:
    found = blame(outcome)
    summary, cause = _summary_and_rest(evidence.cause)
    lines = [
        *([*summary, ""] if summary else []),
        found.sentence,
        "",
        f"* **Seen on:** {_seen_on(outcome)}.",
        f"* **At fault:** {found.who}: {found.reason}.",
        f"* **Contract:** {found.verdict.value}: {_CONTRACT[found.verdict]}.",
        f"* **What would put it right:** {found.advice}.",
        f"* **Smallest case:** {case_line(outcome.case)}; arguments {_gives(outcome.case.backend)}.",
        *_bisection(evidence.bisection),
        *_instructions(outcome),
        *(["", "Read off the sources:", "", *cause] if cause else []),
        "",
        "What follows from it:",
        "",
        *_findings(outcome),
    ]
    if call.plan is not None and not call.plan.rejected and call.allocated is not None:
        lines += ["", "Planned against allocated:", "", *_buffers(call)]
        lines += _first_offender(outcome, call)
    return [*lines, *_memory(evidence.memory), *_around(outcome, evidence.around)]


def _gives(backend: str) -> str:
    found = BACKENDS.get(backend)
    return found.gives if found is not None else OWN_GIVES


def _summary_and_rest(cause: Sequence[str]) -> tuple[list[str], list[str]]:
    """A first paragraph that is no list says in plain words what goes wrong, and opens the issue; the rest follows below."""
    paragraph = list(itertools.takewhile(lambda line: line.strip(), cause))
    if not paragraph or paragraph[0].startswith(("*", "-", "#")):
        return [], list(cause)
    return paragraph, list(itertools.dropwhile(lambda line: not line.strip(), cause[len(paragraph) :]))


def _seen_on(outcome: Outcome) -> str:
    """What ran; whoever reads only the first lines must learn that it was no GPU."""
    observation = outcome.observation
    if observation is None:
        return "AITER's host code alone: nothing is launched"
    return device_kind(observation.device).where_seen(_GPU[outcome.case.arch], observation.numbers is not None)


def _instructions(outcome: Outcome) -> list[str]:
    """The first instruction whose access breaks the contract, for each tensor, where the device runs instructions."""
    observation = outcome.observation
    found = [v for v in observation.violations if v.pc is not None] if observation is not None else []
    lines = []
    for violation in found:
        where = f"workgroup {violation.workgroup}, wave {violation.wave}"
        place = "address" if violation.kind is ViolationKind.NULL else "byte"
        lines.append(
            f"  * `{violation.instruction}` at 0x{violation.pc:x} ({where}): {access_line(violation)}, "
            f"at {place} {violation.first_offset:,}"
        )
    return ["* **First bad instruction** of each kind:", *lines] if lines else []


def _bisection(lines: Sequence[str]) -> list[str]:
    return ["* **Bisection:**", *(f"  * {line}" for line in lines)] if lines else []


def _memory(found: Layouts | None) -> list[str]:
    """Why it shows in one process and not in the next."""
    if found is None:
        return []
    if all(stray.null for stray in found.strays):
        return [
            "",
            "Would hardware fault? Yes, wherever the tensors lie: pages at address 0 are not mapped. Argued, not measured.",
        ]
    return [
        "",
        "Would hardware fault? That depends on what lies behind the tensor: shares of layouts of torch's memory in which an "
        "access reaches an unmapped page, worked out, not measured.",
        "",
        *markdown_table(HEADER, rows(found)),
        "",
        *(f"* {line}." for line in assumptions(found)),
    ]


def _findings(outcome: Outcome) -> list[str]:
    rows = [(f.party.value, f.stage, f.kind.value, f.tensor or "none", figures_line(f)) for f in outcome.findings]
    return markdown_table(("who", "where", "what", "tensor", "figures"), rows)


def _buffers(call: Call) -> list[str]:
    plan, needed = call.plan, call.needed
    assert plan is not None
    rows = [
        (name, buffer.allocated, getattr(needed, name), buffer.last + 1, sum(overrun.words for overrun in buffer.overrun))
        for name, buffer in plan.buffers.items()
    ]
    header = ("buffer (int32 words)", "allocated", "AITER's sizing for the planner's arguments", "written up to", "outside")
    return markdown_table(header, rows)


def _first_offender(outcome: Outcome, call: Call) -> list[str]:
    observation = outcome.observation
    offenders = [v for v in observation.violations if v.work_item is not None] if observation is not None else []
    if not offenders:
        return []
    first = min(offenders, key=lambda violation: violation.work_item_index or 0)
    assert first.work_item is not None
    header = ("item", *WORK_ITEM_COLUMNS)
    row = (first.work_item_index, *first.work_item[: len(WORK_ITEM_COLUMNS)])
    rows = call.decode.q_rows
    introduction = f"First work item whose accesses leave a tensor (q has {rows:,} row{'s' if rows != 1 else ''} of heads):"
    return ["", introduction, "", *markdown_table(header, [row])]


def _around(outcome: Outcome, around: SweptSurroundings) -> list[str]:
    case = outcome.case
    header = ("heads", *(f"q {q}, KV {kv}" for q, kv in DTYPE_PAIRS))
    heads = [(str(count), *(_marked(effect) for effect in effects)) for count, effects in around.by_heads]
    rows = [(shape.dimension, _value(shape), _marked(shape.effect), shape.detail) for shape in around.one_by_one]
    return [
        "",
        f"Affected and unaffected shapes, {_ran(around.ran)}, all else as in the smallest case "
        f"({case.arch}, {case.release}, {case.backend}):",
        "",
        *markdown_table(header, heads),
        "",
        *markdown_table(("what differs", "value", "effect", "detail"), rows),
    ]


def _ran(devices: Mapping[str, bool]) -> str:
    """How a sweep came by what it tells. devices: by name, with whether o was compared with attention."""
    ways = [device_kind(device).how_swept(numbers) for device, numbers in devices.items()]
    return listed(ways) if ways else "by AITER's host code alone"


def _value(shape: SweptShape) -> str:
    """A release is known by its commit to whoever has not read this project's documentation."""
    return f"{shape.value} ({release(shape.value).commit[:12]})" if shape.dimension == "release" else shape.value


def _marked(effect: Effect) -> str:
    return f"**{effect.value}**" if effect in (Effect.AFFECTED, Effect.OTHER) else effect.value


def _steps(outcome: Outcome, evidence: Evidence) -> list[str]:
    if only_through_null(outcome):
        ways = [
            "`python repro.py`: the access through the null pointer ends the process: "
            '"Memory access fault by GPU node-N ...", exit 134.'
        ]
    elif leaves_tensors(outcome):
        ways = [
            "`python repro.py`: red zones around every tensor show an overrun also inside mapped memory. Exit 1 where one is "
            "touched or a row is wrong.",
            "`python repro.py --layout edge`: tensors end where their allocation ends. An overrun may reach an unmapped page: "
            '"Memory access fault by GPU node-N ...", exit 134.',
        ]
    else:
        ways = [
            "`python repro.py`: compares every row with attention in float64. Exit 1 where one is wrong; nothing is overrun."
        ]
    if evidence.fix is not None:
        ways.append(f"`python repro.py --fixed`: the same batch with {evidence.fix.difference}. Exit 0.")
    if evidence.ranks > 1:
        ways.append(
            f"`python repro_ranks.py` (beside this text): {evidence.ranks} processes, a GPU each, at the decode call at once, "
            "each with another layout of memory."
        )
    return [
        f"Run the script below on a {outcome.case.arch} GPU; it needs torch and aiter only.",
        "",
        *(f"{number}. {way}" for number, way in enumerate(ways, 1)),
        "",
        "<details><summary>repro.py</summary>",
        "",
        "```python",
        evidence.script.rstrip(),
        "```",
        "",
        "</details>",
    ]


def _additional(outcome: Outcome, context: Context, evidence: Evidence) -> list[str]:
    assert outcome.cause is not None
    device = outcome.observation.device if outcome.observation is not None else context.device
    # Whoever reads "amd-aiter 0.1.7" beside the code objects of a later commit takes the wheel for what ran.
    unused = {"amd-aiter"} if context.source is not None and not context.source.startswith("amd-aiter") else set()
    versions = ", ".join(f"{name} {version}" for name, version in sorted(context.versions.items()) if name not in unused)
    lines = [
        f"Found by aiterfuzz {context.project} (sources {context.rules}) on device {device}.",
        f"With Python {context.python}, {versions}.",
        f"Code objects: {context.source or 'built-in tables'}. Seed: {'unknown' if evidence.seed is None else evidence.seed}.",
        f"Signature: `{outcome.cause.signature}`.",
    ]
    if evidence.command:
        lines.append(f"Command: `{evidence.command}`.")
    lines += [f"Note: {warning}." for warning in context.warnings]
    return [*(f"* {line}" for line in lines), "", "The case:", "", "```json", dumps(outcome.case), "```"]
