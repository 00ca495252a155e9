"""AITER's host side by release: planners, sizing, fold rule, kernel table, kernargs, reduction. Knows nothing of simulation."""
