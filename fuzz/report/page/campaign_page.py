"""The sections of a campaign's page in their order; what is drawn in them is made beside its subject.

The confirmation stands here: what is signed off shape by shape, of exactly what, and what it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from backend.words import counted
from fuzz.campaign.config import config_lines
from fuzz.campaign.summary import CampaignSummary, Loss, Member
from fuzz.report.figures import duration, moment, percent, rate, severity, span
from fuzz.report.page.cards import card, copyable, index
from fuzz.report.page.charts import bar, charts, heat_map, legend
from fuzz.report.page.detail import Detail
from fuzz.report.page.html import PageSection, page
from fuzz.report.page.markup import Child, Markup, element, join, table
from fuzz.report.report import Report
from fuzz.report.statement import ShapeStatement, ShapeVerdict, Statement, refusals
from fuzz.verdict import Conclusion
from reprod.case_line import case_line
from reprod.folder import CASE

SECTIONS = (
    ("findings", "Findings"),
    ("confirmation", "Confirmation"),
    ("coverage", "Covered"),
    ("time", "Over time"),
    ("workers", "Workers lost"),
    ("environment", "Environment"),
)

LOSSES_SHOWN = 100
"""Rows of the table of lost workers; a night that loses more has one reason for all."""


def campaign_page(report: Report, summary: CampaignSummary, said: Statement, details: Sequence[Detail], out: Path) -> str:
    """The whole file. out: folder that it is written to, for links to the findings' files."""
    kicker = f"aiterfuzz campaign of {moment(summary.members[-1].created)}"
    if len(summary.members) > 1:
        kicker = f"{len(summary.members)} campaigns merged, the last: {kicker}"
    bodies: dict[str, list[Child]] = {
        "findings": [_findings(summary, tuple(details), out)],
        "confirmation": [confirmation(said)],
        "coverage": [_coverage(summary, said)],
        "time": [charts(summary.samples)],
        "workers": [_losses(summary)],
        "environment": [_environment(summary)],
    }
    if not (summary.losses or summary.lost_chunks or summary.not_reproduced):
        del bodies["workers"]
    sections = [PageSection(name, title, bodies[name]) for name, title in SECTIONS if name in bodies]
    fair = report.verdict.conclusion is Conclusion.CLEAN and bool(summary.findings)
    return page(report, kicker, _figures(summary), sections, fair)


def _figures(summary: CampaignSummary) -> list[tuple[str, Child]]:
    counts = summary.counts
    return [
        ("ran", counts.ran + counts.died),
        ("cases a second", rate(summary.rate)),
        ("running time", duration(summary.seconds)),
        ("features covered", summary.features),
        ("kernels reached", len(summary.kernels)),
        ("distinct findings", len(summary.findings)),
    ]


def _findings(summary: CampaignSummary, details: tuple[Detail, ...], out: Path) -> Markup:
    ran = summary.counts.ran + summary.counts.died
    return join(
        _comparison(summary),
        index(details) if len(details) > 1 else None,
        [card(detail, ran, out) for detail in details] or element("p", "Nothing was found.", class_="nothing"),
    )


def _comparison(summary: CampaignSummary) -> Markup:
    compared = summary.comparison
    if compared is None:
        return element("p", "Not compared with an earlier campaign.", class_="note")
    gone = [
        element(
            "li",
            element("span", "gone", class_="badge gone"),
            " ",
            element("code", each.signature),
            f" ({severity(each)}): {each.message}",
            f" Known as {each.known.entry}." if each.known is not None else None,
        )
        for each in compared.gone
    ]
    now = summary.members[0].provenance.rules
    rules = "" if compared.rules == now else f" aiterfuzz itself changed in between (sources {compared.rules}, now {now})."
    line = (
        f"Compared with the campaign of {moment(compared.created)} ({counted(compared.cases, 'case')}): "
        f"{len(compared.new):,} new, "
        f"{len(compared.still_there):,} still there, {len(compared.gone):,} gone.{rules}"
    )
    return join(element("p", line, class_="compared"), element("ul", gone, class_="gone") if gone else None)


