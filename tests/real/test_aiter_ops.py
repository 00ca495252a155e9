"""AITER's Python without its binaries: true signatures, operations served or refused, scripts that import it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.aiter.arguments import SizingArguments, TargetGpu
from backend.aiter.release import PublicCalls
from backend.aiter.release import release as named
from backend.aiter.sizing import buffer_sizes
from backend.case import Arch, DType
from backend.child.service import Child
from backend.errors import UsageError
from backend.real.aiter_ops import DECODING, PLANNING, SIGNATURES, SIZING, OpCall, aiter_roots, bind, open_aiter
from backend.real.handlers import AiterRefuses, check_metadata
from backend.real.python.modules import VirtualPackages
from backend.real.python.poison import Undecidable
from backend.real.torch_shim import GpuFacts, VirtualGpu

COMMITS = {"2026-06": "2988812e134a7dbb08948092a9d89df48a2585d3", "2026-08": "e4048607a535ace3a2b51ded31b1c8c2d45c0879"}


class Log:
    """Handlers and observer that keep what they get."""

    def __init__(self, *served: str) -> None:
        self.served = served
        self.operations: list[OpCall] = []
        self.observed: list[OpCall] = []

    def serves(self, name: str) -> bool:
        return name in self.served

    def handle(self, call: OpCall) -> Any:
        self.operations.append(call)
        return "served"

    def entered(self, call: OpCall) -> None:
        self.observed.append(call)

    def left(self, call: OpCall, result: Any) -> None:
        assert call is self.observed[-1]


def packages(text: str | None, release: str | None, log: Log, arch: str = "gfx950", num_cu: int = 256) -> VirtualPackages:
    return VirtualPackages(aiter_roots(open_aiter(text, release), log, log, arch, num_cu))


@pytest.fixture
def gpu() -> Iterator[VirtualGpu]:
    with VirtualGpu(GpuFacts("gfx950", 256)) as opened:
        yield opened


def _required(signature: inspect.Signature) -> dict[str, object]:
    """Something for each parameter without a default: a tensor, or 1."""
    named = {name: p.annotation for name, p in signature.parameters.items() if p.default is inspect.Parameter.empty}
    return {name: torch.zeros(2) if annotation == "torch.Tensor" else 1 for name, annotation in named.items()}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (PLANNING, {"max_split_per_batch": 16.0}),  # a division that is none of whole numbers
        (DECODING, {"max_seqlen_q": "1"}),
        (DECODING, {"kv_scale": 1.0}),  # layer.k_scale_float
    ],
)
def test_what_the_types_of_an_operation_do_not_take_is_refused(name: str, changed: dict[str, object]) -> None:
    signature = SIGNATURES[PublicCalls.FIRST]()[name]
    given = _required(signature)
    assert bind(name, signature, (), given)
    with pytest.raises(TypeError, match=f"{next(iter(changed))} needs to be"):
        bind(name, signature, (), {**given, **changed})


@pytest.mark.parametrize("name", ["reduce_indptr", "reduce_final_map", "reduce_partial_map"])
def test_metadata_without_a_map_of_its_reduction_is_refused(name: str) -> None:
    given = dict.fromkeys(("work_meta_data", "reduce_indptr", "reduce_final_map", "reduce_partial_map"), torch.zeros(2))
    check_metadata(given)
    check_metadata({**dict.fromkeys(given), name: None})
    with pytest.raises(AiterRefuses, match=f"{name} is None"):
        check_metadata({**given, name: None})


def test_off_values_are_dropped_and_told() -> None:
    signature = SIGNATURES[PublicCalls.FIRST]()[PLANNING]
    tensors = _required(signature)
    call = bind(PLANNING, signature, (), {**tensors, "is_cp_round_robin": False})
    assert call.ignored == ("is_cp_round_robin",)
    assert call.arguments["kv_granularity"] == 16
    with pytest.raises(TypeError, match=r"is_cp_round_robin.*declares it so"):
        bind(PLANNING, signature, (), {**tensors, "is_cp_round_robin": True})
    with pytest.raises(TypeError, match="missing a required argument"):
        bind(PLANNING, signature, (), {})


@pytest.mark.parametrize("release", ["2026-06", "2026-08"])
def test_built_in_calls_go_to_the_handlers(release: str, gpu: VirtualGpu) -> None:
    log = Log(SIZING)
    with packages(None, release, log):
        aiter = importlib.import_module("aiter")
        assert inspect.signature(aiter.get_mla_metadata_info_v1) == SIGNATURES[named(release).public_calls]()[SIZING]
        assert aiter.get_mla_metadata_info_v1(1, 1, 16, aiter.dtypes.fp8, aiter.dtypes.fp8, False) == "served"
        assert log.operations[0].arguments["num_kv_splits"] == 32
        assert log.observed[0].name == SIZING
        with pytest.raises(Undecidable, match="mla_decode_fwd is called and nothing serves it"):
            aiter.mla.mla_decode_fwd(*[None] * 8)
        with pytest.raises(Undecidable, match=r"aiter\.flash_attn_varlen_func .* is called"):
            aiter.flash_attn_varlen_func()


def test_the_wheel_s_own_python_runs(gpu: VirtualGpu) -> None:
    """Release 2025-11 is installed: its sizing is AITER's own code, and gives what our rule gives."""
    log = Log("get_mla_metadata_v1")
    with packages(None, "2025-11", log):
        aiter = importlib.import_module("aiter")
        for batch, queries, heads in ((1, 1, 16), (7, 2, 128), (300, 4, 32)):
            given = aiter.get_mla_metadata_info_v1(batch, queries, heads, aiter.dtypes.fp8, aiter.dtypes.fp8, False, True)
            expected = buffer_sizes(
                named("2025-11").sizing,
                TargetGpu(Arch.GFX950, 256),
                SizingArguments(batch, queries, heads, DType.FP8, DType.FP8, False, True, None, False),
            )
            words = [torch.Size([size]).numel() if isinstance(size, int) else torch.Size(size).numel() for size, _ in given]
            assert words[1:] == [
                expected.work_indptr,
                expected.work_info_set,
                expected.reduce_indptr,
                expected.reduce_final_map,
                expected.reduce_partial_map,
            ]
        assert [call.name for call in log.observed] == [SIZING] * 3


