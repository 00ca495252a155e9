"""Two devices of ours that saw different things of one Call: a fault of this project, and a finding of its own kind."""

from __future__ import annotations

from backend.findings import Finding, FindingKind, Party
from backend.observation import Disagreement, Observation


def check_disagreements(observation: Observation) -> list[Finding]:
    """One finding for each thing seen differently."""
    return [_finding(observation, each) for each in observation.disagreements]


def _finding(observation: Observation, each: Disagreement) -> Finding:
    stage = observation.call.launched.code_object
    evidence = dict(zip(each.devices, each.saw, strict=True))
    both = "; ".join(f"{device}: {saw}" for device, saw in evidence.items())
    message = f"{' and '.join(each.devices)} disagree on {each.what}: {both}"
    kind = FindingKind.DEVICE_DISAGREEMENT
    return Finding(kind, kind.severity, Party.PROJECT, stage, "", message, evidence, discriminator=each.what)
