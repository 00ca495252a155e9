"""Where everything lies: a wave's block, an instruction's record, the run's context, a region's row, an event.

Plain integers, because compiled code reads them as constants. Offsets count in the unit named at each group.

A wave's block is `WAVE_BYTES` long and 64-byte aligned:
    scalars   uint32[SCALARS]: SGPRs, VCC, M0, EXEC and the like by their encoding (0..127), then the wave's own state,
              then the program's constants from CONSTANTS on
    rows      uint32[ROWS, 64]: v0..v255, a0..a255, then working rows
An operand code below `SCALAR_OPERAND` names a row; the others name scalar `code - SCALAR_OPERAND`.
"""

from __future__ import annotations

LANES = 64

# Scalars, in uint32. 0..127 are the hardware's own codes ("Scalar operands" of the ISA documents).
VCC = 106
TTMP = 108
M0 = 124
EXEC = 126
# State of the wave: 64-bit values take two words.
PC = 128  # index of the next record
STATUS = 129
WAVE_INDEX = 130  # within the workgroup
ELEMENT = 131  # last element that the wave read from a queue region
REQUESTER = 132  # what that element maps to
GPR_INDEX = 133  # 1 while gpr-index mode is on
SCC = 150  # the word behind it stays 0, for SCC as a 64-bit source
VSKIP = 134  # 1 while vector instructions are skipped
DENORMAL_F32 = 135  # float32: magnitudes below it are flushed to zero; 0.0 where denormals are kept
MODE = 137  # the MODE register
CLOCK = 140  # 64 bits, cycles, timed schedule only
EXECUTED = 142  # 64 bits: instructions executed
ANSWERED = 144  # two times 64 bits, by queue: when memory has answered everything that the wave has issued
CONSTANTS = 256
SCALARS = 2048

STATUS_RUNNING = 0
STATUS_BARRIER = 1
STATUS_ENDED = 2
STATUS_UNMODELLED = 3  # met at run time what the compiler could not see; the record's original index is in the context

# Rows of 64 lanes.
VGPRS = 256
AGPRS = 256
SCALAR_OPERAND = 1024  # above every row, the working ones included
SOURCE_ROWS = 512  # four for each of three sources: broadcast scalars, modified sources
ROWS_PER_SOURCE = 4
RESULT_ROWS = 524  # results before they are committed under EXEC: 32 of them for the widest load or store
STAGE_ROWS = 556  # destination of a modified instruction before clamp, omod, SDWA and DPP masks
ROWS = 576

ROWS_OFFSET = SCALARS * 4
ROW_BYTES = LANES * 4
WAVE_BYTES = ROWS_OFFSET + ROWS * ROW_BYTES

# A record: int32[16], 64 bytes.
RECORD_BYTES = 64
RECORD_WORDS = 16
HANDLER = 0  # 64 bits
OPCODE = 2
CONTROL = 3  # 0 for what a handler executes; otherwise what the loop does itself
DESTINATION = 4
SOURCE_0 = 5
SOURCE_1 = 6
SOURCE_2 = 7
IMMEDIATE = 8
DESTINATION_2 = 9  # scalar index of a mask, second destination of a two-result instruction
COUNT = 10  # dwords moved, or a packed set of flags: each handler says
ADDRESSES_ONLY = 0x100  # in COUNT of a memory instruction: check and record the access, move no data
RETURNS = 0x200  # in COUNT of an atomic: the old value goes to DESTINATION
INDEX_AND_OFFSET = 0x400  # in COUNT of a buffer access by index: the offset lies behind the index
ORIGINAL = 11  # index of the instruction in the kernel
TARGET = 12  # record index a branch goes to
MODIFIER = 13  # row of the modifier table
ACCESS = 14  # index of the memory instruction, -1 for none
COST = 15  # timed schedule: cycles until the wave's next instruction may issue

CONTROL_NONE = 0
CONTROL_NOP = 1
CONTROL_BRANCH = 2
CONTROL_BRANCH_SCC0 = 3
CONTROL_BRANCH_SCC1 = 4
CONTROL_BRANCH_VCCZ = 5
CONTROL_BRANCH_VCCNZ = 6
CONTROL_BRANCH_EXECZ = 7
CONTROL_BRANCH_EXECNZ = 8
CONTROL_BARRIER = 9
CONTROL_END = 10
CONTROL_WAIT = 11
CONTROL_SKIPPABLE = 12  # a vector instruction of a kernel that sets VSKIP: its handler runs unless that is on

