"""The decision table: what the real constructor decides, as it reaches AITER in one eager step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from backend.aiter.arguments import TargetGpu
from backend.case import NUM_CU, Arch, DType
from backend.errors import NoSuchStepError
from backend.real.aiter_ops import AiterSource, Handlers
from backend.real.frameworks.record import DecisionRow, Recording
from backend.real.frameworks.scenarios import HEADS, KV_DTYPES, BackendConfig, Scenario, Step, StepKind
from backend.real.handlers import PlannerHandlers

PROBE_KV_LENS = (33, 1)
PROBE_DRAFT_TOKENS = 2


class Driver(Protocol):
    """Who runs scenarios: the driver of one framework's source."""

    def run(self, scenario: Scenario, handlers: Handlers, environment: Mapping[str, str] | None = None) -> Recording:
        """Run one scenario in a fresh process."""


def decision_table(
    driver: Driver,
    aiter: AiterSource,
    arch: Arch = Arch.GFX950,
    heads: Sequence[int] = HEADS,
    kv_dtypes: Sequence[DType] = KV_DTYPES,
) -> list[DecisionRow]:
    """One row for each number of heads and KV dtype; none of a file that has no MLA."""
    release = aiter.release
    handlers = PlannerHandlers(aiter.host, release, TargetGpu(arch, NUM_CU[arch]), fills=False)
    rows = []
    for num_head in heads:
        for kv_dtype in kv_dtypes:
            plain = _ran(driver, _probe(num_head, kv_dtype, None, arch, release), handlers)
            speculative = _ran(driver, _probe(num_head, kv_dtype, PROBE_DRAFT_TOKENS, arch, release), handlers)
            if plain is not None:
                rows.append(_row(num_head, kv_dtype, plain, speculative))
    return rows


def _ran(driver: Driver, probe: Scenario, handlers: Handlers) -> Recording | None:
    """The recording of a probe, None where the file has no part in it: it has no MLA, or verifies no drafts."""
    try:
        return driver.run(probe, handlers)
    except NoSuchStepError:
        return None


def _probe(num_head: int, kv_dtype: DType, draft_tokens: int | None, arch: Arch, release: str) -> Scenario:
    config = BackendConfig(num_head, kv_dtype, kv_dtype, draft_tokens=draft_tokens, max_requests=len(PROBE_KV_LENS))
    kind = StepKind.DECODE if draft_tokens is None else StepKind.TARGET_VERIFY
    return Scenario("decide", (config,), (Step(kind, PROBE_KV_LENS),), arch=arch, release=release)


def _row(num_head: int, kv_dtype: DType, plain: Recording, speculative: Recording | None) -> DecisionRow:
    refused = plain.refused or (plain.failed[0].error if plain.failed else None)
    if refused is not None or not plain.steps:
        return DecisionRow(
            num_head=num_head,
            kv_dtype=kv_dtype,
            persistent=False,
            fast_mode=False,
            intra_batch_mode=False,
            splits=None,
            splits_speculative=None,
            num_head_kernel=None,
            refused=refused or "no step was recorded",
        )
    step = plain.steps[0]
    return DecisionRow(
        num_head=num_head,
        kv_dtype=kv_dtype,
        persistent=step.persistent,
        fast_mode=step.fast_mode,
        intra_batch_mode=step.intra_batch_mode,
        splits=step.splits,
        splits_speculative=speculative.steps[0].splits if speculative is not None and speculative.steps else None,
        num_head_kernel=step.decode.num_head,
    )
