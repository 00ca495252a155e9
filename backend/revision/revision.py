"""One revision of AITER as a host: its own sizing, planners, fold and launcher, all from its own text.

What is Python is executed (host_code.py, decode.py), what is C++ is evaluated (backend.aiter.text), kernel table and code
objects are its own, and nothing is built. Where a revision's text is a built-in release's, that release's compiled rules are
used. Where its text uses what is not provided for, a call is not modelled, or, where a caller asks for it, the nearest
release's rules stand in, and that is a doubt, and said.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property

from backend.aiter.arguments import BufferSizes, DecodeArguments, PlanArguments, SizingArguments, TargetGpu
from backend.aiter.codefiles import CodeSource, revision_of, switches_of
from backend.aiter.launch import Launch, Refusal, launch
from backend.aiter.planners import Plan, plan
from backend.aiter.release import Release, nearest_release, release
from backend.aiter.sizing import sizing_of
from backend.aiter.text.launcher import LAUNCHER_FILE, Launcher
from backend.aiter.text.planners import ENTRY_FILE, Planners, Switches
from backend.aiter.text.reduction import REDUCTION_FILE, Reduction
from backend.call import Call
from backend.case import RELEASES, Case, MetadataMode
from backend.cxx.errors import CxxError
from backend.decision import Decision
from backend.errors import CannotRunError, UnmodelledError, UsageError
from backend.host import Basis, BuiltIn, Doubt, Host, Part
from backend.revision.decode import merge_is_known
from backend.revision.host_code import DECODE_FILE, SIZING_FILE, executed_sizes
from backend.revision.launch import evaluated_launch
from backend.revision.tensors import HostCodeError, RefusedByHostCode

PLANNER_FILES = {
    MetadataMode.FAKE: "csrc/kernels/mla/metadata/v1_0_device.cuh",
    MetadataMode.GREEDY: "csrc/kernels/mla/metadata/v1_1_device.cuh",
    MetadataMode.FAST: "csrc/kernels/mla/metadata/v1_2_device.cuh",
}
"""Where the planner of each mode is written."""

SAME_PLANNERS = {
    "164f5e5abb1cda4d800e9f008880bbda84d4bfa44e5041c1daf9e9641566b7fe": "2025-11",  # v1_1
    "77a2842f65ef501044415f4132ddabb0319fed3c515b053fb36df9eea46f1dd9": "2025-11",  # v1_2
    "5f6787631883f964aec1edda8c7cf70990affa7605463aacb504c77dd049af50": "2026-06",  # v1_0
    "e6bcfe5a641bfd8aad4c55175bed58541bbd4e9562c85c29abdbadd138ac4f0f": "2026-06",  # v1_1
    "7f7446559b7efb5c4ddbc90692b8137537d964e6ade6bf3544e32f41aaefa212": "2026-06",  # v1_2
    "47eab6b75c40b51c5e24f7181786961623d7b01c2856cb76bbafc245cd537ff8": "2026-08",  # v1_0
    "69bc6cc179c1543e6c8abf07c69e86678688dbaf3198b1de20e0736afdaa4084": "2026-08",  # v1_1
    "8cbe4e0c9b00d310defaf5b65ad8f105ee0b9d0761ce249e6a732583c7dc43c6": "2026-08",  # v1_2
}
"""`spelled_alike` of each planner's file -> the built-in release that has it; a test compares them with a checkout."""


def host_of(source: CodeSource | None, environment: Mapping[str, str] | None = None) -> Host:
    """The host of a source: the built-in rules for none, for the installed wheel and for a single code object, the revision's
    own for a checkout. environment: of the process that AITER runs in beyond the source's switches; see Revision.

    Raises UsageError for a switch that the revision does not ask for.
    """
    if source is None or source.read(SIZING_FILE) is None or source.read(PLANNER_FILES[MetadataMode.FAST]) is None:
        return BuiltIn(source)
    for name in switches_of(source):
        _check_asked_for(source, name)
    return Revision(source, environment)


def _check_asked_for(source: CodeSource, switch: str) -> None:
    paths = (SIZING_FILE, DECODE_FILE, *PLANNER_FILES.values(), ENTRY_FILE, LAUNCHER_FILE, REDUCTION_FILE)
    if not any(switch.encode() in (source.read(path) or b"") for path in paths):
        raise UsageError.not_allowed(
            "switch of AITER", switch, f"an environment variable that {source.label} asks for", "see docs/revisions.md"
        )


