"""The space of cases that a search draws from: what a specification allows, within what a backend really sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.case import FIELDS, MAX_KV_LEN, ORDINARY, Arch, Case, DType, MetadataMode
from backend.errors import UsageError
from backend.serving.bounds import AllocatedFor, ServedBounds, TensorTypes
from backend.serving.registry import bounds_of
from backend.words import counted
from fuzz.spec import DEFAULT_MAX_BATCH, DEFAULT_MAX_KV_LEN, DEFAULT_RELEASE, Spec, model_named

SHAPES = {"tp1": 1, "tp2": 2, "tp4": 4, "tp8": 8}
"""Tensor parallel ranks that share a model's heads."""

DEFAULT_MAX_TOKENS = 1 << 20
"""KV tokens of a batch: the page table is one int32 a token, so this bounds a case at 4 MiB."""

_ROWS = {row.name: row for row in FIELDS}


@dataclass(frozen=True, slots=True)
class CaseSpace:
    """What may be drawn. Each tuple holds at least one entry, the simplest first.

    heads: query heads a rank. tensor_types: (arch, q, KV) as they go together. modes: None leaves it to the backend.
    max_batch: requests of a case. max_kv_len: tokens of a request. max_tokens: KV tokens of all requests of a case.
    options: values of further fields of a Case, by name; one that is not named stays neutral.
    The other fields are those of backend.serving.bounds.Bounds.
    """

    backend: str
    releases: tuple[str, ...]
    heads: tuple[int, ...]
    tensor_types: tuple[TensorTypes, ...]
    query_rows: tuple[int, ...]
    page_sizes: tuple[int, ...]
    modes: tuple[MetadataMode | None, ...] = (None,)
    empty_requests: bool = False
    ragged_rows: bool = False
    graphs: bool = True
    allocation: AllocatedFor = AllocatedFor.RUNNING
    far_pools: bool = False
    max_batch: int = DEFAULT_MAX_BATCH
    max_kv_len: int = DEFAULT_MAX_KV_LEN
    max_tokens: int = DEFAULT_MAX_TOKENS
    options: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def __post_init__(self) -> None:
        for field in ("releases", "heads", "tensor_types", "query_rows", "page_sizes", "modes"):
            if not getattr(self, field):
                raise UsageError.not_allowed(f"{field} of the search", getattr(self, field), "at least one")
        for field, values in (
            ("release", self.releases),
            ("num_head", self.heads),
            ("max_seqlen_q", self.query_rows),
            ("page_size", self.page_sizes),
            *self.options,
        ):
            for value in values:
                _ROWS[field].check(value)  # a Case knows what its fields may be, and complains
        rows = max(self.query_rows)
        limits = (
            ("largest batch", self.max_batch, 1 <= self.max_batch <= 65536, "1..65536"),
            ("longest kv", self.max_kv_len, rows <= self.max_kv_len <= MAX_KV_LEN, f"{rows}..{MAX_KV_LEN}"),
            ("tokens of a batch", self.max_tokens, rows * self.max_batch <= self.max_tokens, "qlen x batch or more"),
        )
        for what, given, holds, allowed in limits:
            if not holds:
                raise UsageError.not_allowed(f"{what} of the search", given, allowed)

    def holds(self, case: Case) -> bool:
        """Whether a case keeps to what was asked for, its sizes aside: a smaller one need not be one that would be drawn."""
        return (
            case.num_head in self.heads
            and (case.arch, case.q_dtype, case.kv_dtype) in self.tensor_types
            and case.page_size in self.page_sizes
            and case.max_seqlen_q in self.query_rows
            and case.mode in self.modes
            and (self.empty_requests or min(case.kv_lens) > 0)
            and all(getattr(case, name) in values for name, values in self.options)
        )


