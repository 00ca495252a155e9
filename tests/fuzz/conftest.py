"""What the tests of every command share."""

from __future__ import annotations

import pytest
from each_command import made_places


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands for the names in braces of command lines: files and folders, most of them useless."""
    return made_places(tmp_path_factory.mktemp("places"))
