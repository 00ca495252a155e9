"""AITER's text evaluated, against recordings of the code itself: every planner call, sizing and launch of eight revisions."""

from __future__ import annotations

import ast
import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import revision_recordings as recordings

from backend.aiter.arguments import BufferSizes
from backend.aiter.codefiles import CodeSource, open_source
from backend.aiter.launch import Launch, Refusal
from backend.aiter.planners.result import Plan
from backend.aiter.release import nearest_release
from backend.aiter.text.launcher import Launcher
from backend.aiter.text.planners import Planners, Switches
from backend.aiter.text.reduction import Reduction
from backend.revision.host_code import SIZING, executed_sizes
from backend.revision.launch import evaluated_launch
from backend.revision.revision import Revision
from backend.revision.tensors import RefusedByHostCode

ANY = BufferSizes(1, 8, 100, 2, 1)
"""Buffers of a call that is rejected before any is looked at."""


@cache
def source_of(checkout: Path, revision: str) -> CodeSource:
    return open_source(f"{checkout}@{revision}")


def text_of(source: CodeSource, path: str) -> str | None:
    content = source.read(path)
    return None if content is None else content.decode("utf-8", "replace")


@cache
def planners_of(source: CodeSource) -> Planners:
    return Planners(lambda path: text_of(source, path))


@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.parametrize("planner", ["v1_0", "v1_1", "v1_2"])
@pytest.mark.parametrize("revision", recordings.REVISIONS)
def test_planners(aiter_checkout: Path, revision: str, planner: str) -> None:
    """Every word, overruns included, or the same refusal."""
    planners = planners_of(source_of(aiter_checkout, revision))
    recorded = [line for line in recordings.of("planners", revision) if line["planner"] == planner]
    assert len(recorded) > 30
    for line in recorded:
        allocated = BufferSizes(**line["allocated"]) if "allocated" in line else ANY
        switches = Switches(line.get("env") or {}, recordings.more_arguments(line))
        made = planners.plan(recordings.device(line["args"]), recordings.plan_arguments(line), allocated, switches)
        if line.get("rejected"):
            assert recordings.same_words(made.rejected, line["reason"])
            assert made.ends_process == line["aborts"]
        else:
            assert made.rejected is None
            compare(made, line)


@pytest.mark.checkout
@pytest.mark.parametrize("revision", recordings.REVISIONS)
def test_a_failed_check_of_planning(aiter_checkout: Path, revision: str) -> None:
    """Ends the process where the revision's text says so, whatever the nearest built-in release does."""
    recorded = {line["aborts"] for line in recordings.of("planners", revision) if line.get("rejected")}
    source = source_of(aiter_checkout, revision)
    assert {Revision(source).planning_check_ends(nearest_release(source).name)} == recorded


def compare(made: Plan, line: dict[str, Any]) -> None:
    for name, buffer in made.buffers.items():
        pairs = zip(buffer.image.tolist(), buffer.marks.tolist(), strict=True)
        found = {buffer.first + place: word for place, (word, mark) in enumerate(pairs) if mark}
        assert found == recordings.written(line, name), name


@pytest.mark.checkout
@pytest.mark.parametrize("revision", recordings.REVISIONS)
def test_sizing(aiter_checkout: Path, revision: str) -> None:
    """The words of each buffer, or the same refusal."""
    text = text_of(source_of(aiter_checkout, revision), "aiter/ops/attention.py")
    assert text is not None
    compared = 0
    for line in recordings.of("planners", revision):
        arguments, gpu = recordings.sizing_arguments(line), recordings.device(line["args"])
        if line.get("sizing_refused"):
            with pytest.raises(RefusedByHostCode):
                executed_sizes(text, gpu, arguments)
        elif "allocated" in line and not line.get("shrunk"):
            if not knows_the_cap(text):
                arguments = dataclasses.replace(arguments, max_split_per_batch=-1)
            assert executed_sizes(text, gpu, arguments, line.get("env")) == BufferSizes(**line["allocated"])
            compared += 1
    assert compared > 150


def knows_the_cap(text: str) -> bool:
    """Whether a revision's sizing takes max_split_per_batch; the recordings leave it out where it does not."""
    function = next(each for each in ast.parse(text).body if isinstance(each, ast.FunctionDef) and each.name == SIZING)
    return "max_split_per_batch" in {argument.arg for argument in function.args.args}


@pytest.mark.checkout
@pytest.mark.parametrize("revision", recordings.REVISIONS)
def test_launches(aiter_checkout: Path, revision: str) -> None:
    """Kernel, grid, kernel arguments, tensors and second stage, or the same refusal in the same words."""
    source = source_of(aiter_checkout, revision)
    launcher = Launcher(lambda path: text_of(source, path), source.has)
    reduction = Reduction(lambda path: text_of(source, path))
    texts = text_of(source, "aiter/mla.py") or "", text_of(source, "aiter/ops/attention.py") or ""
    rules = nearest_release(source)
    recorded = [line for line in recordings.of("launches", revision) if "sizing_refused" not in line]
    assert len(recorded) > 900
    for line in recorded:
        case = line["case"]
        arguments = recordings.decode_arguments(line)
        if case["persistent"] and arguments.metadata is None:
            continue
        made = evaluated_launch(rules, recordings.device(case), arguments, source, launcher, reduction, texts, {})
        if line.get("refused"):
            assert isinstance(made, Refusal)
            refused_alike(made, line)
        else:
            assert isinstance(made, Launch), line
            launched_alike(made, line)


def refused_alike(made: Refusal, line: dict[str, Any]) -> None:
    said = f"{made.raised_by}: {made.reason}"
    if said.endswith("process exits with code 0"):
        assert made.ends_process
        assert "unsupport current data type" in line["reason"] or line["reason"] == said
        return
    assert said == line["reason"].replace("TORCH_CHECK: ", "")
    assert made.ends_process == line["aborts"]


def launched_alike(made: Launch, line: dict[str, Any]) -> None:
    for name in ("symbol", "code_object", "persistent", "fold", "heads_in_kernel", "num_kv_splits"):
        assert getattr(made, name) == line[name], name
    assert made.max_seqlen_q == line["max_seqlen_q_passed"]
    assert [list(made.grid), list(made.block)] == [line["grid"], line["block"]]
    assert {each.name: each.value for each in made.kernargs if each.value is not None} == line["kernargs"]
    assert {each.name for each in made.kernargs if each.value is None} == set(line.get("unset") or ())
    assert -(-max(each.offset + each.size for each in made.kernargs) // 16) * 16 == line["kernarg_size"]
    extra = {name: spec for name, spec in made.second_stage.tensors.items() if name != "final_lse"}
    specs = {name: [list(spec.shape), str(spec.dtype)] for name, spec in {**made.tensors, **extra}.items()}
    assert specs == line["tensors"]
    assert dict(made.aliases) == (line.get("aliases") or {})
    assert made.q_copied == bool(line.get("q_copied"))
    assert made.raises_afterwards == line.get("raises_afterwards")
    second = line["second_stage"]
    assert str(made.second_stage.kind).startswith(second["kind"]) or second["kind"].startswith("none")
    assert made.second_stage.logits_is_o == second.get("logits_is_o", False)
    assert made.second_stage.mgc == second.get("mgc", made.second_stage.mgc)
    assert made.second_stage.tiles == second.get("tiles", made.second_stage.tiles)
