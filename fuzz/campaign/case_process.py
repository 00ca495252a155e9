"""The process that runs cases, before it is known which: its imports take as long as all of its parent's, and run beside them.

Imports nothing slow.
"""

from __future__ import annotations

import sys

from backend.child.process import ChildProcess

COMMAND = (sys.executable, "-m", "fuzz.campaign.child")


def case_process() -> ChildProcess:
    """Starts one; whoever takes it (fuzz.campaign.worker) says what it is for, in its first task."""
    return ChildProcess(COMMAND, {})
