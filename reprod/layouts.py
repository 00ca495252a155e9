"""Would hardware have faulted? In how many layouts of torch's memory an access outside of a tensor reaches an unmapped page.

A byte-exact finding stands however memory is laid out; a GPU complains only where the access leaves what is mapped. So
the tensors of the call are laid out many times, each time behind another history of allocations, and the accesses are tried
in each. Everything follows from the seed. The rules of the allocator are backend.real.allocator's; this module knows which
tensors a call has and in what order they are made, and no kernel. The shares are one table and what it assumes, for explain.txt
and for the issue.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from backend.aiter.arguments import INDEX_TENSORS
from backend.aiter.launch import Refusal
from backend.call import Call
from backend.observation import ViolationKind
from backend.outcome import Outcome
from backend.real.allocator import (
    LARGE_SEGMENT,
    MIN_BLOCK,
    MIN_LARGE,
    SMALL_SEGMENT,
    SMALL_SIZE,
    Block,
    CachingAllocator,
    ProcessAddresses,
)

DRAWS = 400
"""Layouts of each setting; a share of a half is then known to within 5 of 100, two standard deviations."""

MOST_EARLIER = 64
"""Allocations that a process has made before, at most; some are freed again. A layer of a model makes some dozens."""

EARLIER_BYTES = (1 << 9, 1 << 26)
"""Sizes of them, drawn evenly on a logarithmic scale, because nothing is known of the model: 512 B to 64 MiB."""

INT32 = 4

METADATA = ("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
INDICES = (*INDEX_TENSORS, "num_kv_splits_indptr")
STEP = ("q_scale", "kv_scale", "q", "o", "logits", "attn_lse", "final_lse", "valid_split_count")
"""Tensors in the order in which they are made: metadata and index tensors by the backend, q and o by the model, and the
partial results by mla_decode_fwd. The KV pool comes first of all, when the process starts."""


class Setting(StrEnum):
    """How the process uses memory."""

    EAGER = "eager"  # everything in the default pool, behind what earlier steps left there
    GRAPH = "captured graph"  # q, o and partial results in a private pool of the graph, the rest in the default one
    EXPANDABLE = "expandable segments"  # as EAGER, with expandable_segments:True


@dataclass(frozen=True, slots=True)
class Stray:
    """Bytes outside of a tensor that a stage touches: [begin, end) from the tensor's start. null: through a null pointer."""

    tensor: str
    is_write: bool
    begin: int
    end: int
    null: bool = False

    def __str__(self) -> str:
        verb = "write" if self.is_write else "read"
        if self.null:
            return f"{verb} through a null pointer"
        return f"{self.tensor} {verb} at {self.begin:,}..{self.end - 1:,}"


@dataclass(frozen=True, slots=True)
class Share:
    """What happens in `draws` layouts of one setting.

    faults: layouts in which at least one access reaches an unmapped page. by_stray: the same for each access alone.
    overwrites: layouts without a fault in which a write lands in memory that another tensor holds.
    """

    setting: Setting
    draws: int
    faults: int
    overwrites: int
    by_stray: tuple[int, ...]

    @property
    def one_rank(self) -> float:
        """Share of layouts in which one process faults."""
        return self.faults / self.draws

    @property
    def two_ranks(self) -> float:
        """Share in which at least one of two processes faults, were their layouts independent."""
        return 1.0 - (1.0 - self.one_rank) ** 2


@dataclass(frozen=True, slots=True)
class Layouts:
    """Shares of each setting. strays: the accesses tried, in the order of Share.by_stray."""

    seed: int
    strays: tuple[Stray, ...]
    shares: tuple[Share, ...]


