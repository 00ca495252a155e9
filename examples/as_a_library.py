"""aiterfuzz as a library: one case through the whole path, what is wrong with it, and the smallest case that shows the same.

python examples/as_a_library.py
"""

from backend.case import Arch, Case, DType
from backend.path import Path
from reprod.shrink import shrink


def main() -> None:
    """Prints the cause of sglang#27188 for a batch of three, and what the batch shrinks to."""
    path = Path()
    case = Case(
        arch=Arch.GFX950,
        num_head=64,
        q_dtype=DType.FP8,
        kv_dtype=DType.FP8,
        kv_lens=(700, 31, 4096),
        backend="sglang-before-27188",
        release="2026-06",
    )
    outcome = path.run(case)
    assert outcome.cause is not None, "the rule before sglang#27188 takes 64 heads for foldable"
    print(outcome.cause.signature)
    for finding in outcome.findings:
        print(f"  [{finding.severity.name.lower()}] {finding.message}")
    smallest = shrink(case, path).case
    print(f"smallest: {smallest.num_head} heads, KV lengths {smallest.kv_lens}, {smallest.max_seqlen_q} query row")


if __name__ == "__main__":
    main()