def _coverage(summary: CampaignSummary, said: Statement) -> Markup:
    most = max((cell.ran for cell in summary.cells), default=0)
    total = sum(summary.kernels.values())
    kernels = [
        (element("code", name), bar(count, max(summary.kernels.values())), count, percent(count, total))
        for name, count in summary.kernels.items()
    ]
    return join(
        legend(most) if most else None,
        element("div", [heat_map(shape, summary.cells, most) for shape in said.shapes], class_="maps"),
        element("h3", "Kernels reached"),
        table(("code object", "", "cases", "share"), kernels, "Code objects launched, with cases", "kernels")
        if kernels
        else "None.",
        _unmodelled(summary),
    )


def _unmodelled(summary: CampaignSummary) -> Markup | None:
    reasons = summary.unmodelled_reasons
    if not reasons:
        return None
    rows = [(reason.text, reason.cases) for reason in reasons]
    return join(element("h3", "Not modelled"), table(("reason", "cases"), rows, "Cases of which nothing is known", "reasons"))


def _losses(summary: CampaignSummary) -> Markup:
    aside = None
    if summary.lost_chunks:
        chunks = ", ".join(str(chunk) for chunk in summary.lost_chunks[:LOSSES_SHOWN])
        aside = element("p", f"Chunks set aside, and not among the counts: {chunks}.", class_="note")
    unclear = _not_reproduced(summary)
    if not summary.losses:
        return join(aside, unclear, element("p", "None.", class_="nothing"))
    rows = [_loss_row(loss) for loss in summary.losses[:LOSSES_SHOWN]]
    hidden = len(summary.losses) - len(rows)
    return join(
        aside,
        unclear,
        table(
            ("when", "what", "worker", "detail", "case"),
            rows,
            f"{counted(len(summary.losses), 'worker')} lost and replaced",
            "losses",
        ),
        element("p", f"And {hidden:,} more, in report.json.") if hidden > 0 else None,
    )


def _not_reproduced(summary: CampaignSummary) -> Markup | None:
    """Deaths that did not come again, with what to try them with."""
    rows = [
        (
            each.message,
            str(each.reliability),
            case_line(each.smallest, each.aiter),
            element("code", f"{each.folder}/{CASE}") if each.folder else "–",
        )
        for each in summary.not_reproduced
    ]
    header = ("what happened", "repeated", "case", "kept in")
    return table(header, rows, f"{len(rows):,} not reproduced: no finding, kept for a retry", "losses") if rows else None


def _loss_row(loss: Loss) -> Sequence[Child]:
    place = f"{loss.chunk}/{loss.position}" if loss.chunk is not None and loss.position is not None else ""
    case = f"{place}: {case_line(loss.case)}" if loss.case is not None else place or "not known"
    return (duration(loss.seconds), loss.kind.value, loss.worker, loss.detail, case)


def _environment(summary: CampaignSummary) -> Markup:
    return join([_member(member, len(summary.members) > 1) for member in summary.members])


