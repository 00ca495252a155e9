"""One get_mla_metadata_v1: AITER's checks, the choice of the planner, its launch, and what it left.

Source: get_mla_metadata_v1 in csrc/kernels/mla/metadata.cu and the host function of each planner; rules.py has their rules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from backend.aiter import rules
from backend.aiter.arguments import BufferSizes, Int32Array, PlanArguments, TargetGpu
from backend.aiter.fold import FOLDED_HEADS
from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import ARRAY_NAMES, BUFFER_NAMES, plain_python
from backend.aiter.planners.result import Plan, PlannedBuffer, PlannerName, StrayRead
from backend.aiter.planners.v1_0 import EvenTask, plan_v1_0
from backend.aiter.planners.v1_1 import GreedyTask, plan_v1_1
from backend.aiter.planners.v1_2 import ENDLESS, FastTask, plan_v1_2
from backend.aiter.planners.v1_2_first import plan_v1_2_first
from backend.aiter.planners.v1_2_parallel import plan_v1_2_parallel
from backend.aiter.rules import FastRules, FirstFastRules, PlannerRules
from backend.cxx.arithmetic import Marks
from backend.cxx.memory import Spaces
from backend.errors import UnmodelledError
from backend.words import number_of

_WORDS_BEFORE = 4096
_WORDS_AFTER = (8192, 1 << 19, 1 << 16, 1 << 17, 1 << 17)
"""First windows, in the order of BUFFER_NAMES: a batch of 64 fits with room to spare (about 4 MiB in all)."""

Kernel = Callable[..., int]


class Arena(Spaces):
    """The five buffers of a planner; see memory.py. Planners of one thread share them: allocated once, grown when a planner
    writes farther than they reach."""

    def __init__(self) -> None:
        super().__init__([_WORDS_BEFORE] * len(_WORDS_AFTER), _WORDS_AFTER)

    def plan(self, kernel: Kernel, arguments: tuple[Any, ...]) -> int:
        """Let `kernel` clear the buffers and write, by (words, written, spans, strays, *arguments); returns what it returns.

        Runs it again with more memory as long as it wrote or noted past what there is.
        """
        while True:
            branches = kernel(self.words, self.written, self.spans, self.strays, *arguments)
            if not self.grown():
                return branches

    def collect(self, allocated: BufferSizes) -> dict[str, PlannedBuffer]:
        """Copy out what the last planner left."""
        sizes = (
            allocated.work_indptr,
            allocated.work_info_set,
            allocated.reduce_indptr,
            allocated.reduce_final_map,
            allocated.reduce_partial_map,
        )
        buffers = {}
        for name, size, (origin, _, _, low, high) in zip(BUFFER_NAMES, sizes, self.spans.tolist(), strict=True):
            if low > high:
                low, high = 0, -1
            begin, end = origin + low, origin + high + 1
            buffers[name] = PlannedBuffer(name, size, low, self.words[begin:end].copy(), self.written[begin:end].copy())
        return buffers


_LOCAL = threading.local()


def thread_arena() -> Arena:
    """The calling thread's arena."""
    arena: Arena | None = getattr(_LOCAL, "arena", None)
    if arena is None:
        arena = _LOCAL.arena = Arena()
    return arena


_PLANNED_HEADS = "only supports #heads in [16, 128], or (#head, uni_seqlen_qo) = (16*N, 1) where N is in [2, 8)"


class _Launch(NamedTuple):
    """A planner with the arguments that follow (words, written, spans, strays), and what `Plan` tells of them."""

    kernel: Callable[..., int]
    arguments: tuple[Any, ...]
    fold: int
    head_width: int
    rows: int
    rows_per_sequence: int
    compute_units: int
    branches: int = 0


def planner_for(fast_mode: bool, intra_batch_mode: bool) -> PlannerName:
    """The planner that get_mla_metadata_v1 turns to by its two flags; fast_mode goes first."""
    if fast_mode:
        return PlannerName.V1_2
    return PlannerName.V1_0 if intra_batch_mode else PlannerName.V1_1


