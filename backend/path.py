"""The path of one case, end to end: Case -> Decision -> Call -> Observation -> findings.

`judge` is the one place that knows what AITER refuses and what is then left to report. Whoever has a case asks a Path; whoever
has a decision of a real backend file asks `Path.run_decision`; whoever has a finished Call asks `judge`.
"""

from __future__ import annotations

import dataclasses

from backend.aiter.launch import Launch, Refusal
from backend.call import Call
from backend.case import Case
from backend.checks.check import check, check_call
from backend.decision import Decision, Refused
from backend.devices.device import Device
from backend.devices.kinds import open_device
from backend.errors import UnmodelledError
from backend.fate import ENDS_PROCESS, Fate
from backend.findings import Finding, Party, Severity
from backend.host import BuiltIn, Host, Part, parts_behind
from backend.outcome import Outcome, observed, refused_by_aiter, turned_down, unmodelled
from backend.serving.policy import Policy, decide
from backend.serving.registry import policy

STANDS_IN = "the second stage is a stand-in"
"""How the reason begins of a case of which nothing is known since it rests on another revision's rules."""


def judge(made: Call, device: Device) -> Outcome:
    """What is wrong with a call: run on the device where AITER launches, refused where it raises before.

    A call that the device has no model of is an outcome too. Raises CannotRunError where the machine lacks what the device
    needs.
    """
    reason = refusal_of(made)
    if reason is not None:
        # No kernel runs, so nothing comes out wrong. What was done to memory before AITER refuses is a fault all the same.
        return refused_by_aiter(made, reason, tuple(f for f in check_call(made) if f.severity is not Severity.SILENT))
    try:
        _require_modelled(made)
        observation = device.observe(made)
    except UnmodelledError as error:
        return unmodelled(made.decision.case, str(error), made.decision, made)
    found = check(observation)
    raised = raised_afterwards(made)
    if raised is not None:
        return refused_by_aiter(made, raised, left_behind(found), observation)
    return observed(observation, found)


def _require_modelled(made: Call) -> None:
    """Raises UnmodelledError for a call that AITER launches, and no device has a model of."""
    decode = made.decode
    if decode.o_heads is not None:
        o = (decode.output_rows, decode.o_heads, decode.v_head_dim)
        raise UnmodelledError(f"mla_decode_fwd(o={o}): only [rows, {decode.num_head}, width] is modelled, for q's heads")


def left_behind(found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """What is left of the findings of a call that raises afterwards: what did not come out is known to its caller, what left a
    tensor is not, nor the cause that it follows from.
    """
    left = tuple(f for f in found if f.severity is not Severity.SILENT or f.party is Party.PROJECT)
    return left if not left or found[0] in left else (found[0], *left)


def raised_afterwards(made: Call) -> str | None:
    """Why AITER raises after stage 1 was launched, so that its caller gets no result; None where it does not."""
    launch = made.launch
    return None if isinstance(launch, Refusal) else launch.second_stage.refusal or launch.raises_afterwards


def refusal_of(made: Call) -> str | None:
    """Why AITER raises on the way to the kernel, in the order in which its functions are called; None where it launches."""
    if made.plan is not None and made.plan.rejected is not None:
        return f"{made.plan.rejected}{ENDS_PROCESS if made.plan.ends_process else ''}"
    if isinstance(made.launch, Refusal):
        return f"{made.launch.reason}{ENDS_PROCESS if made.launch.ends_process else ''}"
    return None


def faults_before_launch(made: Call) -> tuple[Finding, ...]:
    """What is worse than a refusal in a call before any device has run it, causes first."""
    return tuple(found for found in check_call(made) if found.severity > Severity.REFUSED)


def known_of(outcome: Outcome) -> Outcome:
    """What is known of an outcome whose second stage is another revision's: nothing, where the outcome rests on it.

    A fault that comes about before it stays, with a mark at what rests on it.
    """
    launch = outcome.call.launch if outcome.call is not None else None
    why = launch.second_stage.stands_in if isinstance(launch, Launch) else None
    if why is None or outcome.fate not in (Fate.CLEAN, Fate.FAULTY):
        return outcome
    found = outcome.cause
    if found is not None and Part.REDUCTION not in parts_behind(found):
        marked = tuple(
            dataclasses.replace(each, message=f"{each.message} (rests on a stand-in for the second stage)")
            if Part.REDUCTION in parts_behind(each)
            else each
            for each in outcome.findings
        )
        return dataclasses.replace(outcome, findings=marked)
    shown = "no fault" if found is None else f"{found.signature}: {found.message}"
    reason = f"{STANDS_IN} ({why}); by it, {shown}, which is no claim"
    return unmodelled(outcome.case, reason, outcome.decision, outcome.call)


class Path:
    """Runs cases: a host makes the Call of each, a device runs it. Reusable and free of state between cases.

    host: None for the built-in rules of the release that each case names. device: a Device or the name of one, whose code
    objects are then the host's.
    """

    def __init__(self, host: Host | None = None, device: Device | str = "model") -> None:
        self.host = host if host is not None else BuiltIn()
        self.device = open_device(device, self.host.source) if isinstance(device, str) else device

    def run(self, case: Case, rule: Policy | None = None) -> Outcome:
        """The outcome of a case. rule: used instead of the backend that the case names.

        Raises CannotRunError where host or device lack what they need.
        """
        made = self.call(case, rule)
        return made if isinstance(made, Outcome) else self._judged(made)

    def run_decision(self, decision: Decision) -> Outcome:
        """Runs a case from its decision on, for one that was recorded from a real backend."""
        made = self._called(decision)
        return made if isinstance(made, Outcome) else self._judged(made)

    def call(self, case: Case, rule: Policy | None = None) -> Call | Outcome:
        """The Call of a case; the outcome where it comes to none, being refused by its backend or not modelled."""
        try:
            decision = decide(rule if rule is not None else policy(case.backend), self.host.stood_for(case))
        except UnmodelledError as error:
            return unmodelled(case, str(error))
        return turned_down(decision) if isinstance(decision, Refused) else self._called(decision)

    def launched(self, case: Case) -> Call | Outcome:
        """The Call of a case, with a launch; the outcome where backend or AITER refuse it or something is not modelled."""
        made = self.call(case)
        if isinstance(made, Outcome):
            return made
        reason = refusal_of(made)
        return made if reason is None else refused_by_aiter(made, reason, ())

    def _judged(self, made: Call) -> Outcome:
        outcome = judge(made, self.device)
        return outcome if self.host.guesses else known_of(outcome)

    def _called(self, decision: Decision) -> Call | Outcome:
        try:
            return self.host.call(decision)
        except UnmodelledError as error:
            return unmodelled(decision.case, str(error), decision)
