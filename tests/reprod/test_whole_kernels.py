"""What is run around a case whose kernels are executed whole: small shapes of the release at hand, and no others."""

from __future__ import annotations

import pytest

from backend.case import Case
from backend.errors import CannotRunError
from backend.path import Path
from reprod.sweep import MAX_TOKENS, WholeKernels

CASE = Case(num_head=16, kv_lens=(MAX_TOKENS,), release="2026-08", backend="direct")


def test_the_release_at_hand_is_run_as_a_path_runs_it() -> None:
    path = Path()
    outcome, wanted = WholeKernels(path, "2026-08").run(CASE), path.run(CASE)
    assert (outcome.case, outcome.findings, outcome.refused) == (wanted.case, wanted.findings, wanted.refused)


@pytest.mark.parametrize(
    ("changes", "told"), [({"release": "2026-06"}, "2026-08"), ({"kv_lens": (MAX_TOKENS, 1)}, f"more than {MAX_TOKENS}")]
)
def test_other_code_objects_and_long_runs_are_not_tried(changes: dict[str, object], told: str) -> None:
    with pytest.raises(CannotRunError, match=told):
        WholeKernels(Path(), "2026-08").run(CASE.replace(**changes))
