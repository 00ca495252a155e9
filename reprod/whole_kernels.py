"""What is tried around a case whose kernels are executed whole: only what ends within seconds.

A finding of numbers shows where outputs are compared, which the model does not do; its neighbours run as the case itself did.
Knows paths and cases; nothing of how a sweep chooses its shapes or tells of them.
"""

from __future__ import annotations

from backend.case import Case
from backend.errors import CannotRunError
from backend.outcome import Outcome
from backend.path import Path
from backend.serving.policy import Policy

MAX_TOKENS = 512
"""KV tokens of a batch up to which a kernel of 128 heads is executed in some seconds."""


class WholeKernels(Path):
    """The path of one release's code objects, for small cases.

    run raises CannotRunError for cases of another release, whose code objects are not at hand, and of more than MAX_TOKENS
    tokens.
    """

    def __init__(self, path: Path, release: str) -> None:
        super().__init__(path.host, path.device)
        self._release = release

    def run(self, case: Case, rule: Policy | None = None) -> Outcome:
        """The outcome of a case, as Path.run gives it."""
        if case.release != self._release:
            raise CannotRunError(f"not tried: the code objects at hand are those of {self._release}")
        if sum(case.kv_lens) > MAX_TOKENS:
            raise CannotRunError(f"not tried: more than {MAX_TOKENS} tokens take minutes")
        return super().run(case, rule)
