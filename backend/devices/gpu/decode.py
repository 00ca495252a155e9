"""One run on one device: memory laid out and filled, our kernels launched on it, outputs taken back and compared.

Runs on a CUDA or HIP GPU through torch, or on the CPU in Triton's interpreter (TRITON_INTERPRET=1 before this is imported).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton.language as tl

from backend.case import QK_HEAD_DIM, V_HEAD_DIM, DType
from backend.devices.cuda.kernel_run import KernelRun
from backend.devices.gpu import kernels
from backend.devices.gpu.memory import Damage, GuardedMemory, Memory, SeparateMemory, Wanted
from backend.devices.gpu.numbers import BF16_P, SOFTMAX_SCALE, Outputs
from backend.devices.gpu.values import KV_STREAM, QUERY_STREAM, RAW_TYPE, fill_rows, quantiles, stream_key

OVERRUN_REACH = 4
"""An overrun of up to this many times the tensor is caught whole: a plan folded 8 times too fine reaches 7 times past q, but
in practice folds are 2, 4 and 8, and beyond the zone lies another tensor's zone or unmapped memory."""

REACHING = ("q", "o", "logits", "attn_lse", "final_lse")

TORCH_TYPE = {DType.FP8: torch.float8_e4m3fn, DType.BF16: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tile sizes of stage 1. block_m: q rows (row x head) of a program; block_n: tokens of a step."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def tiles_for(heads: int, max_seqlen_q: int, kv_dtype: DType) -> Tiles:
    """The fastest tried on an H100 (benchmarks/gpu.py) that do not spill; a tile of 128 rows x 512 values would be all of an
    SM's registers."""
    rows = heads * max_seqlen_q
    if rows <= 16:
        return Tiles(16, 64, 8, 3 if kv_dtype is DType.BF16 else 2)
    return Tiles(32, 64, 8, 2) if rows <= 32 else Tiles(64, 64, 8, 2)


def dot_type() -> tl.dtype:
    """Type of the products: bf16, which holds every fp8 number; float32 in the interpreter, whose bf16 dot is not one."""
    return tl.float32 if os.environ.get("TRITON_INTERPRET") == "1" else tl.bfloat16


class Decode:
    """One run, laid out in memory and ready to launch.

    separate: every tensor an allocation of its own (see SeparateMemory). fnuz: fp8 is e4m3fnuz, which no NVIDIA GPU has.
    """

    def __init__(self, kernel_run: KernelRun, device: torch.device, separate: bool = False, fnuz: bool = False) -> None:
        self.kernel_run = kernel_run
        self._device = device
        self._fnuz = fnuz
        wanted = [
            Wanted(name, size, self._type(name).itemsize, OVERRUN_REACH if name in REACHING else 0)
            for name, size in kernel_run.sizes.items()
        ]
        self.memory: Memory = SeparateMemory(wanted, device) if separate else GuardedMemory(wanted, device)
        self._queries = self._made_queries()
        self._words = {name: torch.from_numpy(words.array.copy()) for name, words in kernel_run.words.items()}
        self._table = self._words["kv_indices"].to(device).long()
        self._fill()

    def stage1(self, tiles: Tiles | None = None) -> None:
        """Launches the decode kernel."""
        kernel_run = self.kernel_run
        tiles = tiles or tiles_for(kernel_run.heads, kernel_run.max_seqlen_q, kernel_run.kv_dtype)
        scale = SOFTMAX_SCALE / math.log(2)
        tuning = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
        shares = max(1, -(-kernel_run.heads * kernel_run.max_seqlen_q // tiles.block_m))
        page_log2 = kernel_run.page_size.bit_length() - 1
        blocks = (tiles.block_m, tiles.block_n, dot_type())
        if kernel_run.persistent:
            kernels.mla_decode_persistent[(kernel_run.programs, shares)](
                self._typed("q"),
                self._typed("kv_buffer"),
                self._typed("o"),
                self._typed("logits"),
                self._typed("attn_lse"),
                self._typed("final_lse"),
                *(self._typed(name) for name in _PERSISTENT_INDICES),
                scale,
                kernel_run.queries_that_hide,
                kernel_run.max_seqlen_q * kernel_run.fold,
                kernel_run.heads,
                page_log2,
                shares,
                page_log2 > 0,
                kernel_run.stores_lse,
                *blocks,
                **tuning,
            )
            return
        kernels.mla_decode_split[(shares, len(kernel_run.kv_lens), kernel_run.splits)](
            self._typed("q"),
            self._typed("kv_buffer"),
            self._typed("o" if kernel_run.logits_is_o else "logits"),
            self._typed("attn_lse"),
            *(self._typed(name) for name in _SPLIT_INDICES),
            scale,
            kernel_run.min_split,
            kernel_run.splits,
            kernel_run.heads,
            page_log2,
            shares,
            page_log2 > 0,
            *blocks,
            **tuning,
        )

    def stage2(self) -> None:
        """Launches the merge, where there is one."""
        kernel_run = self.kernel_run
        if kernel_run.persistent:
            kernels.mla_reduce[(kernel_run.tiles, kernel_run.heads)](
                self._typed("logits"),
                self._typed("attn_lse"),
                self._typed("o"),
                self._typed("final_lse"),
                *(self._typed(name) for name in ("reduce_indptr", "reduce_final_map", "reduce_partial_map")),
                kernel_run.heads,
                kernel_run.stores_lse,
            )
        elif not kernel_run.logits_is_o:
            kernels.mla_merge[(len(kernel_run.kv_lens), kernel_run.heads)](
                self._typed("logits"),
                self._typed("attn_lse"),
                self._typed("o"),
                self._typed("final_lse"),
                *(self._typed(name) for name in ("qo_indptr", "kv_indptr", "num_kv_splits_indptr")),
                kernel_run.min_split,
                kernel_run.splits,
                kernel_run.heads,
                kernel_run.stores_lse,
            )

    def synchronize(self) -> None:
        """Waits for the device; raises what the launches brought about."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def damage(self) -> list[Damage]:
        """What changed outside of the tensors since the last time."""
        return self.memory.damage()

    def outputs(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """o [queries, heads of the model, 512] as raw bf16 bits, and final_lse [queries, heads] where it is stored."""
        kernel_run = self.kernel_run
        o = self.memory.tensor("o", torch.int16).view(kernel_run.rows, kernel_run.heads, V_HEAD_DIM)
        lse = None
        if kernel_run.stores_lse and kernel_run.persistent:
            lse = self.memory.tensor("final_lse", torch.float32).view(kernel_run.rows, kernel_run.heads, 1)
        return self._unfolded(o), None if lse is None else self._unfolded(lse).squeeze(-1)

    def comparison(self) -> dict[str, Any]:
        """The outputs against the reference; fields of Numbers."""
        kernel_run = self.kernel_run
        o, lse = self.outputs()
        pool = self.memory.tensor("kv_buffer", RAW_TYPE[kernel_run.kv_dtype]).view(-1, QK_HEAD_DIM)
        outputs = Outputs(
            *(self._queries, pool, self._table, o, lse, kernel_run.page_size, kernel_run.kv_lens, kernel_run.query_lens),
            *(kernel_run.q_dtype, kernel_run.kv_dtype, self._fnuz, kernel_run.visible),
        )
        return outputs.compared(BF16_P)

    def _typed(self, name: str) -> torch.Tensor:
        """A tensor with the type that the kernels want; a tensor that the launch does not have is one that nothing touches."""
        if name not in self.kernel_run.sizes:
            return torch.empty(0, dtype=torch.float32, device=self._device)
        return self.memory.tensor(name, self._type(name))

    def _type(self, name: str) -> torch.dtype:
        by_name = {
            "q": TORCH_TYPE[self.kernel_run.q_dtype],
            "kv_buffer": TORCH_TYPE[self.kernel_run.kv_dtype],
            "o": torch.bfloat16,
        }
        floats = dict.fromkeys(("logits", "attn_lse", "final_lse"), torch.float32)
        return by_name.get(name) or floats.get(name, torch.int32)

    def _made_queries(self) -> torch.Tensor:
        """q as the caller has it: raw [queries, heads of the model, 576]."""
        kernel_run = self.kernel_run
        shape = (kernel_run.rows // kernel_run.fold, kernel_run.heads * kernel_run.fold, QK_HEAD_DIM)
        queries = torch.empty(shape, dtype=RAW_TYPE[kernel_run.q_dtype], device=self._device)
        rows = torch.arange(len(queries), device=self._device)
        self._fill_rows(queries.view(len(queries), -1), rows, kernel_run.q_dtype, QUERY_STREAM)
        return queries

    def _fill_rows(self, tensor: torch.Tensor, rows: torch.Tensor, dtype: DType, stream: int) -> None:
        """On a GPU by one kernel, which takes a twentieth of what torch takes in its many passes."""
        if self._device.type == "cpu":
            fill_rows(tensor, rows, dtype, self._fnuz, self.kernel_run.seed, stream)
        elif len(rows):
            launch_fill(tensor, rows, dtype, self._fnuz, self.kernel_run.seed, stream)

    def _fill(self) -> None:
        kernel_run, memory = self.kernel_run, self.memory
        memory.write("q", 0, self._folded(self._queries))
        self._fill_pool()
        for name, words in kernel_run.words.items():
            memory.write(name, words.first * 4, self._words[name])
        overrun = [
            name
            for name, words in kernel_run.words.items()
            if words.first < 0 or words.first * 4 + len(self._words[name]) * 4 > kernel_run.sizes[name]
        ]
        memory.seal([*kernel_run.words, "q", "kv_buffer"], overrun)

    def _fill_pool(self) -> None:
        """The tokens that requests hold; pages and slots that nobody holds stay poison."""
        kernel_run, table = self.kernel_run, self._table
        pool = self.memory.tensor("kv_buffer", RAW_TYPE[kernel_run.kv_dtype]).view(-1, kernel_run.page_size * QK_HEAD_DIM)
        held = torch.zeros(len(pool), dtype=torch.bool, device=self._device)
        held[table[(table >= 0) & (table < len(pool))]] = True
        self._fill_rows(pool, held.nonzero().view(-1), kernel_run.kv_dtype, KV_STREAM)
        last = np.cumsum([-(-length // kernel_run.page_size) for length in kernel_run.kv_lens]) - 1
        used = np.array(kernel_run.kv_lens) % kernel_run.page_size
        page = table[torch.from_numpy(last[used > 0]).to(self._device)]
        slot = torch.arange(kernel_run.page_size, device=self._device)
        behind = (slot >= torch.from_numpy(used[used > 0]).to(self._device)[:, None]) & ((page >= 0) & (page < len(pool)))[
            :, None
        ]
        pool.view(-1, QK_HEAD_DIM)[(page[:, None] * kernel_run.page_size + slot)[behind]] = (
            -1 if kernel_run.kv_dtype is DType.BF16 else 0xFF
        )

    def _folded(self, rows: torch.Tensor) -> torch.Tensor:
        """[queries, model heads, n] as the kernel's [rows, heads, n] (mla_decode_fwd's rearrangement where it copies)."""
        kernel_run = self.kernel_run
        if not kernel_run.q_copied:
            return rows.view(kernel_run.rows, kernel_run.heads, -1)
        requests = rows.shape[0] // kernel_run.max_seqlen_q
        split = rows.view(requests, kernel_run.max_seqlen_q, kernel_run.fold, kernel_run.heads, -1)
        return split.permute(0, 2, 1, 3, 4).reshape(kernel_run.rows, kernel_run.heads, -1)

    def _unfolded(self, rows: torch.Tensor) -> torch.Tensor:
        """The kernel's [rows, heads, n] as [queries, model heads, n]: undoes `_folded`."""
        kernel_run = self.kernel_run
        if not kernel_run.q_copied:
            return rows.view(kernel_run.rows // kernel_run.fold, kernel_run.heads * kernel_run.fold, -1)
        requests = kernel_run.rows // (kernel_run.fold * kernel_run.max_seqlen_q)
        split = rows.view(requests, kernel_run.fold, kernel_run.max_seqlen_q, kernel_run.heads, -1)
        return split.permute(0, 2, 1, 3, 4).reshape(kernel_run.rows // kernel_run.fold, kernel_run.heads * kernel_run.fold, -1)


def launch_fill(tensor: torch.Tensor, rows: torch.Tensor, dtype: DType, fnuz: bool, seed: int, stream: int) -> None:
    """values.fill_rows by a kernel; bit for bit the same. Needs at least one row."""
    table, key = quantiles(dtype, fnuz, tensor.device), stream_key(seed, stream)
    width, signed = tensor.shape[1], key - (1 << 32) if key >= 1 << 31 else key
    grid = (len(rows), -(-width // FILL_BLOCK))
    kernels.fill_stream[grid](tensor, rows, table, width, signed, len(table) - 1, FILL_BLOCK)


FILL_BLOCK = 1024
"""Elements of a program: a token of one page or more."""

_PERSISTENT_INDICES = ("qo_indptr", "kv_indices", "kv_last_page_lens", "work_indptr", "work_info_set")
_SPLIT_INDICES = ("qo_indptr", "kv_indptr", "kv_indices", "kv_last_page_lens", "num_kv_splits_indptr")
