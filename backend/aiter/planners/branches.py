"""Names of the branches that a planner can take, for coverage-guided search. Knows no planner's code."""

from __future__ import annotations

from enum import IntEnum


class Branch(IntEnum):
    """One bit for each branch of the planners; `Plan.branches` is their union over one call. Compiled code knows them."""

    # All planners.
    FOLDED = 1 << 0  # heads planned as groups of 16
    NOT_FOLDED = 1 << 1  # heads planned as they are
    UNSPLIT = 1 << 2  # a row or tile in one piece, written to o directly
    SPLIT = 1 << 3  # a row or tile in several pieces, to be reduced
    EMPTY_SEQUENCE = 1 << 4  # a sequence without KV
    DIVISION_BY_ZERO = 1 << 5  # a divisor that the caller's numbers made 0
    RAGGED_QUERIES = 1 << 6  # query lengths read from qo_indptr (uni_seqlen_qo < 1)
    SPARSE = 1 << 7  # topk >= 0
    SEVERAL_PLANNED_ROWS = 1 << 8  # more than one row
    ROWS_EXCEED_COMPUTE_UNITS = 1 << 9  # more rows than compute units
    LDS_OVERFLOW = 1 << 10  # per-row state does not fit the wave's local memory

    # v1_0.
    CAP_BY_LENGTH = 1 << 11  # pieces capped by tokens of the sequence
    CAP_BY_COMPUTE_UNITS = 1 << 12  # pieces capped by compute units a row
    CAP_BY_ARGUMENT = 1 << 13  # pieces capped by max_split_per_batch
    CAP_FIXED = 1 << 14  # pieces fixed by the architecture
    SHORT_TAIL_JOINED = 1 << 15  # a tail of a few tokens goes to the piece before it
    PER_QUERY_ENDS = 1 << 16  # a row for each query position, each with its causal end
    KV_END_FORCED = 1 << 17  # kv_end raised to kv_begin + 1
    NO_PIECE = 1 << 18  # a row without any piece (piece count <= 0)
    DEALT_EVENLY = 1 << 19  # every compute unit gets the same number of work items
    DEALT_UNEVENLY = 1 << 20

    # v1_2.
    SEVERAL_QUERY_TILES = 1 << 21  # a row cut along its queries
    SHORTER_LAST_TILE = 1 << 22  # the last tile of a row holds fewer queries
    GLUED = 1 << 23  # remainder shorter than the threshold: taken over by this compute unit
    TAIL_TAKEN = 1 << 24  # last piece extended to the end of the sequence
    NO_ROOM = 1 << 25  # a compute unit closed because nothing fits
    CAUSAL_TRIM = 1 << 26  # kv_end below the sequence's end, for the tile's own queries
    PAGED = 1 << 27  # page_size > 1: kv_offset from kv_last_page_lens
    ROWS_LEFT_OVER = 1 << 28  # compute units ran out before the rows
    COMPUTE_UNITS_LEFT_IDLE = 1 << 29  # rows ran out before the compute units
    PARALLEL = 1 << 30  # the parallel path (2026-08)
    EMPTY_DROPPED = 1 << 31  # a sequence without KV gets no work item
    NO_WORK_LEFT_TO_TAKE = 1 << 32  # a piece with kv_end <= kv_begin

    # v1_1.
    UNSORTED = 1 << 33  # so many rows that the sort does not order them all
    TWO_PIECES_TOLERATED = 1 << 34  # estimated two pieces, the second so short that the tile counts as unsplit
    REMAINDER_ABSORBED = 1 << 35  # a short remainder goes to the piece before it
    FLOOR_BOUND = 1 << 36  # a compute unit over its limit takes the floor
    ESTIMATE_MISSED = 1 << 37  # split by estimate, one piece in fact, or the other way round
    FINAL_MAP_UNSPLIT = 1 << 38  # final_map entry (-1, -2)
