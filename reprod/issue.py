"""The text of an issue: what a maintainer needs to believe it, see it and mend it, on a page. It is written and never posted.

Which shapes are affected is one table of a screen: a row for each thing that differs, values by what they show. What a person
adds, read off the sources, is cause.md in its parts: a first paragraph says in plain words what goes wrong; a list below it
gives the cause with file, function and line; headings of the second level (`## Op test`) begin the other parts, each of which
may be absent. What layouts of memory make of it, the plan's figures, the signature and how it was found stand in explain.txt.
What is not known here (the machine with the GPU) is left clearly to fill in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Protocol

from backend.aiter.release import release
from backend.case import Arch, Case
from backend.codec import dumps
from backend.devices.kinds import device_kind
from backend.errors import UsageError
from backend.outcome import Outcome
from backend.serving.backends import BACKENDS, OWN_GIVES
from backend.words import counted
from reprod.addressees import AITER, Addressee, IssueBody, addressee_of
from reprod.blame import blame, flags, leaves_tensors, only_through_null, shows_unwritten_memory, symptom
from reprod.case_line import case_line
from reprod.fix import Fix
from reprod.reference import ContractVerdict, KnownReference
from reprod.sweep import DTYPE_PAIRS, Effect, SweptSurroundings
from reprod.text import listed, markdown_table

PARTS = ("Op test", "Who meets it", "References", "Suggested change", "Not checked")
"""Headings that cause.md may have, in the order in which an issue tells them."""


@dataclass(frozen=True, slots=True)
class IssueNotes:
    """cause.md. summary: the first paragraph, () where it is a list. cause: what follows it. parts: by heading, in PARTS."""

    summary: tuple[str, ...] = ()
    cause: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NO_ISSUE_NOTES = IssueNotes()


def issue_notes(lines: Sequence[str]) -> IssueNotes:
    """The parts of a cause.md; raises UsageError for a heading that is none of PARTS."""
    parts: dict[str, list[str]] = {"": []}
    current = ""
    for line in lines:
        if line.startswith("## "):
            current = line[3:].strip()
            if current not in PARTS:
                raise UsageError.not_allowed("cause.md: heading", current, ", ".join(PARTS))
            parts[current] = []
        else:
            parts[current].append(line)
    head = _bare(parts.pop(""))
    summary = list(itertools.takewhile(lambda line: line.strip(), head))
    if summary and summary[0].startswith(("*", "-", "#")):
        summary = []
    return IssueNotes(
        tuple(summary), tuple(_bare(head[len(summary) :])), {name: tuple(_bare(text)) for name, text in parts.items()}
    )


def _bare(lines: Sequence[str]) -> list[str]:
    """Without empty lines at both ends."""
    text = list(itertools.dropwhile(lambda line: not line.strip(), lines))
    while text and not text[-1].strip():
        text.pop()
    return text


class Context(Protocol):
    """Where a finding comes from; fuzz.provenance.Provenance is one."""

    @property
    def project(self) -> str:
        """The version of aiterfuzz."""

    @property
    def rules(self) -> str:
        """Fingerprint of its source files."""

    @property
    def python(self) -> str:
        """The version of Python."""

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

NEWEST_CHECKED = "e4048607a535 (2026-08-22)"
"""The newest revision of ROCm/aiter that this project has read."""

MOST_LINES = 90
"""Of an issue without its script."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is told of an outcome beside itself.

    around: shapes swept about it. script: the reproduction, quoted in full. fix: the caller's remedy, if there is one.
    bisection: of reprod.bisect, one sentence a line. notes: read off the sources by a person. seed, command: of the run that
    found it, as far as they are known. addressee: whom the text is for, None: who can mend it. known: the entry of the corpus
    that has the fault, None where none has.
    """

    around: SweptSurroundings
    script: str
    fix: Fix | None
    seed: int | None
    command: str
    bisection: tuple[str, ...] = ()
    notes: IssueNotes = NO_ISSUE_NOTES
    addressee: Addressee | None = None
    known: KnownReference | None = None


def issue_text(outcome: Outcome, evidence: Evidence, context: Context) -> str:
    """The issue of an outcome.

    Raises UsageError for an outcome without a finding.
    """
    to = evidence.addressee or addressee_of(outcome)
    return _text(outcome, to, f"MLA decode {_title(outcome)}", _problem(outcome, evidence, to), evidence, context)


def request_text(outcome: Outcome, evidence: Evidence, context: Context) -> str:
    """The short request to AITER to refuse what a caller should not ask for.

    Raises UsageError for an outcome without a finding.
    """
    found, to = blame(outcome, evidence.known), addressee_of(outcome)
    problem = [
        *([*evidence.notes.summary, ""] if evidence.notes.summary else []),
        f"The mistake is the caller's, and is reported to {to.repository}. AITER takes the call without a word, though, and "
        f"memory outside of its tensors is touched or rows come out wrong: {found.sentence}",
        "",
        f"**Asked for:** {found.advice.rpartition('upstream, ')[2]}.",
        "",
        _unchecked(outcome, evidence),
    ]
    return _text(outcome, AITER, f"refuse an MLA decode call that {_title(outcome)}", problem, evidence, context)


def _text(outcome: Outcome, to: Addressee, title: str, problem: list[str], evidence: Evidence, context: Context) -> str:
    if outcome.cause is None or outcome.call is None:
        raise UsageError(f"no issue: {outcome.refused or 'the case shows no finding'}; give a case that shows one")
    steps = _steps(outcome, evidence)
    body = IssueBody(problem, steps, _additional(outcome, evidence, context), _GPU[outcome.case.arch], _component(outcome))
    lines = [f"# {to.prefix}{title}"]
    for heading, text in to.headings(body):
        lines += ["", f"### {heading}", "", *text]
    return "\n".join(lines) + "\n"


def _title(outcome: Outcome) -> str:
    case = outcome.case
    assert outcome.call is not None
    return (
        f"{symptom(outcome)}: {case.arch}, {counted(case.num_head, 'head')}, q {case.q_dtype}, KV "
        f"{case.kv_dtype}, "
        f"max_seqlen_q {case.max_seqlen_q}, {flags(outcome.call)}"
    )


def _component(outcome: Outcome) -> str:
    assert outcome.call is not None
    return f"aiter, ROCm/aiter at {outcome.call.commit}"


def _problem(outcome: Outcome, evidence: Evidence, to: Addressee) -> list[str]:
    found, notes = blame(outcome, evidence.known), evidence.notes
    assert outcome.call is not None
    smallest = case_line(outcome.case, outcome.call.named)
    cause = list(notes.cause) or [
        f"* At fault: {found.who}: {found.reason}.",
        f"* {found.verdict.value}: {_CONTRACT[found.verdict]}.",
    ]
    lines = [
        *([*notes.summary, ""] if notes.summary else []),
        f"Smallest case: {smallest}; arguments {_gives(outcome.case.backend)}. {found.sentence}",
        "",
        *cause,
        *(f"* {line}" for line in evidence.bisection),
        "",
        *_part(notes, "Op test", "AITER's own op test"),
        *affected_table(evidence.around, outcome.case),
        "",
        *_part(notes, "Who meets it", "Who meets it"),
        *_part(notes, "References", "Public references"),
    ]
    advice = found.advice if to is AITER else found.advice.partition("; upstream, ")[0]
    change = _part(notes, "Suggested change", "Suggested change") or [f"**Suggested change:** {advice}.", ""]
    return [*lines, *change, _unchecked(outcome, evidence)]


def _part(notes: IssueNotes, heading: str, shown: str) -> list[str]:
    """A part of the notes behind its name; empty where there is none."""
    text = list(notes.parts.get(heading, ()))
    if not text:
        return []
    if text[0].startswith(("*", "```", "|")):
        return [f"**{shown}:**", "", *text, ""]
    return [f"**{shown}:** {text[0]}", *text[1:], ""]


def _unchecked(outcome: Outcome, evidence: Evidence) -> str:
    further = " ".join(evidence.notes.parts.get("Not checked", ()))
    assert outcome.call is not None
    others = f"after {NEWEST_CHECKED}" if outcome.call.is_a_release_s else f"at any revision but {outcome.call.named}"
    return f"**Not checked:** ROCm/aiter {others}. {further + ' ' if further else ''}Seen on {_seen_on(outcome)}."


def _gives(backend: str) -> str:
    found = BACKENDS.get(backend)
    return found.gives if found is not None else OWN_GIVES


def _seen_on(outcome: Outcome) -> str:
    """What ran; whoever reads the text must learn that it was no GPU."""
    observation = outcome.observation
    if observation is None:
        return "AITER's host code alone: nothing is launched"
    return device_kind(observation.device).where_seen(_GPU[outcome.case.arch], observation.numbers is not None)


def _steps(outcome: Outcome, evidence: Evidence) -> list[str]:
    """Only what was seen to show it: tensors at the end of an allocation rarely end where a mapping does."""
    if only_through_null(outcome):
        way = 'the access through the null pointer ends the process: "Memory access fault by GPU node-N ...", exit 134.'
    elif leaves_tensors(outcome):
        way = (
            "red zones around every tensor show an overrun in mapped memory too. Exit 1 where one is touched or a row is wrong."
        )
    else:
        way = "compares every row with attention in float64. Exit 1 where one is wrong; nothing is overrun."
    if shows_unwritten_memory(outcome):
        way += " It has torch hand out memory full of NaN first: with zeros there, what nobody wrote may not show."
    ways = [f"`python repro.py`: {way}"]
    if evidence.fix is not None:
        ways.append(f"`python repro.py --fixed`: the same batch with {evidence.fix.difference}. Exit 0.")
    return [
        f"On a {outcome.case.arch} GPU, with torch and aiter only:",
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


def _additional(outcome: Outcome, evidence: Evidence, context: Context) -> list[str]:
    device = outcome.observation.device if outcome.observation is not None else context.device
    lines = [f"Found by aiterfuzz {context.project} on device {device}, code objects: {_source(context)}."]
    if evidence.known is not None:
        lines.append(f"Known to it as {evidence.known.titled}.")
    lines += [f"Note: {warning.replace(context.source or _source(context), _source(context))}." for warning in context.warnings]
    return [f"* {line}" for line in lines]


def _source(context: Context) -> str:
    """Checkout and revision without the place on this machine, which means nothing to a reader."""
    return PurePath(context.source).name if context.source is not None else "built-in tables"


def made_by_lines(outcome: Outcome, evidence: Evidence, context: Context) -> list[str]:
    """How the finding was made, for explain.txt."""
    # Whoever reads "amd-aiter 0.1.7" beside the code objects of a later commit takes the wheel for what ran.
    unused = {"amd-aiter"} if context.source is not None and not context.source.startswith("amd-aiter") else set()
    versions = ", ".join(f"{name} {version}" for name, version in sorted(context.versions.items()) if name not in unused)
    seed = "unknown" if evidence.seed is None else evidence.seed
    known = "in no entry of the corpus" if evidence.known is None else evidence.known.titled
    return [
        "",
        f"known: {known}",
        f"made by: aiterfuzz {context.project} (sources {context.rules}), Python {context.python}, {versions}",
        f"code objects: {_source(context)}; seed: {seed}",
        *([f"command: {evidence.command}"] if evidence.command else []),
        f"case: {dumps(outcome.case)}",
    ]


HEADER = ("what differs", "affected", "not affected", "refused", "another fault, or not known")


LISTED_ROWS = "queries a request, each a row with a list"
"""What is swept where each query has its own list of tokens: then max_seqlen_q is 1 for any number of them."""


def affected_table(around: SweptSurroundings, case: Case) -> list[str]:
    """The table of a sweep around a case, with a line above that says what ran it."""
    introduction = f"Affected shapes, {_ran(around.ran)}, all else as in the smallest case:"
    return [introduction, "", *markdown_table(HEADER, list(_rows(around, case)))]


def _rows(around: SweptSurroundings, case: Case) -> Iterator[tuple[str, ...]]:
    for place, (q, kv) in enumerate(DTYPE_PAIRS):
        effects = [(str(heads), effects[place]) for heads, effects in around.by_heads]
        yield _row(f"heads, q {q}, KV {kv}", effects)
    dimensions = dict.fromkeys(shape.dimension for shape in around.one_by_one)
    for dimension in dimensions:
        name = LISTED_ROWS if case.topk and dimension == "max_seqlen_q" else dimension
        shapes = [(_value(dimension, shape.value), shape.effect) for shape in around.one_by_one if shape.dimension == dimension]
        yield _row(name, shapes)


def _row(what: str, shapes: Sequence[tuple[str, Effect]]) -> tuple[str, ...]:
    def having(*effects: Effect) -> str:
        return ", ".join(dict.fromkeys(value for value, effect in shapes if effect in effects))

    affected = having(Effect.AFFECTED)
    return (
        what,
        f"**{affected}**" if affected else "",
        having(Effect.UNAFFECTED),
        having(Effect.REFUSED),
        having(Effect.OTHER, Effect.UNKNOWN),
    )


def _value(dimension: str, value: str) -> str:
    """A release is known by its commit to whoever has not read this project's documentation."""
    return release(value).commit[:12] if dimension == "release" else value


def _ran(devices: Mapping[str, bool]) -> str:
    """How a sweep came by what it tells. devices: by name, with whether o was compared with attention."""
    ways = [device_kind(device).how_swept(numbers) for device, numbers in devices.items()]
    return listed(ways) if ways else "by AITER's host code alone"
