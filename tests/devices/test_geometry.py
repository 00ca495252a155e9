"""Rows of another width than the kernels have in their code: what these read past, by the model and by machine code."""

from __future__ import annotations

import pytest

from backend.aiter.codefiles import installed_wheel
from backend.case import Case, DType, MetadataMode
from backend.devices.cdna.device import CdnaDevice
from backend.devices.device import Device
from backend.host import BuiltIn
from backend.observation import ViolationKind
from backend.path import Outcome
from backend.path import Path as CasePath
from fuzz.campaign.outcomes import WithinSpace
from fuzz.space import space
from fuzz.spec import MODELS, Spec
from fuzz.strategies import chunk_cases
from reprod.blame import blame
from reprod.reference import ContractVerdict
from reprod.script import script_text
from reprod.shrink import shrink

ROPE_FREE = Case(
    num_head=16, kv_lens=(64, 64), release="2025-11", backend="direct", mode=MetadataMode.FAST, num_cu=8, qk_rope_head_dim=0
)

Q_HEAD_BEYOND = 64
"""Bytes of fp8 that a kernel reads of each head and KV token beyond a row of 512."""


def run(case: Case, device: Device | str) -> Outcome:
    return CasePath(BuiltIn(installed_wheel()), device).run(case)


def devices() -> list[Device | str]:
    return ["model", CdnaDevice(installed_wheel())]


@pytest.mark.parametrize("device", devices(), ids=["model", "cdna"])
def test_a_kernel_made_for_576_reads_past_rows_of_512(device: Device | str) -> None:
    seen = run(ROPE_FREE, device).observation
    assert seen is not None
    outside = {each.tensor: each.extent for each in seen.violations if each.kind is ViolationKind.OUT_OF_BOUNDS}
    assert outside == {"q": 2 * 16 * Q_HEAD_BEYOND, "kv_buffer": Q_HEAD_BEYOND}
    assert run(ROPE_FREE.replace(qk_rope_head_dim=64), device).findings == ()


@pytest.mark.parametrize("types", [(DType.FP8, DType.FP8), (DType.BF16, DType.BF16)])
@pytest.mark.parametrize("mode", [MetadataMode.FAST, MetadataMode.NON_PERSISTENT])
def test_model_and_machine_see_the_same_of_it(types: tuple[DType, DType], mode: MetadataMode) -> None:
    case = ROPE_FREE.replace(q_dtype=types[0], kv_dtype=types[1], mode=mode, kv_lens=(40, 130, 7), first_page=3)
    foretold = run(case, "model").observation
    seen = run(case, CdnaDevice(installed_wheel())).observation
    assert foretold is not None
    assert seen is not None

    def told(observation: object) -> set[tuple[str, str, int, int]]:
        return {(v.tensor, v.kind.value, v.extent, v.end_offset) for v in observation.violations if v.extent}  # type: ignore[attr-defined]

    assert told(foretold) == told(seen)
    assert told(seen)


def test_who_is_to_refuse_it_is_said() -> None:
    outcome = run(ROPE_FREE, "model")
    found = blame(outcome)
    assert found.verdict is ContractVerdict.UNSUPPORTED_AND_SILENT
    assert "rows of 576 elements" in found.reason


def test_the_script_has_the_widths_of_the_case() -> None:
    assert "QK_HEAD_DIM = 512  # 512 latent + 0 rope\nV_HEAD_DIM = 512" in script_text(run(ROPE_FREE, "model"), None)


def test_a_search_over_a_rope_free_model_finds_it() -> None:
    (model,) = [model for model in MODELS if model.qk_rope_head_dim == 0]
    asked = {"releases": ("2026-08",), "q_dtype": DType.FP8, "kv_dtype": DType.FP8, "query_rows": (1,), "page_sizes": (1,)}
    asked_for = space(Spec("direct", model=model.name, shapes=("tp4",), max_batch=8, **asked))  # type: ignore[arg-type]
    path = CasePath()
    wanted = "out-of-bounds-read/mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co/q"
    met = next(
        case for case in chunk_cases(asked_for, 0, 0, 60) if wanted in {found.signature for found in path.run(case).findings}
    )
    smallest = shrink(met, WithinSpace(path, asked_for), wanted).case
    assert (smallest.num_head, smallest.qk_rope_head_dim, smallest.kv_lens) == (16, 0, (1,))


def test_a_reduction_compiled_for_512_refuses_rows_of_256() -> None:
    outcome = CasePath().run(ROPE_FREE.replace(kv_lora_rank=256, qk_rope_head_dim=64, release="2026-08"))
    assert outcome.call is not None
    refusal = outcome.call.launched.second_stage.refusal
    assert refusal is not None
    assert "compiled for rows of 512, given 256" in refusal
