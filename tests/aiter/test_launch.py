"""launch() against 3,000 recorded launches of AITER's three releases, refusals included, and against facts of its code."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.aiter.arguments import BufferSizes, DecodeArguments, Device
from backend.aiter.launch import Launch, Refusal, SecondStageKind, launch
from backend.aiter.release import release
from backend.case import Arch, DType

GOLDEN = Path(__file__).parent.parent / "data" / "launch_golden.jsonl.gz"
NULL_IN_GOLDEN = ("ptr_QSCALE", "ptr_KVSCALE", "ptr_LSEP")  # the recording leaves these out where they are not set


def golden() -> Iterator[dict]:
    with gzip.open(GOLDEN, "rt") as lines:
        yield from map(json.loads, lines)


def call_of(record: dict) -> tuple[Device, DecodeArguments]:
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
    return Device(Arch(case["arch"]), case["num_cu"]), arguments


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
