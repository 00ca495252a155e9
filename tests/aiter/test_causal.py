"""causal=False is handed on to the launcher's key, or refused by a release without the argument; never dropped."""

from __future__ import annotations

import numpy as np
import pytest

from backend.aiter.arguments import DecodeArguments
from backend.aiter.launch import Refusal
from backend.call import Call
from backend.case import RELEASES, Arch, Case, DType
from backend.checks.coverage import row_space
from backend.decision import Decision, Refused
from backend.errors import UnmodelledError
from backend.host import BuiltIn
from backend.serving.policy import decide
from backend.serving.registry import policy
from reprod.script import script_text


def made(**fields: object) -> Call:
    wanted: dict[str, object] = {"num_head": 16, "kv_lens": (70, 33), "max_seqlen_q": 4, "release": "2026-08", "causal": False}
    decision = decide(policy("direct"), Case(**wanted | {"backend": "direct"} | fields))  # type: ignore[arg-type]
    assert isinstance(decision, Decision)
    return BuiltIn().call(decision)


@pytest.mark.parametrize("release", RELEASES[:-1])
def test_a_release_without_the_argument_refuses_it(release: str) -> None:
    launch = made(release=release).launch
    assert isinstance(launch, Refusal)
    assert launch.reason == f"release {release} has no argument causal"


def test_the_maskless_kernel_is_launched() -> None:
    call = made()
    assert "_msk0_" in call.launched.code_object
    assert "_msk0_" not in made(causal=True).launched.code_object
    assert call.decision.planning is not None
    assert not call.decision.planning.is_causal


def test_a_single_query_has_no_mask_to_leave_out() -> None:
    assert made(max_seqlen_q=1).launched.code_object == made(max_seqlen_q=1, causal=True).launched.code_object


def test_a_table_without_a_maskless_row_refuses() -> None:
    launch = made(arch=Arch.GFX942).launch
    assert isinstance(launch, Refusal)
    assert "causal=0" in launch.reason


def test_every_row_must_then_reach_its_requests_end() -> None:
    assert np.array_equal(row_space(made()).least, row_space(made()).most)
    assert not np.array_equal(row_space(made(causal=True)).least, row_space(made(causal=True)).most)


@pytest.mark.parametrize("backend", ["sglang-27188", "vllm"])
def test_a_framework_that_never_asks_for_it_refuses(backend: str) -> None:
    refused = decide(policy(backend), Case(16, (70,), max_seqlen_q=4, causal=False, backend=backend, release="2026-08"))
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("causal: ")


def test_an_option_without_a_rule_is_not_dropped() -> None:
    from backend.aiter.arguments import TargetGpu
    from backend.aiter.launch import launch
    from backend.aiter.release import release

    known: DecodeArguments = made().decode
    import dataclasses

    with pytest.raises(UnmodelledError, match="no_such_option=30"):
        launch(release("2026-08"), TargetGpu(Arch.GFX950, 256), dataclasses.replace(known, options=(("no_such_option", 30.0),)))


def test_the_script_hands_it_on_and_masks_nothing_in_its_reference() -> None:
    from backend.path import Path as CasePath

    rope_free = Case(
        16, (70,), max_seqlen_q=4, release="2026-08", backend="direct", causal=False, qk_rope_head_dim=0, q_dtype=DType.FP8
    )
    outcome = CasePath().run(rope_free)
    assert outcome.faulty
    text = script_text(outcome, None)
    assert "OPTIONS = {'causal': False}" in text
    assert "**OPTIONS," in text
    assert "            seen = kv\n" in text
    compile(text, "repro.py", "exec")
