"""Our kernels as CDNA code objects: what goes where in the argument segment, for both architectures."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from backend.case import Arch, Case, DType, MetadataMode
from backend.decision import Decision
from backend.devices.cuda.compile import (
    DECODE,
    DECODE_SPLIT,
    MERGE,
    REDUCE,
    Variant,
    compiled_for,
    grid_for,
    kernels_for,
    scalars_for,
    variant_for,
)
from backend.devices.cuda.kernel_run import KernelRun, kernel_run_of
from backend.host import BuiltIn
from backend.serving.policy import decide
from backend.serving.registry import policy
from tests.tiers import one_of_each


def order_of(mode: MetadataMode, heads: int = 16, **more: object) -> KernelRun:
    decision = decide(policy("direct"), Case(heads, (150, 37), backend="direct", mode=mode, **more))  # type: ignore[arg-type]
    assert isinstance(decision, Decision)
    return kernel_run_of(BuiltIn().call(decision))


@pytest.mark.parametrize(
    ("arch", "mode"),
    one_of_each(
        [(arch, mode) for mode in (MetadataMode.FAST, MetadataMode.NON_PERSISTENT) for arch in Arch], lambda row: row[1]
    ),
)
def test_every_argument_has_a_value_and_a_place(arch: Arch, mode: MetadataMode) -> None:
    wanted = order_of(mode)
    variant = variant_for(wanted, arch)
    for kernel in kernels_for(wanted):
        made = compiled_for(arch, kernel, variant)
        assert made.symbol == kernel
        assert made.code_object[:4] == b"\x7fELF"
        assert made.threads == variant.num_warps * 64
        end = 0
        for argument in made.kernargs:
            assert argument.offset >= end
            end = argument.offset + argument.size
            kind, _, name = argument.value.partition(" ")
            if kind == "tensor":
                assert argument.size == 8
                assert name in wanted.sizes or name == "final_lse"  # which nothing touches where it is not stored
            elif kind == "scalar":
                assert name in scalars_for(wanted, variant)
            else:
                assert kind == "hidden"
        assert end <= made.segment
        hidden = [argument for argument in made.kernargs if argument.value == "hidden"]
        assert all(argument.size == 8 for argument in hidden)  # null pointers to scratch; no grid size among them


def test_fp8_is_the_architectures_own() -> None:
    first, second = (compiled_for(arch, DECODE, Variant()) for arch in Arch)
    assert first.code_object != second.code_object
    assert compiled_for(Arch.GFX950, DECODE, Variant()) is second  # remembered


def test_lds_fits_the_older_architecture() -> None:
    made = compiled_for(Arch.GFX942, DECODE, Variant(DType.BF16, DType.BF16, block_m=64))  # the largest tile
    assert 0 < made.lds <= 65536


def test_grids() -> None:
    fast = order_of(MetadataMode.FAST, 128, max_seqlen_q=2)
    variant = variant_for(fast, Arch.GFX950)
    assert kernels_for(fast) == (DECODE, REDUCE)
    assert grid_for(fast, DECODE, variant) == (256, 2 * 128 // 64, 1)
    assert grid_for(fast, REDUCE, variant) == (fast.tiles, fast.heads, 1)
    assert scalars_for(fast, variant)["shares"] == 4
    plain = order_of(MetadataMode.NON_PERSISTENT, q_dtype=DType.BF16, kv_dtype=DType.BF16)
    assert kernels_for(plain) == (DECODE_SPLIT, MERGE)
    assert grid_for(plain, DECODE_SPLIT, variant_for(plain, Arch.GFX950)) == (1, 2, plain.splits)
    one_split = order_of(MetadataMode.NON_PERSISTENT, page_size=64)
    assert kernels_for(one_split) == (DECODE_SPLIT,)
    values = compiled_for(Arch.GFX950, DECODE_SPLIT, variant_for(one_split, Arch.GFX950)).kernargs
    assert [argument.value for argument in values if argument.name == "logits"] == ["tensor o"]
