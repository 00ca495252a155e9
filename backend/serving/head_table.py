"""A rule as a TOML table, for those who prototype one: a metadata mode for each KV dtype and head count.

    [fp8]
    default = "fake"
    32 = "fast"
    64 = "fast"

    [bf16]
    default = "non-persistent"

Everything that the table does not say (padding, splits, what is refused) is sglang's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backend.case import DType, MetadataMode
from backend.errors import UsageError
from backend.file_text import text_of, toml_of
from backend.serving.sglang import AiterMlaBackend

DEFAULT = "default"
MOST_DIGITS = 9
"""Of a head count."""


@dataclass(frozen=True)
class HeadTable(AiterMlaBackend):
    """sglang's rule with its gate replaced. modes: by KV dtype and head count; 0 stands for every other count."""

    modes: Mapping[DType, Mapping[int, MetadataMode]] = field(default_factory=dict)

    def mode(self, num_head: int, kv_dtype: DType) -> MetadataMode:
        """The table's mode; sglang's where the table has no line for the dtype."""
        table = self.modes.get(kv_dtype)
        if table is None:
            return super().mode(num_head, kv_dtype)
        return table.get(num_head, table[0])


def read_head_table(path: Path) -> HeadTable:
    """The rule of a file; UsageError names the line that does not fit."""
    advice = "give a rule: a table [fp8] or [bf16] with default and head counts"
    plain = toml_of(text_of(path, "a rule in TOML"), str(path), advice)
    modes = {_dtype(path, name): _modes(path, name, table) for name, table in plain.items()}
    if not modes:
        raise UsageError(f"{path}: an empty rule; give a table [fp8] or [bf16] with default = one of {', '.join(MetadataMode)}")
    return HeadTable(fast_heads=frozenset(), modes=modes)


def _dtype(path: Path, name: str) -> DType:
    try:
        return DType(name)
    except ValueError:
        raise UsageError.not_allowed(f"{path}: table", name, ", ".join(DType)) from None


def _modes(path: Path, name: str, table: object) -> dict[int, MetadataMode]:
    if not isinstance(table, dict) or DEFAULT not in table:
        raise UsageError(f"{path}: [{name}] needs default = one of {', '.join(MetadataMode)}")
    modes = {}
    for heads, mode in table.items():
        if heads != DEFAULT and not (heads.isascii() and heads.isdigit() and len(heads) <= MOST_DIGITS):
            raise UsageError.not_allowed(f"{path}: [{name}] key", heads, f"a head count or {DEFAULT!r}")
        try:
            modes[0 if heads == DEFAULT else int(heads)] = MetadataMode(mode)
        except ValueError:
            raise UsageError.not_allowed(f"{path}: [{name}] {heads}", mode, ", ".join(MetadataMode)) from None
    return modes
