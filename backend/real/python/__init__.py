"""Strangers' Python without importing it: where its text is, its modules as stand-ins, slices of its definitions, poison."""
