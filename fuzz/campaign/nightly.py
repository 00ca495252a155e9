"""A night: a campaign in a folder of its own, and its comparison with the night before."""

from __future__ import annotations

import time
from pathlib import Path

from backend.errors import UsageError
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.read_summary import load_summary
from fuzz.campaign.session import begin
from fuzz.campaign.store import FILE_NAME
from fuzz.campaign.summary import CampaignSummary


def night(config: CampaignConfig, seeded: bool) -> tuple[Path, CampaignSummary]:
    """Runs one night below config.out; its folder and summary, comparison included. seeded: whether to keep the seed."""
    now = time.localtime()
    root = Path(config.out)
    folder = root / time.strftime("%Y-%m-%d-%H%M%S", now)
    changes = {"out": str(folder)} | ({} if seeded else {"seed": int(time.strftime("%Y%m%d", now))})
    before = config.compare or last_night(root)
    return folder, begin(config.replace(**changes, compare=None if before is None else str(before)))


def last_night(root: Path) -> Path | None:
    """Folder of the newest night that ran to its end; None where there is none."""
    nights = sorted((path.parent for path in root.glob(f"*/{FILE_NAME}")), reverse=True) if root.is_dir() else []
    for folder in nights:
        try:
            if load_summary(folder).complete:
                return folder
        except UsageError:
            continue  # of another version of the store: it cannot be read, so it cannot be compared with
    return None
