"""The process that runs cases, before it is known which: its imports take as long as all of its parent's, and run beside them.

Imports nothing slow.
"""

from __future__ import annotations

import sys

from backend.child.process import ChildProcess

COMMAND = (sys.executable, "-c", "import gc; gc.disable(); from fuzz.campaign.child import main; main()")
"""Without garbage collection until all is imported: nothing of that is ever garbage, and looking costs a tenth of a start."""


def case_process() -> ChildProcess:
    """Starts one; whoever takes it (fuzz.campaign.worker) says what it is for, in its first task."""
    return ChildProcess(COMMAND, {})
