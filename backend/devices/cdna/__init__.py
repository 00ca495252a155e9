"""Device `cdna`: AITER's real machine code, run on the CPU with every global access checked."""
