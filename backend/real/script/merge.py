"""mla_reduce_v1 in numbers: partial rows merged into o by the rules of backend/aiter/reduction.py, in the GPU's own memory.

It ships as no code object (it is compiled on the user's machine). Which rows it touches is reduction.py's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backend.aiter.arguments import TargetGpu
from backend.aiter.reduction import SecondStage, reduce_stage, reduced_rows
from backend.aiter.release import Release
from backend.case import V_HEAD_DIM
from backend.real.aiter_ops import REDUCE
from backend.real.handlers import AiterChecks
from backend.real.observe import output_type
from backend.real.script.hardware import Hardware
from backend.real.script.tensors import Floats, PlacedTensor, placed, raw

FLOAT32 = 4


@dataclass(frozen=True, slots=True, eq=False)
class MergeCall:
    """One call as its launcher makes it of the tensors that it is given: what they hold is read when it runs."""

    stage: SecondStage
    partial: PlacedTensor
    lse: PlacedTensor
    output: PlacedTensor
    final_lse: PlacedTensor | None
    maps: tuple[PlacedTensor, PlacedTensor, PlacedTensor]

    @classmethod
    def of(cls, release: Release, device: TargetGpu, given: Mapping[str, Any]) -> MergeCall:
        """Of the call's arguments. Raises AiterChecks where AITER raises."""
        final_lse = None if given.get("final_lse") is None else placed("final_lse", given["final_lse"])
        output = placed("o", given["final_output"])
        indptr, final, partial = (placed(f"reduce_{name}", given[f"reduce_{name}"]) for name in _MAPS)
        stage = reduce_stage(
            release,
            device,
            output.shape[-2],
            indptr.nbytes // 4 - 1,
            max(device.num_cu, int(given.get("num_kv_splits") or 0)),
            int(given.get("max_seqlen_q") or 1),
            final_lse is not None,
            output.shape[-1],
            output_type(output.dtype),
        )
        if stage.refusal is not None:
            raise AiterChecks(stage.refusal)
        logits, lse = placed("logits", given["partial_output"]), placed("attn_lse", given["partial_lse"])
        return cls(stage, logits, lse, output, final_lse, (indptr, final, partial))

    def run(self, hardware: Hardware) -> None:
        """Merges the partial rows into o, by what the maps hold now."""
        output, heads = self.output, self.output.shape[-2]
        words = [hardware.read(at.address, at.nbytes, f"{REDUCE} reads {at.name}").view(np.int32) for at in self.maps]
        rows = reduced_rows(self.stage, *words)
        begin_of: dict[int, list[int]] = {}
        for owner, begin in zip(rows.partial_owner.tolist(), rows.partial_begin.tolist(), strict=True):
            begin_of.setdefault(owner, []).append(begin)
        tiles = (rows.output_owner.tolist(), rows.output_begin.tolist(), rows.output_end.tolist())
        for tile, first, end in zip(*tiles, strict=True):
            for query in range(end - first):
                sources = [begin + query for begin in begin_of.get(tile, [])]
                merged, total = _merged(hardware, self.partial, self.lse, heads, sources, tile)
                content = raw(merged, output.dtype)
                for at, part in output.stretches(first + query):
                    _store(hardware, output, at, content[part], tile)
                if self.final_lse is not None:
                    _store(hardware, self.final_lse, (first + query) * heads * FLOAT32, raw(total, torch.float32), tile)


_MAPS = ("indptr", "final_map", "partial_map")


def _merged(
    hardware: Hardware, partial: PlacedTensor, lse: PlacedTensor, heads: int, rows: list[int], tile: int
) -> tuple[Floats, Floats]:
    """One row of o [heads, 512] and its log-sum-exp [heads], from its partial rows."""
    size = heads * V_HEAD_DIM * FLOAT32
    if not rows:  # 0 / 0
        return np.full((heads, V_HEAD_DIM), np.nan, np.float32), np.full(heads, np.nan, np.float32)
    values, weights = np.empty((len(rows), heads, V_HEAD_DIM), np.float32), np.empty((len(rows), heads), np.float32)
    for place, row in enumerate(rows):
        at = row * size
        why = f"{REDUCE}, reduce tile {tile}, reads partial row {row}: {partial.offset(at)}"
        values[place] = hardware.read(partial.address + at, size, why).view(np.float32).reshape(heads, V_HEAD_DIM)
        at = row * heads * FLOAT32
        why = f"{REDUCE}, reduce tile {tile}, reads the log-sum-exp of partial row {row}: {lse.offset(at)}"
        weights[place] = hardware.read(lse.address + at, heads * FLOAT32, why).view(np.float32)
    with np.errstate(all="ignore"):  # what nobody wrote is NaN, and shows
        highest = weights.max(axis=0)
        scales = np.exp(weights - highest)
        total = scales.sum(axis=0)
        merged = np.einsum("ph,phd->hd", scales, values) / total[:, None]
        return merged, highest + np.log(total)


def _store(hardware: Hardware, target: PlacedTensor, at: int, content: Any, tile: int) -> None:
    why = f"{REDUCE}, reduce tile {tile}, writes a row of {target.name}: {target.offset(at)}"
    hardware.write(target.address + at, content, why)
