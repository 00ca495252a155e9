"""How a script is run on the virtual GPU, as plain data that goes through JSON. Knows neither torch nor who runs it."""

from __future__ import annotations

from dataclasses import dataclass

from backend.case import Arch

DEFAULT_NODE = 1
"""ROCm counts CPUs first: on a machine with one socket the first GPU is node 1."""


@dataclass(frozen=True, slots=True)
class Options:
    """See the module. aiter: PATH[@REVISION] of a checkout, None: by release. release: whose rules, None: the nearest.

    num_cu: compute units, 0: the whole GPU. node: of the first GPU in fault messages. reports: folder for reports.
    """

    arch: Arch
    aiter: str | None = None
    release: str | None = None
    num_cu: int = 0
    node: int = DEFAULT_NODE
    reports: str = ""