# A modified instruction: int32[MODIFIER_WORDS], one row of the program's modifier table. Its first 16 words are the record that
# the instruction itself runs as: working rows in place of modified sources, the stage rows in place of a staged destination.
MODIFIER_WORDS = 64
MODIFIER_DIRECT = 48  # the same record once more with the real destination, for FLAG_DPP_EVERY_LANE
MODIFIER_FLAGS = 16
MODIFIER_DPP_CONTROL = 17
MODIFIER_DPP_MASKS = 18  # row mask | bank mask << 4 | bound_ctrl << 8
MODIFIER_SDWA_DESTINATION = 19  # dst_sel | dst_unused << 4
MODIFIER_OMOD = 20
MODIFIER_DWORDS = 21  # dwords of the destination
MODIFIER_SOURCES = 24  # three groups of five words: operand code, TYPE_*, dwords, SOURCE_*, SDWA selection
MODIFIER_SOURCE_WORDS = 5

FLAG_DPP = 1
FLAG_SDWA_DESTINATION = 2
FLAG_CLAMP = 4
FLAG_OMOD = 8
FLAG_GPR_INDEX = 16
FLAG_STAGED = 32  # the result goes through the stage rows
FLAG_DPP_EVERY_LANE = 64  # with all lanes enabled each has a source and is written, so nothing need be staged

SOURCE_NEG = 1
SOURCE_ABS = 2
SOURCE_SEXT = 4
SOURCE_NEG_HI = 8  # packed types: the second element
SOURCE_PICK_0_HIGH = 16  # packed types: the first element is taken from the high half
SOURCE_PICK_1_LOW = 32  # packed types: the second element is taken from the low half
SOURCE_SELECT = 64  # SDWA selection present

TYPE_BITS32 = 0
TYPE_F32 = 1
TYPE_F16 = 2
TYPE_F64 = 3
TYPE_PACKED_F32 = 4
TYPE_PACKED_16 = 5
TYPE_BF16 = 8

