"""Backends whose rule is built in: one row each, with all that is said of it."""

from __future__ import annotations

from dataclasses import dataclass

from backend.serving import bounds
from backend.serving.bounds import ServedBounds
from backend.serving.direct import direct
from backend.serving.policy import Policy
from backend.serving.sglang import SGLANG_27188, SGLANG_BEFORE_20399, SGLANG_BEFORE_20841, SGLANG_BEFORE_27188
from backend.serving.vllm import VLLM, VLLM_BEFORE_31282, VLLM_BEFORE_41016


@dataclass(frozen=True, slots=True)
class Backend:
    """A rule by its name. bounds: what it really sends, within which cases are drawn for it.

    gives: completes "arguments as ..." in an issue: who hands them to AITER so.
    """

    name: str
    rule: Policy
    bounds: ServedBounds
    gives: str


BACKENDS = {
    each.name: each
    for each in (
        Backend(
            name="sglang-27188",
            rule=SGLANG_27188,
            bounds=bounds.SGLANG,
            gives="as sglang gives them since sgl-project/sglang#27188",
        ),
        Backend(
            name="sglang-before-27188",
            rule=SGLANG_BEFORE_27188,
            bounds=bounds.SGLANG,
            gives="as sglang gave them before sgl-project/sglang#27188",
        ),
        Backend(
            name="sglang-before-20399",
            rule=SGLANG_BEFORE_20399,
            bounds=bounds.SGLANG,
            gives="as sglang gave them before sgl-project/sglang#20399",
        ),
        Backend(
            name="sglang-before-20841",
            rule=SGLANG_BEFORE_20841,
            bounds=bounds.SGLANG,
            gives="as sglang gave them before sgl-project/sglang#20841",
        ),
        Backend(name="vllm", rule=VLLM, bounds=bounds.VLLM, gives="as vLLM gives them"),
        Backend(
            name="vllm-before-41016",
            rule=VLLM_BEFORE_41016,
            bounds=bounds.VLLM,
            gives="as vLLM gave them before vllm-project/vllm#41016",
        ),
        Backend(
            name="vllm-before-31282",
            rule=VLLM_BEFORE_31282,
            bounds=bounds.VLLM,
            gives="as vLLM gave them before vllm-project/vllm#31282",
        ),
        Backend(name="direct", rule=direct, bounds=bounds.DIRECT, gives="as any caller of the public API may give them"),
    )
}
"""By name, the newest rule of each framework first."""

OWN_GIVES = "by the rule of the backend that the case names"
"""What an issue says of a rule that is not built in."""
