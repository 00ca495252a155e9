"""The repro script: compiles for every kind of finding, exits as it says, and calls AITER by AITER's own signatures."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import py_compile
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest

from backend.aiter.codefiles import installed_wheel, open_source
from backend.aiter.release import release
from backend.case import Arch, Case, DType, MetadataMode, PageOrder
from backend.errors import UsageError
from backend.fate import Fate
from backend.findings import Finding, FindingKind, Party, Severity
from backend.outcome import Outcome
from backend.path import Path as CasePath
from reprod.fix import fix_of
from reprod.script import script_text

BF16 = DType.BF16

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")

CASES = {
    "head width": FOUNDING,
    "head width, bf16": Case(num_head=48, kv_lens=(1,), q_dtype=BF16, kv_dtype=BF16),
    "buffers too small": Case(num_head=16, kv_lens=(1,), backend="vllm-before-41016", graph_batch=2, max_batch=1),
    "last page lens": Case(num_head=16, kv_lens=(9,), backend="vllm-before-31282"),
    "short piece": Case(
        num_head=16, kv_lens=(33,), max_seqlen_q=4, backend="direct", release="2025-11", mode=MetadataMode.FAST
    ),
    "padding rows": Case(num_head=16, kv_lens=(4,), max_seqlen_q=4, backend="sglang-before-20841", graph_batch=2),
    "many requests": FOUNDING.replace(kv_lens=(1,) * 200 + (5, 6)),
}
"""A finding of each kind that the model makes today."""


def outcome_of(name: str) -> Outcome:
    outcome = CasePath().run(CASES[name])
    assert outcome.faulty
    return outcome


def script_of(name: str, tmp_path: Path) -> Path:
    outcome = outcome_of(name)
    script = tmp_path / "repro.py"
    script.write_text(script_text(outcome, fix_of(outcome, CasePath())), encoding="utf-8")
    return script


class FakeGpu:
    """One process that runs scripts; see fake_gpu.py."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("fake_gpu.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, script: Path, behaviour: str, *arguments: str, version: str = "2026-06") -> tuple[int, str]:
        """Exit code and output of a script."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"release": version, "behaviour": behaviour, "script": str(script), "arguments": arguments}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["output"]


@pytest.fixture(scope="module")
def gpu() -> Iterator[FakeGpu]:
    fake = FakeGpu()
    yield fake
    assert fake.process.stdin is not None
    fake.process.stdin.close()
    assert fake.process.wait(timeout=30) == 0


def check_ruff(folder: Path) -> None:
    command = ["-m", "ruff", "check", "--isolated", "--select", "E,F,I,B,SIM", "--line-length", "128", str(folder)]
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("name", CASES)
def test_compiles_and_says_in_one_line_that_it_cannot_run_here(name: str, tmp_path: Path, gpu: FakeGpu) -> None:
    script = script_of(name, tmp_path)
    py_compile.compile(str(script), doraise=True)
    code, output = gpu.run(script, "no-gpu")
    assert code == 3
    assert output.startswith("cannot run here: ")
    assert len(output.splitlines()) == 1


def test_stands_alone(tmp_path: Path) -> None:
    """In a process of its own, from another folder, without this project on the path."""
    script = script_of("head width", tmp_path)
    ended = subprocess.run([sys.executable, "-I", script], capture_output=True, text=True, check=False, cwd="/")
    assert (ended.returncode, ended.stderr) == (3, "")
    assert ended.stdout.startswith("cannot run here: ")


@pytest.mark.parametrize("name", CASES)
def test_is_readable(name: str, tmp_path: Path) -> None:
    """No line too long, none unused, no tag of the template left; imports torch, aiter and the standard library only."""
    text = script_of(name, tmp_path).read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 128
    assert "#:" not in text
    assert "$" not in text
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"torch", "aiter"}
    check_ruff(tmp_path)


BEHAVIOURS = {
    "right": (0, "fine: right result, no red zone touched"),
    "overrun": (1, "o: 1,024 bytes written past the end, up to 1,024 bytes from it"),
    "before": (1, "o: 512 bytes written before the start, up to 512 bytes from it"),
    "planner": (1, "reduce_indptr: 12 bytes written past the end, up to 12 bytes from it"),
    "wrong": (1, "o: 1 of 1 rows are wrong"),
    "nan": (1, "o: 1 of 1 rows hold NaN"),
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_exit_codes_and_what_is_told(behaviour: str, tmp_path: Path, gpu: FakeGpu) -> None:
    expected, told = BEHAVIOURS[behaviour]
    code, output = gpu.run(script_of("head width", tmp_path), behaviour)
    assert code == expected, output
    assert told in output
    assert "gfx950, 256 compute units" in output
    assert "found by aiterfuzz on device model" in output


def test_fixed_runs_with_the_flags_of_the_fix(tmp_path: Path, gpu: FakeGpu) -> None:
    script = script_of("head width", tmp_path)
    assert gpu.run(script, "overrun,planner,unless-fast")[0] == 1
    assert gpu.run(script, "overrun,planner,unless-fast", "--fixed")[0] == 0


def test_no_fixed_switch_without_a_remedy(tmp_path: Path, gpu: FakeGpu) -> None:
    script = script_of("short piece", tmp_path)
    assert "--fixed" not in script.read_text(encoding="utf-8")
    assert gpu.run(script, "right", "--fixed", version="2025-11")[0] == 2


RUNNABLE = {
    "old signatures": (CASES["short piece"], "2025-11"),
    "graph": (CASES["buffers too small"].replace(kv_lens=(700,)), "2026-06"),
    "bf16 and fold": (CASES["head width, bf16"].replace(kv_lens=(300, 5)), "2026-06"),
    "repeated heads, drafts": (
        Case(num_head=4, kv_lens=(9,), max_seqlen_q=4, backend="sglang-before-20841", graph_batch=2),
        "2026-06",
    ),
    "pages, reversed": (
        Case(
            num_head=64,
            kv_lens=(70, 16, 33),
            page_size=16,
            first_page=5,
            page_order=PageOrder.REVERSED,
            backend="direct",
            mode=MetadataMode.FAKE,
        ),
        "2026-08",
    ),
}


@pytest.mark.parametrize("name", RUNNABLE)
def test_right_attention_passes_whatever_the_case(name: str, tmp_path: Path, gpu: FakeGpu) -> None:
    """The script's own reference and page arithmetic against another implementation. What is compared is not the finding."""
    case, version = RUNNABLE[name]
    outcome = CasePath().run(case)
    assert outcome.faulty
    fix = fix_of(outcome, CasePath())
    script = tmp_path / "repro.py"
    script.write_text(script_text(outcome, fix), encoding="utf-8")
    arguments = ["--fixed"] if fix else []
    assert gpu.run(script, "right", *arguments, version=version) == (0, ANY)
    code, output = gpu.run(script, "wrong", *arguments, version=version)
    assert (code, "are wrong" in output) == (1, True), output


