"""Whom an issue is for: one row each, with the headings of its form. Knows nothing of what stands below them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backend.errors import UsageError
from backend.findings import Party
from backend.outcome import Outcome


class IssueBody(NamedTuple):
    """The texts that every form asks for. gpu: the product; component: revision of AITER."""

    problem: Sequence[str]
    steps: Sequence[str]
    additional: Sequence[str]
    gpu: str
    component: str


@dataclass(frozen=True, slots=True)
class Addressee:
    """A project. prefix: of the title. headings: (heading, text) in the order of its form for a bug."""

    name: str
    repository: str
    prefix: str
    headings: Callable[[IssueBody], Sequence[tuple[str, Sequence[str]]]]


def _to_fill(what: str) -> str:
    return f"_To fill in, on the machine with the GPU: {what}._"


def _rocm(body: IssueBody) -> Sequence[tuple[str, Sequence[str]]]:
    return (
        ("Problem Description", body.problem),
        ("Steps to Reproduce", body.steps),
        (
            "Operating System, CPU, GPU, ROCm Version, ROCm Component",
            [f"{body.gpu}; {body.component}. " + _to_fill("operating system, CPU, number of GPUs, ROCm version")],
        ),
        ("Additional Information", body.additional),
    )


def _sglang(body: IssueBody) -> Sequence[tuple[str, Sequence[str]]]:
    return (
        ("Describe the bug", body.problem),
        ("Reproduction", body.steps),
        ("Environment", [f"{body.gpu}; {body.component}. " + _to_fill("`python3 -m sglang.check_env`"), "", *body.additional]),
    )


def _vllm(body: IssueBody) -> Sequence[tuple[str, Sequence[str]]]:
    return (
        ("Your current environment", [f"{body.gpu}; {body.component}. " + _to_fill("`python collect_env.py`")]),
        ("Describe the bug", [*body.problem, "", *body.steps, "", *body.additional]),
    )


AITER = Addressee("aiter", "ROCm/aiter", "[Issue]: ", _rocm)

ADDRESSEES = {
    each.name: each
    for each in (
        AITER,
        Addressee("sglang", "sgl-project/sglang", "[Bug] ", _sglang),
        Addressee("vllm", "vllm-project/vllm", "[Bug]: ", _vllm),
    )
}
"""By name. The headings are those of each project's form for a bug (2026-08)."""


def addressee(name: str) -> Addressee:
    """The row of a name; raises UsageError for another."""
    if name not in ADDRESSEES:
        raise UsageError.not_allowed("--for", name, ", ".join(ADDRESSEES))
    return ADDRESSEES[name]


def addressee_of(outcome: Outcome) -> Addressee:
    """Who can mend an outcome's cause: a caller's fault is the framework's whose rule made it, all else is AITER's."""
    cause = outcome.cause
    if cause is None or cause.party is not Party.CALLER:
        return AITER
    return ADDRESSEES.get(outcome.case.backend.split("-")[0], AITER)
