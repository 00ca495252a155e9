"""What this machine has of what aiterfuzz can use, and what to do about what is missing.

Imports neither torch nor Ray: torch is asked in a process of its own, which a broken driver may hang or kill.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from backend.aiter.codefiles import has_code, installed_wheel
from backend.aiter.release import release, unknown_fingerprint_warning
from backend.case import RELEASES, Arch
from backend.errors import AiterfuzzError
from backend.words import counted

TORCH_SECONDS = 120.0
"""For torch to be imported and to look for GPUs."""

ASK_TORCH = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "rocm": torch.version.hip, "gpus": []}
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    gpu = torch.cuda.get_device_properties(index)
    arch = getattr(gpu, "gcnArchName", "") if torch.version.hip else f"sm_{gpu.major}{gpu.minor}"
    found["gpus"].append([gpu.name, arch, gpu.total_memory >> 30, gpu.multi_processor_count])
print(json.dumps(found))
"""

VISIBLE = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""What hides GPUs from a process."""

A_KERNEL = "mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"
"""A code object that every release has for every architecture."""

MEMORY_GIB = 4
"""A worker's limit: with less, not even one fits."""


class FactState(StrEnum):
    """How one thing stands on the machine."""

    HERE = "here"
    MISSING = "missing"  # something cannot be done without it
    NEEDED = "needed"  # nothing can be done without it


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing. found: what there is, or why there is none; advice: what to do about it, "" for nothing."""

    name: str
    state: FactState
    found: str
    advice: str = ""


def facts() -> Iterator[Fact]:
    """All of them, the machine first."""
    yield _cores()
    yield _memory()
    torch = ask_torch()
    yield from gpu_facts(torch, drivers())
    yield _package("numba", True, "planners and kernels of every device")
    yield _package("triton", False, "device cuda")
    yield from _aiter()
    yield _ray()
    yield from _caches()


def ask_torch() -> Mapping[str, Any]:
    """What torch says of itself and of the GPUs it sees; "error" where it cannot be asked."""
    try:
        done = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=TORCH_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"torch does not answer within {TORCH_SECONDS:g} s"}
    if done.returncode == 0:
        answer: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer
    last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "")
    return {"error": last or f"torch ends with exit status {done.returncode}"}


def drivers() -> Mapping[str, bool]:
    """Whether the kernel's drivers are there, and may be used by this user: by their device files."""
    return {
        "amd": Path("/dev/kfd").exists(),
        "amd usable": os.access("/dev/kfd", os.R_OK | os.W_OK),
        "nvidia": Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists(),
    }


def gpu_facts(torch: Mapping[str, Any], driver: Mapping[str, bool]) -> Iterator[Fact]:
    """torch, its runtime and the GPUs. torch: of `ask_torch`; driver: of `drivers`."""
    if "error" in torch:
        yield Fact("torch", FactState.MISSING, torch["error"], "devices rocm and cuda need one that is built for your GPU")
        return
    runtime = f"ROCm {torch['rocm']}" if torch["rocm"] else f"CUDA {torch['cuda']}" if torch["cuda"] else "CPU only"
    yield Fact("torch", FactState.HERE, f"{torch['torch']}, built for {runtime}")
    for index, (name, arch, gib, units) in enumerate(torch["gpus"]):
        known = arch.partition(":")[0]
        foreign = torch["rocm"] and known not in ("gfx942", "gfx950")
        advice = "cases are for gfx942 (MI300X) and gfx950 (MI355X) and run on no other" if foreign else ""
        device = "rocm" if torch["rocm"] else "cuda"
        yield Fact(
            f"GPU {index}",
            FactState.HERE,
            f"{name} {arch}, {gib} GiB, {counted(units, 'compute unit')}: device {device}",
            advice,
        )
    if not torch["gpus"]:
        yield Fact("GPU", FactState.MISSING, *_no_gpu(torch, driver))


