"""`aiterfuzz doctor`: what a machine has is told, what is missing has a remedy, and nothing of it is a failure by itself."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import pytest

from fuzz import machine_facts
from fuzz.cli import main
from fuzz.machine_facts import Fact, FactState, ask_torch, gpu_facts

NO_DRIVER = {"amd": False, "amd usable": False, "nvidia": False}
AMD = {"amd": True, "amd usable": True, "nvidia": False}


def torch(rocm: str | None = None, cuda: str | None = None, gpus: list[list[Any]] | None = None) -> dict[str, Any]:
    return {"torch": "2.11.0", "rocm": rocm, "cuda": cuda, "gpus": gpus or []}


def told(asked: Mapping[str, Any], driver: Mapping[str, bool] = NO_DRIVER) -> list[Fact]:
    return list(gpu_facts(asked, driver))


def test_an_mi355x_is_told_with_its_runtime() -> None:
    runtime, gpu = told(torch("7.0.2", gpus=[["AMD Instinct MI355X", "gfx950:sramecc+:xnack-", 288, 256]]), AMD)
    assert (runtime.state, runtime.found) == (FactState.HERE, "2.11.0, built for ROCm 7.0.2")
    assert (gpu.name, gpu.state, gpu.advice) == ("GPU 0", FactState.HERE, "")
    for part in ("MI355X", "gfx950", "288 GiB", "256 compute units", "device rocm"):
        assert part in gpu.found


def test_a_gpu_that_no_case_is_for_is_said_to_be_one() -> None:
    _, gpu = told(torch("7.0.2", gpus=[["AMD Instinct MI210", "gfx90a:sramecc+", 64, 104]]), AMD)
    assert "gfx942" in gpu.advice
    _, other = told(torch(cuda="13.0", gpus=[["NVIDIA H200", "sm_90", 139, 132]]))
    assert "device cuda" in other.found
    assert not other.advice


@pytest.mark.parametrize(
    ("asked", "driver", "found", "advice"),
    [
        (torch(), NO_DRIVER, "none", "need none"),
        (torch("7.0"), {**AMD, "amd usable": False}, "may not be opened", "render"),
        (torch(cuda="13.0"), AMD, "without ROCm", "for ROCm"),
        (torch(), {**NO_DRIVER, "nvidia": True}, "without CUDA", "for CUDA"),
        (torch("7.0"), AMD, "sees no GPU", "rocm-smi"),
    ],
)
def test_what_keeps_a_gpu_from_being_seen_has_a_remedy(
    asked: Mapping[str, Any], driver: Mapping[str, bool], found: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in machine_facts.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    gpu = told(asked, driver)[-1]
    assert gpu.state is FactState.MISSING
    assert found in gpu.found
    assert advice in gpu.advice


def test_hidden_gpus_are_looked_for_where_they_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert "HIP_VISIBLE_DEVICES" in told(torch("7.0"), AMD)[-1].advice


@pytest.mark.parametrize("script", ["raise ImportError('libamdhip64.so: cannot open')", "import os; os._exit(9)"])
def test_a_torch_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(machine_facts, "ASK_TORCH", script)
    (fact,) = told(ask_torch())
    assert fact.state is FactState.MISSING
    assert "libamdhip64" in fact.found or "exit status 9" in fact.found


def test_a_torch_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_facts, "ASK_TORCH", "import time; time.sleep(60)")
    monkeypatch.setattr(machine_facts, "TORCH_SECONDS", 0.2)
    assert "does not answer" in ask_torch()["error"]


def test_the_command_prints_every_thing_and_is_no_failure_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine_facts, "ask_torch", lambda: {"error": "No module named 'torch'"})
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in ("cores", "memory", "torch", "triton", "aiter", "ray", "cache, planners", "cache, GPU kernels"):
        assert f" {name} " in printed
    assert "-- torch" in printed


def test_without_what_everything_needs_it_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "numba":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(machine_facts, "ask_torch", lambda: {"error": "no torch"})
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["doctor"]) == 3
    assert "pip install numba" in capsys.readouterr().out


def test_torch_itself_is_asked_as_written() -> None:
    pytest.importorskip("torch")
    asked = ask_torch()
    assert set(asked) == {"torch", "cuda", "rocm", "gpus"}, asked
