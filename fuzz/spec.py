"""What a search shall draw, as a person asks for it: one frozen dataclass, explained field by field.

The explanation stands beside each field and is the only one: the flags of `run`, `campaign`, `nightly` and `agree` and the
TOML fields of a campaign are made of it (see fuzz/commands/flags.py). A field and its flag are one word: `query_rows` is
`--query-rows`. This module imports nothing slow; fuzz/space.py knows what a specification allows. Models are rows here too.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backend.case import ORDINARY, QK_HEAD_DIM, V_HEAD_DIM, Arch, DType, MetadataMode
from backend.errors import UsageError


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """heads: query heads, all ranks together. kv_lora_rank, qk_rope_head_dim: elements of a KV token."""

    name: str
    heads: int
    kv_lora_rank: int = V_HEAD_DIM
    qk_rope_head_dim: int = QK_HEAD_DIM - V_HEAD_DIM


MODELS = (
    LanguageModel("deepseek-r1", 128),
    LanguageModel("deepseek-v3.2", 128),
    LanguageModel("kimi-k2", 64),
    LanguageModel("kimi-k3", 96),
    LanguageModel("kimi-linear", 32),
    LanguageModel("glm-5", 64),
    LanguageModel("glm-5.3-flash", 64, qk_rope_head_dim=0),  # rope-free: rows of 512 (vllm#53963)
)

MODEL_NAMES = ", ".join(model.name for model in MODELS)


def model_named(name: str) -> LanguageModel:
    """The model of that name; raises UsageError for an unknown one."""
    for model in MODELS:
        if model.name == name:
            return model
    raise UsageError.not_allowed("model", name, MODEL_NAMES, "or give --heads, --kv-lora-rank and --qk-rope-head-dim")


T = TypeVar("T")

DEFAULT_RELEASE = "2026-06"

DEFAULT_MAX_BATCH = 320
"""Just above the 304 compute units of an MI300X, where planners go from several CUs a request to several requests a CU."""

DEFAULT_MAX_KV_LEN = 131_072
"""The context of DeepSeek-R1 is 163,840; beyond the longest planner split (64 x 196 tokens) lengths differ in scale only."""


def explained(default: Any, text: str, *, least: int | None = None, formerly: str = "") -> Any:
    """A field of a specification.

    text: what it means; of a bool that is true, what follows "; false: " says what its flag does. least: the smallest number
    allowed, None for any. formerly: a flag of earlier versions that still stands for it.
    """
    return field(default=default, metadata={"explained": text, "least": least, "formerly": formerly})


def with_options(specification: type[T]) -> type[T]:
    """To a class that becomes a dataclass: a field for each ordinary one of a Case, its values to draw or None for neutral."""
    for each in ORDINARY:
        specification.__annotations__[each.name] = types.GenericAlias(tuple, (each.kind, ...)) | None
        setattr(specification, each.name, explained(None, f"{each.explained}: values to draw", least=each.least))
    return specification


@dataclass(frozen=True, slots=True)
@with_options
class Spec:
    """What is tried; None leaves it to what the backend really sends.

    Raises UsageError for a value below what a field allows; what depends on the backend is checked by fuzz.space.space.
    """

    backend: str = explained(
        "sglang-27188", "whose rule decides: a name that `aiterfuzz version` lists, module:name, file.py:name"
    )
    releases: tuple[str, ...] | None = explained(
        None, "releases of AITER: 2025-11, 2026-06 (where none is given), 2026-08", formerly="--release"
    )
    archs: tuple[Arch, ...] | None = explained(None, "GPUs: gfx942 (or mi300x), gfx950 (or mi355x)", formerly="--arch")
    model: str = explained("deepseek-r1", f"whose heads `shapes` divides, and whose rows: {MODEL_NAMES}")
    shapes: tuple[str, ...] | None = explained(None, "tensor parallel shapes: tp1, tp2, tp4, tp8")
    heads: tuple[int, ...] | None = explained(None, "query heads a rank, beside those of `shapes`")
    modes: tuple[MetadataMode, ...] | None = explained(
        None, "metadata modes to force: non-persistent, fake, greedy, fast", formerly="--mode"
    )
    query_rows: tuple[int, ...] | None = explained(
        None, "query rows a request: 1, or the number of draft tokens", formerly="--qlen"
    )
    page_sizes: tuple[int, ...] | None = explained(None, "tokens a page of the KV pool", formerly="--page-size")
    q_dtype: DType | None = explained(None, "what q holds: bf16, fp8")  # noqa: RUF009  (a field, like the others)
    kv_dtype: DType | None = explained(None, "what the KV cache holds: bf16, fp8")  # noqa: RUF009
    max_batch: int = explained(DEFAULT_MAX_BATCH, "requests of a case at most", least=1)
    max_kv_len: int = explained(DEFAULT_MAX_KV_LEN, "KV tokens of a request at most", least=1, formerly="--max-kv")

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, least = getattr(self, each.name), each.metadata["least"]
            if isinstance(value, int | float) and least is not None and not value >= least:
                raise UsageError.not_allowed(each.name, value, f"at least {least}")


def explanations(kind: type[Spec]) -> Mapping[str, str]:
    """What each field of a specification means, by its name."""
    return {each.name: str(each.metadata["explained"]) for each in dataclasses.fields(kind)}
