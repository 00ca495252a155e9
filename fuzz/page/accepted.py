"""Which combinations of heads, types, query rows, pages and modes reach a kernel at all: one small batch of each, on the model.

A search draws from all of them and counts refusals; this tells exactly which they are. It says nothing of faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from backend.case import Arch, Case, DType, MetadataMode
from backend.errors import AiterfuzzError
from backend.fate import Fate
from backend.path import Path
from backend.revision.revision import host_of
from backend.serving.registry import policy
from fuzz.campaign.chunks import Safe
from fuzz.campaign.summary import Member

REQUESTS, KV_LEN = 2, 1024
"""The batch that stands for all: refusals hang on the kernel's key, which holds no length."""

MOST = 4000
"""Combinations worked out, at most: a thousand take a second."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of one combination. kernel: code object launched, "" where none. reason: why none, "" where one is."""

    kernel: str
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """All numbers of query rows of one combination of the rest, in the order of Accepted.query_rows."""

    release: str
    num_head: int
    arch: Arch
    q_dtype: DType
    kv_dtype: DType
    page_size: int
    mode: MetadataMode | None
    answers: tuple[Acceptance, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """Every combination of a campaign's space. why_not: why there are no rows, "" where there are."""

    query_rows: tuple[int, ...]
    rows: tuple[Row, ...]
    why_not: str


def accepted(member: Member) -> Accepted:
    """The combinations of a campaign's space, by the rules alone; a checkout's own kernel table is used where it is there."""
    space = member.space
    combinations = list(product(space.releases, reversed(space.heads), space.tensor_types, space.page_sizes, space.modes))
    count = len(combinations) * len(space.query_rows)
    if count > MOST:
        return Accepted(space.query_rows, (), f"{count:,} combinations are too many to work out one by one")
    try:
        policy(space.backend)
        path = _path(member)
    except AiterfuzzError as error:
        return Accepted(space.query_rows, (), str(error))
    rows = tuple(
        Row(release, heads, *types, page, mode, tuple(_answers(member, path, release, heads, types, page, mode)))
        for release, heads, types, page, mode in combinations
    )
    return Accepted(space.query_rows, rows, "")


def _path(member: Member) -> Safe:
    from backend.aiter.codefiles import open_source

    source = open_source(member.config.aiter) if member.config.aiter is not None else None
    return Safe(Path(host_of(source)), "model")


def _answers(
    member: Member,
    path: Safe,
    release: str,
    heads: int,
    types: tuple[Arch, DType, DType],
    page: int,
    mode: MetadataMode | None,
) -> Iterator[Acceptance]:
    arch, q_dtype, kv_dtype = types
    length = min(KV_LEN, member.space.max_kv_len)
    for rows in member.space.query_rows:
        case = Case(
            num_head=heads,
            kv_lens=(length,) * min(REQUESTS, member.space.max_batch),
            max_seqlen_q=rows,
            page_size=page,
            q_dtype=q_dtype,
            kv_dtype=kv_dtype,
            arch=arch,
            release=release,
            backend=member.space.backend,
            mode=mode,
        )
        yield _answer(path, case)


def _answer(path: Safe, case: Case) -> Acceptance:
    outcome = path.run(case)
    if outcome.fate is Fate.UNMODELLED:
        return Acceptance("", f"not modelled: {outcome.reason}")
    if outcome.observation is None:
        return Acceptance("", outcome.reason or (outcome.cause.message if outcome.cause is not None else "refused"))
    return Acceptance(outcome.observation.call.launched.code_object, "")