def plan_by_rules(
    planners: PlannerRules, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes, *, compiled: bool = True
) -> Plan:
    """What get_mla_metadata_v1 does by the rules of a built-in release.

    compiled: False runs the same planner as plain Python, which is some hundred times slower.
    Raises UnmodelledError where hardware's answer is not known: local memory beyond its end in the ragged v1_2, and a request
    of no query row there that is cut in tiles; a v1_1 whose sort hands out its own padding (only with negative KV lengths).
    """
    planner = planner_for(arguments.fast_mode, arguments.intra_batch_mode)
    launch = _not_launched(planners, arguments) or _launch(planners, planner, device, arguments, allocated)
    if isinstance(launch, str):
        return _rejected(planner, launch, allocated, planners.checks_end_process)
    kernel = launch.kernel if compiled else _plain(launch.kernel)
    arena = thread_arena()
    branches = arena.plan(kernel, launch.arguments)
    if branches == ENDLESS:
        raise UnmodelledError(
            f"planner {planner}: a request of no query row has no tile, and the planner never gets past it; what it gives out "
            "until its compute units are full goes by memory that nobody wrote"
        )
    if branches < 0:
        raise UnmodelledError(
            f"planner {planner}: its sort hands out a row that does not exist ({number_of(launch.rows, 'row')})"
        )
    reads = tuple(StrayRead(ARRAY_NAMES[array], index) for array, index in arena.stray_reads())
    return Plan(
        planner=planner,
        rejected=None,
        buffers=arena.collect(allocated),
        reads_past_end=reads,
        fold=launch.fold,
        head_width=launch.head_width,
        rows=launch.rows,
        rows_per_sequence=launch.rows_per_sequence,
        compute_units=launch.compute_units,
        branches=branches | launch.branches | _shape_branches(launch, arguments),
    )


_plain = cache(plain_python)


def _not_launched(planners: PlannerRules, arguments: PlanArguments) -> str | None:
    """Why get_mla_metadata_v1 itself raises."""
    if arguments.kv_granularity & (arguments.kv_granularity - 1):
        return f"kv_granularity {arguments.kv_granularity} must be a power of 2"
    if arguments.intra_batch_mode and not planners.has_v1_0:
        return "get_mla_metadata_v1 has no argument intra_batch_mode"
    if arguments.is_cp_round_robin and not planners.has_round_robin:
        return "get_mla_metadata_v1 has no argument is_cp_round_robin"
    if planners.has_page_size and arguments.page_size & (arguments.page_size - 1):
        return f"page_size {arguments.page_size} must be a power of 2"
    return None


def _launch(
    planners: PlannerRules, planner: PlannerName, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes
) -> _Launch | str:
    """The launch of a planner, or why its host function raises."""
    if planner is PlannerName.V1_0:
        return _launch_v1_0(device, arguments, allocated)
    if planner is PlannerName.V1_1:
        return _launch_v1_1(device, arguments, allocated)
    if isinstance(planners.fast, FirstFastRules):
        return _launch_v1_2_first(device, arguments, allocated)
    return _launch_v1_2(planners.fast, device, arguments, allocated)


