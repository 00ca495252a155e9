"""launch() against 3,000 recorded launches of AITER's three releases, refusals included, and against facts of its code."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.aiter.arguments import BufferSizes, DecodeArguments, TargetGpu
from backend.aiter.codefiles import installed_wheel
from backend.aiter.launch import Launch, Refusal, kernarg_bytes, launch
from backend.aiter.reduction import SecondStageKind
from backend.aiter.release import release
from backend.case import Arch, DType
from backend.errors import UsageError

GOLDEN = Path(__file__).parent.parent / "data" / "launch_golden.jsonl.gz"
NULL_IN_GOLDEN = ("ptr_QSCALE", "ptr_KVSCALE", "ptr_LSEP")  # the recording leaves these out where they are not set


def golden() -> Iterator[dict]:
    with gzip.open(GOLDEN, "rt") as lines:
        yield from map(json.loads, lines)


def call_of(record: dict) -> tuple[TargetGpu, DecodeArguments]:
    case, tensors = record["case"], record.get("tensors", {})
    batch = len(case["kv_lens"])
    pages = sum(-(-n // case["page_size"]) for n in case["kv_lens"])
    metadata = None
    if case["persistent"]:
        # Where AITER refused, and where it left persistent mode, no sizes are recorded and none matter.
        size = {name: int(np.prod(shape)) for name, (shape, _) in tensors.items()}
        metadata = BufferSizes(
            *(size.get(name, 8) for name in ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map")),
            size.get("reduce_partial_map", 8),
        )
    indptr, indices = np.zeros(batch + 1, np.int32), np.zeros(pages, np.int32)
    arguments = DecodeArguments(
        q_rows=batch * case["max_seqlen_q"],
        num_head=case["nhead"],
        kv_pages=pages,
        page_size=case["page_size"],
        q_dtype=DType(case["q_dtype"]),
        kv_dtype=DType(case["kv_dtype"]),
        qo_indptr=indptr,
        kv_indptr=indptr,
        kv_indices=indices,
        kv_last_page_lens=np.ones(batch, np.int32),
        max_seqlen_q=case["max_seqlen_q"],
        metadata=metadata,
        num_kv_splits=case["num_kv_splits"],
        intra_batch_mode=False,
        return_lse=case["return_lse"],
    )
    return TargetGpu(Arch(case["arch"]), case["num_cu"]), arguments


def as_recorded(made: Launch | Refusal) -> dict:
    if isinstance(made, Refusal):
        return {"refused": True}
    kernargs = {k.name: k.value for k in made.kernargs if k.value is not None}
    second = made.second_stage
    if second.kind is SecondStageKind.REDUCE:
        second_stage = {"kind": str(second.kind), "tiles": second.tiles, "nhead": second.num_head}
    else:
        second_stage = {"kind": str(second.kind), "mgc": second.mgc, "logits_is_o": second.logits_is_o}
    return {
        "symbol": made.symbol,
        "code_object": made.code_object,
        "persistent": made.persistent,
        "fold": made.fold,
        "heads_in_kernel": made.heads_in_kernel,
        "grid": list(made.grid),
        "block": list(made.block),
        "kernargs": {k: v for k, v in kernargs.items() if v != 0 or k not in NULL_IN_GOLDEN},
        "tensors": {name: [list(spec.shape), str(spec.dtype)] for name, spec in made.tensors.items()},
        "num_kv_splits": made.num_kv_splits,
        "second_stage": second_stage,
    }


@pytest.mark.parametrize("name", ["2025-11", "2026-06", "2026-08"])
def test_every_recorded_launch_is_made_again(name: str) -> None:
    compared = refused = 0
    for record in golden():
        if record["release"] != name:
            continue
        device, arguments = call_of(record)
        expected = {k: v for k, v in record.items() if k not in ("case", "release")}
        assert as_recorded(launch(release(name), device, arguments)) == expected, record["case"]
        compared += 1
        refused += "refused" in record
    assert compared > 900
    assert 400 < refused < compared - 300


def call(
    num_head: int,
    max_seqlen_q: int = 1,
    dtypes: tuple[DType, DType] = (DType.FP8, DType.FP8),
    batch: int = 2,
    pages: int = 400,
    metadata: BufferSizes | None = None,
    **changes: object,
) -> DecodeArguments:
    arguments = DecodeArguments(
        q_rows=batch * max_seqlen_q,
        num_head=num_head,
        kv_pages=pages,
        page_size=1,
        q_dtype=dtypes[0],
        kv_dtype=dtypes[1],
        qo_indptr=np.zeros(batch + 1, np.int32),
        kv_indptr=np.zeros(batch + 1, np.int32),
        kv_indices=np.zeros(pages, np.int32),
        kv_last_page_lens=np.ones(batch, np.int32),
        max_seqlen_q=max_seqlen_q,
        metadata=metadata,
        num_kv_splits=None,
        intra_batch_mode=False,
    )
    return dataclasses.replace(arguments, **changes)  # type: ignore[arg-type]


METADATA = BufferSizes(257, 8 * 300, 9, 16, 300)
MI355X = TargetGpu(Arch.GFX950, 256)
MI300X = TargetGpu(Arch.GFX942, 304)
BF16 = (DType.BF16, DType.BF16)


def launched(name: str, device: TargetGpu, arguments: DecodeArguments) -> Launch:
    made = launch(release(name), device, arguments)
    assert isinstance(made, Launch), made
    return made


def refused(name: str, device: TargetGpu, arguments: DecodeArguments) -> Refusal:
    made = launch(release(name), device, arguments)
    assert isinstance(made, Refusal), made
    return made


def values(made: Launch) -> dict[str, object]:
    return {kernarg.name: kernarg.value for kernarg in made.kernargs}


def test_o_is_not_passed_to_kernels_without_metadata_since_2026() -> None:
    # aiter#2983: gfx950, 32 heads, bf16, one split.
    one_split = call(32, dtypes=BF16, num_kv_splits=1)
    assert values(launched("2026-06", MI355X, one_split))["ptr_RP"] == 0
    assert values(launched("2025-11", MI355X, call(16, dtypes=BF16)))["ptr_RP"] == "o"
    assert values(launched("2026-06", MI355X, call(64, metadata=METADATA)))["ptr_RP"] == "o"


def test_with_one_split_logits_may_be_o() -> None:
    made = launched("2026-06", MI355X, call(32, dtypes=BF16, num_kv_splits=1))
    assert made.aliases == {"logits": "o"}
    assert made.tensors["logits"].nbytes == made.tensors["o"].nbytes
    addresses = {name: 0x10000 * (i + 1) for i, name in enumerate(made.tensors) if name != "logits"}
    segment = kernarg_bytes(made, addresses)
    assert int.from_bytes(segment[0:8], "little") == addresses["o"]
    # 8 heads in bf16 got the same only in 2026-08.
    eight = call(8, dtypes=BF16, num_kv_splits=1)
    assert launched("2026-06", MI355X, eight).aliases == {}
    assert launched("2026-08", MI355X, eight).aliases == {"logits": "o"}


def test_large_batches_leave_persistent_mode_in_2026_08() -> None:
    def kind(name: str, **changes: object) -> bool:
        return launched(name, MI355X, call(16, dtypes=BF16, metadata=METADATA, **changes)).persistent  # type: ignore[arg-type]

    assert kind("2026-08", batch=31)
    assert not kind("2026-08", batch=32)
    assert kind("2026-08", batch=32, num_kv_splits=64)
    assert kind("2026-06", batch=32)
    fp8 = launched("2026-08", MI355X, call(16, batch=32, metadata=METADATA))
    assert fp8.persistent


def test_return_lse_takes_its_own_kernels_where_there_are_any() -> None:
    asked = call(64, metadata=METADATA, return_lse=True)
    made = launched("2026-06", MI355X, asked)
    assert made.code_object == "mla_a8w8_qh64_qseqlen1_gqaratio64_lse_v3_ps.co"
    assert values(made)["ptr_LSEP"] == "final_lse"
    assert made.second_stage.stores_lse
    assert "no argument return_lse" in refused("2025-11", MI355X, call(16, metadata=METADATA, return_lse=True)).reason
    # Non-persistent: 2026-06 looks for an lse kernel, 2026-08 lets the second stage do it.
    split = call(16, return_lse=True)
    missing = refused("2026-06", MI355X, split).missing_key
    assert missing is not None
    assert missing.lse
    assert launched("2026-08", MI355X, split).code_object == "mla_a8w8_qh16_qseqlen1_gqaratio16.co"


def test_2025_11_writes_an_lse_that_nobody_asked_for() -> None:
    second = launched("2025-11", MI355X, call(16, metadata=METADATA)).second_stage
    assert second.stores_lse
    assert second.tensors["final_lse"].shape == (2, 16)


def test_ragged_rows_cannot_be_folded_unless_the_inferred_dimension_takes_the_rest() -> None:
    four = call(48, max_seqlen_q=4, batch=8, metadata=METADATA)
    assert not launched("2026-06", MI355X, four).raises_afterwards
    # 7 groups of 4: 31 * 576 does not divide by 28.
    assert "q.reshape" in refused("2026-06", MI355X, dataclasses.replace(four, q_rows=31)).reason
    # 2 groups of 4: 9 * 576 divides by 8, with 648 elements in place of 576, and 9 * 512 as well.
    scrambled = launched("2026-06", MI355X, dataclasses.replace(four, q_rows=9))
    assert scrambled.q_copied
    assert scrambled.tensors["q"].shape == (27, 16, 576)
    assert scrambled.raises_afterwards is None
    # 3 groups of 3: 10 * 576 divides by 9, 10 * 512 does not, so o cannot be put back.
    three = call(48, max_seqlen_q=3, batch=4, metadata=METADATA, q_rows=10)
    assert "o.reshape" in (launched("2026-06", MI355X, three).raises_afterwards or "")


def test_no_tokens_means_no_splits() -> None:
    assert "0 KV splits" in refused("2026-08", MI355X, call(16, pages=0)).reason
    assert launched("2026-08", MI355X, call(16, dtypes=BF16, pages=0)).num_kv_splits == 1


def test_a_float_of_splits_stops_2026_06_alone() -> None:
    # 129 tokens a request and 2 queries of 16 heads: two blocks of 128 by the first cap, one by the second.
    tokens = call(16, max_seqlen_q=2, batch=1, pages=129)
    assert "float" in refused("2026-06", MI355X, tokens).reason
    assert launched("2026-08", MI355X, tokens).num_kv_splits == 1
    assert launched("2025-11", MI355X, tokens).num_kv_splits == 2


def test_2025_11_never_looks_at_the_dtype_of_kv_once_q_is_fp8() -> None:
    mixed = (DType.FP8, DType.BF16)
    made = launched("2025-11", MI300X, call(16, dtypes=mixed, metadata=BufferSizes(305, 8, 3, 4, 8)))
    assert made.code_object == "mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"
    assert values(made)["s_Bs"] == 1152
    assert refused("2026-06", MI300X, call(16, dtypes=mixed, metadata=BufferSizes(305, 8, 3, 4, 8))).missing_key


def test_the_reduction_refuses_heads_that_stage_1_takes() -> None:
    # gfx950 takes any number of bf16 heads as native; mla_reduce_v1 of 2026-06 is not compiled for 24.
    odd = call(24, max_seqlen_q=3, dtypes=BF16, metadata=METADATA)
    assert "24" in (launched("2026-06", MI355X, odd).second_stage.refusal or "")
    assert launched("2026-08", MI355X, odd).second_stage.refusal is None


def test_splits_that_the_reduction_has_room_for() -> None:
    def room(name: str, splits: int | None) -> int:
        return launched(name, MI355X, call(64, metadata=METADATA, num_kv_splits=splits)).second_stage.max_splits

    assert room("2026-06", 512) == 256
    assert room("2026-08", 512) == 512
    assert room("2026-08", 64) == room("2026-08", None) == 256


def test_the_kernarg_segment_byte_by_byte() -> None:
    made = launched("2026-08", MI355X, call(64, metadata=METADATA))
    addresses = {name: 0x7F00_0000_0000 + 0x1000 * i for i, name in enumerate(made.tensors)}
    segment = kernarg_bytes(made, addresses)
    assert len(segment) == 368
    expected = bytearray(368)
    for offset, tensor in (
        (0x00, "logits"),
        (0x10, "attn_lse"),
        (0x20, "q"),
        (0x30, "kv_buffer"),
        (0x40, "kv_indptr"),
        (0x50, "kv_indices"),
        (0x60, "kv_last_page_lens"),
        (0xD0, "qo_indptr"),
        (0xE0, "work_meta_data"),
        (0xF0, "o"),
        (0x100, "q_scale"),
        (0x110, "kv_scale"),
    ):
        expected[offset : offset + 8] = addresses[tensor].to_bytes(8, "little")
    for offset, number in ((0x80, 64), (0x90, 1), (0xA0, 64 * 576), (0xB0, 576), (0xC0, 0), (0x120, 1), (0x150, 1), (0x160, 0)):
        expected[offset : offset + 4] = number.to_bytes(4, "little")
    expected[0x70:0x74] = struct.pack("<f", 1 / 24)
    assert segment == bytes(expected)
    with pytest.raises(UsageError, match="address of tensor q "):
        kernarg_bytes(made, {name: address for name, address in addresses.items() if name != "q"})


def test_what_2025_11_leaves_unset_is_garbage() -> None:
    made = launched("2025-11", MI355X, call(16, dtypes=BF16, metadata=METADATA))
    addresses = dict.fromkeys(made.tensors, 0x1000)
    segment = kernarg_bytes(made, addresses, unset=0xA5)
    assert len(segment) == 304
    assert segment[0x100:0x108] == segment[0x110:0x118] == b"\xa5" * 8  # the scales of a bf16 call
    assert segment[0xF0:0xF8] == (0x1000).to_bytes(8, "little")


def test_the_code_object_must_be_in_the_source() -> None:
    wheel = installed_wheel()
    made = launch(release("2025-11"), MI355X, call(16, metadata=METADATA), wheel)
    assert isinstance(made, Launch)
    assert made.blob_id == launched("2025-11", MI355X, call(16, metadata=METADATA)).blob_id
    # The wheel has no native kernel for 64 heads, so 2026-06's launch finds no code object in it.
    missing = launch(release("2026-06"), MI355X, call(64, metadata=METADATA), wheel)
    assert isinstance(missing, Refusal)
    assert "mla_a8w8_qh64_qseqlen1_gqaratio64_v3_ps.co is not in amd-aiter" in missing.reason


def test_a_launch_survives_pickling() -> None:
    made = launched("2026-06", MI355X, call(64, metadata=METADATA))
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert again.release is made.release


@pytest.mark.parametrize(("heads", "queries", "said"), [(32, 5, "32 heads launched as 16: "), (16, 5, "")])
def test_a_refusal_speaks_of_the_heads_that_were_asked_for(heads: int, queries: int, said: str) -> None:
    """2026-06 folds 32 heads to 16, whose rule then refuses: the reader of a row of 32 heads read "with 16 heads" alone."""
    asked = call(heads, queries, metadata=METADATA)
    reason = refused("2026-06", MI355X, asked).reason
    assert reason == f"{said}fp8 q with 16 heads is for max_seqlen_q <= 4 only"
