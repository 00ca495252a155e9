"""The path of one case, end to end: Case -> Decision -> Call -> Observation -> findings."""

from __future__ import annotations

from dataclasses import dataclass

from backend.aiter.codefiles import CodeSource
from backend.aiter.launch import Refusal
from backend.call import Call
from backend.case import Case
from backend.checks.check import check, check_call
from backend.decision import Decision, Refused
from backend.devices.registry import Device, open_device
from backend.findings import Finding, Severity, cause
from backend.host import call
from backend.observation import Observation
from backend.serving.policy import Policy, decide
from backend.serving.registry import policy


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Everything that one case led to; the parts that were not reached are None.

    refused: why the backend or AITER does not take the case, None where it runs. findings: causes first.
    """

    case: Case
    decision: Decision | None
    call: Call | None
    observation: Observation | None
    findings: tuple[Finding, ...]
    refused: str | None

    @property
    def faulty(self) -> bool:
        """Whether anything worse than a refusal was found."""
        return any(finding.severity > Severity.REFUSED for finding in self.findings)

    @property
    def cause(self) -> Finding | None:
        """The finding that explains the others, None for none."""
        return cause(self.findings)


class Path:
    """Runs cases on one device. Reusable and free of state between cases.

    device: a Device or the name of one. source: code objects and kernel table of a wheel or checkout, None: built in.
    """

    def __init__(self, device: Device | str = "model", source: CodeSource | None = None) -> None:
        self.source = source
        self.device = open_device(device, source) if isinstance(device, str) else device

    def run(self, case: Case, rule: Policy | None = None) -> Outcome:
        """The outcome of a case. rule: used instead of the backend that the case names."""
        decision = decide(rule if rule is not None else policy(case.backend), case)
        if isinstance(decision, Refused):
            return Outcome(case, None, None, None, (), decision.reason)
        return self.run_decision(decision)

    def run_decision(self, decision: Decision) -> Outcome:
        """The same from a decision on, for one that was recorded from a real backend."""
        made = call(decision, self.source)
        refused = _refused_by_aiter(made)
        if refused is not None:
            # No kernel runs, so nothing comes out wrong. What was done to memory before AITER refuses is a fault all the same.
            findings = tuple(f for f in check_call(made) if f.severity is not Severity.SILENT)
            return Outcome(decision.case, decision, made, None, findings, refused)
        observation = self.device.observe(made)
        return Outcome(decision.case, decision, made, observation, check(observation), None)


def _refused_by_aiter(made: Call) -> str | None:
    """Why AITER raises on the way to the kernel, in the order in which its functions are called; None where it launches."""
    if made.plan is not None and made.plan.rejected is not None:
        return made.plan.rejected
    return made.launch.reason if isinstance(made.launch, Refusal) else None
