"""Says on stderr what a stranger's code is not kept from on this machine, before any of it runs. Knows no command."""

from __future__ import annotations

import sys


def say_what_the_fence_lacks() -> None:
    """One line where the best fence that there is keeps from less than bubblewrap does; nothing else."""
    from backend.child.fence import weaker_than_promised

    weaker = weaker_than_promised()
    if weaker is not None:
        print(f"aiterfuzz: {weaker}", file=sys.stderr, flush=True)
