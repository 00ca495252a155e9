"""What runs in the child process: torch, Triton's interpreter and a stranger's source. Imported nowhere else."""
