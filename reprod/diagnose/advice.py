"""What to add to a log next time, by what this one lacks, and what would tell causes apart. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backend.findings import FindingKind
from reprod.diagnose.causes import Cause
from reprod.diagnose.diagnosis import Diagnosis
from reprod.diagnose.evidence import Ending
from reprod.diagnose.facts import Topic

VARIABLES = {
    "AITER_LOG_MORE": "AITER prints the kernels that it loads (AITER_LOG_LEVEL=INFO where it prints none)",
    "AMD_SERIALIZE_KERNEL": "3: each launch is waited for, so that the fault is that of the launch printed last",
    "AMD_LOG_LEVEL": "3 (with AMD_LOG_MASK=0x2): HIP prints each launch with its kernel's name, grid and argument address",
    "HSA_TOOLS_LIB": "librocm-debug-agent.so.2 with HSA_ENABLE_DEBUG=1: waves with their pc, registers and disassembly",
    "HSA_COREDUMP_PATTERN": "a GPU core dump for rocgdb: `info threads`, `x/8i $pc`, `info registers`",
    "PYTORCH_NO_HIP_MEMORY_CACHING": "1: each tensor in an allocation of its own: an overrun faults near its cause",
}
"""Environment variables that make a log tell more, and what they make it tell."""


def next_time(done: Diagnosis) -> Iterator[str]:
    """What this log lacks, the most useful first."""
    facts, evidence = done.facts, done.evidence
    if not evidence.aiter_revision:
        yield "AITER's revision: `pip show amd-aiter`, or `git -C AITER rev-parse HEAD` where it is built from a checkout"
    elif not done.revision.exact:
        yield f"a checkout of ROCm/aiter that has {evidence.aiter_revision}: --aiter PATH"
    if done.revision.source is None and evidence.aiter_revision and done.revision.exact:
        yield "a checkout of ROCm/aiter: --aiter PATH, for machine code and for what a pc is"
    if not evidence.framework:
        yield "the framework and its version, and the server's command line with every argument"
    elif not evidence.framework_version:
        yield f"{evidence.framework}'s version (`pip show {evidence.framework}`)"
    if evidence.arch is None and len(done.archs) > 1:
        yield "the GPU (`rocminfo | grep gfx`)"
    if evidence.heads is None and done.kernel is None:
        yield "model and ranks (tensor and data parallel), which give the heads of a rank"
    if not evidence.batches and not evidence.capturing:
        yield "the batch: requests and their lengths, or whether a graph was being captured"
    if evidence.ending in (Ending.FAULT, Ending.HANG, Ending.UNKNOWN):
        yield from _variables(done)
    if evidence.ending is Ending.FAULT and not facts.has(Topic.FAULT_IS_WRITE):
        yield "`dmesg` around the fault: VM_L2_PROTECTION_FAULT_STATUS says whether it was a write"


def _variables(done: Diagnosis) -> Iterator[str]:
    facts = done.facts
    wanted = []
    if not facts.has(Topic.KERNEL, Topic.KERNEL_FILE):
        wanted.append("AITER_LOG_MORE")
    if not facts.has(Topic.FAULTING_KERNEL):
        wanted += ["AMD_SERIALIZE_KERNEL", "AMD_LOG_LEVEL"]
    if not facts.has(Topic.PC):
        wanted += ["HSA_TOOLS_LIB", "HSA_COREDUMP_PATTERN"]
    yield from (
        f"{name}={VARIABLES[name]}" if VARIABLES[name][0].isdigit() else f"{name}: {VARIABLES[name]}" for name in wanted
    )


_TELLING = ("arch", "num_head", "q_dtype", "kv_dtype", "max_seqlen_q", "backend", "mode")
"""Fields of a Case that whoever has the server knows."""


def what_differs(cause: Cause, alike: Sequence[Cause]) -> Iterator[str]:
    """The fields of a cause's case that others of the same words have otherwise, each with its value."""
    for name in _TELLING:
        if len({getattr(each.case, name) for each in alike}) > 1:
            yield f"{name.replace('_', ' ')} {getattr(cause.case, name)}"


def telling_apart(causes: Sequence[Cause]) -> Iterator[str]:
    """What differs between the first cause and those behind it, and how one would see it."""
    ran = [cause for cause in causes if cause.outcome is not None]
    if len(ran) < 2:
        return
    kernels = {_kernel(cause) for cause in ran} - {""}
    if len(kernels) > 1:
        yield f"which kernel ran ({', '.join(sorted(kernels))}): AMD_SERIALIZE_KERNEL=3 and AMD_LOG_LEVEL=3 name it"
    first = ran[0]
    for other in ran[1:]:
        differing = [
            f"{name.replace('_', ' ')} {getattr(first.case, name)} or {getattr(other.case, name)}"
            for name in _TELLING
            if getattr(first.case, name) != getattr(other.case, name)
        ]
        if differing:
            yield f"1 needs, of these, the first: {', '.join(differing)}"
            break
    writes = [{finding.kind for finding in (cause.outcome.findings if cause.outcome else ())} for cause in ran]
    if len({FindingKind.OUT_OF_BOUNDS_WRITE in kinds for kinds in writes}) > 1:
        yield "whether the fault was a write: dmesg's VM_L2_PROTECTION_FAULT_STATUS (RW)"


def _kernel(cause: Cause) -> str:
    call = cause.outcome.call if cause.outcome is not None else None
    return getattr(call.launch, "code_object", "") if call is not None else ""
