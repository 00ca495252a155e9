"""Cases that make a kernel show what it does: for each code object that a release launches, a fixed list.

Also the random cases on which model and machine are compared. Both are a function of the kernel and a seed.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

from backend.aiter.codefiles import CodeSource
from backend.aiter.release import PublicCalls
from backend.aiter.release import release as release_of
from backend.call import Call
from backend.case import Arch, Case, DType, MetadataMode, PageOrder
from backend.path import Path
from backend.revision.revision import host_of

HEADS = (4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128)
QUERIES = (1, 2, 3, 4, 5, 6, 7, 8, 9)
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 127, 128, 129, 130, 197, 256, 257, 400)
EDGES = (16, 32, 48, 64, 96, 128, 160, 192, 256, 320)
"""Lengths at which a tile of KV ends for one kernel and not for another."""

FAR_PAGES = (8_000_000, (1 << 24) + 5, (1 << 32) // 1152 - 3, (1 << 32) // 576 - 3)
"""First pages from which an address passes 2^32 bytes, and a page id 2^24; a page across 2^32 of bf16 and of fp8."""


@dataclass(frozen=True, slots=True)
class ReachedKernel:
    """A code object that a release launches. cases: small cases that lead to it, one a combination of what a caller varies."""

    arch: Arch
    code_object: str
    blob_id: str
    cases: tuple[Case, ...]

    @property
    def persistent(self) -> bool:
        """Whether it takes work items."""
        return self.cases[0].mode is not MetadataMode.NON_PERSISTENT


@cache
def reached(release: str, source: CodeSource | None = None) -> Mapping[str, ReachedKernel]:
    """Every code object that some caller of a release can launch, by blob id."""
    found: dict[str, tuple[Arch, str, list[Case]]] = {}
    lse = (False, True) if release_of(release).has_return_lse else (False,)
    modes = (MetadataMode.FAST, MetadataMode.NON_PERSISTENT)
    groups = (0, 2) if release_of(release).public_calls is PublicCalls.CONTEXT_PARALLEL else (0,)
    masks = (True, False) if release_of(release).public_calls is PublicCalls.CONTEXT_PARALLEL else (True,)
    asked = product(groups, masks, Arch, HEADS, QUERIES, DType, DType, modes, lse)
    for world, causal, arch, heads, queries, q, kv, mode, asks in asked:
        if world and mode is MetadataMode.NON_PERSISTENT:
            continue  # AITER has no such kernel
        case = Case(
            heads,
            (40, 40),
            queries,
            q_dtype=q,
            kv_dtype=kv,
            arch=arch,
            release=release,
            backend="direct",
            mode=mode,
            return_lse=asks,
            causal=causal,
            cp_world_size=world,
        )
        made = made_of(case, source)
        if made is not None:
            launch = made.launched
            found.setdefault(launch.blob_id or "", (launch.arch, launch.code_object, []))[2].append(case)
    return {blob: ReachedKernel(arch, name, blob, tuple(cases)) for blob, (arch, name, cases) in found.items()}


def made_of(case: Case, source: CodeSource | None) -> Call | None:
    """The call of a case; None where backend or AITER refuses, or the planner is not modelled for it."""
    made = Path(_host(source)).launched(case)
    return made if isinstance(made, Call) else None


_host = cache(host_of)


def backward(made: Call) -> Call:
    """A persistent call whose first work item ends before it begins, as some planners make them."""
    assert made.plan is not None
    return _with_words(made, "work_info_set", {5: int(made.plan.work_items[0, 4]) - 2})


def tall(made: Call) -> list[Call]:
    """A persistent call with one work item, for o and as a partial result, which has all rows of its request.

    Also with one row more and with twice as many, as of a plan made for a decode call of more rows, and with one less than
    none: what a kernel that was built for so many rows makes of them no plan of its own says.
    """
    assert made.plan is not None
    only = _with_words(made, "work_indptr", dict.fromkeys(range(1, made.plan.buffers["work_indptr"].allocated), 1))
    rows = int(made.decode.qo_indptr[1])
    ends = (rows, rows + 1, 2 * rows, -1)
    return [_with_words(only, "work_info_set", {1: partial, 3: end}) for end in ends for partial in (-1, 0)]


def _with_words(made: Call, buffer: str, words: Mapping[int, int]) -> Call:
    """The call with other words in one buffer of its plan."""
    assert made.plan is not None
    planned = made.plan.buffers[buffer]
    image = planned.image.copy()
    for word, value in words.items():
        image[word - planned.first] = value
    buffers = {**made.plan.buffers, buffer: dataclasses.replace(planned, image=image)}
    return dataclasses.replace(made, plan=dataclasses.replace(made.plan, buffers=buffers))


def random_case(kernel: ReachedKernel, random_: random.Random) -> Case:
    """A case that may lead to the kernel (a batch size may lead elsewhere): any mode of its kind, lengths, page sizes, CUs."""
    base = random_.choice(kernel.cases)
    queries = base.max_seqlen_q
    batch = random_.choice((1, 1, 2, 3, 5, 8))
    lens = tuple(max(queries, random_.choice((*LENGTHS, random_.randint(1, 700)))) for _ in range(batch))
    if random_.random() < 0.1:
        lens = tuple(0 if random_.random() < 0.3 else length for length in lens)
    if not any(lens):
        lens = (5, *lens[1:])
    ragged = batch > 1 and random_.random() < 0.25
    rows = tuple(random_.randint(0, queries) for _ in range(batch))
    return base.replace(
        kv_lens=lens,
        query_lens=rows if ragged and any(rows) else None,
        mode=random_.choice(_modes(kernel, base)),
        page_size=1 if base.cp_world_size else random_.choice((1, 1, 1, 16, 64)),
        num_cu=random_.choice((0, 8, 20)),
        first_page=random_.choice((0, 0, 3, 100)),
        page_order=random_.choice(tuple(PageOrder)),
        **_rank(base, random_),
    )


def _rank(base: Case, random_: random.Random) -> dict[str, int]:
    if not base.cp_world_size:
        return {}
    world = random_.choice((1, 2, 3, 8))
    return {"cp_world_size": world, "cp_rank": random_.randrange(world)}


def _modes(kernel: ReachedKernel, base: Case) -> tuple[MetadataMode, ...]:
    if not kernel.persistent:
        return (MetadataMode.NON_PERSISTENT,)
    if base.cp_world_size:
        return (MetadataMode.FAST,)
    fake = (MetadataMode.FAKE,) * 2 if release_of(base.release).has_v1_0 else ()
    return (MetadataMode.FAST,) * 4 + fake + (MetadataMode.GREEDY,)


def probes(kernel: ReachedKernel, count: int = 40) -> Iterator[Case]:
    """What a kernel is measured by: tile edges, far pages, empty requests, ragged queries, then random cases."""
    base = kernel.cases[0]
    for length in EDGES:
        yield base.replace(kv_lens=(length,), num_cu=1 if kernel.persistent else 0, first_page=7)
    if not kernel.persistent:
        # A short request beside a long one has fewer tiles than the launch has splits.
        for length in EDGES:
            yield base.replace(kv_lens=(length, 600), first_page=7)
    for page in FAR_PAGES:
        yield base.replace(kv_lens=(20,), num_cu=8, first_page=page)
    yield base.replace(kv_lens=(33, 0, 65), num_cu=1, first_page=7)
    yield base.replace(kv_lens=(0, 33, 65), num_cu=2, first_page=7)
    if base.max_seqlen_q > 1 or any(case.max_seqlen_q > 1 for case in kernel.cases):
        # Heads that are not folded come first: a folded ragged plan is made of memory that is nobody's.
        longer = [case for case in kernel.cases if case.max_seqlen_q > 1]
        for case in (longer[0], longer[len(longer) // 2], longer[-1]):
            queries = case.max_seqlen_q
            yield case.replace(kv_lens=(40, 33, 20), query_lens=(1, queries, 1), first_page=7)
            yield case.replace(kv_lens=(40, 33), query_lens=(queries, queries - 1), num_cu=2, first_page=7)
    for case in (base, kernel.cases[-1]):
        # A kernel that goes by the number of a request, or by what it was built for, shows in requests that have no row.
        queries = case.max_seqlen_q
        for rows in ((queries, 0), (0, queries), (queries, 0, 1)):
            for lens in ((40, 33, 20), (1, 600, 5)):
                num_cu = 2 if kernel.persistent else 0
                yield case.replace(kv_lens=lens[: len(rows)], query_lens=rows, num_cu=num_cu, first_page=7)
    yield base.replace(kv_lens=(40, 33, 20), num_cu=2, first_page=7, qk_rope_head_dim=0)
    random_ = random.Random(kernel.blob_id)
    for _ in range(count):
        yield random_case(kernel, random_)
