"""What the gate drives every source through: the whole decision table, eager and in graphs, plain and speculative.

Scenarios are plain data; nothing here knows a framework's source or what is wrong with a step.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.case import Arch, DType
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.serving.sparse import TOPK
from backend.words import counted

HEADS = (4, 8, 16, 32, 48, 64, 80, 96, 112, 128)

DRAFT_TOKENS = (None, 2, 4)
"""Rows a request: 1 in plain decode, and what MTP deployments use."""

CAPTURED = (1, 4, 8)
"""Captured batch sizes; replays below each of them pad."""

MAX_REQUESTS = 64

LONG = 196 * 128
"""KV tokens for which planner v1_0 wants 128 pieces, all that two requests may have on 256 CUs; sglang's cap is 64."""


SWITCHES: tuple[dict[str, str], ...] = (
    {"SGLANG_AITER_MLA_PERSIST": "0", "SGLANG_AITER_FP8_PREFILL_ATTN": "0"},
    {"SGLANG_AITER_MLA_AUTO_KV_SPLITS": "1"},
    {"SGLANG_AITER_MLA_DECODE_BACKEND": "asm", "SGLANG_AITER_MLA_VERIFY_BACKEND": "asm"},
    {"SGLANG_AITER_MLA_DECODE_BACKEND": "gluon", "SGLANG_AITER_MLA_VERIFY_BACKEND": "gluon", "SGLANG_AITER_MLA_GLUON": "1"},
)
"""Variables of sglang's under which its MLA takes other paths."""

KERNELS: tuple[dict[str, str], ...] = (
    {"dsa_prefill_backend": "aiter", "dsa_decode_backend": "aiter"},
    {"dsa_prefill_backend": "tilelang", "dsa_decode_backend": "triton"},
)
"""Server arguments of sglang's by which its DSA backend takes other kernels than those that a step has of itself."""

INDEXER = {"index_topk": str(TOPK)}
"""What tells the driver of a file that serves models with an indexer and without one, ATOM's, that the model has one."""

ORDINARY: tuple[tuple[dict[str, str], int, int], ...] = (
    ({}, 1, 128),
    ({"SGLANG_USE_AITER_UNIFIED_ATTN": "1"}, 16, 256),
    ({"SGLANG_AITER_ASM_PREFILL_HD128": "1"}, 16, 128),
    ({"SGLANG_AITER_PAGED_PREFILL_ASM": "1"}, 64, 256),
)
"""Models of ordinary attention: variables of sglang's, page size, elements of a head."""