def layouts(outcome: Outcome, seed: int = 0, draws: int = DRAWS) -> Layouts | None:
    """The shares of an outcome; None where no access leaves a tensor. Of what torch does not allocate (a kernel's arguments)
    nothing is said."""
    call = outcome.call
    if call is None:
        return None
    sizes = tensor_bytes(call)
    aliases = {} if isinstance(call.launch, Refusal) else call.launch.aliases
    strays = tuple(s for s in strays_of(outcome) if s.null or aliases.get(s.tensor, s.tensor) in sizes)
    if not strays:
        return None
    placed = tuple(Stray(aliases.get(s.tensor, s.tensor), s.is_write, s.begin, s.end, s.null) for s in strays)
    return Layouts(seed, strays, tuple(share(placed, sizes, setting, seed, draws) for setting in Setting))


def strays_of(outcome: Outcome) -> Iterator[Stray]:
    """Accesses outside of a tensor, in the order of the path: the planner's writes and reads, then those of the kernels.

    An access that spreads is taken as one stretch from its first to its last byte.
    """
    plan = outcome.call.plan if outcome.call is not None else None
    if plan is not None:
        for overrun in plan.overruns:
            yield Stray(overrun.buffer, True, overrun.first_word * INT32, (overrun.last_word + 1) * INT32)
        for read in dict.fromkeys(plan.reads_past_end):
            if read.array in INDICES:
                yield Stray(read.array, False, read.index * INT32, (read.index + 1) * INT32)
    for violation in outcome.observation.violations if outcome.observation is not None else ():
        if violation.kind is ViolationKind.NULL:
            yield Stray(violation.tensor, violation.is_write, 0, 0, null=True)
        elif violation.kind is ViolationKind.OUT_OF_BOUNDS and violation.extent > 0:
            yield Stray(violation.tensor, violation.is_write, violation.first_offset, violation.end_offset)


def tensor_bytes(call: Call) -> Mapping[str, int]:
    """Bytes of each tensor of a call, the KV pool first, then in the order in which they are made; aliases left out."""
    sizes: dict[str, int] = {}
    if call.allocated is not None:
        sizes |= {name: getattr(call.allocated, name) * INT32 for name in METADATA[1:]}
    if isinstance(call.launch, Refusal):
        arrays = {"qo_indptr": call.decode.qo_indptr, "kv_indptr": call.decode.kv_indptr}
        sizes |= {name: len(array) * INT32 for name, array in arrays.items()}
        sizes["kv_last_page_lens"] = len(call.decode.kv_last_page_lens) * INT32
    else:
        sizes |= {name: spec.nbytes for name, spec in call.launch.tensors.items() if name not in call.launch.aliases}
        sizes |= {name: spec.nbytes for name, spec in call.launch.second_stage.tensors.items()}
    known = ("kv_buffer", *METADATA, *INDICES, *STEP)
    return {name: sizes[name] for name in (*known, *(n for n in sizes if n not in known)) if name in sizes}


def share(strays: Sequence[Stray], sizes: Mapping[str, int], setting: Setting, seed: int, draws: int) -> Share:
    """What `draws` layouts of one setting do with the accesses. sizes: bytes of each tensor in the order of allocation."""
    faults = overwrites = 0
    by_stray = [0] * len(strays)
    for draw in range(draws):
        space, blocks = lay_out(sizes, setting, random.Random(f"{seed}/{setting}/{draw}"))
        faulting = [_faults(stray, space, blocks) for stray in strays]
        by_stray = [count + faulted for count, faulted in zip(by_stray, faulting, strict=True)]
        if any(faulting):
            faults += 1
        elif any(stray.is_write and _hits_another(stray, blocks) for stray in strays):
            overwrites += 1
    return Share(setting, draws, faults, overwrites, tuple(by_stray))


def lay_out(sizes: Mapping[str, int], setting: Setting, rng: random.Random) -> tuple[ProcessAddresses, Mapping[str, Block]]:
    """One layout: the address space, and the block of each tensor by name."""
    space = ProcessAddresses()
    default = CachingAllocator(space, setting is Setting.EXPANDABLE)
    step = CachingAllocator(space) if setting is Setting.GRAPH else default
    blocks = {"kv_buffer": default.allocate(sizes["kv_buffer"])} if "kv_buffer" in sizes else {}
    _weights(default, rng)
    _history(default, rng)
    if step is not default:
        _history(step, rng)
    for name, size in sizes.items():
        if name != "kv_buffer":
            blocks[name] = (default if name in METADATA + INDICES else step).allocate(size)
    return space, blocks


