"""Which of AITER's prebuilt kernels the machine can run, by family: decoded, encoded, started. The table of docs/machine.md.

    python -m benchmarks.code_objects /path/to/aiter [REVISION] [--start]

Every code object under hsa/ of a checkout (or bare repository) for gfx942 and gfx950. A kernel is encoded when each of its
instructions has a record and its launch state is modelled; --start runs a workgroup of each as well, with every argument zero,
for a few thousand instructions: what it computes is not looked at.
"""

from __future__ import annotations

import multiprocessing
import struct
import subprocess
import sys
from collections import Counter, defaultdict
from functools import partial

import numpy as np

from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.decode import decode_one
from backend.cdna.encode import Constants, NotModelledError, encode
from backend.cdna.instruction import UndecodableError
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.program import compile_kernel, modifier_row
from backend.cdna.result import Mode
from backend.errors import AiterfuzzError

REVISION = "e4048607a535ace3a2b51ded31b1c8c2d45c0879"
ARCHS = ("gfx942", "gfx950")
STARTED_INSTRUCTIONS = 5000
Words = tuple[int, ...]


def git(repository: str, *arguments: str) -> bytes:
    """Output of git in a repository."""
    return subprocess.run(["git", "-C", repository, *arguments], capture_output=True, check=True).stdout


def paths(repository: str, revision: str) -> list[str]:
    """Code objects for the modelled architectures."""
    listed = git(repository, "ls-tree", "-r", "--name-only", revision, "hsa").decode().splitlines()
    return [path for path in listed if path.endswith(".co") and path.split("/")[1] in ARCHS]


def family(path: str) -> str:
    """Folder behind the architecture, "" for none."""
    parts = path.split("/")
    return parts[2] if len(parts) > 3 else "(no folder)"


_seen: dict[tuple[str, Words], tuple[int, str]] = {}


def look(words: Words, at: int, arch: str) -> tuple[int, str]:
    """(dwords, what is missing or "") of the instruction at words[at], kept by its words."""
    key = (arch, words[at : at + 4])
    if key not in _seen:
        try:
            instruction = decode_one(words, at, arch)
        except UndecodableError:
            _seen[key] = (1, f"undecodable {words[at]:#010x}")
            return _seen[key]
        missing = ""
        try:
            encoded = encode(instruction, Constants())
            modifier_row(instruction, encoded, 0)
        except NotModelledError as error:
            missing = f"{instruction.mnemonic}: {error}"
        _seen[key] = (instruction.size // 4, missing)
    return _seen[key]


def missing(kernel: Kernel) -> Counter[str]:
    """What of a kernel has no model, with counts."""
    words = struct.unpack(f"<{len(kernel.text) // 4}I", kernel.text)
    found: Counter[str] = Counter()
    at = 0
    while at < len(words):
        size, reason = look(words, at, kernel.arch)
        if reason:
            found[reason] += 1
        at += size
    return found


def start(kernel: Kernel) -> str:
    """Run one workgroup for a while; what stopped it, or ""."""
    try:
        block = (kernel.max_workgroup_size if kernel.max_workgroup_size <= 256 else 256, 1, 1)
        launch = MachineLaunch((1, 1, 1), block, bytes(max(kernel.kernarg_size, 16)))
        Machine(kernel, compile_kernel(kernel, False)).run(
            launch, AddressSpace(), Mode.FULL, max_instructions=STARTED_INSTRUCTIONS
        )
    except AiterfuzzError as error:
        return str(error)
    return ""


def scan(path: str, repository: str, revision: str, starts: bool) -> tuple[str, list[tuple[str, Counter[str], str]]]:
    """(path, [(kernel, what is missing, what stopped it)])."""
    try:
        kernels = load_code_object(git(repository, "show", f"{revision}:{path}")).kernels
    except AiterfuzzError as error:
        return path, [("", Counter({f"not loaded: {error}": 1}), "")]
    found = []
    for kernel in kernels:
        lacks = Counter({f"launch state: {kernel.unmodelled}": 1}) if kernel.unmodelled else missing(kernel)
        found.append((kernel.name, lacks, start(kernel) if starts and not lacks else ""))
    return path, found


def main(arguments: list[str]) -> None:
    """Scan and print."""
    starts = "--start" in arguments
    named = [each for each in arguments if not each.startswith("--")]
    repository, revision = named[0], (named[1] if len(named) > 1 else REVISION)
    kernels: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    lacking: Counter[str] = Counter()
    stopped: Counter[str] = Counter()
    work = paths(repository, revision)
    with multiprocessing.Pool() as pool:
        one = partial(scan, repository=repository, revision=revision, starts=starts)
        for path, found in pool.imap_unordered(one, work, 4):
            for _, lacks, end in found:
                row = kernels[path.split("/")[1], family(path)]
                row[0] += 1
                row[1] += not lacks
                row[2] += not lacks and not end
                lacking.update(dict.fromkeys(lacks, 1))
                stopped.update([end] if end else [])
    print("| architecture | family | kernels | encoded |" + (" started |" if starts else ""))
    print("|---|---|---|---|" + ("---|" if starts else ""))
    for (arch, name), (total, encoded, started) in sorted(kernels.items()):
        print(f"| {arch} | {name} | {total} | {encoded} |" + (f" {started} |" if starts else ""))
    counts = np.array(list(kernels.values())).sum(0)
    print(f"\n{len(work)} files, {counts[0]} kernels, {counts[1]} encoded ({counts[1] / counts[0]:.1%})", end="")
    print(f", {counts[2]} started ({counts[2] / counts[0]:.1%})" if starts else "")
    for title, reasons in (("without a model, in kernels", lacking), ("stopped", stopped)):
        for reason, count in reasons.most_common(40):
            print(f"{title}: {count:5} {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