# The run's context: int64[CONTEXT_WORDS]; addresses of numpy arrays unless said otherwise.
CONTEXT_WORDS = 128
CTX_PROGRAM = 0
CTX_MODIFIERS = 2
CTX_FLAGS = 3
CTX_REGIONS = 4  # int64[regions, REGION_WORDS], by base
CTX_REGION_COUNT = 5
CTX_LAST_REGION = 6  # int32[accesses]: where the instruction's last access went
CTX_EDGES = 7  # int64[records, 2]: branch not taken, taken
CTX_EVENTS = 8  # int64[capacity, EVENT_WORDS]
CTX_EVENT_CAPACITY = 9
CTX_EVENT_COUNT = 10
CTX_EVENTS_KEPT = 76
CTX_EVENTS_EACH = 77  # kept of one instruction, kind and region, one after another
CTX_TOTALS = 11  # int64[accesses, KINDS, TOTAL_WORDS]
CTX_ACCESS_COUNTS = 12  # int64[accesses]: lanes that accessed memory
CTX_ACCESS_HASHES = 13  # uint64[accesses]
CTX_LDS = 14
CTX_LDS_BYTES = 15
CTX_WORKGROUP = 16  # flat index of the running workgroup
CTX_WAVES = 17  # waves of a workgroup
CTX_WAVE_BLOCKS = 18
CTX_ADDRESSES = 19  # uint64[64]: working memory of the memory handlers, global addresses
CTX_HOST = 20  # uint64[64]: host addresses, 0 where there are no data
CTX_POISON = 21  # byte
CTX_INITIAL_SCALARS = 22  # uint32[SCALARS], of which CTX_SCALAR_COUNT matter
CTX_GRID_X = 23
CTX_GRID_Y = 24
CTX_GRID_Z = 25
CTX_SCALAR_COUNT = 26
CTX_WORK_ITEMS = 27  # uint32[waves, 64]: v0 of each wave
CTX_ACTIVE_LANES = 28  # uint64[waves]: EXEC of each wave
CTX_WORKGROUP_SGPR = 29  # first SGPR that gets a workgroup id
CTX_WORKGROUP_ID_MASK = 30  # bit 0 x, 1 y, 2 z: which ids are wanted
CTX_QUANTUM = 31
CTX_LIMIT = 32  # instructions of a workgroup, all of its waves
CTX_EXECUTED = 33  # instructions, all waves
CTX_RESET_ROWS = 34  # int32[]: rows that a program reads before it writes them
CTX_RESET_ROW_COUNT = 35
CTX_MATRIX_A = 36  # float32[128, 32]
CTX_MATRIX_B = 37
CTX_LIMIT_AT = 38  # CTX_EXECUTED at which the workgroup that runs reaches its limit
CTX_TRACE = 41  # int32[]: executed original indices of one wave
CTX_TRACE_CAPACITY = 42
CTX_TRACE_COUNT = 43
CTX_TRACE_WORKGROUP = 44  # -1: none
CTX_TRACE_WAVE = 45
CTX_UNMODELLED = 46  # original index of what stopped the run, -1
CTX_SCRATCH = 47  # per-lane private memory of a workgroup's waves
CTX_SCRATCH_BYTES = 48  # of one lane
CTX_ARCH = 49  # 942 or 950
CTX_PENDING = 50  # timed schedule: uint64[waves, QUEUES, PENDING_ENTRIES, PENDING_WORDS]
CTX_PENDING_ROWS = 51  # uint32[waves, QUEUES, PENDING_ENTRIES, 16, 64]
CTX_PENDING_HEADS = 52  # uint64[waves, QUEUES, 2]
CTX_LDS_SHADOW = 53  # hazards: int64[LDS dwords, SHADOW_WORDS]
CTX_BARRIERS = 55  # barriers that the workgroup has passed
CTX_LAST_WORKGROUP = 57
CTX_RACES = 59  # int64[capacity, RACE_WORDS]
CTX_RACE_CAPACITY = 60
CTX_RACE_COUNT = 61
CTX_LATENCIES = 63  # int64[QUEUES]: from issue to answer
CTX_LDS_CYCLES = 64  # cycles that each dword of a wave adds to an answer of LDS
CTX_SLACK = 74  # cycles by which an answer may come late and still be taken
CTX_FIRST_WORKGROUP = 66
CTX_BAD = 67  # int64[KINDS, BAD_WORDS]: what the running access has found so far
CTX_ANY_BAD = 68  # 1 when any of it is not empty
CTX_POISON_BLOCK = 69  # 64 bytes of poison: what lanes without data read
CTX_STALE_READ = 75  # original index of an executed load from such a region, -1
CTX_ZERO_BLOCK = 70  # 64 bytes of zero: what clamped lanes read
CTX_SINK_BLOCK = 71  # 64 bytes that nobody reads: where dropped stores go
CTX_ATOMIC = 78  # 1 while an atomic is judged: two workgroups may write its bytes
CTX_REQUESTER_AXIS = 72  # the workgroup id (0 x, 1 y, 2 z) that is a wave's requester until it reads a queue; -1: none

# Answers of memory that are on their way, timed schedule. Each wave has two queues, in order: LDS and vector memory.
QUEUE_LDS = 0
QUEUE_VM = 1
QUEUES = 2
PENDING_ENTRIES = 64
LDS_LIMIT = 15  # lgkmcnt counts to 15 and vmcnt to 63: what would raise a full counter waits
VM_LIMIT = 63
PENDING_WORDS = 8  # uint64
PENDING_TIME = 0
PENDING_KIND = 1
PENDING_PLACE = 2  # destination row, or LDS address of lane 0
PENDING_DWORDS = 3
PENDING_MASK = 4
PENDING_TO_NOTHING = 0  # a store: it only counts
PENDING_TO_ROWS = 1
PENDING_TO_LDS = 2
PENDING_DATA_BYTES = 16 * 256  # sixteen rows
PENDING_HEAD_BYTES = 16  # uint64 first entry, number of entries

RUN_TIMED = 1
RUN_HASHES = 2
RUN_SLOW_PATH = 4  # every access takes the per-lane path
RUN_UNCHECKED = 16
RUN_HAZARDS = 32