class Revision(Host):
    """The host side of one revision. source: its files. environment: variables that AITER's code asks for, none by default.

    stands_in: whether the nearest release's rules stand in where the text uses what is not provided for, which `doubts` says;
    without, such a call is not modelled. Raises CannotRunError where the revision cannot be judged.
    """

    def __init__(self, source: CodeSource, environment: Mapping[str, str] | None = None, *, stands_in: bool = False) -> None:
        self.source: CodeSource = source
        self.guesses = stands_in
        self._environment = switches_of(source) | dict(environment or {})
        self._nearest = nearest_release(source).name
        self._planners = Planners(self._read)
        self._launcher = Launcher(self._read, source.has)
        self._reduction = Reduction(self._read)
        self._sized: dict[tuple[TargetGpu, SizingArguments], BufferSizes] = {}
        self._stood_in: dict[tuple[Part, MetadataMode], str] = {}

    @property
    def label(self) -> str:
        """Names the files that it was read from."""
        return self.source.label

    def stood_for(self, case: Case) -> Case:
        """The case of the built-in release that is nearest."""
        return case.replace(release=self._nearest)

    def call(self, decision: Decision) -> Call:
        """Everything from the revision's text; the case's release becomes the nearest one, which has the model's rules."""
        if self._built_in is not None:
            made = BuiltIn(self.source).call(self._as_built_in(decision))
        else:
            made = self._call(dataclasses.replace(decision, case=decision.case.replace(release=self._nearest)))
        return dataclasses.replace(made, revision=revision_of(self.source))

    def plan(self, rules: str, device: TargetGpu, planning: PlanArguments, allocated: BufferSizes) -> Plan:
        """Plans by the revision's text (see Host.plan), whatever release is named."""
        del rules
        if self._built_in is not None:
            return BuiltIn(self.source).plan(self._built_in, device, planning, allocated)
        return self._plan(planning.mode, device, planning, allocated)

    def planning_check_ends(self, rules: str) -> bool:
        """By the revision's text (see Host.planning_check_ends), whatever release is named."""
        del rules
        if self._built_in is not None:
            return BuiltIn(self.source).planning_check_ends(self._built_in)
        return self._planners.checks_end_process

    def launch(self, decision: Decision, decode: DecodeArguments) -> Launch | Refusal:
        """Launches by the revision's text (see Host.launch)."""
        if self._built_in is not None:
            return BuiltIn(self.source).launch(self._as_built_in(decision), decode)
        return self._launch(decision.mode, TargetGpu(decision.case.arch, decision.case.compute_units), decode)

    def launcher(self, has_rules: bool) -> Launcher | None:
        """The revision's (see Host.launcher), unless its host sources are a built-in release's whose rules will do."""
        return None if has_rules and self._built_in is not None else self._launcher

    def _as_built_in(self, decision: Decision) -> Decision:
        return dataclasses.replace(decision, case=decision.case.replace(release=self._built_in or self._nearest))

    def doubts(self, decision: Decision) -> tuple[Doubt, ...]:
        """What stood in for rules that are not known to be the revision's own, in a call of that decision."""
        if self._built_in is not None:
            return ()
        second: str | None = None
        with suppress(CannotRunError, UnmodelledError):
            made = self.call(decision)
            second = made.launch.second_stage.stands_in if isinstance(made.launch, Launch) else None
        found = [Doubt(part, text) for (part, mode), text in self._stood_in.items() if mode is decision.mode]
        return (*found, *(Doubt(Part.REDUCTION, each) for each in (second,) if each is not None))

    def bases(self, decision: Decision) -> Mapping[Part, Basis]:
        """What each part of a call rests on."""
        if self._built_in is not None:
            return BuiltIn(self.source).bases(decision)
        doubted = {doubt.part for doubt in self.doubts(decision)}
        found = dict.fromkeys(Part, Basis.EVALUATED)
        if self._same_planner(decision.mode) is not None:
            found[Part.PLANNER] = Basis.BUILT_IN
        found.update(dict.fromkeys(doubted, Basis.STAND_IN))
        if decision.mode is MetadataMode.NON_PERSISTENT:
            del found[Part.PLANNER], found[Part.SIZING]
        return found

    def warning(self) -> str | None:
        """What is the revision's own, and what is not."""
        if self._built_in is not None:
            return f"{self.label}: its host code is that of release {self._built_in}, byte for byte: built in and equal"
        equal = {name: mode.value for mode, name in self._same_planners.items() if not self._environment}
        planners = "".join(f"; the planner of mode {mode} is built in and equal ({name})" for name, mode in equal.items())
        return f"{self.label}: host code is evaluated from its own text{planners}{self._strange}"

    @property
    def _strange(self) -> str:
        """What of the second stage stands in, whatever is called."""
        known = self._reduction.keeps_map is not None, merge_is_known(self._read(DECODE_FILE) or "")
        missing = [
            name for name, known in zip((REDUCTION_FILE, f"the merge of {DECODE_FILE}"), known, strict=True) if not known
        ]
        stands_in = f"; kernels that nobody has read, for which release {self._nearest} stands in: {', '.join(missing)}"
        return stands_in if missing else ""

    @cached_property
    def _built_in(self) -> str | None:
        """The built-in release whose host sources are this revision's, byte for byte, and do what they do without switches."""
        for name in () if self._environment else RELEASES:
            expected = release(name).host_fingerprints
            if expected and all(_digest(self.source.read(path)) == digest for path, digest in expected.items()):
                return name
        return None

    def _same_planner(self, mode: MetadataMode) -> Release | None:
        """The built-in release that has this revision's planner of a mode; None where none has."""
        name = self._same_planners.get(mode)
        return release(name) if name is not None and not self._environment else None

    @cached_property
    def _same_planners(self) -> dict[MetadataMode, str]:
        texts = {mode: self._read(path) for mode, path in PLANNER_FILES.items()}
        digests = {mode: spelled_alike(text) for mode, text in texts.items() if text is not None}
        return {mode: SAME_PLANNERS[digest] for mode, digest in digests.items() if digest in SAME_PLANNERS}

    def _call(self, decision: Decision) -> Call:
        device = TargetGpu(decision.case.arch, decision.case.compute_units)
        allocated: BufferSizes | None = None
        needed: BufferSizes | None = None
        planned: Plan | None = None
        if decision.sizing is not None and decision.planning is not None:
            try:
                allocated = self._sizes(device, decision.sizing)
                needed = self._sizes(device, sizing_of(decision.planning, decision.sizing))
            except RefusedByHostCode as refused:
                refusal = Refusal("get_mla_metadata_info_v1", str(refused))
                return Call(decision, device, None, None, None, decision.decode, refusal)
            planned = self._plan(decision.mode, device, decision.planning, allocated)
        decode = decision.decode.with_metadata(allocated)
        return Call(decision, device, allocated, needed, planned, decode, self._launch(decision.mode, device, decode))

    def _sizes(self, device: TargetGpu, arguments: SizingArguments) -> BufferSizes:
        key = device, arguments
        if key not in self._sized:
            self._sized[key] = executed_sizes(self._text(SIZING_FILE), device, arguments, self._environment)
        return self._sized[key]

    def _plan(self, mode: MetadataMode, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> Plan:
        same = self._same_planner(mode)
        if same is not None:
            return plan(same.planners, device, arguments, allocated)
        try:
            return self._planners.plan(device, arguments, allocated, Switches(self._environment, {}))
        except CxxError as error:
            if not self.guesses:
                raise UnmodelledError(f"{self.source.label}: planner: {error}") from error
            self._stood_in[Part.PLANNER, mode] = f"planned as {self._nearest} does: {error}"
            return plan(release(self._nearest).planners, device, arguments, allocated)

    def _launch(self, mode: MetadataMode, device: TargetGpu, decode: DecodeArguments) -> Launch | Refusal:
        rules = release(self._nearest)
        texts = self._text(DECODE_FILE), self._text(SIZING_FILE)
        try:
            return evaluated_launch(
                rules, device, decode, self.source, self._launcher, self._reduction, texts, self._environment
            )
        except (CxxError, HostCodeError) as error:
            if not self.guesses:
                raise UnmodelledError(f"{self.source.label}: launcher: {error}") from error
            self._stood_in[Part.LAUNCHER, mode] = f"launched as {self._nearest} does, by its own kernel table: {error}"
            return launch(release(self._nearest), device, decode, self.source)

    def _read(self, path: str) -> str | None:
        content = self.source.read(path)
        return None if content is None else content.decode("utf-8", "replace")

    def _text(self, path: str) -> str:
        content = self._read(path)
        if content is None:
            raise CannotRunError(f"{self.source.label}: no {path}, so the revision cannot be judged")
        return content


def _digest(content: bytes | None) -> str:
    return hashlib.sha256(content or b"").hexdigest()


def spelled_alike(text: str) -> str:
    """sha256 of C++ without comments, spacing, includes and the helper library's name (ck_tile until aiter#2717, then opus)."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/|^\s*#include[^\n]*", "", text, flags=re.DOTALL | re.MULTILINE)
    bare = re.sub(r"\b(ck_tile|opus)::", "", bare)
    bare = re.sub(r"\bget_lane_id\b", "lane_id", bare)
    bare = re.sub(r"\bCK_TILE_DEVICE\b", "__device__", bare)
    return hashlib.sha256(re.sub(r"\s+", "", bare).encode()).hexdigest()
