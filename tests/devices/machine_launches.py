"""Launches of AITER's MLA kernels with data in every tensor, and attention as these kernels compute it, for tests of the
machine.

The reference is tiled as the kernel: after each tile of tokens the row maximum is renewed, weights are exp2 in float32 and
rounded to the type in which the kernel multiplies them (fp8, or bf16 in bf16 kernels), sums are float32's to within its
rounding. Nothing of backend/cdna/execute is used.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.aiter.codefiles import CodeSource, installed_wheel, open_code
from backend.aiter.launch import kernarg_bytes
from backend.call import Call
from backend.case import Case, DType
from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.machine import MachineLaunch
from backend.cdna.memory import AddressSpace, Paging, Queue
from backend.host import BuiltIn
from backend.serving.policy import decide
from backend.serving.registry import policy

sys.path.insert(0, str(Path(__file__).parents[1] / "cdna"))
from number_formats import decode_bfloat16, decode_float8, encode_bfloat16, encode_float8

HEAD, VALUE = 576, 512
LOG2E = np.float32(1.44269504)
METADATA = ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")


@cache
def wheel() -> CodeSource:
    """The installed amd-aiter wheel."""
    return installed_wheel()


@dataclass(eq=False)
class Prepared:
    """One launch, ready to run. arrays: the tensors' memory by name."""

    case: Case
    call: Call
    kernel: Kernel
    space: AddressSpace
    launch: MachineLaunch
    arrays: dict[str, NDArray[np.generic]]

    @property
    def fnuz(self) -> bool:
        return self.case.arch == "gfx942"

    @property
    def heads(self) -> int:
        return self.call.launched.heads_in_kernel

    def values(self, name: str, dtype: DType, width: int) -> NDArray[np.float32]:
        """A tensor's numbers, float32 [rows, width]."""
        raw = self.arrays[name]
        if dtype is DType.FP8:
            return decode_float8(raw.view(np.uint8), "e4m3", self.fnuz).reshape(-1, width)
        return decode_bfloat16(raw.view(np.uint16)).reshape(-1, width)

    def partial(self, name: str, width: int) -> NDArray[np.float32]:
        """Rows of logits or attn_lse, float32 [rows, heads, width]."""
        return self.arrays[name].view(np.float32).reshape(-1, self.heads, width)

    @property
    def work_items(self) -> NDArray[np.int32]:
        """Items that the launch works on, int32 [items, 8]."""
        assert self.call.plan is not None
        return self.call.plan.work_items[: int(self.arrays["work_indptr"].view(np.int32)[-1])]


def prepare(
    case: Case,
    source: CodeSource | None = None,
    seed: int = 0,
    has_data: bool = True,
    code_object: str | None = None,
    content: bytes | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> Prepared:
    """The launch of a case, q and KV standard normal.

    code_object: another file to launch with the same arguments, by name or by content, for kernels that no call reaches.
    allowed: [work items, pages], which pages of the pool an item may touch.
    """
    source = source or wheel()
    made = BuiltIn(source).call(decide(policy(case.backend), case))
    launched, decode = made.launched, made.decode
    loaded = load_code_object(content or open_code(source, case.arch, code_object or launched.code_object))
    kernel = loaded.kernels[0] if code_object or content else loaded.kernel(launched.symbol)
    rng = np.random.default_rng(seed)
    space, arrays = AddressSpace(), {}
    known: dict[str, NDArray[np.generic]] = {
        "qo_indptr": decode.qo_indptr,
        "kv_indptr": decode.kv_indptr,
        "kv_indices": decode.kv_indices,
        "kv_last_page_lens": decode.kv_last_page_lens,
        "q_scale": np.ones(1, np.float32),
        "kv_scale": np.ones(1, np.float32),
        "num_kv_splits_indptr": np.arange(len(decode.qo_indptr), dtype=np.int32) * np.int32(launched.num_kv_splits),
    }
    if made.plan is not None:
        known |= {name: made.plan.buffers[name].words for name in METADATA}
    dtypes = {"q": case.q_dtype, "kv_buffer": case.kv_dtype}
    for name, spec in launched.tensors.items():
        if name in launched.aliases or name == "work_meta_data":
            continue
        if name in known:
            arrays[name] = np.ascontiguousarray(known[name]).copy()
            space.add_array(name, arrays[name], queue=Queue(32) if name == "work_info_set" else None)
        elif name in dtypes and has_data:
            numbers = rng.standard_normal(spec.shape, dtype=np.float32)
            fp8 = dtypes[name] is DType.FP8
            arrays[name] = encode_float8(numbers, "e4m3", case.arch == "gfx942") if fp8 else encode_bfloat16(numbers)
            space.add_array(name, arrays[name])
        elif name in dtypes:
            paged = name == "kv_buffer" and allowed is not None
            paging = Paging(spec.nbytes // spec.shape[0], allowed) if paged else None
            space.add_bounds(name, spec.nbytes, paging=paging)
        else:
            _add_output(space, arrays, name, spec.nbytes, has_data)
    for name, spec in launched.second_stage.tensors.items():
        _add_output(space, arrays, name, spec.nbytes, has_data)
    if "work_meta_data" in launched.tensors:
        pointers = np.array([space["work_indptr"].base, space["work_info_set"].base], np.uint64)
        space.add_array("work_meta_data", pointers)
    kernarg = kernarg_bytes(launched, {region.name: region.base for region in space})
    return Prepared(case, made, kernel, space, MachineLaunch(launched.grid, launched.block, kernarg), arrays)


def _add_output(space: AddressSpace, arrays: dict[str, NDArray[np.generic]], name: str, size: int, has_data: bool) -> None:
    region = space.add_blank(name, size, has_data=has_data)
    if region.contents is not None:
        arrays[name] = region.contents


def tiled_attention(
    q: NDArray[np.float32], kv: NDArray[np.float32], tile: int, weights: DType, fnuz: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(o [heads, 512], natural-log sum of exponentials [heads]) of q [heads, 576] over kv [tokens, 576]."""
    heads, scale = len(q), np.float32(LOG2E * np.float32(HEAD**-0.5))
    largest = np.full(heads, -np.inf, np.float32)
    total, result = np.zeros(heads), np.zeros((heads, VALUE))
    for first in range(0, len(kv), tile):
        keys = kv[first : first + tile].astype(np.float64)
        scores = (q.astype(np.float64) @ keys.T).astype(np.float32)
        larger = np.maximum(largest, scores.max(1))
        shift = (larger * scale).astype(np.float32)
        exponents = (scores.astype(np.float64) * np.float64(scale) - shift[:, None].astype(np.float64)).astype(np.float32)
        weight = np.exp2(exponents.astype(np.float64)).astype(np.float32)
        decay = np.exp2((largest - larger).astype(np.float64) * np.float64(scale))
        total = total * decay + weight.sum(1, dtype=np.float64)
        if weights is DType.FP8:
            rounded = decode_float8(encode_float8(weight, "e4m3", fnuz), "e4m3", fnuz)
        else:
            rounded = decode_bfloat16(encode_bfloat16(weight))
        result = result * decay[:, None] + rounded.astype(np.float64) @ keys[:, :VALUE]
        largest = larger
    return result / total[:, None], np.log(total) + largest.astype(np.float64) * HEAD**-0.5


def plain_attention(q: NDArray[np.float32], kv: NDArray[np.float32]) -> NDArray[np.float64]:
    """Attention in float64: o [heads, 512]."""
    scores = q.astype(np.float64) @ kv.astype(np.float64).T * HEAD**-0.5
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights @ kv[:, :VALUE].astype(np.float64) / weights.sum(1, keepdims=True)
