"""The gate: a backend change judged by its own source file, run as shipped on a GPU that isn't there."""
