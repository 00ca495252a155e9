"""Our Triton kernels as CDNA machine code on the simulated machine: right numbers, no access outside of a tensor."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from backend.call import Call  # noqa: E402
from backend.case import Arch, Case, DType, MetadataMode  # noqa: E402
from backend.decision import Decision  # noqa: E402
from backend.devices.cuda.compile import compiled_for  # noqa: E402
from backend.devices.cuda.kernel_run import kernel_run_of  # noqa: E402
from backend.experiments.silicon_agreement import ALLOWED, difference, kernarg_bytes, simulate  # noqa: E402  # noqa: E402
from backend.host import BuiltIn  # noqa: E402
from backend.serving.policy import decide  # noqa: E402
from backend.serving.registry import policy  # noqa: E402

BF16 = DType.BF16


def make(heads: int, lens: tuple[int, ...], mode: MetadataMode | None, backend: str = "direct", **more: object) -> Call:
    decision = decide(policy(backend), Case(heads, lens, **{"num_cu": 4, "backend": backend, "mode": mode, **more}))  # type: ignore[arg-type]
    assert isinstance(decision, Decision)
    return BuiltIn().call(decision)


CALLS = {
    "fast, fp8, split": make(16, (300, 20), MetadataMode.FAST),
    "fast, folded, two queries": make(48, (70, 5), MetadataMode.FAST, max_seqlen_q=2),
    "greedy, bf16": make(16, (90, 20), MetadataMode.GREEDY, q_dtype=BF16, kv_dtype=BF16),
    "fast, pages": make(16, (100, 33), MetadataMode.FAST, page_size=16),
    "non-persistent, merged": make(16, (200, 70), MetadataMode.NON_PERSISTENT, q_dtype=BF16, kv_dtype=BF16, num_cu=0),
}


ON_BOTH = "fast, fp8, split"
"""The kernels are the same on both GPUs but for the types of fp8; of the other calls one GPU is for slow runs."""

RUN_ON = [
    pytest.param(name, arch, marks=pytest.mark.slow if name != ON_BOTH and (at + other) % 2 else ())
    for at, name in enumerate(CALLS)
    for other, arch in enumerate(Arch)
]


@pytest.mark.parametrize(("name", "arch"), RUN_ON)
def test_numbers_are_within_the_budget_and_every_access_is_in_bounds(name: str, arch: Arch) -> None:
    made = CALLS[name]
    simulated = simulate(kernel_run_of(made), arch)
    numbers = simulated.decode.comparison()
    assert simulated.bad == ()
    assert numbers["compared"] == sum(made.decision.query_lens) * made.decode.num_head
    assert (numbers["not_a_number"], numbers["unwritten"], numbers["outside"]) == (0, 0, 0)
    assert 1e-4 < numbers["relative_rms"] < 4e-3
    assert simulated.instructions > 1000


def test_the_founding_fault_shows_in_every_access_of_the_machine() -> None:
    """What red zones cannot show, the read of q past its end, the machine sees too."""
    simulated = simulate(kernel_run_of(make(64, (1,), None, "sglang-before-27188", num_cu=0)), Arch.GFX950)
    outside = {(access.region, access.is_write) for access in simulated.bad}
    assert outside == {("q", False), ("o", True)}


def test_a_difference_beyond_rounding_is_told() -> None:
    rows = torch.randn(2, 3, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bits = rows.to(torch.bfloat16).view(torch.int16).numpy()
    nudged = bits + 1  # one unit in the last place of every element
    assert 0 < difference(bits, nudged) < ALLOWED
    wrong = bits.copy()
    wrong[1, 2] = bits[1, 1]
    assert difference(bits, wrong) > 1
    wrong[1, 2, 0] = 0x7FC0
    assert difference(bits, wrong) == float("inf")


def test_the_argument_segment() -> None:
    made = compiled_for(Arch.GFX950)
    by_name = {argument.name: argument for argument in made.kernargs}
    scalars = dict.fromkeys(("uniform_queries", "rows_a_request", "heads", "page_log2", "shares"), 3)
    segment = kernarg_bytes(made, {"kv_buffer": 0x1234567890}, {**scalars, "scale_log2": 0.5})
    assert len(segment) == made.segment
    at = by_name["kv"].offset
    assert int.from_bytes(segment[at : at + 8], "little") == 0x1234567890
    assert segment[by_name["scale_log2"].offset :][:4] == b"\x00\x00\x00\x3f"
    assert segment[by_name["heads"].offset :][:4] == b"\x03\x00\x00\x00"
    assert segment[by_name["q"].offset :][:8] == bytes(8)
