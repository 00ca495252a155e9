"""Byte-exact findings of a script's decode calls: each is judged by this project's device and checks, as a recorded backend is.

Hardware sees only what leaves mapped memory; here every access is held against the logical tensors that the script passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from backend.aiter.arguments import DecodeArguments, TargetGpu
from backend.aiter.launch import Launch
from backend.aiter.tensors import gap_between_rows
from backend.call import Call
from backend.checks.planned_for import blamed, stores_into_o
from backend.devices.device import Device
from backend.errors import AiterfuzzError
from backend.fate import Fate
from backend.findings import Finding, FindingKind, Party, Severity
from backend.host import Host
from backend.real.aiter_ops import DECODING, SIZING, OpCall
from backend.real.frameworks.record import Phase, RecordedStep
from backend.real.frameworks.scenarios import StepKind
from backend.real.frameworks.steps import outcome_of
from backend.real.observe import CallWatcher, DecodeSeen, decode_arguments, metadata_words, on_host, words_read
from backend.real.script.graphs import FreedAccess
from backend.real.script.messages import SeenFinding
from backend.real.script.timeline import Done, GpuWork, Timeline
from backend.real.theirs import error_of_ours
from backend.real.torch_shim import host
from backend.words import counted

SCRIPT = "script"


class ScriptWatcher(CallWatcher):
    """Observer of the public calls that judges each decode call as it is made. after_abort: set when hardware has aborted.

    found: called when there is a finding that was not there before. notice: with why a call cannot be followed, which ends it.
    timeline: has work done, at once or in a replay.
    """

    def judge_with(self, release: str, device: TargetGpu, runs: Device, host: Host) -> ScriptWatcher:
        """Say what decode calls are judged by. Returns itself."""
        self.release, self.device, self.runs, self.host = release, device, runs, host
        self.after_abort = False
        self.calls = 0
        self.seen: dict[str, SeenFinding] = {}
        self.not_judged: list[str] = []
        self.found: Callable[[], None] = lambda: None
        self.notice: Callable[[str], None] = lambda why: None
        self.timeline = Timeline()
        return self

    def forget(self) -> None:
        """Start counting again, in another process."""
        self.calls = 0
        self.seen.clear()
        self.not_judged.clear()

    def entered(self, call: OpCall) -> None:
        """Judge a decode call before it changes anything; of a captured one, each replay."""
        name, ignored, replayed = call.name, call.ignored, self.timeline.capture is not None

        def enter(given: Mapping[str, Any]) -> None:
            try:
                super(ScriptWatcher, self).entered(OpCall(name, dict(given), ignored))
            except AiterfuzzError as error:
                self.notice(str(error))
                raise
            if name == DECODING:
                seen = self.decodes.pop()
                self.calls += 1
                self._judge(seen, replayed)

        if name == SIZING:
            enter(call.arguments)
        else:
            self.timeline.do(GpuWork(name, call.arguments, lambda given: (), enter))

    def unordered(self, first: Done, second: Done) -> None:
        """Keep that two accesses to the same bytes have no order."""
        writer, other = (first, second) if first.access.is_write else (second, first)
        tensor = writer.access.tensor or other.access.tensor
        verb = "writes" if other.access.is_write else "reads"
        message = (
            f"{writer.what} writes {tensor or 'a tensor'} on stream {writer.stream}, and {other.what} {verb} it on stream "
            f"{other.stream}: no event or synchronization orders the two, and which comes first is left to chance"
        )
        kind = FindingKind.STREAM_RACE
        between = f"{writer.what} and {other.what}"
        self.note(Finding(kind, kind.severity, Party.CALLER, SCRIPT, tensor, message, discriminator=between))

    def gone(self, found: FreedAccess) -> None:
        """Keep that a graph's replay uses a tensor that was freed after the capture."""
        kind = FindingKind.FREED_UNDER_GRAPH
        verb = "writes" if found.is_write else "reads"
        whose = (
            "nobody's"
            if found.now is None
            else f"that of another tensor of {counted(found.now.nbytes, 'byte')}, allocated since"
        )
        message = (
            f"the replay's {found.what} {verb} {found.tensor} {found.was.shape}, which was captured at "
            f"{found.was.storage.address:#x} and freed since: the memory is {whose}"
        )
        severity = Severity.WRITE if found.is_write else Severity.READ
        evidence = {"address": found.was.storage.address, "nbytes": found.was.storage.nbytes}
        self.note(Finding(kind, severity, Party.CALLER, SCRIPT, found.tensor, message, evidence, found.what))

    def note(self, finding: Finding) -> None:
        """Keep a finding, or count it where it was made before."""
        before = self.seen.get(finding.signature)
        if before is None:
            by_kernel = finding.kind.rank >= FindingKind.NULL_POINTER.rank and finding.party is not Party.PLANNER
            self.seen[finding.signature] = SeenFinding(finding, 1, self.after_abort and by_kernel)
            self.found()
        else:
            self.seen[finding.signature] = SeenFinding(before.finding, before.calls + 1, before.after_abort)

    def _judge(self, seen: DecodeSeen, replayed: bool) -> None:
        strangers = on_host(seen.call.arguments)
        for name in strangers:
            kind = FindingKind.HOST_TENSOR
            message = f"mla_decode_fwd gets {name} on the CPU; its kernel reads the address as one of the GPU's"
            self.note(Finding(kind, kind.severity, Party.CALLER, SCRIPT, name, message))
        if strangers:
            return
        try:
            outcome = outcome_of(self._step(seen, replayed), self.runs, self.host, SCRIPT)
        except AiterfuzzError as error:
            self._not_judged(str(error))
            return
        except MemoryError:
            self._not_judged("its metadata names more rows or tokens than can be followed: words that no planner wrote")
            return
        except Exception as error:
            self._not_judged(error_of_ours(error) or f"{type(error).__name__}: {error}")
            return
        if outcome.fate is Fate.UNMODELLED:
            self._not_judged(str(outcome.reason))
        if outcome.call is not None and isinstance(outcome.call.launch, Launch):
            for finding in _views_with_gaps(seen.call.arguments, outcome.call):
                self.note(finding)
        for finding in blamed([*self._other_metadata(seen), *outcome.findings]):
            if finding.severity is not Severity.REFUSED:
                self.note(finding)

    def _other_metadata(self, seen: DecodeSeen) -> Iterator[Finding]:
        """Metadata buffers that are not those of one planning call, each of which AITER takes as it is."""
        given, kind = seen.call.arguments, FindingKind.PLAN_MISMATCH
        apart = self.filled_apart(self.decode_buffers(seen))
        if apart:
            message = f"the metadata is of several planning calls: {', '.join(apart)} of another than work_info_set"
            yield Finding(
                kind, kind.severity, Party.CALLER, SCRIPT, "", message, {"differ": ", ".join(apart)}, "planning calls"
            )
        named = [given[name] for name in ("work_indptr", "work_info_set") if given.get(name) is not None]
        if given.get("work_meta_data") is None or len(named) < 2:
            return
        held = words_read(given["work_meta_data"], _ADDRESSES)[:_ADDRESSES].view(np.uint64).tolist()
        if held != [host(each).data_ptr() for each in named]:
            message = (
                "work_meta_data holds the addresses of other buffers than the work_indptr and work_info_set of the decode call "
                "(a copy keeps those of the planning call's), and kernels read where it says"
            )
            yield Finding(kind, kind.severity, Party.CALLER, SCRIPT, "work_meta_data", message, {}, "addresses")

    def _not_judged(self, why: str) -> None:
        self.not_judged.append(f"mla_decode_fwd call {self.calls} is not judged byte by byte: {why}")

    def _step(self, seen: DecodeSeen, replayed: bool) -> RecordedStep:
        given = seen.call.arguments
        decode = decode_arguments(given, replayed)
        buffers = self.decode_buffers(seen)
        plan, sizing = self.plan_of(buffers), self.sizing_of(buffers)
        return RecordedStep(
            scenario=SCRIPT,
            step=0,
            call=self.calls,
            phase=Phase.REPLAY if replayed else Phase.EAGER,
            kind=StepKind.DECODE,
            backend=0,
            release=self.release,
            device=self.device,
            num_head=decode.num_head,
            kv_lens=_kv_lens(decode),
            query_lens=tuple(np.diff(decode.qo_indptr).tolist()),
            padded=0,
            padded_kv_len=0,
            slots=decode.kv_indices[: max(int(decode.kv_indptr[-1]), 0)],
            sizing=sizing.arguments if sizing is not None else None,
            planning=plan.arguments if plan is not None else None,
            decode=decode,
            planning_buffers=plan.buffers if plan is not None else (),
            decode_buffers=buffers,
            lines={},
            ignored=seen.call.ignored,
            strays=(),
            q_dtype_name="",
            kv_dtype_name="",
            metadata_words=metadata_words(given),
        )


