"""What a campaign's store says became of every case, for tests that hold two campaigns against each other."""

from __future__ import annotations

from pathlib import Path

from backend.fate import Fate
from fuzz.campaign.report import Label
from fuzz.campaign.soundness import damage_is_one_line
from fuzz.campaign.store import connect, store_path
from fuzz.campaign.store_blobs import unpack_codes


def read_outcomes(given: Path) -> dict[tuple[str, int], list[Label]]:
    """Labels in the order of positions, by (identity of the campaign, chunk)."""
    path = store_path(given)
    db = connect(path)
    try:
        with damage_is_one_line(path):
            labels = {n: Label(Fate(fate), text) for n, fate, text in db.execute("SELECT number, fate, text FROM labels")}
            rows = db.execute("SELECT identity, chunk, codes FROM chunks JOIN campaigns ON campaigns.number = chunks.campaign")
            return {(identity, chunk): [labels[code] for code in unpack_codes(blob).tolist()] for identity, chunk, blob in rows}
    finally:
        db.close()


def stored(folder: Path) -> dict[int, list[Label]]:
    """Labels in the order of positions, by chunk, of a store that holds one campaign."""
    return {chunk: found for (_, chunk), found in read_outcomes(folder).items()}
