"""One of AITER's prebuilt kernels of a family, launched as its C++ does, against float64.

Arguments and grids: csrc/py_itfs_cu/asm_topksoftmax.cu, asm_pa.cu, asm_mla.cu, asm_gemm_a8w8.cu and
asm_a8w8_blockscale_bpreshuffle.cu of ROCm/aiter at code_object_files.RELEASES["2026-08"]; the order of a shuffled weight:
aiter/ops/shuffle.py. Every pointer and every word takes 16 bytes. Ragged sizes, so that the last tile is cut.
"""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "cdna"))
from code_object_files import RELEASES, _git
from number_formats import decode_bfloat16, decode_float8, encode_bfloat16, encode_float8

from backend.cdna.code_object import load_code_object
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace, Region
from backend.cdna.result import MachineEnd, Mode
from tests.run_facts import written_bytes

pytestmark = [pytest.mark.checkout, pytest.mark.slow, pytest.mark.parametrize("arch", ["gfx942", "gfx950"])]

THREADS = 256

ROUNDING = 4e-3
"""Of a result to bf16, which these products cut off: relative rms error of a number cut to 8 bits."""


def segment(*values: int | float) -> bytes:
    """Pointers, words and floats, 16 bytes each."""
    kinds = {float: "<f", int: "<Q"}
    return b"".join(struct.pack(kinds[type(value)], value).ljust(16, b"\0") for value in values)


def launch(
    checkout: Path,
    path: str,
    space: AddressSpace,
    grid: tuple[int, int, int],
    kernarg: bytes,
    *outputs: Region,
    prefetched: frozenset[str] = frozenset(),
) -> None:
    """Runs every workgroup; nothing may leave a tensor, and every byte of the outputs is written.

    prefetched: tensors past whose ends the kernel reads, though nothing comes of what it gets.
    """
    (kernel,) = load_code_object(_git(checkout, "show", f"{RELEASES['2026-08']}:hsa/{path}")).kernels
    result = Machine(kernel).run(MachineLaunch(grid, (THREADS, 1, 1), kernarg), space, Mode.FULL)
    assert result.outcome is MachineEnd.DONE
    assert {bad.region for bad in result.bad_accesses} == prefetched
    assert not any(bad.is_write for bad in result.bad_accesses)
    assert all(written_bytes(output).all() for output in outputs)


def content(region: Region, kind: type[np.generic], *shape: int) -> NDArray[np.generic]:
    assert region.contents is not None
    return region.contents.view(kind).reshape(shape)


def error(got: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    """Relative rms error."""
    return float(np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)))