def space(spec: Spec) -> CaseSpace:
    """The space of a specification; raises UsageError where there is none."""
    bounds = bounds_of(spec.backend)
    return CaseSpace(
        backend=spec.backend,
        releases=spec.releases or (DEFAULT_RELEASE,),
        heads=_heads(spec, bounds),
        tensor_types=_tensor_types(spec, bounds),
        query_rows=spec.query_rows or bounds.query_rows,
        page_sizes=spec.page_sizes or bounds.page_sizes,
        modes=spec.modes or bounds.modes,
        empty_requests=bounds.empty_requests,
        ragged_rows=bounds.ragged_rows,
        graphs=bounds.graphs,
        allocation=bounds.allocation,
        far_pools=bounds.far_pools,
        max_batch=spec.max_batch,
        max_kv_len=spec.max_kv_len,
        max_tokens=max(DEFAULT_MAX_TOKENS, spec.max_kv_len),
        options=_options(spec),
    )


def not_drawn(space: CaseSpace) -> tuple[str, ...]:
    """What the backend's framework sends and no case of a space is, in words; told where its file can be run instead."""
    sends, left = bounds_of(space.backend), list[str]()
    if sends.context is not None and space.max_kv_len < sends.context:
        left.append(f"requests of {space.max_kv_len + 1:,} to {counted(sends.context, 'KV token')} (--max-kv-len)")
    if sends.graphs_to is not None and space.max_batch < sends.graphs_to:
        left.append(f"batches of {space.max_batch + 1:,} to {counted(sends.graphs_to, 'request')} (--max-batch)")
    if not sends.sent_too:
        return ()
    life = "what one step leaves to the next (aiterfuzz gate runs the backend's file through a process' life)"
    return (*left, f"batches of more than {counted(space.max_tokens, 'KV token')}", *sends.sent_too, life)


def _options(spec: Spec) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """What is asked for by name, and the model's own widths where they are not the usual ones."""
    model = model_named(spec.model)
    found = []
    for field in ORDINARY:
        asked = getattr(spec, field.name)
        if asked is None and field.of_model and getattr(model, field.name) != field.neutral:
            asked = (getattr(model, field.name),)
        if asked is not None:
            found.append((field.name, asked))
    return tuple(found)


def heads_of(model: str, shape: str) -> int:
    """Query heads a rank of a model under a tensor parallel shape; raises UsageError for an unknown one of either."""
    heads = model_named(model).heads
    if shape not in SHAPES:
        raise UsageError.not_allowed("shape", shape, ", ".join(SHAPES), "or give --heads")
    return heads // SHAPES[shape]


def _heads(spec: Spec, bounds: ServedBounds) -> tuple[int, ...]:
    asked = {*(spec.heads or ()), *(heads_of(spec.model, shape) for shape in spec.shapes or ())}
    return tuple(sorted(asked)) or bounds.heads


def _tensor_types(spec: Spec, bounds: ServedBounds) -> tuple[TensorTypes, ...]:
    """The backend's own combinations that fit; exactly what was asked for where all three are named."""
    fitting = tuple(types for types in bounds.tensor_types if _fits(types, spec))
    if fitting:
        return fitting
    if spec.archs and spec.q_dtype and spec.kv_dtype:
        return tuple((arch, spec.q_dtype, spec.kv_dtype) for arch in spec.archs)
    asked = f"arch {_text(spec.archs)}, q {_text(spec.q_dtype)}, KV {_text(spec.kv_dtype)}"
    sends = "; ".join(f"{arch} q {q} KV {kv}" for arch, q, kv in bounds.tensor_types)
    raise UsageError(
        f"tensor types: given {asked}; backend {spec.backend} sends: {sends}; "
        "name all of --arch, --q-dtype and --kv-dtype to try another combination"
    )


def _fits(types: TensorTypes, spec: Spec) -> bool:
    arch, q_dtype, kv_dtype = types
    return (spec.archs is None or arch in spec.archs) and spec.q_dtype in (None, q_dtype) and spec.kv_dtype in (None, kv_dtype)


def _text(value: tuple[Arch, ...] | DType | None) -> str:
    if value is None:
        return "any"
    return ", ".join(value) if isinstance(value, tuple) else value.value
