"""A child process that holds the kernels under test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.child.service import Child


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        with Child("services:Kernels", {}, environment={"TRITON_INTERPRET": "1"}) as opened:
            yield opened