def _member(member: Member, named: bool) -> Markup:
    made_by, machine = member.provenance, member.environment
    facts: list[tuple[str, Child]] = [
        ("campaign", member.identity),
        ("seed", str(member.seed)),
        ("aiterfuzz", f"{made_by.project}, sources {made_by.rules}"),
        ("device", f"{made_by.device}: {machine.host}"),
        ("code objects", made_by.source or "built-in kernel tables"),
        ("machine", f"{machine.system}, {machine.cpus} CPUs, {machine.memory_bytes / 2**30:,.0f} GiB"),
        ("Ray", f"{counted(machine.nodes, 'node')}: " + _resources(machine.resources)),
        ("Python", f"{made_by.python}, {made_by.system}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in made_by.versions.items())),
        ("AITER", ", ".join(f"{name} = {commit}" for name, commit in made_by.releases.items())),
    ]
    if made_by.host_sources:
        facts.append(("host sources", ", ".join(f"{path} {digest[:12]}" for path, digest in made_by.host_sources.items())))
    warnings = [element("p", f"Note: {warning}", class_="note") for warning in made_by.warnings]
    sessions = [
        (
            moment(each.began),
            duration(each.ended - each.began) if each.ended is not None else "–",
            each.reason,
            each.workers,
            each.cluster,
            element("code", each.rules),
        )
        for each in member.sessions
    ]
    return join(
        element("h3", f"Campaign {member.identity[:8]}") if named else None,
        warnings,
        element("dl", (element("div", element("dt", name), element("dd", value)) for name, value in facts), class_="facts"),
        copyable(
            "Configuration: the same cases again with aiterfuzz campaign --config FILE",
            _configuration(member),
            f"config-{member.identity}",
            False,
        ),
        table(("session", "ran for", "ended", "workers", "Ray", "sources"), sessions, "Sessions", "sessions stack"),
    )


def _configuration(member: Member) -> str:
    """As TOML, without explanations and without the folder, which a second campaign must not share."""
    lines = config_lines(member.config)
    return "\n".join(line for line in lines if line and not line.startswith(("#", "out =")))


def _resources(amounts: Mapping[str, float]) -> str:
    """What Ray lent, memory in GiB."""
    return ", ".join(
        f"{name} {amount / 2**30:,.1f} GiB" if "memory" in name else f"{name} {amount:g}" for name, amount in amounts.items()
    )


def confirmation(said: Statement) -> Markup:
    return join(
        element("p", said.notice, class_="notice"),
        table(
            ("shape", "verdict", "clean cases", "faulty", "drawn", "batch that ran", "longest KV that ran"),
            [_statement_row(shape) for shape in said.shapes],
            "What is confirmed, shape by shape",
            "statement stack",
        ),
        _scope_table(said),
        element("h3", "What was looked at"),
        element(
            "ul",
            (
                element(
                    "li",
                    element("strong", scope.device),
                    f": {scope.witness.ran}. Reports ",
                    "; ".join(scope.witness.sees),
                    ".",
                )
                for scope in {scope.device: scope for scope in said.scopes}.values()
            ),
        ),
        element("h3", "What this does not cover"),
        element("ul", (element("li", limit) for limit in said.not_covered), class_="limits"),
        _refusals(said.shapes),
    )


def _statement_row(shape: ShapeStatement) -> Sequence[Child]:
    good = {ShapeVerdict.CONFIRMED: "good", ShapeVerdict.FAULTY: "bad"}.get(shape.verdict, "fair")
    return (
        shape.name,
        element("span", shape.verdict.value, class_=f"badge {good}"),
        shape.clean,
        shape.faulty,
        shape.cases,
        span(shape.batch),
        span(shape.kv_len),
    )


def _scope_table(said: Statement) -> Markup:
    names = list(dict.fromkeys(name for scope in said.scopes for name in scope.drawn_from))
    many = len(said.scopes) > 1
    header = ("cases drawn from", *(f"campaign {scope.identity[:8]}" if many else "" for scope in said.scopes))
    rows: list[Sequence[Child]] = [(name, *(scope.drawn_from.get(name, "–") for scope in said.scopes)) for name in names]
    rows.append(("device", *(f"{scope.device}: {scope.witness.notice}" for scope in said.scopes)))
    return table(header, rows, "Exactly what it covers", "scope-of")


def _refusals(shapes: Sequence[ShapeStatement]) -> Markup | None:
    reasons = refusals(shapes)
    if not reasons:
        return None
    rows: list[Sequence[Child]] = [(text, *(counts.get(shape.num_head, 0) for shape in shapes)) for text, counts in reasons]
    header = ("reason", *(shape.label or f"{counted(shape.num_head, 'head')}" for shape in shapes))
    return join(element("h3", "Refused shapes"), table(header, rows, "Cases refused before any kernel, by reason", "reasons"))