def _weights(allocator: CachingAllocator, rng: random.Random) -> None:
    """What stays for good, the model's weights: the last segment of either pool is filled to anywhere."""
    for segment, least, most in ((SMALL_SEGMENT, 1, SMALL_SIZE), (LARGE_SEGMENT, SMALL_SIZE + 1, MIN_LARGE - MIN_BLOCK)):
        left = rng.randrange(segment)
        while left >= least:
            allocator.allocate(min(left, most))
            left -= min(left, most)


def _history(allocator: CachingAllocator, rng: random.Random) -> None:
    """Earlier allocations, of which every second step frees one again."""
    held: list[tuple[Block, int]] = []
    least, most = EARLIER_BYTES
    for _ in range(rng.randint(0, MOST_EARLIER)):
        if held and rng.random() < FREES:
            allocator.free(*held.pop(rng.randrange(len(held))))
        else:
            size = int(least * (most / least) ** rng.random())
            held.append((allocator.allocate(size), size))


FREES = 0.5
"""Probability that a step of the history frees something; what is free is where a tensor may come to lie before others."""


def _faults(stray: Stray, space: ProcessAddresses, blocks: Mapping[str, Block]) -> bool:
    if stray.null:
        return True
    start = blocks[stray.tensor].address
    return not space.is_mapped(start + stray.begin, start + stray.end)


def _hits_another(stray: Stray, blocks: Mapping[str, Block]) -> bool:
    """Whether the stray bytes, all of them mapped, lie in a block that is in use, of the call or of its history."""
    own = blocks[stray.tensor]
    begin, end = own.address + stray.begin, own.address + stray.end
    forward = stray.begin >= 0
    block = own.after if forward else own.before
    while block is not None and (block.address < end if forward else block.end > begin):
        if block.is_used and block.end > begin and block.address < end:
            return True
        block = block.after if forward else block.before
    return False


HEADER = ("memory", "one rank faults", "two ranks fault", "no fault, but another tensor overwritten")


def percent(share: float) -> str:
    """A share as a person reads it; one that is neither none nor all never rounds to either."""
    if share in (0.0, 1.0):
        return f"{share * 100:.0f} %"
    return f"{min(max(share * 100, 0.1), 99.9):.1f} %"


def rows(found: Layouts) -> list[tuple[str, str, str, str]]:
    """One row a setting, under HEADER."""
    return [
        (share.setting.value, percent(share.one_rank), percent(share.two_ranks), percent(share.overwrites / share.draws))
        for share in found.shares
    ]


def by_access(found: Layouts) -> list[str]:
    """One line for each access outside of a tensor: in how many layouts of each setting it alone faults."""
    lines = []
    for i, stray in enumerate(found.strays):
        shares = ", ".join(f"{share.setting.value} {percent(share.by_stray[i] / share.draws)}" for share in found.shares)
        lines.append(f"{stray}: {shares}")
    return lines


def assumptions(found: Layouts) -> Iterator[str]:
    """What the shares rest on, one sentence a line."""
    draws = found.shares[0].draws
    yield (
        f"{draws} layouts of each kind of memory, seed {found.seed}: torch's caching allocator with its default settings "
        "(blocks of 512 bytes, segments of 2 MiB up to 1 MiB, of 20 MiB up to 10 MiB, else whole 2 MiB)"
    )
    yield (
        "before the call: weights that fill the last segment of each pool to anywhere (not a graph's own pool), then 0 to "
        f"{MOST_EARLIER} steps, half of which free something again, of {EARLIER_BYTES[0]} B to {EARLIER_BYTES[1] >> 20} MiB, "
        "evenly on a logarithmic scale; an assumption, since the model around is not known"
    )
    yield "a segment is mapped as a whole and has an unmapped guard page behind it (HSA_SVM_GUARD_PAGES, on by default)"
    yield "two ranks are two processes whose layouts are taken as independent; ranks that run in step may lie alike"
