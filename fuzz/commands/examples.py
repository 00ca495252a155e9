"""What `--help` of a command ends with: its exit codes where it does not tell its own, and examples to begin with."""

from __future__ import annotations

from collections.abc import Mapping

EXIT_CODES = (
    "Exit codes: 0 nothing found but what is expected, 1 faults found, 2 wrong usage, 3 could not run, or less ran than was "
    "asked for and nothing was found."
)

WROTE = "Exit codes: 0 written, 2 wrong usage, 3 could not run."
"""Of commands that only write something."""

WRITING = ("corpus add", "corpus nightly-test", "corpus write", "corpus mark", "rule new")

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "run": (
        "aiterfuzz run --backend sglang-27188 --shapes tp2,tp4 --archs mi355x --q-dtype fp8 --kv-dtype fp8",
        "aiterfuzz run --backend my_rule.py --heads 16,64 --seconds 60",
    ),
    "campaign": (
        "aiterfuzz campaign --backend sglang-27188 --shapes tp2,tp4 --seconds 3600 --out night",
        "aiterfuzz campaign --resume --out night",
    ),
    "report": ("aiterfuzz report night", "aiterfuzz report night-1 night-2 --out both --json"),
    "explain": (
        "aiterfuzz explain F1",
        "aiterfuzz explain --backend sglang-before-27188 --heads 64 --kv-lens 1 -q",
        "aiterfuzz explain findings/2026-11-30-220000/bug-head-width-64 --release 2026-08",
    ),
    "diagnose": ("aiterfuzz diagnose server.log dmesg.txt --aiter aiter@v0.1.14 --out diagnosis",),
    "gate": (
        "aiterfuzz gate sglang==0.5.13 --base sglang==0.5.12.post1",
        "aiterfuzz gate python/sglang/srt/layers/attention/aiter_backend.py --base .@HEAD --heads 64,48",
        "aiterfuzz gate my_rule.py --base sglang-27188",
    ),
    "scout": ("aiterfuzz scout sglang==0.5.13 --aiter aiter@main",),
    "bisect": (
        "aiterfuzz bisect F6 --aiter aiter --good v0.1.20 --bad v0.1.14",
        "aiterfuzz bisect F1 --backend-sources sglang==0.5.12.post1 sglang==0.5.13",
    ),
    "corpus add": ('aiterfuzz corpus add FINDING --id O99 --title "What goes wrong, and where"',),
    "corpus nightly-test": ("aiterfuzz corpus nightly-test F1 --out test_mla_head_width.py",),
    "corpus write": ("aiterfuzz corpus write F1 --out reports --for sglang",),
    "corpus mark": ("aiterfuzz corpus mark O2 filed --issue ROCm/aiter#3496",),
    "corpus replay": ("aiterfuzz corpus replay F1 O2", "aiterfuzz corpus replay --aiter aiter"),
    "rule new": ("aiterfuzz rule new my_rule.py",),
    "selftest agree": ("aiterfuzz selftest agree --devices model,cdna --aiter aiter --cases 50",),
    "selftest accuracy kernels": ("aiterfuzz selftest accuracy kernels --aiter aiter --heads 16 --kv-lens 20",),
    "selftest accuracy gsm8k": ("aiterfuzz selftest accuracy gsm8k --url http://127.0.0.1:30000 --data test.jsonl",),
    "verify": ("aiterfuzz verify repro.py --arch gfx950", "aiterfuzz verify FINDING -- --fixed"),
    "takes": ("aiterfuzz takes aiter v0.1.14..v0.1.20 --finds",),
    "doctor": ("aiterfuzz doctor",),
    "version": ("aiterfuzz version --json",),
}
"""By the words of the command."""


def closing(words: str, told: str) -> str:
    """What follows the help of a command. words: by which it is called; told: its help, which may tell its exit codes."""
    codes = WROTE if words in WRITING else EXIT_CODES
    parts = [] if "xit codes" in told else [codes]
    examples = EXAMPLES.get(words, ())
    if examples:
        parts.append("\n".join(("examples:", *(f"  {each}" for each in examples))))
    return "\n\n".join(parts)
