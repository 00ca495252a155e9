"""The device `both`: model and machine code on the same Call. Where they disagree, one of them is wrong, and so are we."""

from __future__ import annotations

from backend.aiter.codefiles import CodeSource
from backend.call import Call
from backend.devices.agreement import Difference, differences, incomparable
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model.device import ModelDevice
from backend.observation import Disagreement, Observation


class BothDevice:
    """See the module. source: where code objects are read, None: the installed wheel. record: keep the machine's footprints.

    What the machine saw is the observation, since it is the truth about the binary; every difference from the model is listed
    beside it and becomes a finding about this project.
    """

    name = "both"

    def __init__(self, source: CodeSource | None = None, record: bool = False) -> None:
        self._machine = CdnaDevice(source, record=True)
        self._model = ModelDevice(record=True)
        self._record = record

    def observe(self, call: Call) -> Observation:
        """Runs both. Raises what the device `cdna` raises."""
        seen, foretold = self._machine.observe(call), self._model.observe(call)
        reason = incomparable(call)
        found = [] if reason is not None else differences(seen, foretold)
        notes = (*seen.notes, *foretold.notes)
        return Observation(
            call,
            self.name,
            seen.violations,
            seen.footprints if self._record else {},
            seen.coverage,
            seen.schedule,
            notes if reason is None else (*notes, f"not compared: {reason}"),
            end=seen.end,
            disagreements=tuple(_disagreement(difference) for difference in found),
        )


def _disagreement(difference: Difference) -> Disagreement:
    return Disagreement(difference.what, ("cdna", "model"), (difference.left, difference.right))
