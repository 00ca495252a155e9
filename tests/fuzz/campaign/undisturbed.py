"""What a campaign comes to when nothing disturbs it: chunk after chunk in this process, without workers, Ray or a store."""

from __future__ import annotations

from backend.devices.kinds import open_searching
from backend.devices.two_devices import WholeWhereNew
from backend.path import Path
from backend.serving.registry import named_policy
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.guidance import Guide
from fuzz.campaign.maker import Maker
from fuzz.campaign.report import ChunkReport, Label
from fuzz.campaign.store_blobs import StoredChunk


def reports(config: CampaignConfig) -> list[ChunkReport]:
    """Of all chunks, in their order."""
    named_policy(config.backend)
    maker = Maker(config.space(), config.seed, config.cases_a_chunk)
    guide = Guide(config.generation_chunks, config.guided)
    device = open_searching(config.device)
    path = Safe(Path(device=device), config.device)
    found = []
    assert config.chunk_limit is not None
    for chunk in range(config.chunk_limit):
        frozen = guide.frozen(chunk)
        assert frozen is not None
        if isinstance(device, WholeWhereNew):
            device.begin(frozen.hits)
        report = run_chunk(chunk, maker.cases(chunk, frozen), path, frozen)
        guide.take(StoredChunk(chunk, report.reached, report.kept))
        found.append(report)
    return found


def outcomes(config: CampaignConfig) -> dict[int, list[Label]]:
    """What becomes of each case: labels in the order of positions, by chunk."""
    return {report.chunk: labels(report) for report in reports(config)}


def labels(report: ChunkReport) -> list[Label]:
    """Of one chunk."""
    return [report.labels[code] for code in report.codes.tolist()]
