"""Findings of a campaign as corpus entries: the form in which they are shared, reviewed and replayed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from backend.errors import CannotRunError, UsageError
from fuzz.campaign.chunks import Safe
from fuzz.campaign.summary import CampaignSummary, TriagedFinding
from reprod.entry import entry_of, entry_text


def export(summary: CampaignSummary, folder: Path) -> Iterator[Path]:
    """Writes an entry for each finding that no entry of the corpus is known for and that its smallest case shows on its device.

    A file that is there already is left alone: somebody may have cut it down to the figures that matter.
    """
    from backend.path import Path as CasePath

    config = summary.members[0].config
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"corpus folder {folder}: cannot be made ({error.strerror or error}); give another") from error
    try:
        path = Safe(CasePath(device=config.device), config.device)
    except CannotRunError as error:
        raise CannotRunError(f"an entry states what its case shows, and device {config.device} is not here: {error}") from error
    for finding in summary.findings:
        if finding.known is not None or not finding.reliability.shown:
            continue
        file = folder / file_name(finding)
        if file.exists():
            continue
        outcome = path.run(finding.smallest)
        if outcome.cause is None or outcome.cause.signature != finding.signature:
            continue
        title = f"{finding.kind.value} at {finding.stage}"
        file.write_text(entry_text(entry_of(outcome, file.stem.partition("-")[0], title)), encoding="utf-8")
        yield file


def file_name(finding: TriagedFinding) -> str:
    """`N<hash>-what-it-is.json`: N for new, the hash of the signature, so that two campaigns give one fault one name."""
    number = int(hashlib.sha256(finding.signature.encode()).hexdigest()[:8], 16)
    words = re.sub(r"[^a-z0-9]+", "-", finding.signature.lower()).strip("-")[:60].rstrip("-")
    return f"N{number}-{words}.json"
