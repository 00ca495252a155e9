"""Backends by name, and a user's own policy given as `module:name` or as a file `path.py[:name]`.

A policy of one's own is code. It is run where a person names it, on the command line or in the configuration of a campaign that
is begun; what is only read (a case, a corpus entry, a store) names built-in backends alone, or one that was named so.

A rule as a TOML table, for those who prototype one: a metadata mode for each KV dtype and head count.

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
from typing import TYPE_CHECKING

from backend.case import DType, MetadataMode
from backend.errors import UsageError
from backend.file_text import text_of, toml_of
from backend.serving.backends import BACKENDS
from backend.serving.bounds import OWN_POLICY, ServedBounds
from backend.serving.policy import OWN_RULE_ADVICE, Policy
from backend.serving.sglang import AiterMlaBackend

if TYPE_CHECKING:
    from backend.serving.own_rule import OwnRule  # keeps a process, of which who names a built-in rule needs nothing

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


_named: dict[str, Policy] = {}
"""Rules of users' own that were named, each loaded once: a search asks for it with every case."""

_fenced: dict[str, OwnRule] = {}
"""Those of them that are code, and so have a process."""


def named_policy(name: str) -> Policy:
    """The policy that a person has named; from here on `policy` knows it too. Raises UsageError where there is none.

    Never to be called with a name that was read from a file of unknown origin: it imports the module, or executes the file,
    in a process of its own (backend.serving.own_rule).
    """
    if name in BACKENDS:
        return BACKENDS[name].rule
    _named.pop(name, None)  # its file may hold something else now, or be another of that name
    if name in _fenced:
        _fenced.pop(name).close()
    return _named.setdefault(name, _own(name))


def policy(name: str) -> Policy:
    """The built-in policy of that name, or one that was named before; raises UsageError for any other, without running it."""
    if name in BACKENDS:
        return BACKENDS[name].rule
    if name in _named:
        return _named[name]
    if ":" not in name and not name.endswith((".py", ".toml")):
        raise UsageError.not_allowed("backend", name, ", ".join(BACKENDS), OWN_RULE_ADVICE)
    raise UsageError(
        f"backend {name!r}: a rule that a case, a corpus entry or a store names is not run; give --backend {name} if you trust "
        f"it, or one of {', '.join(BACKENDS)}"
    )


def runs_code(name: str) -> bool:
    """Whether asking that backend runs code of the user's own."""
    return name not in BACKENDS and (":" in name or name.endswith(".py"))


def bounds_of(name: str) -> ServedBounds:
    """What the backend of that name really sends; of a user's own policy, what any serving backend may."""
    found = BACKENDS.get(name)
    return found.bounds if found is not None else OWN_POLICY


def _own(name: str) -> Policy:
    if name.endswith(".toml"):
        return read_head_table(Path(name))
    if runs_code(name):
        from backend.serving.own_rule import OwnRule

        rule = OwnRule(name)
        rule.start()
        _fenced[name] = rule
        return rule
    raise UsageError.not_allowed("backend", name, ", ".join(BACKENDS), OWN_RULE_ADVICE)