_ADDRESSES = 4
"""int32 words of work_meta_data: two addresses."""


def _views_with_gaps(given: Mapping[str, Any], call: Call) -> Iterator[Finding]:
    """Of o and the pool, those whose rows or pages are no stretches of memory, where the kernel takes them to be.

    Rows and pages that lie apart are judged with the call (backend/checks/planned_for.py); q's AITER looks at itself.
    """
    for name in ("o", "kv_buffer"):
        tensor = host(given[name])
        if gap_between_rows(tuple(tensor.shape), tuple(tensor.stride())) is not None or (
            name == "o" and not stores_into_o(call)
        ):
            continue
        kind, severity = FindingKind.VIEW_WITH_GAPS, Severity.WRITE if name == "o" else Severity.READ
        message = (
            f"mla_decode_fwd gets {name} {tuple(tensor.shape)} with strides {tensor.stride()}; {call.launched.code_object} "
            "takes its rows to lie one behind the other"
        )
        yield Finding(kind, severity, Party.CALLER, SCRIPT, name, message)


def _kv_lens(decode: DecodeArguments) -> tuple[int, ...]:
    """Tokens of each request, as the index tensors have them."""
    pages = np.diff(decode.kv_indptr)
    if decode.page_size == 1:  # kv_last_page_lens says nothing then
        return tuple(np.maximum(pages, 0).tolist())
    pages = pages[: len(decode.kv_last_page_lens)]
    tokens = np.where(pages > 0, (pages - 1) * decode.page_size + decode.kv_last_page_lens[: len(pages)], 0)
    return tuple(np.maximum(tokens, 0).tolist())
