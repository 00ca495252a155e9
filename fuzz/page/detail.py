"""One finding in depth: its smallest case is run once more, so that the page can show how the fault comes about.

What it runs is the model (or the simulated machine, where that is what found it and the model sees nothing); a case that takes
its process along is not run. A page must come out whatever happens here, so what cannot be had is a reason, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.codec import dumps
from backend.devices.registry import open_device
from backend.errors import AiterfuzzError
from backend.findings import FindingKind
from backend.path import Outcome
from backend.path import Path as CasePath
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.summary import CampaignSummary, TriagedFinding
from fuzz.page.memory_map import MemoryMap, memory_map
from reprod.blame import Blame, blame
from reprod.layouts import Layouts, layouts
from reprod.write import CASE, EXPLAIN, ISSUE, SCRIPT

LETHAL = (FindingKind.DIED, FindingKind.HANG)


@dataclass(frozen=True, slots=True, eq=False)
class Detail:
    """What is known of a finding beside its entry in the summary; None and "" for what is not.

    anchor: its name on the page. memory: where accesses went. hardware: in how many layouts of memory a GPU would fault.
    script: text of the standalone reproduction. folder: where its files are, None where they are not there; files: their
    names. why_not: why the case was not run again.
    """

    finding: TriagedFinding
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
    """The details of all findings, in their order. root: folder of the store."""
    config = summary.members[0].config
    return tuple(_detail(finding, f"finding-{i}", config, root) for i, finding in enumerate(summary.findings, 1))


def _detail(finding: TriagedFinding, anchor: str, config: CampaignConfig, root: Path) -> Detail:
    outcome, why_not = _again(finding, config)
    shows = outcome is not None and outcome.cause is not None
    folder = root / finding.folder if finding.folder is not None else None
    files = {name: _read(folder / name) for name in (SCRIPT, ISSUE, EXPLAIN, CASE)} if folder is not None else {}
    return Detail(
        finding=finding,
        anchor=anchor,
        blame=blame(outcome) if outcome is not None and shows else None,
        memory=memory_map(outcome) if outcome is not None else None,
        hardware=layouts(outcome) if outcome is not None and shows else None,
        script=files.get(SCRIPT) or "",
        folder=folder if any(files.values()) else None,
        files=tuple(name for name, text in files.items() if text),
        why_not=why_not,
    )


def _again(finding: TriagedFinding, config: CampaignConfig) -> tuple[Outcome | None, str]:
    """The outcome of the smallest case with footprints, or why there is none."""
    if finding.kind in LETHAL:
        return None, "the case takes its process along, so it is not run again for this page"
    outcome: Outcome | None = None
    why = ""
    for device in dict.fromkeys(("model", config.device if config.device == "cdna" else "model")):
        try:
            again = _run(finding, config, device)
        except AiterfuzzError as error:
            why = why or str(error)
            continue
        except Exception as error:
            # An error of ours in one case must not cost the whole page; the finding itself stands in the store.
            why = why or f"{type(error).__name__}: {error}"
            continue
        if again.cause is not None and again.cause.signature == finding.signature:
            return again, ""
        outcome = outcome or again
    if outcome is None:
        return None, f"the smallest case could not be run again here: {why}"
    return outcome, f"device model does not show this fault; below is what it sees of the case, not what {config.device} saw"


def _run(finding: TriagedFinding, config: CampaignConfig, device: str) -> Outcome:
    from backend.aiter.codefiles import open_source

    source = open_source(config.aiter) if config.aiter is not None else None
    return CasePath(open_device(device, source, record=True), source).run(finding.smallest)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