@pytest.mark.parametrize("case", [Case(num_head=64, kv_lens=(33,), backend="sglang-before-27188"), CASES["short piece"]])
def test_one_lost_token_is_seen_through_fp8_rounding(case: Case, tmp_path: Path, gpu: FakeGpu) -> None:
    script = tmp_path / "repro.py"
    script.write_text(script_text(CasePath().run(case), None), encoding="utf-8")
    code, output = gpu.run(script, "lost", version=case.release)
    assert (code, "rows are wrong" in output) == (1, True), output


def test_another_gpu_is_not_run_on(tmp_path: Path, gpu: FakeGpu) -> None:
    outcome = CasePath().run(CASES["last page lens"].replace(arch=Arch.GFX942))
    script = tmp_path / "repro.py"
    script.write_text(script_text(outcome, None), encoding="utf-8")
    code, output = gpu.run(script, "right")
    assert code == 3
    assert "a finding of gfx942, the GPU is fake (gfx950)" in output


def test_without_metadata(tmp_path: Path, gpu: FakeGpu) -> None:
    """A non-persistent call hands over none of the six tensors."""
    case = Case(num_head=16, kv_lens=(40,), q_dtype=BF16, kv_dtype=BF16, backend="direct", mode=MetadataMode.NON_PERSISTENT)
    ran = CasePath().run(case)
    planted = Finding(FindingKind.FOREIGN_PAGE, Severity.READ, Party.KERNEL, "a kernel", "kv_buffer", "reads another page")
    outcome = dataclasses.replace(ran, fate=Fate.FAULTY, findings=(planted,))
    script = tmp_path / "repro.py"
    script.write_text(script_text(outcome, None), encoding="utf-8")
    assert "metadata_info" not in script.read_text(encoding="utf-8")
    check_ruff(tmp_path)
    assert gpu.run(script, "right") == (0, ANY)
    assert gpu.run(script, "overrun")[0] == 1


LSE = Case(num_head=32, kv_lens=(10, 3), backend="direct", mode=MetadataMode.FAST, release="2026-08", return_lse=True)
"""The one kernel of 2026-08 that is asked for the log-sum-exp and cannot write it."""


