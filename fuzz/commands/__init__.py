"""One module for each command: `add` declares its arguments, `run` does it and returns the exit code.

Modules here import nothing slow at the top: `aiterfuzz --help` must not wait for numba or Ray.
"""
