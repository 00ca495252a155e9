"""What a device computed, how its run ended, and where two devices disagree, as findings. Knows no device and no reference."""

from __future__ import annotations

from backend.child.process_end import EndKind
from backend.findings import Finding, FindingKind, Party
from backend.observation import DeviceEnd, Disagreement, Observation, ViolationKind

_ENDS = {
    EndKind.MEMORY_FAULT: FindingKind.MEMORY_FAULT,
    EndKind.HANG: FindingKind.HANG,
}
_ENDS |= {kind: FindingKind.DIED for kind in EndKind if kind.died}


def check_end(observation: Observation) -> list[Finding]:
    """A run that did not come to its end. A fault's severity is that of a read: hardware does not tell which it was."""
    end = observation.end
    return [] if end is None or end.kind is EndKind.COMPLETED else [_death(observation, end)]


def death_once(observation: Observation) -> Finding | None:
    """A death that did not come again when the case was run again. No finding of the case, unless somebody sees it again."""
    once = observation.end.once if observation.end is not None else None
    return None if once is None else _death(observation, once)


def _death(observation: Observation, end: DeviceEnd) -> Finding:
    kind = _ENDS[end.kind]
    figures: dict[str, int | str] = {"message": end.message, "again_when_alone": int(end.again)}
    if end.address is not None:
        figures["address"] = f"{end.address:#x}"
    if end.offset is not None:
        figures["offset"] = end.offset
    if end.after:
        figures["after"] = end.after
    where = f" (nearest: {end.tensor} {end.offset:+d} bytes)" if end.tensor and end.offset is not None else ""
    what = FindingKind.DIED.value if end.kind.died else end.kind.value
    message = f"{what} on {observation.device}: {end.message}{where}"
    return Finding(kind, kind.severity, Party.KERNEL, _stage(observation), end.tensor, message, figures)


def check_numbers(observation: Observation) -> list[Finding]:
    """Rows that are not written, not a number, or outside the error budget; one finding of each kind.

    A device that sees stores has told of rows that are not written by its violations.
    """
    numbers = observation.numbers
    if numbers is None:
        return []
    stage = _stage(observation)
    of = f"of {numbers.compared} rows of o (query x head)"
    stores_seen = any(violation.kind is ViolationKind.NO_OUTPUT for violation in observation.violations)
    found = []
    for kind, count, first, said in (
        (FindingKind.ROW_NOT_WRITTEN, numbers.unwritten, numbers.first_unwritten, "are not written"),
        (FindingKind.NUMERICS, numbers.outside, numbers.first_outside, f"leave the error budget ({numbers.budget})"),
        (FindingKind.NOT_A_NUMBER, numbers.not_a_number, numbers.first_not_a_number, "hold a NaN or an infinity"),
    ):
        if not count or first is None or (stores_seen and kind is FindingKind.ROW_NOT_WRITTEN):
            continue
        figures: dict[str, int | str] = {"rows": count, "compared": numbers.compared, "query": first[0], "head": first[1]}
        if kind is FindingKind.NUMERICS:
            figures["worst_error_over_budget"] = f"{numbers.worst:.3g}"
            figures["relative_rms"] = f"{numbers.relative_rms:.3g}"
        message = f"{count} {of} {said}, first query {first[0]} head {first[1]}"
        found.append(Finding(kind, kind.severity, Party.KERNEL, stage, "o", message, figures))
    return found


def _stage(observation: Observation) -> str:
    return observation.own_kernel or observation.call.launched.code_object


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
