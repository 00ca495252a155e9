"""launch() against the real aiter/mla.py, run with its GPU calls recorded: the wheel's always, the checkout's if given.

Tensors are torch "meta" tensors, so that sizes cost nothing; nothing of AITER is imported, its file is executed with stand-ins
for triton, the compiled ops and the questions it asks the GPU.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backend.aiter.arguments import BufferSizes, DecodeArguments, TargetGpu
from backend.aiter.codefiles import installed_wheel, open_source
from backend.aiter.launch import Launch, Refusal, launch
from backend.aiter.release import Release, release
from backend.case import Arch, DType

TORCH = {"fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16, "f32": torch.float32, "i32": torch.int32, "u64": torch.int64}
CALLS = 1500
# Positions of (logits, attn_lse, o, final_lse) among the arguments of mla_decode_stage1_asm_fwd.
OUTPUTS = {"2025-11": (12, 13, 14, None), "2026-06": (14, 15, 16, 17), "2026-08": (14, 15, 16, 17)}


class RealHost:
    """aiter/mla.py of one release, its three GPU calls recorded."""

    def __init__(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arch, self.num_cu, self.calls = "", 0, {}
        real_arange = torch.arange
        monkeypatch.setattr(torch, "arange", lambda *a, **k: real_arange(*a, **{**k, "device": "meta"}))
        for name, module in self._stand_ins().items():
            monkeypatch.setitem(sys.modules, name, module)
        self.names: dict[str, Any] = {}
        exec(compile(text, "aiter/mla.py", "exec"), self.names)

    def _stand_ins(self) -> dict[str, ModuleType]:
        def module(name: str, **content: object) -> tuple[str, ModuleType]:
            made = ModuleType(name)
            made.__dict__.update(content)
            return name, made

        def jit(function: object = None, **_: object) -> Any:
            host = self

            class Kernel:
                def __getitem__(self, grid: object) -> Callable[..., None]:
                    return lambda *arguments, **constants: host.record("triton", arguments, grid, constants)

            return Kernel() if function else jit

        dtypes = SimpleNamespace(fp8=TORCH["fp8"], bf16=TORCH["bf16"], fp32=TORCH["f32"], i32=TORCH["i32"])
        language = module("triton.language", constexpr=int, int64=int)
        return dict(
            [
                language,
                module("triton", jit=jit, language=language[1], next_power_of_2=lambda x: 1 << (x - 1).bit_length()),
                module(
                    "aiter",
                    dtypes=dtypes,
                    mla_decode_stage1_asm_fwd=lambda *arguments: self.record("stage1", arguments),
                    mla_reduce_v1=lambda *arguments: self.record("reduce", arguments),
                ),
                module("aiter.jit"),
                module("aiter.jit.utils"),
                module("aiter.jit.utils.chip_info", get_cu_num=lambda: self.num_cu, get_gfx=lambda: self.arch),
                module("aiter.jit.core", is_experimental_enabled=lambda: False),
                module("aiter.ops"),
                module("aiter.ops.attention", get_mla_decode_fwd_max_splits=lambda *_: self.num_cu),
            ]
        )

    def record(self, what: str, arguments: tuple[Any, ...], grid: object = None, constants: object = None) -> None:
        self.calls[what] = SimpleNamespace(arguments=arguments, grid=grid, constants=constants)

    def decode(self, rules: Release, device: TargetGpu, arguments: DecodeArguments) -> str | None:
        """Runs mla_decode_fwd; why it raised, or None."""
        self.arch, self.num_cu, self.calls = str(device.arch), device.num_cu, {}
        self.names["get_meta_param"].cache_clear()

        def tensor(dtype: str, *shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=TORCH[dtype], device="meta")

        a, m = arguments, arguments.metadata
        more: dict[str, object] = {"q_scale": tensor("f32", 1), "kv_scale": tensor("f32", 1), "num_kv_splits": a.num_kv_splits}
        if rules.has_v1_0:
            more["page_size"] = a.page_size
        more.update({name: True for name in ("return_lse", "intra_batch_mode") if getattr(a, name)})
        if m is not None:
            more["work_meta_data"] = tensor("u64", 2)
            more["work_indptr"] = tensor("i32", m.work_indptr)
            more["work_info_set"] = tensor("i32", m.work_info_set // 8, 8)
            more["reduce_indptr"] = tensor("i32", m.reduce_indptr)
            more["reduce_final_map"] = tensor("i32", m.reduce_final_map // 2, 2)
            more["reduce_partial_map"] = tensor("i32", m.reduce_partial_map)
        try:
            self.names["mla_decode_fwd"](
                tensor(a.q_dtype, a.q_rows, a.num_head, 576),
                tensor(a.kv_dtype, a.kv_pages, a.page_size, 1, 576),
                tensor("bf16", a.q_rows, a.num_head, 512),
                *(tensor("i32", len(array)) for array in (a.qo_indptr, a.kv_indptr, a.kv_indices, a.kv_last_page_lens)),
                a.max_seqlen_q,
                **more,
            )
        except (AssertionError, KeyError, RuntimeError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return None


def random_calls(seed: int) -> Iterator[tuple[TargetGpu, DecodeArguments]]:
    draw = random.Random(seed)
    for _ in range(CALLS):
        arch = draw.choice(list(Arch))
        device = TargetGpu(arch, draw.choice([304 if arch is Arch.GFX942 else 256, 80, 64]))
        batch, qlen = draw.choice([1, 2, 3, 5, 8, 31, 32, 33, 100, 256]), draw.choice([1, 1, 1, 2, 3, 4, 5, 6, 7, 8])
        pages = draw.choice([draw.randint(0, 50), batch * draw.randint(0, 600), batch * draw.randint(100, 20000), batch * 129])
        metadata = None
        if draw.random() < 0.6:
            sizes = (8 * draw.randint(1, 500), draw.randint(1, 300), 2 * draw.randint(1, 300), draw.randint(1, 3000))
            metadata = BufferSizes(device.num_cu + 1, *sizes)
        indptr = np.zeros(batch + 1, np.int32)
        yield (
            device,
            DecodeArguments(
                q_rows=batch * qlen if draw.random() < 0.8 else draw.randint(batch, batch * qlen),
                num_head=draw.choice([4, 8, 8, 16, 16, 16, 24, 32, 32, 48, 64, 64, 80, 96, 112, 128, 128, 144]),
                kv_pages=max(pages, 1),
                page_size=draw.choice([1, 1, 16, 64]),
                q_dtype=draw.choice(list(DType)),
                kv_dtype=draw.choice(list(DType)),
                qo_indptr=indptr,
                kv_indptr=indptr,
                kv_indices=np.zeros(pages, np.int32),
                kv_last_page_lens=indptr[1:],
                max_seqlen_q=qlen,
                metadata=metadata,
                num_kv_splits=draw.choice([None, None, 1, 2, 16, 32, 64, 512, 0]),
                intra_batch_mode=draw.random() < 0.2,
                return_lse=draw.random() < 0.25,
            ),
        )


def check_refusal(made: Refusal, host: RealHost, raised: str | None) -> None:
    """What mla_decode_fwd refuses never reaches stage 1; what the launcher refuses has got there."""
    if made.raised_by == "mla_decode_fwd":
        assert raised
        assert "stage1" not in host.calls
    else:
        assert "stage1" in host.calls


def check_launch(made: Launch, host: RealHost, raised: str | None) -> None:
    assert bool(raised) == bool(made.raises_afterwards), raised
    arguments = host.calls["stage1"].arguments
    logits, attn_lse, o, final_lse = (i if i is None else arguments[i] for i in OUTPUTS[made.release.name])
    seen = {"q": arguments[0], "kv_buffer": arguments[1], "logits": logits, "attn_lse": attn_lse, "o": o}
    optional = {"num_kv_splits_indptr": arguments[6], "work_meta_data": arguments[7], "final_lse": final_lse}
    for name, tensor in optional.items():
        assert (tensor is not None) == (name in made.tensors), name
    for name, tensor in {**seen, **{n: t for n, t in optional.items() if t is not None}}.items():
        assert (tuple(tensor.shape), tensor.dtype) == (made.tensors[name].shape, TORCH[made.tensors[name].dtype]), name
    second = made.second_stage
    kind = "triton stage2" if "triton" in host.calls else "mla_reduce_v1" if "reduce" in host.calls else "none (logits alias o)"
    assert second.kind == kind
    assert second.logits_is_o == (logits.dtype is torch.bfloat16)
    if "triton" in host.calls:
        constants = host.calls["triton"].constants
        assert host.calls["triton"].grid == (made.grid[1], second.num_head)
        assert constants["mgc"] == second.mgc
        assert constants["MAYBE_FINAL_OUT"] == second.maybe_final_out
        assert constants.get("HAS_FINAL_LSE", False) == second.stores_lse
    if "reduce" in host.calls:
        given = host.calls["reduce"].arguments
        assert (given[-1] is not None) == second.stores_lse
        if second.stores_lse:
            assert tuple(given[-1].shape) == {**made.tensors, **second.tensors}["final_lse"].shape
        if made.release.name == "2026-08":
            assert max(host.num_cu, given[6]) == second.max_splits


def compare(rules: Release, text: bytes | None, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    assert text is not None
    host = RealHost(text.decode(), monkeypatch)
    launches = 0
    for device, arguments in random_calls(seed):
        made = launch(rules, device, arguments)
        raised = host.decode(rules, device, arguments)
        if isinstance(made, Refusal):
            check_refusal(made, host, raised)
        else:
            check_launch(made, host, raised)
            launches += 1
    assert launches > CALLS // 20


def test_2025_11_of_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    compare(release("2025-11"), installed_wheel().read("aiter/mla.py"), monkeypatch, seed=11)


@pytest.mark.checkout
@pytest.mark.parametrize("name", ["2026-06", "2026-08"])
def test_2026_of_the_checkout(name: str, monkeypatch: pytest.MonkeyPatch, aiter_checkout: Path) -> None:
    rules = release(name)
    source = open_source(f"{aiter_checkout}@{rules.commit}")
    compare(rules, source.read("aiter/mla.py"), monkeypatch, seed=6)