BLOCKS: tuple[tuple[dict[str, str], dict[str, str]], ...] = (
    ({"VLLM_ROCM_USE_AITER_MHA": "1"}, {}),
    ({"VLLM_ROCM_USE_AITER_MHA": "1"}, {"sliding_window": "40"}),
    ({"VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT": "1"}, {}),
)
"""Variables of vLLM's, and what its model has, under which its backend of ordinary attention takes other paths."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """What q and the KV cache hold, on which GPU."""

    arch: Arch
    q_dtype: DType
    kv_dtype: DType


GFX950 = (
    Tensors(Arch.GFX950, DType.FP8, DType.FP8),
    Tensors(Arch.GFX950, DType.BF16, DType.BF16),
)
GFX942 = (
    Tensors(Arch.GFX942, DType.BF16, DType.FP8),
    Tensors(Arch.GFX942, DType.BF16, DType.BF16),
)
"""q is quantised on gfx95x only."""


def scenarios(tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> Iterator[Scenario]:
    """The table sweep, most telling first: every head count in plain decode before anything is tried in depth."""
    for draft_tokens in DRAFT_TOKENS:
        for one in tensors:
            for num_head in heads:
                yield _table(one, num_head, draft_tokens, release)
    for one in tensors:
        for num_head in heads:
            yield _data_parallel(one, num_head, release)
            yield _drafting(one, num_head, release)
            yield _draft_model(one, num_head, release)
            yield _prefill(one, num_head, release)
            yield _long(one, num_head, release)
        yield _several_backends(one, heads, release)
    yield from _several_types(tensors, heads, release)
    for one in tensors:
        for num_head in _near(heads, 16, 64):
            yield _lists(one, num_head, release)
        yield from _draft_trees(one, heads, release)
        yield _whole_pool(one, heads, release)
        yield from _whole_context(one, heads, release)
        yield _alike(one, heads, release)
        yield _context_parallel(one, heads, release)
        for switches in SWITCHES:
            yield _switched(one, heads, release, switches)
        for environment, page_size, head_dim in ORDINARY:
            yield from _ordinary(one, heads, release, environment, page_size, head_dim)


def by_kernels(tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> Iterator[Scenario]:
    """What a server argument of the framework changes, or a model of another kind."""
    for one in tensors:
        for flags in KERNELS:
            for num_head in _near(heads, 8, 16):
                yield _by_kernels(one, num_head, release, flags)
        for num_head in _near(heads, 8, 16):
            yield _passes(one, num_head, release)
            for environment, model in BLOCKS:
                yield from _blocks(one, num_head, release, environment, model)
            lists = _lists(one, num_head, release)
            yield dataclasses.replace(lists, name=f"a model with an indexer, {lists.name}", flags=tuple(INDEXER.items()))


def _config(tensors: Tensors, num_head: int, draft_tokens: int | None, dp_attention: bool = False) -> BackendConfig:
    return BackendConfig(
        num_head,
        tensors.kv_dtype,
        tensors.q_dtype,
        draft_tokens=draft_tokens,
        max_requests=MAX_REQUESTS,
        graph_batches=CAPTURED,
        dp_attention=dp_attention,
    )


def _name(what: str, tensors: Tensors, num_head: int) -> str:
    return f"{what}, {counted(num_head, 'head')}, {tensors.arch} {tensors.q_dtype}/{tensors.kv_dtype}"


def _table(tensors: Tensors, num_head: int, draft_tokens: int | None, release: str) -> Scenario:
    """Eager steps of short, ragged and long requests, then replays that fill a graph and that pad it."""
    kind = StepKind.DECODE if draft_tokens is None else StepKind.TARGET_VERIFY
    least = draft_tokens or 1
    batches = ((least,), (17, 400), (5000, least, 33))
    steps = (*(Step(kind, lens) for lens in batches), *(Step(kind, lens, graph=True) for lens in batches))
    name = _name("decode" if draft_tokens is None else f"verify {counted(draft_tokens, 'row')}", tensors, num_head)
    return Scenario(name, (_config(tensors, num_head, draft_tokens),), steps, arch=tensors.arch, release=release)


def _data_parallel(tensors: Tensors, num_head: int, release: str) -> Scenario:
    """Batch sizes that change under DP attention: the split cap is lowered and stays so."""
    sizes = (40, 3, 60, 1)
    steps = tuple(Step(StepKind.DECODE, (700,) * size) for size in sizes)
    replay = Step(StepKind.DECODE, (3000,) * 7, graph=True)
    config = _config(tensors, num_head, None, dp_attention=True)
    name = _name("data parallel decode", tensors, num_head)
    return Scenario(name, (config,), (replay, *steps, replay), arch=tensors.arch, release=release)


def _drafting(tensors: Tensors, num_head: int, release: str) -> Scenario:
    """The draft model catches up, then verifies, in turn."""
    config = _config(tensors, num_head, 3)
    steps = (
        Step(StepKind.DRAFT_EXTEND, (60, 700)),
        Step(StepKind.TARGET_VERIFY, (60, 700)),
        Step(StepKind.TARGET_VERIFY, (9, 7, 3000), graph=True),
    )
    return Scenario(_name("drafting", tensors, num_head), (config,), steps, arch=tensors.arch, release=release)


def _draft_model(tensors: Tensors, num_head: int, release: str) -> Scenario:
    """The draft model's own decode steps, one backend each, eager and from a graph that pads."""
    config = dataclasses.replace(_config(tensors, num_head, 4), is_draft=True, graph_batches=(4,))
    lens = (5, 300)
    steps = (Step(StepKind.MULTI_STEP_DRAFT, lens), Step(StepKind.MULTI_STEP_DRAFT, lens, graph=True))
    return Scenario(_name("draft model", tensors, num_head), (config,), steps, arch=tensors.arch, release=release)


WHOLE_POOL = 4
"""Requests of a pool that has no more, below the largest captured batch."""


