"""Campaigns: cases spread over cores and GPUs by Ray, steered by coverage, kept in one store, told in one summary."""
