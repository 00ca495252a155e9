"""AITER's prebuilt attention-forward kernels (fmha_v3_fwd), launched as its C++ does, against float64 attention.

Arguments: csrc/include/mha_fwd.h (fmha_fwd_v3_args) and csrc/cpp_itfs/mha_fwd.cu (init_fmha_fwd_v3_args, get_grid_dim,
fmha_fwd_v3) of ROCm/aiter at code_object_files.RELEASES["2026-08"]. Every pointer and every word takes 16 bytes.
Ragged lengths move through k and v by soffset and leave the cut to the descriptor, which no MLA decode kernel does.
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

from backend.cdna.code_object import load_code_object
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.result import MachineEnd, Mode
from tests.run_facts import written_bytes

HEAD_DIM, ROWS_OF_A_TILE, BLOCK = 128, 256, 512
"""Of the hd128 kernels: ts_qo of fmha_fwd.csv, and bdx."""

FILES = {
    ("gfx942", False): "MI300/fwd_hd128_bf16_rtne.co",
    ("gfx942", True): "MI300/fwd_hd128_bf16_causal_rtne.co",
    ("gfx950", False): "fwd_hd128_bf16.co",
    ("gfx950", True): "fwd_hd128_bf16_causal.co",
}


def bf16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The nearest bf16 numbers' bits."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def number(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def arguments(pointers: tuple[int, ...], q_rows: int, k_rows: int, heads: int, causal: bool) -> bytes:
    """fmha_fwd_v3_args of one batch; q, k, v and o are [1, rows, heads, 128] without gaps, and bf16."""
    o, q, k, v, lse = pointers
    row = 2 * heads * HEAD_DIM
    tune = 3 if causal and heads % 8 else 5
    scale = 1 / math.sqrt(HEAD_DIM)
    fields: list[tuple[str, float]] = [("Q", o), ("Q", q), ("Q", k), ("Q", v), ("Q", lse), ("f", scale), ("I", q_rows)]
    strides = [row, ROWS_OF_A_TILE * row, 2 * HEAD_DIM, q_rows * row, 1, row, 2 * HEAD_DIM, k_rows * row]
    sizes = [tune, 1, k_rows, HEAD_DIM, HEAD_DIM, heads]
    behind = [row, 2 * HEAD_DIM, k_rows * row, row, 2 * HEAD_DIM, q_rows * row]
    fields += [("I", word) for word in (*strides, *sizes, *behind)]
    fields += [("Q", 0), ("Q", 0), ("I", 4 * q_rows)]
    fields += [("Q", 0)] * 5 + [("I", 0)] * 6
    return b"".join(struct.pack("<" + kind, value).ljust(16, b"\0") for kind, value in fields)


def attention(q: NDArray[np.float64], k: NDArray[np.float64], v: NDArray[np.float64], causal: bool):  # type: ignore[no-untyped-def]
    """(o [rows, heads, 128], lse [heads, rows]) in float64; causal aligns the last rows of q and k."""
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(HEAD_DIM)
    if causal:
        rows, columns = np.arange(q.shape[0])[:, None], np.arange(k.shape[0])[None]
        scores = np.where(columns <= rows + k.shape[0] - q.shape[0], scores, -np.inf)
    top = scores.max(2, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(2, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights / total, v), (np.log(total) + top)[..., 0]


@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.parametrize(("q_rows", "k_rows", "causal"), [(256, 256, False), (200, 170, False), (200, 200, True)])
@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_attention_forward_is_float64_s_to_what_bf16_allows(
    aiter_checkout: Path, arch: str, q_rows: int, k_rows: int, causal: bool
) -> None:
    path = f"hsa/{arch}/fmha_v3_fwd/{FILES[arch, causal]}"
    (kernel,) = load_code_object(_git(aiter_checkout, "show", f"{RELEASES['2026-08']}:{path}")).kernels
    heads, rng = 2, np.random.default_rng(7)
    q, k, v = (bf16(rng.standard_normal((rows, heads, HEAD_DIM))) for rows in (q_rows, k_rows, k_rows))
    space = AddressSpace()
    inputs = [space.add_array(name, each).base for name, each in (("q", q), ("k", k), ("v", v))]
    o, lse = space.add_blank("o", q.nbytes), space.add_blank("lse", 4 * heads * q_rows)
    tiles = -(-q_rows // ROWS_OF_A_TILE)
    grid = (-(-tiles // 2) if causal else tiles, heads, 1)
    kernarg = arguments((o.base, *inputs, lse.base), q_rows, k_rows, heads, causal)
    result = Machine(kernel).run(MachineLaunch(grid, (BLOCK, 1, 1), kernarg), space, Mode.FULL)
    assert result.outcome is MachineEnd.DONE
    assert result.bad_accesses == ()
    assert written_bytes(o).all()
    assert o.contents is not None
    assert lse.contents is not None
    wanted, wanted_lse = attention(number(q), number(k), number(v), causal)
    got = number(o.contents.view(np.uint16)).reshape(wanted.shape)
    assert np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)) < 0.003
    assert np.abs(lse.contents.view(np.float32).reshape(heads, q_rows) - wanted_lse).max() < 1e-5