def test_unknown_release_and_missing_checkout() -> None:
    with pytest.raises(UsageError, match="2024-01"):
        open_aiter(None, "2024-01")
    with pytest.raises(UsageError, match="no/such/folder"):
        open_aiter("no/such/folder@HEAD")


@pytest.mark.checkout
@pytest.mark.parametrize("release", ["2026-06", "2026-08"])
def test_signatures_are_those_of_the_checkout(release: str, aiter_checkout: Path, gpu: VirtualGpu) -> None:
    log = Log("_get_mla_metadata_v1_impl")
    with packages(f"{aiter_checkout}@{COMMITS[release]}", None, log):
        aiter = importlib.import_module("aiter")
        for name, owner in ((SIZING, aiter), (PLANNING, aiter), (DECODING, aiter.mla)):
            real, ours = inspect.signature(getattr(owner, name)), SIGNATURES[named(release).public_calls]()[name]
            assert [(p.name, p.default) for p in real.parameters.values()] == [
                (p.name, p.default) for p in ours.parameters.values()
            ]


@pytest.mark.checkout
def test_real_decode_calls_its_operations(aiter_checkout: Path, gpu: VirtualGpu) -> None:
    """mla_decode_fwd of 2026-06 on 64 fp8 heads: not folded, partial rows as the caller's map has entries."""
    log = Log("mla_decode_stage1_asm_fwd", "mla_reduce_v1")
    with packages(f"{aiter_checkout}@{COMMITS['2026-06']}", None, log):
        aiter = importlib.import_module("aiter")

        def words(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int32, device="cuda")

        aiter.mla.mla_decode_fwd(
            torch.zeros(3, 64, 576, device="cuda").to(aiter.dtypes.fp8),
            torch.zeros(8, 1, 1, 576, device="cuda").to(aiter.dtypes.fp8),
            torch.empty(3, 64, 512, dtype=torch.bfloat16, device="cuda"),
            words(4),
            words(4),
            words(8),
            words(3),
            1,
            work_meta_data=torch.zeros(2, dtype=torch.uint64, device="cuda"),
            work_indptr=words(257),
            work_info_set=words(12, 8),
            reduce_indptr=words(4),
            reduce_final_map=words(3, 2),
            reduce_partial_map=words(12),
        )
        first, second = log.operations
        assert [first.name, second.name] == ["mla_decode_stage1_asm_fwd", "mla_reduce_v1"]
        assert tuple(first.arguments["Q"].shape) == (3, 64, 576)
        assert tuple(first.arguments["splitData"].shape) == (12, 1, 64, 512)
        assert [call.name for call in log.observed] == [DECODING]


