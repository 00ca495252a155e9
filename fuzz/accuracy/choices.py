"""Which kernels a shape can be served with: metadata modes, types of q and KV, heads natively or in groups of 16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.aiter.codefiles import CodeSource
from backend.aiter.fold import FOLDED_HEADS
from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.path import Path, faults_before_launch
from backend.revision.revision import host_of

TYPES = ((DType.BF16, DType.BF16), (DType.BF16, DType.FP8), (DType.FP8, DType.FP8))
"""What q and the KV cache hold, the exact ones first."""

MODES = (MetadataMode.FAST, MetadataMode.FAKE, MetadataMode.GREEDY, MetadataMode.NON_PERSISTENT)


@dataclass(frozen=True, slots=True, eq=False)
class ServingChoice:
    """One way to serve a shape. case: what is handed to AITER, for each of `groups` groups of heads by itself.

    groups > 1 is what folding does to numbers: every 16 heads by the kernel for 16, with a plan for 16 heads.
    call: None where AITER does not take it, or where its plan is wrong and numbers mean nothing; `refused` says why.
    unknown: whether that is not known of AITER, because its planner is not modelled.
    """

    case: Case
    groups: int
    call: Call | None
    refused: str
    unknown: bool = False

    @property
    def kernel(self) -> str:
        """Code object without its ending, "-" for none."""
        return "-" if self.call is None else self.call.launched.code_object.removesuffix(".co")

    @property
    def heads(self) -> str:
        """How the kernel sees the heads: native, folded by AITER, or in groups."""
        if self.groups > 1:
            return f"{self.groups} groups of {FOLDED_HEADS}"
        if self.call is None or self.call.launched.fold == 1:
            return "native"
        return f"{self.call.launched.fold} folds of {self.call.launched.heads_in_kernel}"


def choices(shape: Case, source: CodeSource | None) -> Iterator[ServingChoice]:
    """Every mode and type for a shape, whatever its own are; groups of 16 heads too where AITER launches more natively."""
    for q_dtype, kv_dtype in TYPES:
        for mode in MODES:
            case = shape.replace(q_dtype=q_dtype, kv_dtype=kv_dtype, mode=mode, backend="direct")
            made = _choice(case, 1, source)
            yield made
            if made.call is None or made.call.launched.heads_in_kernel <= FOLDED_HEADS or case.num_head % FOLDED_HEADS:
                continue
            grouped = _choice(case.replace(num_head=FOLDED_HEADS), case.num_head // FOLDED_HEADS, source)
            if grouped.call is not None:
                yield grouped


def _choice(case: Case, groups: int, source: CodeSource | None) -> ServingChoice:
    made = Path(host_of(source)).launched(case)
    if not isinstance(made, Call):
        return ServingChoice(case, groups, None, str(made.reason), made.unknown)
    later = made.launched.second_stage.refusal or made.launched.raises_afterwards
    if later:
        return ServingChoice(case, groups, None, later)
    faults = faults_before_launch(made)
    return (
        ServingChoice(case, groups, None, f"faulty: {faults[0].message}") if faults else ServingChoice(case, groups, made, "")
    )


def pairs(kept: Sequence[ServingChoice]) -> Iterator[tuple[str, int, int]]:
    """What is to be compared, as (question, index, index): modes, heads and KV types, all else equal."""

    def find(**wanted: object) -> int | None:
        for index, one in enumerate(kept):
            has = {"mode": one.case.mode, "types": (one.case.q_dtype, one.case.kv_dtype), "groups": one.groups > 1}
            if all(has[name] == value for name, value in wanted.items()):
                return index
        return None

    for types in TYPES:
        first, second = (
            find(mode=MetadataMode.FAST, types=types, groups=False),
            find(mode=MetadataMode.FAKE, types=types, groups=False),
        )
        if first is not None and second is not None:
            yield f"fast against fake mode, q {types[0]} KV {types[1]}", first, second
    for types in TYPES:
        for mode in MODES:
            first, second = find(mode=mode, types=types, groups=False), find(mode=mode, types=types, groups=True)
            if first is not None and second is not None:
                yield f"native against groups of 16 heads, {mode}, q {types[0]} KV {types[1]}", first, second
    for mode in MODES:
        first = find(mode=mode, types=(DType.BF16, DType.BF16), groups=False)
        for types in TYPES[1:]:
            second = find(mode=mode, types=types, groups=False)
            if first is not None and second is not None:
                yield f"bf16 against {types[1]} KV with {types[0]} q, {mode}", first, second
