"""The Outcome: everything that one case led to, and its fate. Made by backend.path; knows nothing of how cases are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.case import Case
from backend.fate import Fate
from backend.findings import Finding, Party, Severity, cause

if TYPE_CHECKING:  # whoever reads an outcome of another process needs none of what makes one
    from backend.call import Call
    from backend.decision import Decision, Refused
    from backend.observation import Observation


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outcome:
    """Everything that one case led to. Made by one of the functions below it, which say what was reached.

    findings: causes first. refused: why no kernel ran and nothing is known of one: the backend's or AITER's own words, what
    is not modelled, why it was not tried; None where it ran or died.
    decision, call, observation: the parts of the path that were reached in this process, None for those that were not.
    """

    case: Case
    fate: Fate
    findings: tuple[Finding, ...] = ()
    refused: str | None = None
    decision: Decision | None = None
    call: Call | None = None
    observation: Observation | None = None

    @property
    def faulty(self) -> bool:
        """Whether anything worse than a refusal was found."""
        return self.fate in (Fate.FAULTY, Fate.DIED)

    @property
    def unknown(self) -> bool:
        """Whether nothing is known of the case: neither that it is taken nor that it is not."""
        return self.fate in (Fate.UNMODELLED, Fate.NOT_RUN)

    @property
    def cause(self) -> Finding | None:
        """The finding that explains the others, None for none."""
        return cause(self.findings)

    @property
    def reason(self) -> str | None:
        """Why it was refused, is not modelled or was not run, in words; None for the other fates."""
        if self.fate in (Fate.CLEAN, Fate.FAULTY, Fate.DIED):
            return None
        found = self.cause
        return self.refused or (found.message if found is not None else None)

    def shows(self, signature: str) -> bool:
        """Whether its cause is a fault of that signature."""
        found = self.cause
        return self.faulty and found is not None and found.signature == signature


def turned_down(refused: Refused) -> Outcome:
    """The backend itself does not take the case: nothing reaches AITER."""
    return Outcome(case=refused.case, fate=Fate.REFUSED, refused=refused.reason)


def refused_by_aiter(made: Call, reason: str, findings: tuple[Finding, ...], observation: Observation | None = None) -> Outcome:
    """AITER raises on the way to the kernel, or behind it. findings: what was done to memory before it does.

    observation: of the kernel, where one ran.
    """
    decision = made.decision
    return Outcome(
        case=decision.case,
        fate=fate_of(findings, reason),
        findings=findings,
        refused=reason,
        decision=decision,
        call=made,
        observation=observation,
    )


def observed(observation: Observation, findings: tuple[Finding, ...]) -> Outcome:
    """A device ran the call. findings: of call and observation, causes first."""
    made = observation.call
    return Outcome(
        case=made.decision.case,
        fate=fate_of(findings, None),
        findings=findings,
        decision=made.decision,
        call=made,
        observation=observation,
    )


def unmodelled(case: Case, reason: str, decision: Decision | None = None, made: Call | None = None) -> Outcome:
    """Something that the case needs is not modelled. reason: what."""
    return Outcome(case=case, fate=Fate.UNMODELLED, refused=reason, decision=decision, call=made)


def not_run(case: Case, reason: str) -> Outcome:
    """The case was not tried. reason: why, which lies outside of the case."""
    return Outcome(case=case, fate=Fate.NOT_RUN, refused=reason)


def reported(case: Case, findings: tuple[Finding, ...], refused: str | None, fate: Fate | None = None) -> Outcome:
    """An outcome as another process reports it, without what stays there. fate: None where findings and refusal say it."""
    return Outcome(case=case, fate=fate or fate_of(findings, refused), findings=findings, refused=refused)


def fate_of(findings: tuple[Finding, ...], refused: str | None) -> Fate:
    """The fate of a case that was tried: faults before a refusal, a refusal before clean."""
    found = cause(findings)
    if found is not None and found.severity > Severity.REFUSED:
        took_process = found.kind.row.takes_its_process and found.party is Party.PROJECT
        return Fate.DIED if took_process else Fate.FAULTY
    return Fate.CLEAN if found is None and refused is None else Fate.REFUSED