def _whole_pool(tensors: Tensors, heads: Sequence[int], release: str) -> Scenario:
    """Batches of as many requests as the pool has, and a captured one that is larger: buffers have room for either."""
    num_head = min(heads, key=lambda each: abs(each - 16))
    plain = dataclasses.replace(_config(tensors, num_head, None), max_requests=WHOLE_POOL, graph_batches=(2 * WHOLE_POOL,))
    lens = tuple(range(17, 17 + WHOLE_POOL))
    steps = (
        Step(StepKind.PREFILL, lens),
        *(Step(StepKind.DECODE, lens, graph=graph) for graph in (False, True)),
        *(Step(StepKind.TARGET_VERIFY, lens, graph=graph, backend=1) for graph in (False, True)),
    )
    backends = plain, dataclasses.replace(plain, draft_tokens=2)
    return Scenario(_name("the whole pool", tensors, num_head), backends, steps, arch=tensors.arch, release=release)


WHOLE_CONTEXT = 32
"""KV tokens of a context that all requests fill: whole pages, so that buffers have no room for what they leave out."""


def _whole_context(tensors: Tensors, heads: Sequence[int], release: str) -> Iterator[Scenario]:
    """As many requests as there may be, each of the whole context, whose last drafts are in it; then, in sglang, past it."""
    num_head = min(heads, key=lambda each: abs(each - 16))
    plain = dataclasses.replace(
        _config(tensors, num_head, None), page_size=16, max_requests=WHOLE_POOL, graph_batches=(WHOLE_POOL,)
    )
    drafting = dataclasses.replace(plain, draft_tokens=4)
    for what, kind, config, length in (
        ("the whole context", StepKind.DECODE, plain, WHOLE_CONTEXT),
        ("the whole context, drafts in it", StepKind.TARGET_VERIFY, drafting, WHOLE_CONTEXT - 4),
        ("the whole context, drafts past it", StepKind.TARGET_VERIFY, drafting, WHOLE_CONTEXT - 4 + drafting.past_context),
    ):
        steps = tuple(Step(kind, (length,) * WHOLE_POOL, graph=graph) for graph in (False, True))
        name = _name(what, tensors, num_head)
        yield Scenario(name, (config,), steps, arch=tensors.arch, release=release, context=WHOLE_CONTEXT)


TREE_CONTEXT = 40
"""KV tokens of the context that a request of a draft tree fills: so that buffers have no room for what they leave out."""


def _draft_trees(tensors: Tensors, heads: Sequence[int], release: str) -> Iterator[Scenario]:
    """A draft model's steps of several branches a request, whose requests fill the context; in graphs apart, which have S10."""
    num_head = min(heads, key=lambda each: abs(each - 16))
    config = dataclasses.replace(_config(tensors, num_head, 4), is_draft=True, graph_batches=(), branches=2)
    full = TREE_CONTEXT + config.past_context - 4
    lens = ((full, full, 3), (full, 17))
    for what, taken in (("draft tree", ()), ("draft tree in graphs", (4,))):
        backend = dataclasses.replace(config, graph_batches=taken)
        steps = tuple(Step(StepKind.MULTI_STEP_DRAFT, each, graph=bool(taken)) for each in lens)
        name = _name(what, tensors, num_head)
        yield Scenario(name, (backend,), steps, arch=tensors.arch, release=release, context=TREE_CONTEXT)


def _prefill(tensors: Tensors, num_head: int, release: str) -> Scenario:
    """Prompts whole, then behind a prefix."""
    steps = (
        Step(StepKind.PREFILL, (1, 300, 77)),
        Step(StepKind.PREFILL, (400, 9), query_lens=(33, 9)),
        Step(StepKind.PREFILL, (5,)),
    )
    config = dataclasses.replace(_config(tensors, num_head, None), graph_batches=())
    return Scenario(_name("prefill", tensors, num_head), (config,), steps, arch=tensors.arch, release=release)


def _long(tensors: Tensors, num_head: int, release: str) -> Scenario:
    """Requests that fill every split they may have: the planner wants one for each 196 tokens, up to CUs / batch."""
    config = BackendConfig(num_head, tensors.kv_dtype, tensors.q_dtype, max_requests=2, graph_batches=(2,))
    lens = (LONG,) * 2
    steps = (Step(StepKind.DECODE, lens), Step(StepKind.DECODE, lens, graph=True))
    return Scenario(_name("long requests", tensors, num_head), (config,), steps, arch=tensors.arch, release=release)


