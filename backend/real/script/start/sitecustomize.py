"""Python imports this when it starts. In a process of a script under `aiterfuzz verify` it has the simulation ready."""

import os

if "AITERFUZZ_SIMULATION" in os.environ:
    from backend.real.script.simulated import begin

    begin()
