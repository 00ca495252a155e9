"""Where a Call runs: `model` (access contract), `cdna` (machine code on the CPU), `rocm` and `cuda` (real GPUs)."""
