"""What the model knows of one kernel beyond its kernargs: a row of a table that was drawn from runs of its machine code.

The table (traits.csv, by the git object id of the code object) says what the binary does, not what it should do.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class KernelTraits:
    """Measured behaviour of a code object.

    blob_id: git object id, "" for a kernel that was never measured (everything at its default).
    whole_tile: whether it reads and writes max_seqlen_q rows an item whatever q_end says.
    reads_batch: whether it reads the item's batch field and, by it, qo_indptr.
    page_bits: bits that page_id * stride survives in the address (24, 32 or 64).
    honours_page_size: False where the kernel takes every index for one token's.
    """

    blob_id: str = ""
    whole_tile: bool = False
    reads_batch: bool = False
    page_bits: int = 64
    honours_page_size: bool = True

    def rows_touched(self, item_rows: npt.NDArray[np.int64], max_seqlen_q: int) -> npt.NDArray[np.int64]:
        """Rows of q read and of o written for items of `item_rows` rows."""
        return np.full_like(item_rows, max_seqlen_q) if self.whole_tile else item_rows


@cache
def traits_table() -> dict[str, KernelTraits]:
    """All measured kernels, by blob id."""
    text = files(__package__).joinpath("traits.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["blob_id"]: KernelTraits(
            row["blob_id"],
            row["whole_tile"] == "1",
            row["reads_batch"] == "1",
            int(row["page_bits"]),
            row["honours_page_size"] == "1",
        )
        for row in rows
    }


def traits(blob_id: str | None) -> KernelTraits:
    """The traits of a code object; defaults where it was not measured."""
    return traits_table().get(blob_id or "", KernelTraits())
