"""One scenario of the gate once more, by the name that a report gives it: its steps, and the first fault explained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from backend.codec import from_plain
from backend.errors import UsageError
from backend.file_text import json_of, text_of
from backend.real.frameworks.record import RecordedStep
from backend.real.frameworks.scenarios import Scenario
from backend.real.frameworks.steps import disagreements
from backend.words import counted
from fuzz.gate.gate import EVERY_RELEASE, GatePlan, Stack, StackRunner
from fuzz.gate.order import everything
from fuzz.gate.which_aiter import which_aiter
from fuzz.verdict import Counts, Verdict
from reprod.explain import explain
from reprod.known import known_as
from reprod.text import one_line


def swept(plan: GatePlan) -> dict[str, Scenario]:
    """What a sweep with this plan runs, by name."""
    return {scenario.name: scenario for scenario in everything(plan.tensors, plan.heads, EVERY_RELEASE)}


def scenario_named(name: str, plan: GatePlan) -> Scenario:
    """The scenario of that name; raises UsageError where the sweep has none and no gate.json of that name shows one."""
    found = swept(plan).get(name)
    if found is not None:
        return found
    file, colon, number = name.rpartition(":")
    if not (colon and file.endswith(".json") and number.isdecimal() and len(number) < 10):
        raise UsageError.not_allowed("--only", name, "a scenario as the report of the same flags names it, or gate.json:N")
    report = json_of(text_of(Path(file), "a gate.json"), file)
    faults = report.get("faults") if isinstance(report, dict) else None
    if not isinstance(faults, list) or not all(isinstance(each, dict) and "scenario" in each for each in faults):
        raise UsageError(f"{file}: is no gate.json; give the one that a gate has written")
    if not 0 < int(number) <= len(faults):
        raise UsageError.not_allowed("--only", name, f"{file}:1 to {file}:{len(faults)}")
    return from_plain(Scenario, faults[int(number) - 1]["scenario"], name)


def run_again(stack: Stack, plan: GatePlan, scenario: Scenario) -> tuple[list[str], Verdict]:
    """Lines for people, and the verdict: every step, the first that is wrong explained stage by stage, and what was found."""
    with StackRunner(stack, plan) as runner:
        recording, judge = runner.record(scenario), runner.judge
    judged = judge.judged(scenario, recording)
    lines = [f"scenario: {scenario.name}"]
    lines += [f"step {number}: {_step(step)}" for number, step in enumerate(recording.steps, 1)]
    for step in recording.steps:
        outcome, wrong = judge.outcome(step), disagreements(step)
        if wrong or outcome.faulty:
            lines += ["", f"the first step that is wrong: {_step(step)}"]
            lines += [f"  the file: {one_line(each.message)} ({each.line})" for each in wrong]
            lines += explain(outcome, known=known_as(outcome))
            break
    found = dict.fromkeys(f"{each.severity.name.lower()}: {each.signature}: {each.message}" for each in judged.sightings)
    lines += ["", *found]
    faulty = len({each.signature for each in judged.sightings if not each.did_not_run})
    open_ = [each.message for each in judged.sightings if each.did_not_run]
    return lines, Verdict(Counts.of(judged.fates), faulty, tuple(dict.fromkeys((*open_, *judged.not_run))))


def run_life(source: str, life: dict[str, Any], aiter: str | None = None, beside: str | None = None) -> int:
    """Prints one life of a source step by step, on the AITER that the gate takes for it; the exit code of what it showed.

    beside: a file whose folder source and aiter are named from; None: from where the process is.
    """
    if beside is not None:
        os.chdir(Path(beside).absolute().parent)
    chosen = which_aiter(source, aiter)
    plan = GatePlan(tensors=())
    lines, verdict = run_again(Stack(source, chosen.aiter, chosen.release), plan, from_plain(Scenario, life, "LIFE"))
    print("\n".join(lines))
    return verdict.exit_code


def _step(step: RecordedStep) -> str:
    rows = f", {counted(step.decode.max_seqlen_q, 'query row')} a request" if step.decode.max_seqlen_q > 1 else ""
    lens = list(step.kv_lens) if len(step.kv_lens) <= 8 else [*step.kv_lens[:8], "..."]
    return f"{step.kind.value}, {step.phase.value}, KV {lens}{f' and {step.padded} padded' if step.padded else ''}{rows}"
