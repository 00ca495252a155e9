"""Which rows of a table always run, and which run where AITERFUZZ_SLOW asks for the slow tests too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest
from _pytest.mark.structures import ParameterSet

Row = TypeVar("Row")


def one_of_each(
    rows: Iterable[Row], kind: Callable[[Row], object] = lambda row: None, name: Callable[[Row], str | None] = lambda row: None
) -> list[ParameterSet]:
    """Parameters of a test: the first row of each kind always runs and stands for the others of it, which are slow.

    kind: what a row has in common with others, anything that can be hashed; without it all rows are of one kind.
    name: the row's id; without it pytest's own.
    """
    seen: set[object] = set()
    parameters = []
    for row in rows:
        of = kind(row)
        parameters.append(
            pytest.param(
                *(row if isinstance(row, tuple) else (row,)), id=name(row), marks=[pytest.mark.slow] if of in seen else []
            )
        )
        seen.add(of)
    return parameters


def kernel_family(blob: str) -> tuple[str, bool, bool]:
    """What a prebuilt kernel has in common with others: its types, whether it follows a plan, whether it is split by rows.

    blob: its path, gfx942/mla_a8w8_qh16_qseqlen4_gqaratio16_ps.co.
    """
    name = blob.rpartition("/")[2]
    return name.partition("_qh")[0].partition("_sub")[0], "_ps" in name, "qseqlen" in name
