"""What a real backend file is driven through: backends to build, and steps to run on them in order.

Plain data, so that a campaign can generate, store and shrink it. State lives across the steps of one scenario, as it does
in the framework's process: graph buffers, module globals, scratch tensors. Knows no framework's source.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum

from backend.case import Arch, DType
from backend.errors import UsageError
from backend.words import number_of

HEADS = (4, 8, 12, 16, 32, 48, 64, 80, 96, 112, 128)
"""Heads per rank that models bring: DeepSeek 128, Kimi-K2 64, Kimi-K3 96, over 1..8 ranks, and what lies between."""

KV_DTYPES = (DType.FP8, DType.BF16)

CONTEXT_SLACK = 64
"""KV tokens that a model's context has beyond the longest request of a scenario that says nothing of it."""


class StepKind(StrEnum):
    """What a step does, in sglang's words."""

    DECODE = "decode"  # one query row a request
    PREFILL = "prefill"  # query_lens rows a request, else kv_lens; its kernels are not run, their arguments judged
    TARGET_VERIFY = "target_verify"  # MTP: draft_tokens rows a request, kv = kv_len + draft_tokens
    DRAFT_EXTEND = "draft_extend"  # the draft model catches up: query_lens rows a request
    MULTI_STEP_DRAFT = "multi_step_draft"  # the draft model's decode steps, one backend each


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """How one backend of the process is built.

    num_head: query heads of this rank. page_size: the server's; AITER's MLA path sees pages of one token.
    draft_tokens: None without speculation. max_requests: size of the request pool (upper bound of a batch).
    graph_batches: batch sizes that are captured, None: no graphs. dp_attention: attention data parallelism is on.
    is_draft: the draft model's backend (skip_prefill). kv_heads: None for MLA; else the key heads of a model of ordinary
    attention (MHA, GQA), with keys and values of head_dim elements; only the arguments of its calls are judged.
    context_parallel: ranks that share the KV cache token by token; this is the last, and each decodes with all their heads.
    branches: of the tree that a draft model's steps make (sglang's speculative_eagle_topk): rows a request in each of them, and
    each attends to the request's tokens and to its own branch's.
    """

    num_head: int
    kv_dtype: DType = DType.FP8
    q_dtype: DType = DType.FP8
    page_size: int = 1
    draft_tokens: int | None = None
    max_requests: int = 16
    graph_batches: tuple[int, ...] = ()
    dp_attention: bool = False
    is_draft: bool = False
    kv_heads: int | None = None
    head_dim: int = 128
    context_parallel: int = 1
    branches: int = 1

    def __post_init__(self) -> None:
        _require("num_head", self.num_head, 1 <= self.num_head <= 1024, "1..1024")
        _require("page_size", self.page_size, self.page_size in (1, 2, 4, 8, 16, 32, 64, 128, 256), "a power of two in 1..256")
        _require("draft_tokens", self.draft_tokens, self.draft_tokens is None or 1 <= self.draft_tokens <= 64, "null or 1..64")
        _require("max_requests", self.max_requests, 1 <= self.max_requests <= 65536, "1..65536")
        fits = self.kv_heads is None or (self.kv_heads >= 1 and self.num_head % self.kv_heads == 0)
        _require("kv_heads", self.kv_heads, fits, f"null, or a divisor of num_head={self.num_head}")
        _require("head_dim", self.head_dim, self.head_dim in (64, 128, 256), "64, 128, 256")
        _require("context_parallel", self.context_parallel, 1 <= self.context_parallel <= 64, "1..64")
        _require("branches", self.branches, 1 <= self.branches <= (64 if self.is_draft else 1), "1, of a draft model's to 64")
        _require("graph_batches", self.graph_batches, all(b >= 1 for b in self.graph_batches), "batch sizes >= 1")

    @property
    def max_batch(self) -> int:
        """Batch that graph buffers are sized for."""
        return max(self.graph_batches, default=0)

    @property
    def decoded_heads(self) -> int:
        """Heads of q in a decode: those of all ranks of its context-parallel group."""
        return self.num_head * self.context_parallel

    @property
    def past_context(self) -> int:
        """Draft tokens that lie past the context of a request that ends with its step. sglang ends one 3 tokens before it (one
        less than max_req_len = context_len - 1, scheduler.py, with the token that ends it), whatever drafts it has."""
        return max((self.draft_tokens or 0) - 3, 0)

    @property
    def draft_steps(self) -> int:
        """Decode steps of the draft model before a verification, the first of which comes with catching up."""
        return max((self.draft_tokens or 1) - 1, 1)

    def branch(self, length: int, number: int) -> int:
        """Where a branch's own tokens begin in the table of a request with so many tokens (generate_draft_decode_kv_indices).

        One branch lies behind the other; where pages have several tokens, each in pages of its own, whose first one begins with
        a copy of the request's last tokens.
        """
        if self.page_size == 1 or self.branches == 1:
            return length + number * self.draft_steps
        last = length % self.page_size
        return length + number * -(-(last + self.draft_steps) // self.page_size) * self.page_size

    def drafted_to(self, length: int) -> int:
        """Tokens that the table of a request holds once its drafts were made."""
        return max(length + (self.draft_tokens or 1), self.branch(length, self.branches - 1) + self.draft_steps)

    def longest(self, step: Step) -> int:
        """KV tokens of the longest request of a step on this backend, with those of the drafts that it makes or verifies."""
        drafts = (self.draft_tokens or 0) if step.kind in (StepKind.TARGET_VERIFY, StepKind.MULTI_STEP_DRAFT) else 0
        return max(step.kv_lens, default=0) + drafts

    def held(self, kv_lens: tuple[int, ...]) -> tuple[int, ...]:
        """KV tokens of each request that this rank holds: every context_parallel'th, dealt from the first rank on."""
        return tuple(length // self.context_parallel for length in kv_lens)


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass.

    kv_lens: KV tokens of each request before this step's draft tokens (in decode: with this step's token).
    query_lens: rows of each request, for draft_extend and prefill; empty: the draft tokens, or all. graph: replay the
    smallest captured graph that takes the batch, padding the rest; of no request at all (an idle rank of data parallel
    attention) the smallest there is. backend: which of the scenario's backends.
    requests: which request of the process each is, by number. It has its row of the request table and its KV from its first
    step of that backend to its last one; then both are free, and the next one's. Empty: rows and KV in order, never others.
    """

    kind: StepKind
    kv_lens: tuple[int, ...]
    graph: bool = False
    backend: int = 0
    query_lens: tuple[int, ...] = ()
    requests: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        some = len(self.kv_lens) >= 1 or self.graph
        _require(
            "kv_lens", self.kv_lens, some and all(n >= 0 for n in self.kv_lens), "at least one where no graph is, each >= 0"
        )
        fits = not self.query_lens or (len(self.query_lens) == len(self.kv_lens) and all(n >= 1 for n in self.query_lens))
        _require("query_lens", self.query_lens, fits, "empty, or one entry >= 1 a request")
        numbered = not self.requests or len(set(self.requests)) == len(self.requests) == len(self.kv_lens)
        _require("requests", self.requests, numbered, "empty, or a number for each request, none twice")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A process's life: backends built in order, then steps. release: AITER's; num_cu 0 means the whole GPU.

    environment: the framework's own variables that are set, by name and value. flags: so its server arguments that choose
    kernels. context: KV tokens that a request of the model may have; 0: CONTEXT_SLACK more than the
    longest has.
    """

    name: str
    backends: tuple[BackendConfig, ...]
    steps: tuple[Step, ...]
    arch: Arch = Arch.GFX950
    num_cu: int = 0
    release: str = "2026-06"
    environment: tuple[tuple[str, str], ...] = ()
    flags: tuple[tuple[str, str], ...] = ()
    context: int = 0

    def __post_init__(self) -> None:
        _require("backends", self.backends, len(self.backends) >= 1, "at least one")
        for i, step in enumerate(self.steps):
            where = f"steps[{i}]"
            _require(f"{where}.backend", step.backend, 0 <= step.backend < len(self.backends), f"0..{len(self.backends) - 1}")
            config = self.backends[step.backend]
            batch = len(step.kv_lens)
            _require(
                f"{where}.kv_lens",
                batch,
                batch <= config.max_requests,
                f"at most max_requests={number_of(config.max_requests, 'request')}",
            )
            if step.graph:
                _require(
                    f"{where}.graph", batch, batch <= config.max_batch, f"at most the largest captured batch {config.max_batch}"
                )
            if step.kind not in (StepKind.DECODE, StepKind.PREFILL):
                _require(
                    f"{where}.kind", step.kind, config.draft_tokens is not None, "decode or prefill, where draft_tokens is null"
                )
            held = config.longest(step)
            fits = not self.context or held <= self.context + config.past_context
            _require(f"{where}.kv_lens", held, fits, f"at most context={number_of(self.context, 'token')} a request")
        for at in range(len(self.backends)):
            numbered = {bool(step.requests) for step in self.steps if step.backend == at and step.kv_lens}
            _require("steps.requests", "some", len(numbered) < 2, "in all steps of a backend, or in none")

    def alive(self, backend: int, at: int) -> frozenset[int]:
        """The numbers of the requests that a backend has in the step at that place or in a later one."""
        return frozenset(itertools.chain.from_iterable(step.requests for step in self.steps[at:] if step.backend == backend))

    @property
    def needed_context(self) -> int:
        """The smallest context that the steps fit, and a request of one token with its drafts, as graphs are captured with."""
        captured = (1 + (config.draft_tokens or 0) for config in self.backends)
        return max(*captured, 1, *(self.backends[step.backend].longest(step) for step in self.steps))

    @property
    def model_context(self) -> int:
        """KV tokens that a request of the model may have: those of `context`, or what the steps need and CONTEXT_SLACK more."""
        reach = (max(step.kv_lens, default=0) + (self.backends[step.backend].draft_tokens or 0) for step in self.steps)
        return self.context or max(reach, default=1) + CONTEXT_SLACK

    def path(self, backend: int) -> str:
        """Which of the file's paths a backend takes besides the usual one, in words; "" for that one."""
        config = self.backends[backend]
        attention = "" if config.kv_heads is None else f"ordinary attention, {config.kv_heads} key heads of {config.head_dim}"
        ranks = (
            ""
            if config.context_parallel == 1
            else f"context parallel, rank {config.context_parallel - 1} of {config.context_parallel}"
        )
        return ", ".join(
            each for each in (attention, ranks, *("=".join(pair) for pair in (*self.environment, *self.flags))) if each
        )


def _require(field: str, given: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise UsageError.not_allowed(f"scenario field {field}", given, allowed)