def _launch_v1_0(device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> _Launch | str:
    num_heads = rules.heads(arguments)
    fold = rules.fold_by_head_count(num_heads)
    head_width = num_heads if fold == 1 else FOLDED_HEADS
    if head_width not in (16, 128):
        return f"{_PLANNED_HEADS}; given {num_heads}"
    queries = arguments.uni_seqlen_qo
    per_row, row_queries = (queries, 1) if head_width == 128 else (fold, queries)
    rows = (arguments.kv_indptr.size - 1) * per_row
    if rows < 1:
        raise UnmodelledError(
            f"v1_0 with {number_of(num_heads, 'head')} and uni_seqlen_qo {queries}: a plan of {number_of(rows, 'row')}"
        )
    per_query_ends = rules.plans_per_query_ends(arguments, head_width)
    units = device.num_cu // arguments.num_heads_k
    task = EvenTask(
        rows=rows,
        rows_per_sequence=per_row,
        row_queries=row_queries,
        queries=queries,
        granularity_log2=arguments.kv_granularity.bit_length() - 1,
        compute_units=units,
        max_split=arguments.max_split_per_batch,
        per_query_ends=per_query_ends,
        fixed_pieces=rules.V1_0_FIXED_PIECES.get(device.arch, 0),
        tokens_per_piece=rules.V1_0_TOKENS_PER_PIECE,
        short_tail=rules.V1_0_SHORT_TAIL,
        lds_words=device.lds_bytes // 4,
        reduce_indptr_words=allocated.reduce_indptr,
    )
    return _Launch(
        kernel=plan_v1_0,
        arguments=(_read_only(arguments.kv_indptr), task),
        fold=fold,
        head_width=head_width,
        rows=rows,
        rows_per_sequence=per_row,
        compute_units=units,
        branches=int(Branch.PER_QUERY_ENDS) if per_query_ends else 0,
    )


def _launch_v1_1(device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> _Launch | str:
    num_heads = rules.heads(arguments)
    fold = rules.fold_by_head_count(num_heads)
    head_width = num_heads if fold == 1 else FOLDED_HEADS
    uniform, sparse_queries = _sparse_rows(arguments)
    rows = (arguments.qo_indptr.size - 1) * fold * sparse_queries
    if head_width not in (16, 128):
        return f"{_PLANNED_HEADS}; given {num_heads}"
    needed = rules.v1_1_lds_bytes(rows, head_width, arguments.max_seqlen_qo, device.num_cu)
    if needed > device.lds_bytes:
        return f"there is no enough LDS: {number_of(needed, 'byte')} for {number_of(rows, 'row')}, {device.lds_bytes} available"
    task = GreedyTask(
        rows=rows,
        rows_per_sequence=fold,
        uniform_queries=uniform,
        sparse_queries=sparse_queries,
        topk=arguments.topk,
        heads=head_width,
        is_causal=arguments.is_causal,
        granularity=arguments.kv_granularity,
        compute_units=device.num_cu,
        reduce_indptr_words=allocated.reduce_indptr,
    )
    return _Launch(
        kernel=plan_v1_1,
        arguments=(_read_only(arguments.qo_indptr), _read_only(arguments.kv_indptr), task),
        fold=fold,
        head_width=head_width,
        rows=rows,
        rows_per_sequence=fold * sparse_queries,
        compute_units=device.num_cu,
    )


def _launch_v1_2_first(device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> _Launch | str:
    num_heads = rules.heads(arguments)
    fold = rules.fold_by_head_count(num_heads)
    head_width = num_heads if fold == 1 else FOLDED_HEADS
    if head_width not in (16, 128):
        return f"{_PLANNED_HEADS}; given {num_heads}"
    uniform, sparse_queries = _sparse_rows(arguments)
    rows = (arguments.kv_indptr.size - 1) * fold * sparse_queries
    units = device.num_cu // arguments.num_heads_k
    packed = rules.PACKED_ROWS
    cuts_queries = rules.cuts_queries(arguments, packed)
    pieces_bytes = 4 * units * -(-arguments.max_seqlen_qo // packed) if cuts_queries else 0
    task = FastTask(
        rows=rows,
        rows_per_sequence=fold,
        uniform_queries=uniform,
        sparse_queries=sparse_queries,
        topk=arguments.topk,
        page_size=1,
        heads=num_heads,
        packed_log2=packed.bit_length() - 1,
        cuts_queries=cuts_queries,
        granularity_log2=arguments.kv_granularity.bit_length() - 1,
        compute_units=units,
        shares=rules.shares(arguments, units, rows),
        overhead=rules.V1_2_FIRST_OVERHEAD,
        tail_threshold=0,
        trims_causal=True,
        first_end_from_indptr=not _lengths_fit(device, rows, uniform, pieces_bytes),
        reduce_indptr_words=allocated.reduce_indptr,
    )
    return _Launch(
        kernel=plan_v1_2_first,
        arguments=(_read_only(arguments.qo_indptr), _read_only(arguments.kv_indptr), task),
        fold=fold,
        head_width=head_width,
        rows=rows,
        rows_per_sequence=fold * sparse_queries,
        compute_units=units,
    )


def _launch_v1_2(fast: FastRules, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> _Launch | str:
    fold = rules.fold_by_native(fast, device, arguments)
    head_width = rules.heads(arguments) if fold == 1 else FOLDED_HEADS
    if not fast.accepts(device, arguments, head_width):
        return (
            f"v1_2 does not support {number_of(head_width, 'head')} with this dtype and max_seqlen_qo {arguments.max_seqlen_qo}"
        )
    sequences = arguments.kv_indptr.size - 1
    units = device.num_cu // arguments.num_heads_k
    packed = fast.packed_rows(device, arguments, head_width)
    cuts_queries = rules.cuts_queries(arguments, packed)
    parallel = fast.has_parallel_path and rules.runs_parallel(device, arguments, fold, cuts_queries)
    sparse_queries = int(arguments.qo_indptr[1] - arguments.qo_indptr[0]) if arguments.topk >= 0 else 1
    rows = sequences * fold * sparse_queries
    if rows < 1:
        raise UnmodelledError("v1_2 with sparse attention and no query in the first sequence: a plan of no rows")
    task = FastTask(
        rows=rows,
        rows_per_sequence=fold,
        uniform_queries=arguments.uni_seqlen_qo,
        sparse_queries=sparse_queries,
        topk=rules.topk_in_pages(arguments),
        page_size=arguments.page_size,
        heads=head_width,
        packed_log2=packed.bit_length() - 1,
        cuts_queries=cuts_queries,
        granularity_log2=arguments.kv_granularity.bit_length() - 1,
        compute_units=units,
        shares=rules.shares(arguments, units, sequences * fold),
        overhead=rules.overhead_blocks(arguments.page_size),
        tail_threshold=rules.tail_threshold(arguments),
        trims_causal=fast.trims_causal(arguments) and rules.trims_among_ranks(arguments, fold),
        first_end_from_indptr=not _lengths_fit(device, sequences * fold, arguments.uni_seqlen_qo, 0),
        reduce_indptr_words=allocated.reduce_indptr,
    )
    indptrs = _read_only(arguments.qo_indptr), _read_only(arguments.kv_indptr)
    return _Launch(
        kernel=plan_v1_2_parallel if parallel else plan_v1_2,
        arguments=(*indptrs, task) if parallel else (*indptrs, _read_only(arguments.kv_last_page_lens), task),
        fold=fold,
        head_width=head_width,
        rows=rows,
        rows_per_sequence=fold * sparse_queries,
        compute_units=units,
    )


def _sparse_rows(arguments: PlanArguments) -> tuple[int, int]:
    """Query rows of a planned row and planned rows of a sequence, where sparse attention plans a row for each query."""
    if arguments.topk < 0:
        return arguments.uni_seqlen_qo, 1
    if arguments.uni_seqlen_qo < 1:
        raise UnmodelledError(f"sparse attention with uni_seqlen_qo {arguments.uni_seqlen_qo}: a plan of no rows")
    return 1, arguments.uni_seqlen_qo


def _lengths_fit(device: TargetGpu, rows: int, uniform_queries: int, other_bytes: int) -> bool:
    """Whether a v1_2 kernel keeps its rows' KV lengths in local memory."""
    available = device.lds_bytes
    if uniform_queries < 1 and 4 * rows > available:
        raise UnmodelledError(
            f"v1_2 with ragged queries and {number_of(rows, 'row')}: its query lengths do not fit local memory"
        )
    return rows <= (available - other_bytes) // (4 if uniform_queries > 0 else 8)


def _shape_branches(launch: _Launch, arguments: PlanArguments) -> int:
    branches = int(Branch.FOLDED if launch.fold > 1 else Branch.NOT_FOLDED)
    if arguments.uni_seqlen_qo < 1:
        branches |= Branch.RAGGED_QUERIES
    if arguments.topk >= 0:
        branches |= Branch.SPARSE
    if launch.rows > 1:
        branches |= Branch.SEVERAL_PLANNED_ROWS
    if launch.rows > launch.compute_units:
        branches |= Branch.ROWS_EXCEED_COMPUTE_UNITS
    return branches


def _read_only(values: Int32Array) -> Int32Array:
    """A view that numba types the same way whether or not the caller's array is writable: one compilation for all."""
    view = values.view()
    view.flags.writeable = False
    return view


def _rejected(planner: PlannerName, reason: str, allocated: BufferSizes, ends_process: bool) -> Plan:
    nothing: Int32Array = np.empty(0, np.int32)
    no_marks: Marks = np.empty(0, np.uint8)
    buffers = {name: PlannedBuffer(name, getattr(allocated, name), 0, nothing, no_marks) for name in BUFFER_NAMES}
    return Plan(planner=planner, rejected=reason, buffers=buffers, ends_process=ends_process)
