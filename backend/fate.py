"""What became of a case: one word, decided in one place (backend.outcome) and read by everyone else."""

from __future__ import annotations

from enum import StrEnum


class Fate(StrEnum):
    """What became of a case. Only the first two say that it ran to its end and was judged.

    The values are written into stores and reports.
    """

    CLEAN = "clean"
    FAULTY = "faulty"
    REFUSED = "refused"  # the backend or AITER does not take it: no kernel runs
    UNMODELLED = "unmodelled"  # this project has no model of something that it needs: nothing is known of it
    DIED = "died"  # the process that ran it ended, or did not come back
    NOT_RUN = "not run"  # it was not tried, for a reason that is not the case's


ENDS_PROCESS = " (which ends the process: no caller can catch it)"
"""How the reason of a refusal goes on where AITER does not raise."""