def shuffled(weight: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.generic]:
    """shuffle_weight(weight, layout=(rows, columns)) of one-byte elements [n, k]."""
    n, k = weight.shape
    parts = weight.reshape(n // rows, rows, k // (2 * columns), 2 * columns // 16, 16)
    return np.ascontiguousarray(parts.transpose(0, 2, 3, 1, 4)).reshape(n, k)


@pytest.mark.parametrize("renormalise", [0, 1])
def test_top_k_softmax(aiter_checkout: Path, arch: str, renormalise: int) -> None:
    tokens, experts, top = 7, 128, 4
    scores = np.random.default_rng(1).standard_normal((tokens, experts)).astype(np.float32)
    space = AddressSpace()
    gating = space.add_array("gating", scores)
    chosen, weights = (space.add_blank(name, 4 * tokens * top) for name in ("indices", "weights"))
    kernarg = segment(chosen.base, weights.base, gating.base, tokens, experts, top, renormalise, 4 * top)
    launch(
        aiter_checkout, f"{arch}/topksoftmax/topksoftmax_4x128x4.co", space, (-(-tokens // 4), 1, 1), kernarg, chosen, weights
    )
    probabilities = np.exp(scores.astype(np.float64))
    probabilities /= probabilities.sum(1, keepdims=True)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    wanted = np.take_along_axis(probabilities, order, 1)
    wanted = wanted / wanted.sum(1, keepdims=True) if renormalise else wanted
    assert np.array_equal(content(chosen, np.int32, tokens, top), order)
    assert np.abs(content(weights, np.float32, tokens, top) - wanted).max() < 1e-6


def test_paged_attention(aiter_checkout: Path, arch: str) -> None:
    heads, kv_heads, width, page, lengths = 16, 2, 128, 16, (37, 150)
    rng = np.random.default_rng(2)
    pages = np.array([[5, 2, 9, *[0] * 7], [1, 3, 4, 6, 7, 8, 10, 11, 12, 13]], np.int32)
    query = encode_bfloat16(rng.standard_normal((2, heads, width)))
    keys, values = (encode_bfloat16(rng.standard_normal((14, kv_heads, page, width))) for _ in range(2))
    # key_cache [pages, heads, width / 8, page, 8], value_cache [pages, heads, page / 8, width, 8]
    stored_keys = np.ascontiguousarray(keys.reshape(14, kv_heads, page, width // 8, 8).transpose(0, 1, 3, 2, 4))
    stored_values = np.ascontiguousarray(values.reshape(14, kv_heads, page // 8, 8, width).transpose(0, 1, 2, 4, 3))
    space = AddressSpace()
    named = {
        "query": query,
        "keys": stored_keys,
        "values": stored_values,
        "pages": pages,
        "lengths": np.array(lengths, np.int32),
    }
    bases = [space.add_array(name, array).base for name, array in named.items()]
    output = space.add_blank("output", query.nbytes)
    scale = float(np.float32(math.log2(math.e) / math.sqrt(width)))
    strides = (2 * heads * width, 2 * kv_heads * page * width, 2 * page * width)
    kernarg = segment(output.base, *bases, 0, 0, scale, pages.shape[1], kv_heads, *strides, 0, heads // kv_heads, 0)
    launch(aiter_checkout, f"{arch}/pa/pa_bf16_noquant_gqa8_1tg_4w.co", space, (kv_heads, 2, 1), kernarg, output)
    got = decode_bfloat16(content(output, np.uint16, 2, heads, width)).astype(np.float64)
    for request, length in enumerate(lengths):
        for head in range(heads):
            own = [
                decode_bfloat16(pool[pages[request], head // 8].reshape(-1, width)[:length]).astype(np.float64)
                for pool in (keys, values)
            ]
            weights = np.exp(own[0] @ decode_bfloat16(query[request, head]).astype(np.float64) / math.sqrt(width))
            assert error(got[request, head], weights @ own[1] / weights.sum()) < 6e-3


def test_mla_prefill(aiter_checkout: Path, arch: str) -> None:
    """mla_prefill_asm_fwd of csrc/py_itfs_cu/asm_mla.cu: causal, the last token of a request sees all of its KV."""
    heads, width, value_width, queries, lengths = 16, 576, 512, (21, 7), (33, 50)
    rng = np.random.default_rng(6)
    q = encode_bfloat16(rng.standard_normal((sum(queries), heads, width)))
    pool = encode_bfloat16(rng.standard_normal((90, width)))
    indices = rng.permutation(90)[: sum(lengths)].astype(np.int32)
    space = AddressSpace()
    named = {
        "q": q,
        "kv_buffer": pool,
        "kv_indptr": np.array([0, *np.cumsum(lengths)], np.int32),
        "kv_indices": indices,
        "kv_last_page_lens": np.ones(len(lengths), np.int32),
        "qo_indptr": np.array([0, *np.cumsum(queries)], np.int32),
    }
    bases = {name: space.add_array(name, array).base for name, array in named.items()}
    output = space.add_blank("o", 2 * sum(queries) * heads * value_width)
    lse = space.add_blank("lse", 4 * sum(queries) * heads)
    scale = float(np.float32(width**-0.5))
    pointers = (output.base, lse.base, *(bases[name] for name in list(named)[:5]))
    kernarg = segment(*pointers, scale, heads, 1, 2 * heads * width, 2 * width, 0, bases["qo_indptr"], *[0] * 9)
    grid = (-(-max(queries) * heads // 128), len(queries), 1)
    launch(aiter_checkout, f"{arch}/mla/mla_pfl_bf16_a16w16_causal_subQ16_mqa16.co", space, grid, kernarg, output)
    got = decode_bfloat16(content(output, np.uint16, sum(queries), heads, value_width)).astype(np.float64)
    keys = decode_bfloat16(pool).astype(np.float64)
    row = 0
    for request, (rows, length) in enumerate(zip(queries, lengths, strict=True)):
        own = keys[indices[sum(lengths[:request]) :][:length]]
        for number in range(rows):
            seen = own[: length - rows + number + 1]
            scores = decode_bfloat16(q[row]).astype(np.float64) @ seen.T * width**-0.5
            weights = np.exp(scores - scores.max(1, keepdims=True))
            wanted = (weights / weights.sum(1, keepdims=True)) @ seen[:, :value_width]
            assert error(got[row], wanted) < 2 * ROUNDING
            row += 1


def test_int8_product(aiter_checkout: Path, arch: str) -> None:
    rows, columns, depth = 40, 256, 256
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-30, 30, (size, depth)).astype(np.int8) for size in (rows, columns))
    a_scale, b_scale, bias = (rng.random(size).astype(np.float32) + 0.5 for size in (rows, columns, columns))
    space = AddressSpace()
    named = {"a": a, "b": shuffled(b, 16, 16), "a_scale": a_scale, "b_scale": b_scale, "bias": bias}
    bases = [space.add_array(name, array).base for name, array in named.items()]
    output = space.add_blank("output", 2 * rows * columns)
    kernarg = segment(output.base, *bases, rows, columns, depth, depth, depth, 2 * columns, 1)
    path = f"{arch}/i8gemm/I8gemm_bf16_perTokenI8_BpreShuffle_32x128.co"
    launch(aiter_checkout, path, space, (columns // 128, -(-rows // 32), 1), kernarg, output)
    wanted = (a.astype(np.float64) @ b.astype(np.float64).T) * a_scale[:, None] * b_scale + bias
    assert error(decode_bfloat16(content(output, np.uint16, rows, columns)).astype(np.float64), wanted) < ROUNDING


def test_fp8_product_with_scales_of_blocks(aiter_checkout: Path, arch: str) -> None:
    rows, columns, depth, block = 40, 256, 512, 128
    rng = np.random.default_rng(4)
    a, b = (encode_float8(rng.standard_normal((size, depth)), "e4m3", arch == "gfx942") for size in (rows, columns))
    a_scale = rng.random((rows, depth // block)).astype(np.float32) + 0.5
    b_scale = rng.random((columns // block, depth // block)).astype(np.float32) + 0.5
    space = AddressSpace()
    named = {"a": a, "b": shuffled(b, 16, 16), "a_scale": np.ascontiguousarray(a_scale.T), "b_scale": b_scale}
    bases = [space.add_array(name, array).base for name, array in named.items()]
    bias = space.add_array("bias", np.zeros(columns, np.float32))
    output = space.add_blank("output", 2 * rows * columns)
    sizes = (rows, columns, depth, depth, depth, 2 * columns, 1, rows, columns // block, depth // block)
    path = f"{arch}/fp8gemm_blockscale/fp8gemm_bf16_blockscale_BpreShuffle_32x128.co"
    kernarg = segment(output.base, *bases, bias.base, *sizes)
    launch(aiter_checkout, path, space, (columns // 128, -(-rows // 32), 1), kernarg, output)
    wide = [decode_float8(each, "e4m3", arch == "gfx942").astype(np.float64) for each in (a, b)]
    wanted = (wide[0] * a_scale.repeat(block, 1)) @ (wide[1] * b_scale.repeat(block, 0).repeat(block, 1)).T
    assert error(decode_bfloat16(content(output, np.uint16, rows, columns)).astype(np.float64), wanted) < ROUNDING


def routed(ids: NDArray[np.integer], weights: NDArray[np.floating], experts: int, rows: int):  # type: ignore[no-untyped-def]
    """moe_sorting of aiter/fused_moe_bf16_asm.py: tokens by expert in blocks of `rows`, each token | its choice << 24.

    Returns (tokens, weights, expert of each block, [entries in use, tokens]).
    """
    count, top = ids.shape
    tokens, factors, owners = [], [], []
    for expert in range(experts):
        chosen = [(int(token), int(place)) for token, place in np.argwhere(ids == expert)]
        padding = -len(chosen) % rows
        tokens += [token | place << 24 for token, place in chosen] + [count | top << 24] * padding
        factors += [weights[token, place] for token, place in chosen] + [0.0] * padding
        owners += [expert] * ((len(chosen) + padding) // rows)
    used = np.array([len(tokens), count], np.int32)
    return np.array(tokens, np.int32), np.array(factors, np.float32), np.array(owners, np.int32), used


def test_fused_mixture_of_experts(aiter_checkout: Path, arch: str) -> None:
    """fp8 with a scale a token, gate and up in one matrix, silu; asm_fmoe.cu, fmoe_g1u1. What is between the two products is
    rounded to fp8 by the kernel."""
    count, width, inner, experts, top = 21, 256, 256, 4, 2
    rng, fnuz = np.random.default_rng(6), arch == "gfx942"
    x, gate_up, down = (
        encode_float8(rng.standard_normal(shape), "e4m3", fnuz)
        for shape in ((count, width), (experts, 2 * inner, width), (experts, width, inner))
    )
    x_scale, gate_up_scale, down_scale = (
        (rng.random(shape) * 0.01 + 0.05).astype(np.float32) for shape in (count, (experts, 2 * inner), (experts, width))
    )
    ids = np.argsort(rng.random((count, experts)), 1)[:, :top]
    weights = rng.random((count, top)).astype(np.float32)
    tokens, factors, owners, used = routed(ids, weights, experts, 32)
    space = AddressSpace()
    base = {
        name: space.add_array(name, array).base
        for name, array in (
            ("x", x), ("gate_up", np.stack([shuffled(each, 16, 16) for each in gate_up])), ("used", used),
            ("down", np.stack([shuffled(each, 16, 16) for each in down])), ("x_scale", x_scale),
            ("gate_up_scale", gate_up_scale), ("down_scale", down_scale), ("tokens", tokens), ("factors", factors),
            ("owners", owners),
        )
    }  # fmt: skip
    total = np.zeros((count, width), np.uint16)
    output = space.add_array("output", total, writable=True)
    names = ("x", "gate_up", "used", "down", "x_scale", "gate_up_scale", "down_scale")
    pointers = [output.base, *(base[name] for name in names), 0, base["tokens"], base["factors"], base["owners"]]
    strides = (width, width, inner, 2 * width, 2 * inner * width, inner * width, 8 * inner, 4 * width, 4 * inner)
    kernarg = segment(*pointers, width, inner, count, experts, *strides, top, 0, 1)
    path = f"{arch}/fmoe/silu/fmoe_bf16_pertokenFp8_g1u1_silu_1tg_32x256.co"
    # x: the row of padding entries; down: the tile after the last one
    launch(aiter_checkout, path, space, (1, len(owners), 1), kernarg, prefetched=frozenset({"x", "down", "down_scale"}))
    wide = decode_float8(x, "e4m3", fnuz).astype(np.float64) * x_scale[:, None]
    wanted = np.zeros((count, width))
    for token, place in np.ndindex(count, top):
        expert = ids[token, place]
        both = decode_float8(gate_up[expert], "e4m3", fnuz).astype(np.float64) * gate_up_scale[expert][:, None] @ wide[token]
        middle = both[:inner] / (1 + np.exp(-both[:inner])) * both[inner:]
        rows = decode_float8(down[expert], "e4m3", fnuz).astype(np.float64) * down_scale[expert][:, None]
        wanted[token] += weights[token, place] * (rows @ middle)
    assert error(decode_bfloat16(total).astype(np.float64), wanted) < 0.04