SCRIPT = """
import torch
import aiter
from aiter import dtypes
from aiter.mla import mla_decode_fwd

torch.set_default_device("cuda")
torch.manual_seed(0)
BATCH, HEADS, KV = 2, 64, 5
q = torch.randn(BATCH, HEADS, 576, dtype=torch.bfloat16).to(dtypes.fp8)
kv = torch.randn(BATCH * KV, 1, 1, 576, dtype=torch.bfloat16).to(dtypes.fp8)
o = torch.empty(BATCH, HEADS, 512, dtype=torch.bfloat16)
indptr = lambda step: torch.arange(0, (BATCH + 1) * step, step, dtype=torch.int32)
sizes = aiter.get_mla_metadata_info_v1(BATCH, 1, HEADS, dtypes.fp8, dtypes.fp8, is_sparse=False, fast_mode=True)
work_meta, work_indptr, work_info, r_indptr, r_final, r_partial = [torch.empty(s, dtype=d) for s, d in sizes]
aiter.get_mla_metadata_v1(indptr(1), indptr(KV), torch.ones(BATCH, dtype=torch.int32), HEADS, 1, False, work_meta, work_info,
    work_indptr, r_indptr, r_final, r_partial, max_seqlen_qo=1, uni_seqlen_qo=1, dtype_q=dtypes.fp8, dtype_kv=dtypes.fp8)
torch.cuda.synchronize()
mla_decode_fwd(q, kv, o, indptr(1), indptr(KV), torch.arange(BATCH * KV, dtype=torch.int32),
    torch.ones(BATCH, dtype=torch.int32), 1, work_meta_data=work_meta, work_indptr=work_indptr, work_info_set=work_info,
    reduce_indptr=r_indptr, reduce_final_map=r_final, reduce_partial_map=r_partial,
    q_scale=torch.ones(1), kv_scale=torch.ones(1))
assert o.is_cuda and o.device.type == "cuda"
print("items", int(work_indptr[-1]))
RESULT = work_info[: int(work_indptr[-1])].tolist()
"""


def test_a_script_runs_unmodified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user would write for a GPU: default device cuda, aiter imported, metadata planned into real buffers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "script.py").write_text(SCRIPT)
    with Child("services:Scripts", {"release": "2026-06"}, environment={"TRITON_INTERPRET": "1"}) as child:
        seen = child.request("run", script=str(tmp_path / "script.py"))
    assert [call for call, _ in seen["calls"]] == [SIZING, PLANNING, DECODING]
    items = seen["result"]
    assert [item[:6] for item in items] == [[0, -1, 0, 1, 0, 5], [1, -1, 1, 2, 5, 10]]
    assert dict(seen["calls"])[DECODING] == [2, 64, 576]
