"""Bisection over releases of a backend: where the answer changes, and the founding fault's fix in sglang's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.case import Case, DType
from backend.codec import dumps
from backend.errors import CannotRunError
from backend.path import Path as CasePath
from backend.real.frameworks.fetch import cache_folder
from backend.real.frameworks.scenarios import StepKind
from fuzz.cli import main
from reprod import backend_bisect
from reprod.backend_bisect import bisect_sources, first_shown, scenario_of, source_bisection_lines
from reprod.bisect import TrialVerdict

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")

RULES = {"old": "sglang-before-27188", "mended": "sglang-27188", "mended again": "sglang-27188"}


@pytest.fixture
def rules_as_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in rules in place of real backend files; "broken" cannot be driven."""

    def outcome(source: str, case: Case, path: CasePath) -> object:
        if source == "broken":
            raise CannotRunError("no decode step was recorded")
        return path.run(case.replace(backend=RULES[source]))

    monkeypatch.setattr(backend_bisect, "source_outcome", outcome)


@pytest.mark.usefixtures("rules_as_sources")
@pytest.mark.parametrize(
    ("sources", "told"),
    [
        (["old", "mended"], ["first fixed: mended (old shows the fault)"]),
        (["mended", "old"], ["first bad: old (mended does not show the fault)"]),
        (["old", "broken", "mended", "mended again"], ["first fixed: mended (old shows the fault)"]),
        (["mended", "mended again"], ["no source differs from the one before it"]),
    ],
)
def test_the_first_release_that_differs_is_named(sources: list[str], told: list[str]) -> None:
    wanted = first_shown(FOUNDING, sources)
    trials, changes = bisect_sources(sources, FOUNDING, wanted)
    assert list(source_bisection_lines(changes, trials)) == told
    assert [trial.name for trial in trials] == sources
    assert all((trial.verdict is TrialVerdict.SKIPPED) == (trial.name == "broken") for trial in trials)


@pytest.mark.usefixtures("rules_as_sources")
def test_the_command_tells_trials_the_answer_alone_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = tmp_path / "case.json"
    case.write_text(dumps(FOUNDING))
    typed = ["bisect", str(case), "--backend-sources", "old", "mended"]
    answer = "first fixed: mended (old shows the fault)"
    said = {}
    for flags in ([], ["-q"], ["--json"]):
        assert main([*typed, *flags]) == 0
        said[" ".join(flags)] = capsys.readouterr().out
    assert said[""].startswith("looking for: head-width/planner v1_0/")
    assert said[""].endswith(f"\n\n{answer}\n")
    assert said["-q"] == f"{answer}\n"
    told = json.loads(said["--json"])
    assert told["answer"] == [answer]
    assert told["looking_for"].startswith("head-width/")
    assert [(trial["name"], trial["verdict"]) for trial in told["trials"]] == [("old", "shows the fault"), ("mended", "silent")]


def test_a_case_becomes_one_step_of_a_process() -> None:
    drafts = scenario_of(FOUNDING.replace(kv_lens=(9, 30), max_seqlen_q=4, graph_batch=4, kv_dtype=DType.BF16))
    (config,), (step,) = drafts.backends, drafts.steps
    assert (config.draft_tokens, config.graph_batches, config.max_requests) == (4, (4,), 4)
    # A framework counts the requests' tokens without the drafts of this step.
    assert (step.kind, step.kv_lens, step.graph) == (StepKind.TARGET_VERIFY, (5, 26), True)
    plain = scenario_of(FOUNDING)
    assert (plain.steps[0].kind, plain.steps[0].kv_lens, plain.steps[0].graph) == (StepKind.DECODE, (1,), False)


FETCHED = all(list((cache_folder() / "wheels").glob(f"sglang-{v}-*.whl")) for v in ("0.5.12.post1", "0.5.13"))


@pytest.mark.slow
@pytest.mark.skipif(not FETCHED, reason="wheels of sglang 0.5.12.post1 and 0.5.13 are not in the cache")
def test_sglangs_fix_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    entry = "corpus/F1-head-gate-64.json"
    assert main(["bisect", entry, "--backend-sources", "sglang==0.5.12.post1", "sglang==0.5.13"]) == 0
    assert "first fixed: sglang==0.5.13 (sglang==0.5.12.post1 shows the fault)" in capsys.readouterr().out
