"""Hosts: from a Decision to a Call, as AITER's host side does it. Here the interface, and the rules of the built-in releases.

A host knows no device and no check. backend.revision has the one that executes a revision's own text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from backend.aiter.arguments import BufferSizes, DecodeArguments, PlanArguments, TargetGpu
from backend.aiter.codefiles import CodeSource
from backend.aiter.launch import Launch, Refusal, launch
from backend.aiter.planners import Plan, plan
from backend.aiter.planning import BuiltInPlanning
from backend.aiter.release import release
from backend.aiter.sizing import buffer_sizes, sizing_of
from backend.call import Call
from backend.case import Case
from backend.decision import Decision
from backend.findings import Finding, Party, Severity

if TYPE_CHECKING:
    from backend.aiter.text.launcher import Launcher


class Part(StrEnum):
    """What of a host may not be known to be the revision's own."""

    SIZING = "sizing"
    FOLD = "fold"
    PLANNER = "planner"
    LAUNCHER = "launcher"
    REDUCTION = "second stage"


class Basis(StrEnum):
    """What a part of a call rests on."""

    BUILT_IN = "built in"  # rules written anew and held against recordings of this revision's own code
    EVALUATED = "evaluated"  # the revision's own text
    STAND_IN = "stand-in"  # another revision's rules, since this one's text is not provided for


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something of a revision for which the rules of a built-in release stand in, without being known to be its own."""

    part: Part
    text: str


_BEHIND = {
    Party.CALLER: frozenset((Part.SIZING, Part.PLANNER)),
    Party.PLANNER: frozenset((Part.SIZING, Part.PLANNER)),
    Party.LAUNCHER: frozenset((Part.SIZING, Part.PLANNER, Part.FOLD, Part.LAUNCHER)),
    Party.KERNEL: frozenset((Part.SIZING, Part.PLANNER, Part.FOLD, Part.LAUNCHER)),
}


def parts_behind(finding: Finding) -> frozenset[Part]:
    """The parts of a host that a finding rests on: those up to its party, and for what a kernel leaves out or makes wrong the
    second stage as well, which reads it."""
    if finding.party is Party.KERNEL and finding.severity is Severity.SILENT:
        return frozenset(Part)
    return _BEHIND.get(finding.party, frozenset(Part))


class Host(ABC):
    """AITER's host side: sizes, plans and launches.

    source: where code objects and the kernel table are looked up; None: those that are built in. guesses: whether rules of
    another revision count where its own are not known, for a caller that asks for `doubts` itself.
    """

    source: CodeSource | None = None
    guesses = False

    @property
    @abstractmethod
    def label(self) -> str:
        """Which AITER it is, for people."""

    @abstractmethod
    def call(self, decision: Decision) -> Call:
        """What AITER makes of the backend's three calls; a refusal of AITER's own is part of the Call.

        Raises UnmodelledError for what this project has no model of, CannotRunError where the host lacks what it needs.
        """

    @abstractmethod
    def plan(self, rules: str, device: TargetGpu, planning: PlanArguments, allocated: BufferSizes) -> Plan:
        """What the planner does to buffers of these sizes, whatever its own sizing asks for.

        rules: the built-in release that decides where this AITER is none of its own.
        """

    @abstractmethod
    def planning_check_ends(self, rules: str) -> bool:
        """Whether a failed check of get_mla_metadata_v1 ends the process, which no caller can catch; else it raises there.

        rules: as of `plan`.
        """

    @abstractmethod
    def launch(self, decision: Decision, decode: DecodeArguments) -> Launch | Refusal:
        """What is launched with other arguments than the decision's, such as other buffers."""

    @abstractmethod
    def doubts(self, decision: Decision) -> tuple[Doubt, ...]:
        """What stands in for rules that are not known to be this AITER's own, in a call of that decision."""

    @abstractmethod
    def bases(self, decision: Decision) -> Mapping[Part, Basis]:
        """What each part of a call of that decision rests on; parts that the call does not have are left out."""

    def launcher(self, has_rules: bool) -> Launcher | None:
        """The launcher of stage 1, evaluated from this AITER's own text; None where a built-in release's rules are it.

        has_rules: whether built-in rules are written for what is launched. A context-parallel rank has none, and is launched
        by the text wherever there is one.
        """
        del has_rules
        return None

    def warning(self) -> str | None:
        """What to say with every result that rests on this host; None for nothing."""
        return None

    def stood_for(self, case: Case) -> Case:
        """The case as its backend is asked: with the built-in release that stands for this AITER, where one does."""
        return case


class BuiltIn(Host):
    """The rules of the release that a case names. source: None takes the release's built-in kernel table."""

    def __init__(self, source: CodeSource | None = None) -> None:
        self.source = source

    @property
    def label(self) -> str:
        """The source's, where there is one."""
        return self.source.label if self.source is not None else "built in"

    def call(self, decision: Decision) -> Call:
        """Sizing, planning and launching by the rules of the case's release, in AITER's order."""
        case = decision.case
        device, rules = TargetGpu(case.arch, case.compute_units), release(case.release)
        allocated: BufferSizes | None = None
        needed: BufferSizes | None = None
        planned: Plan | None = None
        if decision.sizing is not None and decision.planning is not None:
            sized = rules.sizing(device, decision.sizing)
            if isinstance(sized, str):
                refused = Refusal("get_mla_metadata_info_v1", sized)
                return Call(decision, device, None, None, None, decision.decode, refused)
            allocated = sized
            wanted = sizing_of(decision.planning, decision.sizing)
            needed = allocated if wanted == decision.sizing else buffer_sizes(rules.sizing, device, wanted)
            planned = plan(rules.planners, device, decision.planning, allocated)
        decode = decision.decode.with_metadata(allocated)
        launched = launch(rules, device, decode, self.source)
        return Call(decision, device, allocated, needed, planned, decode, launched)

    def plan(self, rules: str, device: TargetGpu, planning: PlanArguments, allocated: BufferSizes) -> Plan:
        """Plans by the rules of a release (see Host.plan)."""
        return plan(release(rules).planners, device, planning, allocated)

    def planning_check_ends(self, rules: str) -> bool:
        """By the rules of a release (see Host.planning_check_ends)."""
        planning = release(rules).planners
        return isinstance(planning, BuiltInPlanning) and planning.rules.checks_end_process

    def launch(self, decision: Decision, decode: DecodeArguments) -> Launch | Refusal:
        """Launches by the release's rules (see Host.launch)."""
        case = decision.case
        return launch(release(case.release), TargetGpu(case.arch, case.compute_units), decode, self.source)

    def doubts(self, decision: Decision) -> tuple[Doubt, ...]:
        """None: the rules are the release's own."""
        del decision
        return ()

    def bases(self, decision: Decision) -> Mapping[Part, Basis]:
        """Built in, all of them."""
        parts = (Part.FOLD, Part.LAUNCHER, Part.REDUCTION) if decision.sizing is None else tuple(Part)
        return dict.fromkeys(parts, Basis.BUILT_IN)