def _several_backends(tensors: Tensors, heads: Sequence[int], release: str) -> Scenario:
    """Backends of several models in one process: module globals are everybody's."""
    chosen = tuple(heads[:: max(len(heads) // 3, 1)][:4])
    configs = tuple(_config(tensors, num_head, None) for num_head in chosen)
    steps = tuple(Step(StepKind.DECODE, (300, 5), backend=index) for index in (*range(len(chosen)), 0))
    name = f"several backends, {', '.join(map(str, chosen))} heads, {tensors.arch} {tensors.q_dtype}/{tensors.kv_dtype}"
    return Scenario(name, configs, steps, arch=tensors.arch, release=release)


def _several_types(tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> Iterator[Scenario]:
    """Backends of two KV types in one process, built in either order: a target of fp8 beside a draft model of bf16.

    Of 96 heads, whose buffers have other sizes for each type, too.
    """
    few, many, folded = (min(heads, key=lambda each: abs(each - wanted)) for wanted in (16, 64, 96))
    for one, other in itertools.permutations(tensors, 2):
        if one.arch is not other.arch:
            continue
        for first, second in dict.fromkeys(((many, few), (folded, folded))):
            configs = (_config(one, first, None), _config(other, second, None))
            steps = tuple(
                Step(StepKind.DECODE, (300, 5), graph=graph, backend=at) for graph in (False, True) for at in (0, 1, 0)
            )
            name = (
                f"backends of two types, {first}, {counted(second, 'head')}, {one.arch} {one.q_dtype}/{one.kv_dtype} "
                f"{other.kv_dtype}"
            )
            yield Scenario(name, configs, steps, arch=one.arch, release=release)


def _near(heads: Sequence[int], *wanted: int) -> tuple[int, ...]:
    """Of the heads, those nearest to each that is wanted, once."""
    return tuple(dict.fromkeys(min(heads, key=lambda each: abs(each - one)) for one in wanted))


def _lists(tensors: Tensors, num_head: int, release: str) -> Scenario:
    """Requests of one token less than a list, of as many and of one more: decode, verification, prompts behind a prefix."""
    plain = dataclasses.replace(_config(tensors, num_head, None), page_size=16, graph_batches=(1, 4))
    around = (TOPK - 1, TOPK, TOPK + 1)
    steps = (
        Step(StepKind.DECODE, (1, *around)),
        Step(StepKind.DECODE, around, graph=True),
        Step(StepKind.DECODE, (9,), graph=True),
        Step(StepKind.TARGET_VERIFY, around, backend=1),
        Step(StepKind.TARGET_VERIFY, (TOPK - 2, *around[1:]), backend=1),  # as many tokens as a list holds, of another context
        Step(StepKind.TARGET_VERIFY, around[1:], graph=True, backend=1),
        Step(StepKind.PREFILL, (TOPK + 30, 33, 1), query_lens=(10, 3, 1)),
        Step(StepKind.PREFILL, (TOPK + 1, TOPK + 30), query_lens=(2, 3)),
    )
    backends = plain, dataclasses.replace(plain, draft_tokens=2)
    name = _name(f"around a list of {TOPK}", tensors, num_head)
    return Scenario(name, backends, steps, arch=tensors.arch, release=release)


ALIKE = ((400, 17, 33), (400, 33, 17), (400, 40, 10), (17, 400, 33), (400, 17, 33))
"""Batches of one size, one sum and one longest request, each of which needs a plan of its own."""


def _alike(tensors: Tensors, heads: Sequence[int], release: str) -> Scenario:
    """Steps in a row that a plan kept by size, sum or longest request would serve; 32 heads are planned in any type."""
    num_head = min(heads, key=lambda each: abs(each - 32))
    configs = _config(tensors, num_head, None), _config(tensors, num_head, 2)
    steps = tuple(
        Step(kind, lens, graph=graph, backend=at)
        for at, kind in enumerate((StepKind.DECODE, StepKind.TARGET_VERIFY))
        for graph in (False, True)
        for lens in (ALIKE if graph else ALIKE[:2])
    )
    return Scenario(_name("batches alike", tensors, num_head), configs, steps, arch=tensors.arch, release=release)


def _context_parallel(tensors: Tensors, heads: Sequence[int], release: str) -> Scenario:
    """A rank of two that share the KV cache: decode, then verification of as many rows as its kernels take, and of fewer."""
    num_head = min(heads, key=lambda each: abs(each - 16))
    plain = dataclasses.replace(_config(tensors, num_head, None), context_parallel=2, max_requests=8, graph_batches=(4,))
    steps = (
        Step(StepKind.DECODE, (17, 400)),
        Step(StepKind.DECODE, (9, 33, 700), graph=True),
        Step(StepKind.TARGET_VERIFY, (17, 400), backend=1),
        Step(StepKind.TARGET_VERIFY, (9, 33, 700), graph=True, backend=1),
        Step(StepKind.TARGET_VERIFY, (17, 40), backend=2),
        Step(StepKind.TARGET_VERIFY, (9, 33, 70), graph=True, backend=2),
    )
    backends = plain, dataclasses.replace(plain, draft_tokens=4), dataclasses.replace(plain, draft_tokens=2)
    name = _name("context parallel", tensors, num_head)
    return Scenario(name, backends, steps, arch=tensors.arch, release=release)


def _switched(tensors: Tensors, heads: Sequence[int], release: str, environment: Mapping[str, str]) -> Scenario:
    """One head count under some of the framework's switches: prompts, decode and verification, eager and in graphs."""
    num_head = min(heads, key=lambda each: abs(each - 16))
    plain = dataclasses.replace(_config(tensors, num_head, None), page_size=16, graph_batches=(4,))
    steps = (
        Step(StepKind.PREFILL, (40, 9), query_lens=(33, 9)),
        Step(StepKind.PREFILL, (5,)),
        Step(StepKind.DECODE, (17, 400)),
        Step(StepKind.DECODE, (1, 33), graph=True),
        Step(StepKind.TARGET_VERIFY, (17, 400), backend=1),
        Step(StepKind.DRAFT_EXTEND, (60, 70), backend=1),
        Step(StepKind.TARGET_VERIFY, (9, 33), graph=True, backend=1),
        Step(StepKind.DRAFT_EXTEND, (9, 33), graph=True, backend=1),
    )
    backends = plain, dataclasses.replace(plain, draft_tokens=4)
    switches = tuple(environment.items())
    name = _name(" ".join("=".join(each) for each in switches), tensors, num_head)
    return Scenario(name, backends, steps, arch=tensors.arch, release=release, environment=switches)


def _by_kernels(tensors: Tensors, num_head: int, release: str, flags: Mapping[str, str]) -> Scenario:
    """One head count by chosen kernels, lists of positions instead of KV rows: prompts by lists, decode, verification; of
    AITER's, a draft model of more steps than sglang copies its metadata to at once too."""
    plain = dataclasses.replace(_config(tensors, num_head, None), page_size=16, graph_batches=(4,))
    steps: tuple[Step, ...] = (
        Step(StepKind.PREFILL, (TOPK + 9, 40), query_lens=(3, 9)),
        Step(StepKind.DECODE, (17, 400)),
        Step(StepKind.DECODE, (1, 33), graph=True),
        Step(StepKind.TARGET_VERIFY, (17, 400), backend=1),
        Step(StepKind.DRAFT_EXTEND, (60, 70), backend=1),
        Step(StepKind.DRAFT_EXTEND, (9, 33), graph=True, backend=1),
    )
    if "aiter" in flags.values():
        steps += tuple(Step(StepKind.MULTI_STEP_DRAFT, (TOPK, 9), graph=graph, backend=2) for graph in (False, True))
    backends = plain, dataclasses.replace(plain, draft_tokens=4), dataclasses.replace(plain, draft_tokens=6, is_draft=True)
    name = _name(" ".join("=".join(each) for each in flags.items()), tensors, num_head)
    environment = (("SGLANG_DSA_FUSE_TOPK", "0"),)
    return Scenario(
        name, backends, steps, arch=tensors.arch, release=release, environment=environment, flags=tuple(flags.items())
    )


def _key_heads(num_head: int) -> int:
    """Key heads for 8 query heads or more each: a divisor of any number of them."""
    return next(each for each in range(max(num_head // 8, 1), 0, -1) if num_head % each == 0)


def _ordinary(
    tensors: Tensors, heads: Sequence[int], release: str, environment: Mapping[str, str], page_size: int, head_dim: int
) -> Iterator[Scenario]:
    """Ordinary attention at one head count: prompts and decode, then speculation, then its draft model."""
    num_head = min(heads, key=lambda each: abs(each - 16))
    plain = dataclasses.replace(
        _config(tensors, num_head, None),
        page_size=page_size,
        kv_heads=_key_heads(num_head),
        head_dim=head_dim,
        max_requests=8,
        graph_batches=(1, 4),
    )
    lens = (9, 7, 30)
    kinds = StepKind.TARGET_VERIFY, StepKind.DRAFT_EXTEND
    parts = (
        (
            "serving",
            plain,
            (
                Step(StepKind.PREFILL, (1, 300, 77)),
                Step(StepKind.PREFILL, (400, 9), query_lens=(33, 9)),
                Step(StepKind.DECODE, (17, 400)),
                Step(StepKind.DECODE, lens, graph=True),
            ),
        ),
        (
            "speculating",
            dataclasses.replace(plain, draft_tokens=4),
            (*(Step(kind, (60, 700)) for kind in kinds), *(Step(kind, lens, graph=True) for kind in kinds)),
        ),
        (
            "drafting",
            dataclasses.replace(plain, draft_tokens=4, is_draft=True, graph_batches=(4,)),
            (Step(StepKind.MULTI_STEP_DRAFT, lens), Step(StepKind.MULTI_STEP_DRAFT, lens, graph=True)),
        ),
    )
    switches = tuple(environment.items())
    for what, config, does in parts:
        name = _name(f"ordinary attention of {head_dim}, pages of {page_size}, {what}", tensors, num_head)
        yield Scenario(name, (config,), does, arch=tensors.arch, release=release, environment=switches)


def _passes(tensors: Tensors, num_head: int, release: str) -> Scenario:
    """A draft model that shares the target's backend: its passes behind verification, each of a plan brought up to date; of a
    model with an indexer too, lists of more tokens than they hold."""
    config = dataclasses.replace(_config(tensors, num_head, 4), page_size=16, max_requests=8, graph_batches=())
    steps = tuple(Step(StepKind.MULTI_STEP_DRAFT, lens) for lens in ((400, 17, 33), (9, 700)))
    return Scenario(_name("passes of a draft model", tensors, num_head), (config,), steps, arch=tensors.arch, release=release)


def _blocks(
    tensors: Tensors, num_head: int, release: str, environment: Mapping[str, str], model: Mapping[str, str]
) -> Iterator[Scenario]:
    """vLLM's ordinary attention on pages of 16: prompts in one batch with decodes, whole and behind what is cached; then
    verification and the draft model's steps, which the shuffled layout does not take."""
    plain = dataclasses.replace(
        _config(tensors, num_head, None), page_size=16, kv_heads=_key_heads(num_head), max_requests=8, graph_batches=(1, 4)
    )
    drafting = dataclasses.replace(plain, draft_tokens=4)
    serving = (
        Step(StepKind.PREFILL, (1, 300, 77)),
        Step(StepKind.PREFILL, (400, 9, 60), query_lens=(33, 9, 1)),
        Step(StepKind.DECODE, (17, 400)),
        Step(StepKind.DECODE, (9, 7, 30), graph=True),
        Step(StepKind.DECODE, (9, 700), graph=True),
    )
    speculating = (
        Step(StepKind.TARGET_VERIFY, (60, 700)),
        Step(StepKind.TARGET_VERIFY, (9, 7, 30), graph=True),
        Step(StepKind.MULTI_STEP_DRAFT, (9, 400)),
    )
    shuffled = "VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT" in environment
    for config, steps in ((plain, serving), *(() if shuffled else ((drafting, speculating),))):
        switches, flags = tuple(environment.items()), tuple(model.items())
        what = " ".join("=".join(each) for each in (*switches, *flags, *(() if config is plain else (("drafts", "3"),))))
        name = _name(f"ordinary attention on pages, {what}", tensors, num_head)
        yield Scenario(name, (config,), steps, arch=tensors.arch, release=release, environment=switches, flags=flags)