def _no_gpu(torch: Mapping[str, Any], driver: Mapping[str, bool]) -> tuple[str, str]:
    if driver["amd"] and not driver["amd usable"]:
        return "/dev/kfd is there and may not be opened", "join the groups render and video (or run the container with them)"
    if driver["amd"] and not torch["rocm"]:
        return "an AMD driver, and a torch without ROCm", "install torch for ROCm: its wheels have an index of their own"
    if driver["nvidia"] and not torch["cuda"]:
        return "an NVIDIA driver, and a torch without CUDA", "install torch for CUDA"
    if driver["amd"] or driver["nvidia"]:
        hidden = [name for name in VISIBLE if name in os.environ]
        return "a driver, and torch sees no GPU", f"look at {', '.join(hidden)}" if hidden else "try rocm-smi or nvidia-smi"
    return "none", "devices model and cdna need none; for rocm an AMD driver (/dev/kfd), for cuda an NVIDIA one"


def _cores() -> Fact:
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Fact("cores", FactState.HERE, f"{mine} of {os.cpu_count()}: as many workers of devices model and cdna")


def _memory() -> Fact:
    memory = psutil.virtual_memory()
    found = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"
    if memory.available < MEMORY_GIB << 30:
        return Fact(
            "memory", FactState.MISSING, found, f"a worker may hold {MEMORY_GIB} GiB: free some, or --worker-memory 1024"
        )
    return Fact("memory", FactState.HERE, found)


def _aiter() -> Iterator[Fact]:
    """The wheel: its revision as far as its host sources tell, its code objects."""
    advice = "devices model and cuda go on with built-in tables; cdna and rocm need it"
    try:
        wheel = installed_wheel()
    except AiterfuzzError as error:
        yield Fact("aiter", FactState.MISSING, str(error), advice)
        return
    same = [name for name in RELEASES if unknown_fingerprint_warning(release(name), wheel) is None]
    by_sources = f"host sources of release {', '.join(same)} ({release(same[0]).commit[:12]})" if same else ""
    revision = by_sources or "host sources of no release known here"
    yield Fact(
        "aiter", FactState.HERE, f"{wheel.label}, {revision}", "" if same else "give --aiter PATH@REVISION of a checkout"
    )
    archs = [arch for arch in Arch if has_code(wheel, arch, A_KERNEL)]
    if archs:
        yield Fact("code objects", FactState.HERE, f"of MLA for {', '.join(archs)}")
    else:
        found = f"no hsa/ARCH/mla/{A_KERNEL} in the wheel"
        yield Fact("code objects", FactState.MISSING, found, "give --aiter PATH of a checkout")


def _ray() -> Fact:
    fact = _package("ray", False, "campaign and nightly")
    room = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if fact.state is FactState.HERE and room < 256 << 20:
        found = f"{fact.found}, {room >> 20} MiB free in /dev/shm"
        return Fact("ray", FactState.MISSING, found, "give /dev/shm 256 MiB (a container: --shm-size)")
    return fact


def _package(name: str, needed: bool, use: str) -> Fact:
    try:
        return Fact(name, FactState.HERE, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Fact(name, FactState.NEEDED if needed else FactState.MISSING, "not installed", f"for {use}: pip install {name}")


def _caches() -> Iterator[Fact]:
    """Where compiled code is kept; without it every start compiles again."""
    root = Path(__file__).parents[1]
    numba = os.environ.get("NUMBA_CACHE_DIR") or (str(root) if os.access(root, os.W_OK) else "~/.cache/numba")
    triton = os.environ.get("TRITON_CACHE_DIR") or "~/.triton/cache"
    for name, given, variable in (("planners", numba, "NUMBA_CACHE_DIR"), ("GPU kernels", triton, "TRITON_CACHE_DIR")):
        folder = Path(given).expanduser()
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(there).free >> 20
        if os.access(there, os.W_OK) and free > 100:
            kept = "" if folder.exists() else " (nothing yet: the first run compiles for a minute)"
            yield Fact(f"cache, {name}", FactState.HERE, f"{folder}{kept}, {free:,} MiB free")
        else:
            found = f"{folder}: {free:,} MiB free, or read-only"
            yield Fact(f"cache, {name}", FactState.MISSING, found, f"set {variable} to a folder that can be written")
