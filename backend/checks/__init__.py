"""What is wrong with an Observation: contract, bounds, ownership, coverage, numerics. A check knows a class, never an entry."""
