"""A LogFact: one thing that a line of a log says, and where it stands. Knows no form of line and draws no conclusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Topic(StrEnum):
    """What a fact is about; the values are the groups' names in the patterns of `forms.py`."""

    FAULT_ADDRESS = "fault_address"  # hexadecimal; a page's, as ROCR and the kernel driver give it
    FAULT_REASON = "fault_reason"
    FAULT_IS_WRITE = "fault_is_write"  # "0" or "1", of VM_L2_PROTECTION_FAULT_STATUS
    PAGE_FAULT = "page_fault"  # the driver's line, of any process
    QUEUE_ERROR = "queue_error"
    FAULTING_KERNEL = "faulting_kernel"  # named by the fault itself
    KERNEL = "kernel"  # named where it was loaded
    KERNEL_FILE = "kernel_file"  # file name of a code object
    GRID = "grid"
    PC = "pc"
    PC_OFFSET = "pc_offset"  # bytes from the kernel's entry, decimal
    CODE_ENTRY = "code_entry"
    CODE_BASE = "code_base"  # where the code object's image was loaded
    ARCH = "arch"
    PRODUCT = "product"
    FRAMEWORK = "framework"
    SGLANG_VERSION = "sglang_version"
    VLLM_VERSION = "vllm_version"
    AITER_VERSION = "aiter_version"
    AITER_COMMIT = "aiter_commit"
    MODEL = "model"
    TENSOR_PARALLEL = "tensor_parallel"
    DATA_PARALLEL = "data_parallel"
    DP_ATTENTION = "dp_attention"
    KV_DTYPE = "kv_dtype"
    Q_DTYPE = "q_dtype"
    PAGE_SIZE = "page_size"
    DRAFT_TOKENS = "draft_tokens"  # rows of a request where the framework verifies
    SPECULATIVE_TOKENS = "speculative_tokens"  # drafts; the rows are one more
    MAX_REQUESTS = "max_requests"
    GRAPH_BATCHES = "graph_batches"
    GRAPHS_OFF = "graphs_off"
    CAPTURING = "capturing"
    REPLAYED = "replayed"  # whether the last batches ran in a graph
    BATCH = "batch"
    TOKENS = "tokens"
    KV_LENS = "kv_lens"
    POOL_TOKENS = "pool_tokens"
    FIRST_PAGE = "first_page"
    HEADS = "heads"
    ALL_HEADS = "all_heads"  # of the model, before tensor parallelism
    QUERY_ROWS = "query_rows"
    ROPE_DIM = "rope_dim"
    LATENT_DIM = "latent_dim"
    ATTENTION = "attention"
    LSE = "lse"
    MODE = "mode"
    REFUSAL = "refusal"  # AITER's or a framework's own words
    EXCEPTION = "exception"
    OUT_OF_MEMORY = "out_of_memory"
    NOT_LOADED = "not_loaded"  # why the runtime did not take a code object
    HANG = "hang"
    COLLECTIVE = "collective"
    WRONG_OUTPUT = "wrong_output"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class LogFact:
    """topic, value: what. file, line: where, the line counted from 1. text: of the line, cut and fit to be printed."""

    topic: Topic
    value: str
    file: str
    line: int
    text: str

    @property
    def where(self) -> str:
        """The place as `FILE:LINE`."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Everything that the logs say, in their order. notes: what was cut or could not be read. lines: read."""

    found: tuple[LogFact, ...]
    notes: tuple[str, ...] = ()
    lines: int = 0

    def of(self, *topics: Topic) -> Iterator[LogFact]:
        """Those about some topics, in order."""
        return (fact for fact in self.found if fact.topic in topics)

    def first(self, topic: Topic) -> LogFact | None:
        """The first about a topic."""
        return next(self.of(topic), None)

    def last(self, topic: Topic) -> LogFact | None:
        """The last about a topic."""
        found = tuple(self.of(topic))
        return found[-1] if found else None

    def value(self, topic: Topic) -> str | None:
        """The last value about a topic: what a server prints later is what it decided."""
        fact = self.last(topic)
        return None if fact is None else fact.value

    def numbers(self, topic: Topic) -> tuple[int, ...]:
        """The values about a topic that are whole numbers, in order."""
        return tuple(int(fact.value) for fact in self.of(topic) if fact.value.isdigit() and len(fact.value) <= LONGEST_NUMBER)

    def number(self, topic: Topic) -> int | None:
        """The last of `numbers`."""
        found = self.numbers(topic)
        return found[-1] if found else None

    def has(self, *topics: Topic) -> bool:
        """Whether there is anything about one of some topics."""
        return next(self.of(*topics), None) is not None


LONGEST_NUMBER = 12
"""Digits; what is longer is no size of anything here."""
