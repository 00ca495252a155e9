"""What may be said of a campaign, and of exactly what: the verdict, one confirmation for each shape, scope and limits.

Everything a page, a JUnit file or a job summary claims is worked out here, once, from the summary. No markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from backend.devices.kinds import Ground, Witness, device_kind
from backend.findings import FindingKind, Severity
from backend.words import counted, noun
from fuzz.campaign.summary import CampaignSummary, Member, Reason, Span, TriagedFinding
from fuzz.report.causes import by_cause
from fuzz.space import SHAPES, CaseSpace
from fuzz.spec import model_named
from fuzz.verdict import Conclusion


class Harm(StrEnum):
    """What a finding does, as far as its smallest case shows."""

    MEMORY = "memory fault"  # an access outside of what it may touch
    PROCESS = "process lost"  # the case took its process along or did not come back
    RESULT = "wrong result"  # nothing leaves its tensor, and what comes out is wrong


class ShapeVerdict(StrEnum):
    """What is said of one shape."""

    CONFIRMED = "no memory fault"
    WRONG_RESULTS = "no memory fault, wrong results"
    UNKNOWN = "processes lost"
    FAULTY = "memory fault"
    NOTHING_RAN = "nothing ran"


@dataclass(frozen=True, slots=True)
class ShapeStatement:
    """What is said of one number of heads.

    label: "TP2", or "" where heads were asked for by number. cases: drawn. ran: reached a kernel. clean: ran and showed
    nothing. faulty: showed a fault or killed their process. batch, kv_len: of fields of the map in which cases ran, cut at the
    limits of the search; None where nothing ran. kernels: code objects launched, with cases. refused: reasons. signatures:
    found here.
    """

    label: str
    num_head: int
    verdict: ShapeVerdict
    cases: int
    ran: int
    clean: int
    faulty: int
    batch: Span | None
    kv_len: Span | None
    kernels: Mapping[str, int]
    refused: tuple[Reason, ...]
    signatures: tuple[str, ...]

    @property
    def judged(self) -> int:
        """Cases that were judged to their end, those too that went wrong before they reached a kernel."""
        return self.clean + self.faulty

    @property
    def name(self) -> str:
        """The shape in words: `TP2 (64 heads)`."""
        return f"{self.label} ({counted(self.num_head, 'head')})" if self.label else counted(self.num_head, "head")

    @property
    def sentence(self) -> str:
        """The statement in words."""
        clean = counted(self.clean, "case")
        match self.verdict:
            case ShapeVerdict.CONFIRMED:
                return f"no memory fault on {self.name} in {clean}"
            case ShapeVerdict.WRONG_RESULTS:
                return (
                    f"wrong results on {self.name}: {self.faulty:,} of {counted(self.judged, 'case')}, no memory fault in any"
                )
            case ShapeVerdict.UNKNOWN:
                return f"no memory fault on {self.name} in {clean}; {self.faulty:,} more fail otherwise or lose their process"
            case ShapeVerdict.FAULTY:
                return (
                    f"memory fault on {self.name}: {self.faulty:,} of {self.judged:,} "
                    f"{noun(self.judged, 'case is', 'cases are')} faulty"
                )
            case ShapeVerdict.NOTHING_RAN:
                return f"nothing ran on {self.name}: it confirms nothing"


@dataclass(frozen=True, slots=True)
class CampaignScope:
    """What the cases of one campaign were drawn from, in words, by what it is about; and what its device is worth."""

    identity: str
    device: str
    witness: Witness
    drawn_from: Mapping[str, str]
    cases: int


@dataclass(frozen=True, slots=True)
class Statement:
    """The whole. notice: what must stand beside it."""

    conclusion: Conclusion
    headline: str
    details: tuple[str, ...]
    notice: str
    shapes: tuple[ShapeStatement, ...]
    scopes: tuple[CampaignScope, ...]
    not_covered: tuple[str, ...]


def statement(summary: CampaignSummary) -> Statement:
    """What may be said of a summary."""
    shapes = tuple(_shapes(summary))
    scopes = tuple(_scope(member) for member in summary.members)
    return Statement(
        conclusion=summary.verdict.conclusion,
        headline=headline(summary, shapes),
        details=tuple(_details(summary)),
        notice=" ".join(dict.fromkeys(scope.witness.notice for scope in scopes)),
        shapes=shapes,
        scopes=scopes,
        not_covered=tuple(_not_covered(summary, scopes)),
    )


def harm(finding: TriagedFinding) -> Harm:
    """What a finding does."""
    if finding.severity >= Severity.READ or finding.kind is FindingKind.MEMORY_FAULT:
        return Harm.MEMORY
    return Harm.PROCESS if finding.kind.row.takes_its_process else Harm.RESULT


def headline(summary: CampaignSummary, shapes: Sequence[ShapeStatement]) -> str:
    """The one line that is read first."""
    ran = summary.counts.clean + summary.counts.faulty + summary.counts.died
    where = _shapes_in_words(shapes) or "anything"
    match summary.verdict.conclusion:
        case Conclusion.CLEAN if not summary.findings:
            return f"No memory fault on {where} in {counted(ran, 'case')}, {aiter_of(summary.members)}"
        case Conclusion.CLEAN:
            only = counted(len(summary.findings), "expected fault")
            return f"Nothing but {only} on {where} in {counted(ran, 'case')}, {aiter_of(summary.members)}"
        case Conclusion.OPEN:
            there = _shapes_in_words([shape for shape in shapes if shape.ran])
            found = f"nothing unexpected found on {there}, but less ran" if there else "less ran"
            return f"Incomplete: {found} than was asked for: {'; '.join(summary.doubts)}"
        case Conclusion.FAULTY:
            blamed = [finding for finding in summary.findings if finding.is_blamed]
            never = f"; {'; '.join(summary.never_ran)}" if summary.never_ran else ""
            faults = [group[0] for group in by_cause(blamed)]
            return f"{by_harm(faults)} found on {_where_found(blamed, shapes) or where}{never}"


def by_harm(findings: Sequence[TriagedFinding]) -> str:
    """`2 memory faults and 1 wrong result`."""
    found = Counter(harm(finding) for finding in findings)
    plural = {Harm.MEMORY: "memory fault", Harm.PROCESS: "lost process", Harm.RESULT: "wrong result"}
    return listed([counted(found[each], plural[each]) for each in Harm if found[each]])


def _where_found(findings: Sequence[TriagedFinding], shapes: Sequence[ShapeStatement]) -> str:
    met = {finding.signature for finding in findings}
    return _shapes_in_words([shape for shape in shapes if met & set(shape.signatures)])


def _shapes_in_words(shapes: Sequence[ShapeStatement]) -> str:
    """`TP2, TP4`, then those without such a name by their heads, together: `TP2 and 16, 80 and 112 heads`."""
    heads = sorted(shape.num_head for shape in shapes if not shape.label)
    numbers = f"{listed([str(number) for number in heads])} heads" if heads else ""
    return listed([*(shape.label for shape in shapes if shape.label), *([numbers] if numbers else [])])


def aiter_of(members: Sequence[Member]) -> str:
    """By whose rules: `AITER 2026-06` (built in), `AITER a6bb4993` (its own text), or the work tree of a checkout."""
    return listed([*dict.fromkeys(f"AITER {member.config.revision or ', '.join(member.space.releases)}" for member in members)])


def aiter_named(release: str, members: Sequence[Member]) -> str:
    """What a table writes for a release that cases name: the revisions for which it stands, where it does."""
    return listed([*dict.fromkeys(each.config.revision or release for each in members if release in each.space.releases)])


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def _details(summary: CampaignSummary) -> Iterator[str]:
    """What the headline leaves out, one sentence each, the most important first."""
    if summary.comparison is not None:
        compared = summary.comparison
        there, gone = len(compared.still_there), len(compared.gone)
        yield f"Against last time: {len(compared.new):,} new, {there:,} still there, {gone:,} gone."
    expected = sum(finding.expected for finding in summary.findings)
    if expected and summary.verdict.conclusion is Conclusion.FAULTY:
        yield f"{counted(expected, 'further finding is', 'further findings are')} expected."
    unclear = len(summary.not_reproduced)
    if unclear:
        again = "and not again when repeated, which is no finding"
        yield f"Not reproduced: {counted(unclear, 'case lost its', 'cases lost their')} process once {again}."
    counts = summary.counts
    fates = {
        "clean": counts.clean,
        "faulty": counts.faulty,
        "refused": counts.refused,
        "not modelled": counts.unmodelled,
        "lost with their process": counts.died,
        "not run": counts.not_run,
    }
    parts = [f"{count:,} {fate}" for fate, count in fates.items() if count]
    if parts:
        yield f"{counted(counts.cases, 'case')} drawn: {listed(parts)}."


def label_of(heads: int, members: Sequence[Member]) -> str:
    """The tensor parallel shape by which heads were asked for, "" where by number."""
    for member in members:
        for shape in member.config.shapes or ():
            if model_named(member.config.model).heads // SHAPES[shape] == heads:
                return shape.upper()
    return ""


def named(heads: int, members: Sequence[Member]) -> str:
    """`TP2 (64 heads)`, or `64 heads` where heads were asked for by number."""
    label = label_of(heads, members)
    return f"{label} ({counted(heads, 'head')})" if label else counted(heads, "head")


def _shapes(summary: CampaignSummary) -> Iterator[ShapeStatement]:
    harms = {finding.signature: harm(finding) for finding in summary.findings}
    heads = sorted(
        {cell.num_head for cell in summary.cells} | {n for m in summary.members for n in m.space.heads}, reverse=True
    )
    for num_head in heads:
        cells = [cell for cell in summary.cells if cell.num_head == num_head]
        refused: Counter[str] = Counter()
        kernels: Counter[str] = Counter()
        for cell in cells:
            refused.update({reason.text: reason.cases for reason in cell.refused})
            kernels.update(cell.kernels)
        signatures = tuple(sorted({signature for cell in cells for signature in cell.signatures}))
        ran, faulty = sum(cell.ran for cell in cells), sum(cell.faulty for cell in cells)
        reached = [cell for cell in cells if cell.ran]
        cases, answered = sum(cell.cases for cell in cells), refused.total()
        # The map does not count cases by field of which nothing is known; at most this many of this shape are. None of them is
        # called clean.
        unknown = min(summary.counts.unmodelled + summary.counts.not_run, max(0, cases - ran - answered))
        yield ShapeStatement(
            label=label_of(num_head, summary.members),
            num_head=num_head,
            verdict=_verdict(ran, faulty, {harms.get(signature, Harm.MEMORY) for signature in signatures}),
            cases=cases,
            ran=ran,
            clean=max(0, cases - answered - faulty - unknown - sum(cell.not_reproduced for cell in cells)),
            faulty=faulty,
            batch=_span([cell.batch for cell in reached], [m.space.max_batch for m in summary.members]),
            kv_len=_span([cell.kv_len for cell in reached], [m.space.max_kv_len for m in summary.members]),
            kernels=dict(kernels.most_common()),
            refused=tuple(Reason(text, cases) for text, cases in refused.most_common()),
            signatures=signatures,
        )


def _verdict(ran: int, faulty: int, harms: set[Harm]) -> ShapeVerdict:
    if Harm.MEMORY in harms:
        return ShapeVerdict.FAULTY
    if Harm.PROCESS in harms:
        return ShapeVerdict.UNKNOWN
    if faulty:
        return ShapeVerdict.WRONG_RESULTS
    return ShapeVerdict.CONFIRMED if ran else ShapeVerdict.NOTHING_RAN


def _span(spans: Sequence[Span], limits: Sequence[int]) -> Span | None:
    """From the lowest to the highest; the last bucket is cut where the search ends."""
    if not spans:
        return None
    return Span(min(span.low for span in spans), min(max(span.high for span in spans), max(limits)))


def _scope(member: Member) -> CampaignScope:
    return CampaignScope(
        identity=member.identity,
        device=member.config.device,
        witness=device_kind(member.config.device).witness,
        drawn_from=dict(_drawn_from(member, member.space)),
        cases=member.cases,
    )


def _drawn_from(member: Member, space: CaseSpace) -> Iterator[tuple[str, str]]:
    yield "serving rule", space.backend
    yield "AITER", ", ".join(_release(name, member.provenance.releases) for name in space.releases)
    yield "code objects", member.provenance.source or "built-in kernel tables"
    yield "heads a rank", ", ".join(str(heads) for heads in space.heads)
    yield "GPU and types", "; ".join(f"{arch} q {q} KV {kv}" for arch, q, kv in space.tensor_types)
    yield "query rows (qlen)", _values(space.query_rows) + (", ragged too" if space.ragged_rows else ", all requests alike")
    yield "page size", _values(space.page_sizes)
    yield "metadata mode", ", ".join("as the rule decides" if mode is None else f"{mode} forced" for mode in space.modes)
    yield "batch", f"1..{space.max_batch:,} requests"
    yield (
        "KV tokens",
        (f"{0 if space.empty_requests else 1}..{space.max_kv_len:,} a request, at most {space.max_tokens:,} a batch"),
    )
    yield "graph replay", "captured batches, with padding" if space.graphs else "none: eager only"
    yield "buffers", str(space.allocation)
    yield "cases", f"{'guided by coverage' if member.config.guided else 'drawn independently'}, seed {member.seed}"


def _release(name: str, commits: Mapping[str, str]) -> str:
    return f"{name} ({commits[name][:12]})" if name in commits else name


def _values(values: Sequence[int]) -> str:
    """`1..8` for what is without a gap, otherwise each."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}..{values[-1]}"
    return ", ".join(str(value) for value in values)