@pytest.mark.slow(guard="test_right_attention_passes_whatever_the_case")
def test_the_log_sum_exp_is_compared_where_it_is_asked_for(tmp_path: Path, gpu: FakeGpu) -> None:
    script = tmp_path / "repro.py"
    script.write_text(script_text(CasePath().run(LSE), None), encoding="utf-8")
    check_ruff(tmp_path)
    assert gpu.run(script, "right", version="2026-08")[0] == 0
    code, output = gpu.run(script, "no-lse", version="2026-08")
    assert (code, "final_lse: 2 of 2 rows hold NaN" in output) == (1, True), output
    assert "compare_lse" not in script_of("head width", tmp_path).read_text(encoding="utf-8")


def script_of_two_ranks(tmp_path: Path) -> Path:
    outcome = outcome_of("head width")
    script = tmp_path / "repro.py"
    script.write_text(script_text(outcome, fix_of(outcome, CasePath()), ranks=2), encoding="utf-8")
    return script


def test_two_ranks_stand_alone_and_are_readable(tmp_path: Path) -> None:
    script = script_of_two_ranks(tmp_path)
    check_ruff(tmp_path)
    text = script.read_text(encoding="utf-8")
    assert "#:" not in text
    assert max(map(len, text.splitlines())) <= 128
    ended = subprocess.run([sys.executable, "-I", script], capture_output=True, text=True, check=False, cwd="/")
    assert (ended.returncode, ended.stderr) == (3, "")


def test_one_of_two_ranks_alone(tmp_path: Path, gpu: FakeGpu) -> None:
    script = script_of_two_ranks(tmp_path)
    assert gpu.run(script, "right", "--rank", "1")[0] == 0
    assert gpu.run(script, "overrun,unless-fast", "--rank", "0", "--layout", "guarded")[0] == 1
    assert gpu.run(script, "overrun,unless-fast", "--rank", "0", "--layout", "guarded", "--fixed")[0] == 0


def test_two_ranks_meet_before_the_decode_call(tmp_path: Path, gpu: FakeGpu) -> None:
    """The other rank has come: this one goes on."""
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    (barrier / "other.here").touch()
    assert gpu.run(script_of_two_ranks(tmp_path), "right", "--rank", "0", "--barrier", str(barrier))[0] == 0
    assert len(list(barrier.glob("*.here"))) == 2


def test_the_worst_exit_code_of_the_ranks_is_told(tmp_path: Path, gpu: FakeGpu) -> None:
    """The started processes have no GPU, faked or not: each says so and ends with 3."""
    code, output = gpu.run(script_of_two_ranks(tmp_path), "right")
    assert code == 3, output
    assert "rank 0: exit 3\nrank 1: exit 3" in output


def test_nothing_to_script_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no script"):
        script_text(CasePath().run(Case(num_head=64, kv_lens=(1,))), None)
    with pytest.raises(UsageError, match="no script: 12 heads"):
        script_text(CasePath().run(Case(num_head=12, kv_lens=(1,))), None)


PUBLIC = {
    "get_mla_metadata_info_v1": "aiter/ops/attention.py",
    "get_mla_metadata_v1": "aiter/ops/attention.py",
    "mla_decode_fwd": "aiter/mla.py",
}


IN_A_CHECKOUT = [pytest.param(version, marks=pytest.mark.checkout) for version in ("2026-06", "2026-08")]


@pytest.mark.parametrize("version", ["2025-11", *IN_A_CHECKOUT])
@pytest.mark.parametrize("function", PUBLIC)
def test_calls_bind_to_aiters_own_signatures(version: str, function: str, request: pytest.FixtureRequest) -> None:
    name = "short piece" if version == "2025-11" else "head width"
    outcome = CasePath().run(CASES[name].replace(release=version))
    text = script_text(outcome, None)
    if version == "2025-11":
        files = installed_wheel()
    else:
        files = open_source(f"{request.getfixturevalue('aiter_checkout')}@{release(version).commit}")
    source = files.read(PUBLIC[function])
    assert source is not None
    signature = _signature(ast.parse(source), function)
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and _called(node) == function]
    assert len(calls) == 1
    named = {keyword.arg: keyword.value for keyword in calls[0].keywords if keyword.arg is not None}
    if function == "mla_decode_fwd":
        metadata = ["work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map"]
        named |= dict.fromkeys(metadata, ast.Constant(None))
    bound = signature.bind(*calls[0].args, **named)
    if function == "get_mla_metadata_v1":
        for parameter in ("work_indptr", "reduce_indptr", "reduce_final_map", "reduce_partial_map"):
            assert ast.unparse(bound.arguments[parameter]) == f"metadata['{parameter}']"


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _signature(tree: ast.Module, function: str) -> inspect.Signature:
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    positional, defaults = found.args.args, found.args.defaults
    required = len(positional) - len(defaults)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [inspect.Parameter(a.arg, kind, default=empty if i < required else None) for i, a in enumerate(positional)]
    )
