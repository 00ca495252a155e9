"""A case in one line, as every table, log and title names it. Imports nothing slow."""

from __future__ import annotations

from collections.abc import Sequence

from backend.case import FIELDS, Case
from backend.case_fields import CaseField
from backend.words import counted
from reprod.text import lengths

ALWAYS_IN_LINE = ("num_head", "q_dtype", "kv_dtype", "max_seqlen_q", "kv_lens", "arch", "release")
"""Fields that every case is told with."""

NEVER_IN_LINE = ("backend",)
"""Fields that are told elsewhere: with the decision."""


def _in_line_order(fields: Sequence[CaseField]) -> tuple[CaseField, ...]:
    """The fields that are told where they are not neutral, in their order, each behind the one that it names."""
    kept = [field for field in fields if field.name not in (*ALWAYS_IN_LINE, *NEVER_IN_LINE)]
    ordered = [field for field in kept if not field.stands_after]
    for field in kept:
        if field.stands_after:
            ordered.insert([each.name for each in ordered].index(field.stands_after) + 1, field)
    return tuple(ordered)


IN_LINE = _in_line_order(FIELDS)


def case_line(case: Case, aiter: str = "") -> str:
    """A case in one line: what every case has, then what is unusual about it. aiter: which AITER, where the case's release
    only stands for it."""
    parts = [
        f"{counted(case.num_head, 'head')}",
        f"{case.q_dtype}/{case.kv_dtype}",
        f"qlen {case.max_seqlen_q}",
        f"kv {lengths(case.kv_lens)}",
        case.arch.value,
        aiter or case.release,
    ]
    for field in IN_LINE:
        value = getattr(case, field.name)
        if value != field.neutral:
            parts.append(field.in_line(lengths(value) if isinstance(value, tuple) else value))
    return ", ".join(parts)


def case_flags(case: Case) -> list[str]:
    """The words by which `aiterfuzz explain` is given a case: a flag for each field that is not neutral, and its value."""
    words: list[str] = []
    for field in FIELDS:
        value = getattr(case, field.name)
        if value == field.neutral:
            continue
        if isinstance(value, bool):
            words.append(field.flag if value else field.flag.replace("--", "--no-", 1))
        else:
            words += [field.flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words
