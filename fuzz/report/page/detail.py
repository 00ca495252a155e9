"""One finding in depth: its smallest case is run once more, so that the page can show how the fault comes about.

What it runs is the model (or the simulated machine, where that is what found it and the model sees nothing); a case that takes
its process along is not run. A page must come out whatever happens here, so what cannot be had is a reason, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.codec import dumps
from backend.devices.kinds import device_kind, open_device
from backend.errors import AiterfuzzError
from backend.outcome import Outcome
from backend.path import Path as CasePath
from backend.revision.revision import host_of
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.soundness import read_text_of
from fuzz.campaign.summary import CampaignSummary, TriagedFinding
from fuzz.report.causes import numbered
from fuzz.report.page.memory_map import MemoryMap, memory_map
from reprod.blame import Blame, blame
from reprod.folder import CASE, EXPLAIN, ISSUE, SCRIPT
from reprod.layouts import Layouts, layouts


@dataclass(frozen=True, slots=True, eq=False)
class Detail:
    """What is known of a finding beside its entry in the summary; None and "" for what is not.

    fault: the number of its fault, shared by all that one cause explains. anchor: its name on the page. memory: where accesses
    went. hardware: in how many layouts of memory a GPU would fault. script: text of the standalone reproduction. folder: where
    its files are, None where they are not there; files: their names. why_not: why the case was not run again, or that it shows
    something else now.
    """

    finding: TriagedFinding
    fault: str
    anchor: str
    blame: Blame | None
    memory: MemoryMap | None
    hardware: Layouts | None
    script: str
    folder: Path | None
    files: tuple[str, ...]
    why_not: str

    @property
    def case(self) -> str:
        """The smallest case as `aiterfuzz explain` takes it."""
        return dumps(self.finding.smallest)


def details(summary: CampaignSummary, root: Path) -> tuple[Detail, ...]:
    """The details of all findings, what one cause explains together. root: folder of the store."""
    machines = _machines([member.config for member in summary.members])
    found = numbered(summary.findings)
    return tuple(_detail(finding, fault, f"finding-{i}", machines, root) for i, (fault, finding) in enumerate(found, 1))


_Machine = tuple[str, str | None]
"""A device and the checkout that its code objects come from."""


def _machines(configs: Sequence[CampaignConfig]) -> tuple[_Machine, ...]:
    """The model with each checkout of the campaigns, then each device of theirs that runs code objects on a simulated GPU."""
    models = [("model", config.aiter) for config in configs]
    simulated = [(config.device, config.aiter) for config in configs if device_kind(config.device).runs_code_objects]
    return tuple(dict.fromkeys([*models, *simulated]))


@dataclass(frozen=True, slots=True, eq=False)
class _Again:
    """The smallest case run once more. blame, hardware: None where it shows another fault or none."""

    outcome: Outcome
    shows: bool
    blame: Blame | None
    memory: MemoryMap | None
    hardware: Layouts | None


def _detail(finding: TriagedFinding, fault: str, anchor: str, machines: Sequence[_Machine], root: Path) -> Detail:
    again, why_not = _again(finding, machines)
    folder = root / finding.folder if finding.folder is not None else None
    names = (SCRIPT, ISSUE, EXPLAIN, CASE)
    files = {name: read_text_of(root, finding.folder, name) for name in names} if finding.folder is not None else {}
    return Detail(
        finding=finding,
        fault=fault,
        anchor=anchor,
        blame=again.blame if again is not None else None,
        memory=again.memory if again is not None else None,
        hardware=again.hardware if again is not None else None,
        script=files.get(SCRIPT) or "",
        folder=folder if any(files.values()) else None,
        files=tuple(name for name, text in files.items() if text),
        why_not=why_not,
    )


def _again(finding: TriagedFinding, machines: Sequence[_Machine]) -> tuple[_Again | None, str]:
    """What the smallest case shows on the first machine that shows the finding, and why there is less than that."""
    if finding.kind.row.takes_its_process:
        return None, "the case takes its process along, so it is not run again for this page"
    best: _Again | None = None
    why = ""
    for machine in machines:
        try:
            again = _run(finding, *machine)
        except AiterfuzzError as error:
            why = why or str(error)
            continue
        except Exception as error:
            # An error of ours in one case must not cost the whole page; the finding itself stands in the store.
            why = why or f"{type(error).__name__}: {error}"
            continue
        if again.shows:
            return again, ""
        best = best or again
    if best is None:
        return None, f"the smallest case could not be run again here: {why}"
    cause = best.outcome.cause
    return (
        best,
        f"run again for this page, the smallest case shows {cause.signature if cause is not None else 'no fault'} instead",
    )


def _run(finding: TriagedFinding, device: str, aiter: str | None) -> _Again:
    from backend.aiter.codefiles import open_source

    source = open_source(aiter) if aiter is not None else None
    outcome = CasePath(host_of(source), open_device(device, source, record=True)).run(finding.smallest)
    shows = outcome.cause is not None and outcome.cause.signature == finding.signature
    found = blame(outcome, finding.known) if shows else None
    return _Again(outcome, shows, found, memory_map(outcome), layouts(outcome) if shows else None)
