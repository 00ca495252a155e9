"""Searching for faults: strategies, the search itself, and the command line."""
