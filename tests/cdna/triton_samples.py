"""Triton kernels whose code objects for gfx942 and gfx950, compiled without a GPU, are test material.

They lie in tests/data/triton_code_objects. The kernels are written to make the compiler emit many instructions (fp8 and bf16
products, masks, reductions, a scan, a sort, integer division, 64-bit arithmetic), not to be good kernels. Run this file with
TRITON_DISABLE_LINE_INFO=1 (which keeps paths out of the files) to make the data again; Triton 3.7.1 made what is there.
"""

from __future__ import annotations

import lzma
import sys
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

Sample = tuple[Any, dict[str, str], dict[str, int], int]
"""Kernel, argument types, constants, warps."""

HERE = Path(__file__).parents[1] / "data" / "triton_code_objects"


@triton.jit
def paged_attention(
    q, k, v, o, indptr, pages, q_stride, kv_stride, scale, width: tl.constexpr, rows: tl.constexpr, tokens: tl.constexpr
):
    """Decode attention over pages of one token: online softmax, one request a program."""
    request = tl.program_id(0)
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    column = tl.arange(0, width)
    query = tl.load(q + request * q_stride + row[:, None] * width + column[None, :], mask=(row < rows - 1)[:, None], other=0.0)
    largest = tl.full([rows], -float("inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    result = tl.zeros([rows, width], tl.float32)
    end = tl.load(indptr + request + 1)
    for first in range(tl.load(indptr + request), end, tokens):
        token = first + tl.arange(0, tokens)
        page = tl.load(pages + token, mask=token < end, other=0).to(tl.int64)
        key = tl.load(k + page[None, :] * kv_stride + column[:, None], mask=(token < end)[None, :], other=0.0)
        score = tl.where((token < end)[None, :], tl.dot(query, key) * scale, -float("inf"))
        larger = tl.maximum(tl.max(score, 1), largest)
        weight = tl.exp2(score - larger[:, None])
        decay = tl.exp2(largest - larger)
        value = tl.load(v + page[:, None] * kv_stride + column[None, :], mask=(token < end)[:, None], other=0.0)
        result = tl.dot(weight.to(value.dtype), value, result * decay[:, None])
        total = total * decay + tl.sum(weight, 1)
        largest = larger
    place = o + request * q_stride + row[:, None] * width + column[None, :]
    tl.store(place, (result / total[:, None]).to(o.dtype.element_ty), mask=(row < rows - 1)[:, None])


@triton.jit
def merge_splits(partial, lse, o, indptr, n, stride, width: tl.constexpr):
    """Second stage of split attention: partial rows weighted by their log-sum-exp."""
    request = tl.program_id(0)
    head = tl.program_id(1)
    column = tl.arange(0, width)
    largest = -float("inf")
    total = 0.0
    result = tl.zeros([width], tl.float32)
    for split in range(tl.load(indptr + request), tl.load(indptr + request + 1)):
        row = tl.load(partial + split * stride + head * width + column, mask=column < n, other=0.0)
        value = tl.load(lse + split * 16 + head)
        larger = tl.maximum(value, largest)
        decay = tl.exp(largest - larger)
        weight = tl.exp(value - larger)
        result = result * decay + weight * row
        total = total * decay + weight
        largest = larger
    tl.store(o + request * stride + head * width + column, (result / total).to(o.dtype.element_ty), mask=column < n)


@triton.jit
def arithmetic(x, y, z, n, size: tl.constexpr):
    """Elementwise functions, integer division, a scan, a sort and reductions."""
    element = tl.program_id(0) * size + tl.arange(0, size)
    raw = tl.load(x + element, mask=element < n, other=0.0)
    whole = tl.load(y + element, mask=element < n, other=1)
    real = raw if raw.dtype == tl.float64 else raw.to(tl.float32)
    mixed = tl.log(tl.abs(real) + 1.0) + tl.sqrt(tl.abs(real)) + tl.sin(real) + real / 3.0 + (raw * raw + raw).to(tl.float32)
    mixed += tl.sigmoid(real.to(tl.float32))
    digits = (whole // 7) + (whole % 5) + (whole >> 2) + (whole * whole) + tl.cumsum(whole, 0)
    tl.store(z + element, mixed + digits.to(tl.float32) + tl.sort(real), mask=element < n)
    tl.store(z + n + tl.program_id(0), tl.sum(real, 0))
    tl.store(z + n + 8 + tl.program_id(0), tl.max(real, 0))
    tl.store(z + n + 16, tl.argmax(real, 0))


def attention(element: str, result: str, size: int, rows: int, tokens: int, warps: int) -> Sample:
    types = dict.fromkeys(("q", "k", "v"), f"*{element}") | {"o": f"*{result}", "indptr": "*i32", "pages": "*i32"}
    types |= {"q_stride": "i32", "kv_stride": "i32", "scale": "fp32"}
    return paged_attention, types, {"width": size, "rows": rows, "tokens": tokens}, warps


def samples(fp8: str) -> dict[str, Sample]:
    """All samples by name."""
    merge_types = {"partial": "*fp32", "lse": "*fp32", "o": "*bf16", "indptr": "*i32", "n": "i32", "stride": "i32"}
    narrow_merge = merge_types | {"o": f"*{fp8}", "indptr": "*i64", "stride": "i64"}

    def elementwise(real: str, whole: str, out: str, size: int) -> Sample:
        return arithmetic, {"x": f"*{real}", "y": f"*{whole}", "z": f"*{out}", "n": "i32"}, {"size": size}, 4

    return {
        "attention_bf16": attention("bf16", "bf16", 64, 32, 64, 4),
        "attention_bf16_wide": attention("bf16", "bf16", 512, 16, 32, 8),
        "attention_f16": attention("fp16", "fp16", 64, 64, 32, 2),
        "attention_fp8": attention(fp8, "bf16", 128, 16, 64, 4),
        "merge_bf16": (merge_splits, merge_types, {"width": 512}, 4),
        "merge_fp8": (merge_splits, narrow_merge, {"width": 128}, 1),
        "arithmetic_f32_i32": elementwise("fp32", "i32", "fp32", 1024),
        "arithmetic_f16_i16": elementwise("fp16", "i16", "fp32", 512),
        "arithmetic_bf16_i8": elementwise("bf16", "i8", "bf16", 256),
        "arithmetic_f64_i64": elementwise("fp64", "i64", "fp32", 256),
    }


def main() -> None:
    HERE.mkdir(parents=True, exist_ok=True)
    for arch, fp8 in (("gfx942", "fp8e4b8"), ("gfx950", "fp8e4nv")):
        for name, (kernel, types, constants, warps) in samples(fp8).items():
            signature = types | dict.fromkeys(constants, "constexpr")
            aligned = {(place,): [["tt.divisibility", 16]] for place in range(3)}
            source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
            compiled = triton.compile(source, target=GPUTarget("hip", arch, 64), options={"num_warps": warps})
            (HERE / f"{name}_{arch}.hsaco.xz").write_bytes(lzma.compress(compiled.asm["hsaco"]))
            print(name, arch, len(compiled.asm["hsaco"]), file=sys.stderr)


if __name__ == "__main__":
    main()