# A region: int64[REGION_WORDS].
REGION_WORDS = 24
REGION_BASE = 0
REGION_END = 1  # exclusive
REGION_DATA = 2  # host address, 0 for a region without data
REGION_FLAGS = 3
REGION_WRITTEN = 4  # bit per byte, 0 when everything counts as written
REGION_TOUCHED_READ = 5  # bit per byte or per page, 0 when not asked for
REGION_TOUCHED_WRITE = 6
REGION_TOUCH_SHIFT = 7  # bytes per bit of the two above, as a power of two
REGION_WRITER = 8  # int32 per byte: workgroup + 1, 0 when not asked for
REGION_PAGE_BYTES = 9
REGION_ALLOWED = 10  # bit per page, `REGION_ALLOWED_STRIDE` bytes for each requester; 0 when every page is allowed
REGION_ALLOWED_STRIDE = 11
REGION_ELEMENT_BYTES = 12  # 0: not a queue
REGION_REQUESTERS = 13  # int32 per element, 0: element number is the requester
REGION_PAGES_TOUCHED = 14  # bit per page, for each (workgroup), 0 when not asked for
REGION_PAGES_STRIDE = 15
REGION_REQUESTER_COUNT = 16  # rows of the allowed bitmap
REGION_ELEMENTS = 17
REGION_PAGE_INVERSE = 21  # bits of the float64 1 / REGION_PAGE_BYTES
REGION_STORED = 20  # 1 once a store that moved no data went there
REGION_ATTRIBUTES = 18  # 0: bounds and flags are all there is to check; otherwise one of the next two
REGION_SPILL_END = 19  # exclusive end of the data that lie behind the region; REGION_END where none do

ATTRIBUTES_ANY = 1
ATTRIBUTES_PAGES = 2  # pages alone
FLAG_READABLE = 1
FLAG_WRITABLE = 2

# An event: int64[EVENT_WORDS], one for each wave instruction with at least one bad lane of the kind.
EVENT_WORDS = 16
EVENT_KIND = 0
EVENT_ORIGINAL = 1
EVENT_WORKGROUP = 2
EVENT_WAVE = 3
EVENT_LANES = 4  # mask; 0 for a scalar access
EVENT_ADDRESS = 5  # of the first bad lane
EVENT_LOWEST = 6
EVENT_HIGHEST_END = 7
EVENT_REGION = 8  # index of the nearest region of the first bad lane
EVENT_ELEMENT = 9
EVENT_BYTES = 10  # per lane
EVENT_WRITE = 11
EVENT_REQUESTER = 12
EVENT_EXECUTED = 13  # instructions of the wave so far: which iteration

KINDS = 8
KIND_OUT_OF_BOUNDS = 0
KIND_NULL = 1
KIND_UNWRITTEN_READ = 2
KIND_READ_ONLY_WRITE = 3
KIND_PAGE_NOT_ALLOWED = 4
KIND_LDS_OUT_OF_BOUNDS = 5
KIND_CLAMPED = 6
KIND_WRITE_OVERLAP = 7

TOTAL_WORDS = 6
TOTAL_LANES = 0
TOTAL_WAVES = 1
TOTAL_LOWEST = 2
TOTAL_HIGHEST_END = 3
TOTAL_REGION = 4  # of the last event, and how many of it in a row
TOTAL_RUN = 5

BAD_WORDS = 8
BAD_LANES = 0
BAD_ADDRESS = 1
BAD_LOWEST = 2
BAD_HIGHEST_END = 3
BAD_REGION = 4
BAD_COUNT = 5

NULL_END = 1 << 32  # addresses below it are taken for a null pointer plus an offset, which buffers have 32 bits of

# What is known of an LDS dword, hazards only: int64[SHADOW_WORDS]. An epoch is barriers passed plus one, 0 for never.
SHADOW_WORDS = 6
SHADOW_WRITE_EPOCH = 0
SHADOW_WRITER = 1
SHADOW_WRITE_PC = 2  # original index
SHADOW_READ_EPOCH = 3
SHADOW_READERS = 4  # mask of waves
SHADOW_READ_PC = 5

RACE_WORDS = 8
RACE_KIND = 0
RACE_PRODUCER = 1  # original index
RACE_CONSUMER = 2
RACE_DWORD = 3
RACE_WAVES = 4  # producer's wave (or mask of waves) << 8 | consumer's wave
RACE_WORKGROUP = 5
RACE_TIMES = 6

RACE_WRITE_READ = 0
RACE_WRITE_WRITE = 1
RACE_READ_WRITE = 2

OUTCOME_DONE = 0
OUTCOME_LIMIT = 1
OUTCOME_UNMODELLED = 2

APERTURES = (1 << 48, (1 << 48) + (1 << 32) - 1, 2 << 48, (2 << 48) + (1 << 32) - 1)
"""Shared base and limit, private base and limit: beyond the 48 bits of global addresses, so that a flat address tells."""
