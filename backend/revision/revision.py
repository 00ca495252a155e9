"""One revision of AITER as a host: its own sizing, fold, kernel table and code objects; a built-in release's planner.

What is Python at that revision is executed from its text (backend.revision.host_code), the kernel table and the code objects
are its own, and nothing is built. Planners and launcher are C++: the planner of the built-in release whose source is the same
but for spelling is used. Where no release's is, or the launcher's text is none of those known, that is a doubt, and said.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re

from backend.aiter.arguments import BufferSizes, DecodeArguments, Device, SizingArguments
from backend.aiter.codefiles import CodeSource
from backend.aiter.fold import FoldedHeads
from backend.aiter.launch import Launch, Refusal, launch
from backend.aiter.planners import Plan, plan
from backend.aiter.release import LAUNCHER_SOURCE, nearest_release, release
from backend.aiter.sizing import sizing_of
from backend.call import Call
from backend.case import RELEASES, Case, MetadataMode
from backend.decision import Decision
from backend.errors import CannotRunError
from backend.host import Doubt, Host, Part
from backend.revision.host_code import (
    DECODE_FILE,
    SIZING_FILE,
    RefusedByHostCode,
    executed_sizes,
    executed_stage1,
)

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


class Revision(Host):
    """The host side of one revision. source: its files. Raises CannotRunError where the revision cannot be judged."""

    def __init__(self, source: CodeSource) -> None:
        self.source: CodeSource = source
        self._nearest = nearest_release(source).name

    @property
    def label(self) -> str:
        """Of its files."""
        return self.source.label

    def stood_for(self, case: Case) -> Case:
        """The case of the built-in release that is nearest."""
        return case.replace(release=self._nearest)

    def call(self, decision: Decision) -> Call:
        """Sizes and fold from the revision's text; the case's release becomes the one whose planner the revision has."""
        case = decision.case.replace(release=self._planner(decision.mode) or self._nearest)
        return self._call(dataclasses.replace(decision, case=case))

    def doubts(self, decision: Decision) -> tuple[Doubt, ...]:
        """What stands in for rules that are not known to be the revision's own, in a call of that decision."""
        mode = decision.mode
        found = []
        if mode is not MetadataMode.NON_PERSISTENT and self._planner(mode) is None:
            text = f"{PLANNER_FILES[mode]} is that of no built-in release; planned as {self._nearest} does"
            found.append(Doubt(Part.PLANNER, text))
        digest = hashlib.sha256(self.source.read(LAUNCHER_SOURCE) or b"").hexdigest()
        if digest not in {release(name).host_fingerprints[LAUNCHER_SOURCE] for name in RELEASES}:
            text = (
                f"{LAUNCHER_SOURCE} is that of no built-in release; launched as {self._nearest} does, by its own kernel table"
            )
            found.append(Doubt(Part.LAUNCHER, text))
        return tuple(found)

    def _planner(self, mode: MetadataMode) -> str | None:
        """The built-in release that has this revision's planner; None where none has."""
        content = None if mode is MetadataMode.NON_PERSISTENT else self.source.read(PLANNER_FILES[mode])
        if content is None:
            return self._nearest  # no planner runs: the revision refuses the flag that asks for it
        return SAME_PLANNERS.get(spelled_alike(content.decode("utf-8", "replace")))

    def _call(self, decision: Decision) -> Call:
        device = Device(decision.case.arch, decision.case.compute_units)
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
            planned = plan(release(decision.case.release), device, decision.planning, allocated)
        decode = dataclasses.replace(decision.decode, metadata=allocated)
        return Call(decision, device, allocated, needed, planned, decode, self._launch(device, decode))

    def _sizes(self, device: Device, arguments: SizingArguments) -> BufferSizes:
        return executed_sizes(self._text(SIZING_FILE), device, arguments)

    def _launch(self, device: Device, decode: DecodeArguments) -> Launch | Refusal:
        rules = release(self._nearest)
        if decode.metadata is None:
            return launch(rules, device, decode, self.source)
        try:
            stage1 = executed_stage1(self._text(DECODE_FILE), device, decode)
        except RefusedByHostCode as refused:
            return Refusal("mla_decode_fwd", str(refused))
        if stage1.experimental:
            raise CannotRunError(f"{self.source.label}: takes an experimental kernel, of which there is no model")
        fold = stage1.rows // decode.q_rows
        folded = FoldedHeads(fold == 1, fold, stage1.heads, copied=fold > 1 and decode.max_seqlen_q > 1)
        # The flag chooses a planner and changes no launch; whether there is one, the revision's own Python has said.
        passed = dataclasses.replace(decode, max_seqlen_q=stage1.max_seqlen_q, intra_batch_mode=False)
        return launch(rules, device, passed, self.source, folded)

    def _text(self, path: str) -> str:
        content = self.source.read(path)
        if content is None:
            raise CannotRunError(f"{self.source.label}: no {path}, so the revision cannot be judged")
        return content.decode("utf-8", "replace")


def spelled_alike(text: str) -> str:
    """sha256 of C++ without comments, spacing, includes and the helper library's name (ck_tile until aiter#2717, then opus)."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/|^\s*#include[^\n]*", "", text, flags=re.DOTALL | re.MULTILINE)
    bare = re.sub(r"\b(ck_tile|opus)::", "", bare)
    bare = re.sub(r"\bget_lane_id\b", "lane_id", bare)
    bare = re.sub(r"\bCK_TILE_DEVICE\b", "__device__", bare)
    return hashlib.sha256(re.sub(r"\s+", "", bare).encode()).hexdigest()
