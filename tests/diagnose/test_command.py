"""`aiterfuzz diagnose` as it is typed: exit codes, the files that it writes, and what a pc is with a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.case import Arch, Case
from backend.codec import read_file
from fuzz.cli import main
from reprod.corpus import load_corpus, shipped_corpus
from reprod.diagnose.diagnosis import diagnose

LOGS = Path(__file__).parents[1] / "data" / "logs"


@pytest.mark.parametrize(
    ("log", "code"),
    [("founding.log", 1), ("no_kernel.log", 0), ("no_clue.log", 3), ("null_pointer_32_heads.log", 3), ("absent.log", 2)],
)
def test_exit_codes(log: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--no-script", str(LOGS / log)]) == code
    printed = capsys.readouterr()
    assert (code == 2) == printed.err.startswith("aiterfuzz: LOG: given")


@pytest.mark.parametrize(("gpu", "said"), [("", "not in the log: gfx942 and gfx950 are tried"), ("gfx950\n", "gfx950")])
def test_a_gpu_that_the_log_does_not_name_is_asked_for(
    gpu: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both GPUs have a kernel of this name."""
    log = tmp_path / "server.log"
    kernel = "mla_a8w8_qh64_qseqlen1_gqaratio64_v3_ps"
    log.write_text(
        f"[aiter] LoadKernel: {kernel}.co GetFunction: _ZN5aiter39{kernel}E Success\n{gpu}"
        "Memory access fault by GPU node-3 (Agent handle: 0x55c0d1e8f2a0) on address 0x7f3a1c600000. Reason: Unknown.\n"
    )
    assert main(["diagnose", "--no-script", str(log), "--seconds", "20"]) in (0, 1)
    told = capsys.readouterr().out
    assert f"\nGPU: {said}\n" in told
    assert ("  the GPU (`rocminfo | grep gfx`)\n" in told) == (not gpu)


@pytest.mark.slow
def test_the_founding_log_comes_to_a_script_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(LOGS / "founding.log"), "--out", str(tmp_path), "--seconds", "300"]) == 1
    printed = capsys.readouterr().out
    assert "shows what it is for" in printed
    assert "`python repro.py`: exit 1" in printed
    assert {file.name for file in tmp_path.iterdir()} == {"case.json", "explain.txt", "repro.py", "diagnosis.txt"}
    case = read_file(Case, tmp_path / "case.json")
    assert (case.num_head, case.kv_lens, case.arch) == (64, (1,), Arch.GFX950)


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("log", "pc", "expression"),
    [
        ("debug_agent.log", 0x3D0, "ptr_Q + work_info_set[work_indptr[workgroup_x]].q_begin * s_MQA * 576"),
        ("rocgdb.log", 0x9680, "ptr_RP + work_info_set[work_indptr[workgroup_x]].q_begin * s_MQA * 1024"),
    ],
)
def test_a_pc_is_an_instruction_a_tensor_and_an_expression(log: str, pc: int, expression: str, aiter_checkout: Path) -> None:
    done = diagnose([LOGS / log], str(aiter_checkout), load_corpus(shipped_corpus()), seconds=200.0, script=False)
    assert [(place.pc, place.is_exact) for place in done.places] == [(pc, True)]
    assert expression in [reached for _, _, reached in done.places[0].reaches]
    assert done.causes[0].outcome is not None
    assert done.causes[0].outcome.observation is not None
    assert done.causes[0].outcome.observation.device == "cdna"