def _not_covered(summary: CampaignSummary, scopes: Sequence[CampaignScope]) -> Iterator[str]:
    """Limits of the confirmation, one sentence each."""
    counts = summary.counts
    if not any(scope.witness.ground is Ground.AMD for scope in scopes):
        yield "AMD hardware: nothing here ran on it"
    yield "heads, releases, GPUs, types, query rows, page sizes and lengths other than those above"
    if counts.refused:
        yield f"{counted(counts.refused, 'case')} that the serving rule or AITER refuses (reasons below): no kernel is reached"
    if counts.unmodelled:
        yield (
            f"{counted(counts.unmodelled, 'case')} that the device has no model for: nothing is known of "
            f"{noun(counts.unmodelled, 'it', 'them')}"
        )
    if summary.lost_chunks:
        yield (
            f"{counted(len(summary.lost_chunks), 'chunk')} of cases set aside, because workers were lost over "
            f"{noun(len(summary.lost_chunks), 'it', 'them')}"
        )
    for device, witness in {scope.device: scope.witness for scope in scopes}.items():
        yield from (f"on device {device}, {blind}" for blind in witness.blind)
    yield "the serving framework around the call: scheduler, allocator, other kernels, communication between ranks"


def refusals(shapes: Sequence[ShapeStatement]) -> list[tuple[str, Mapping[int, int]]]:
    """Each reason with its cases by number of heads, the most frequent first."""
    found: dict[str, dict[int, int]] = {}
    for shape in shapes:
        for reason in shape.refused:
            found.setdefault(reason.text, {})[shape.num_head] = reason.cases
    return sorted(found.items(), key=lambda entry: (-sum(entry[1].values()), entry[0]))
