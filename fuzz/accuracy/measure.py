"""Error of each choice of a shape against float64 attention, measured on one device; what is compared with what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.aiter.codefiles import CodeSource, installed_wheel
from backend.case import QK_HEAD_DIM, V_HEAD_DIM, Case, DType
from backend.codec import from_plain
from backend.devices.device import Device
from backend.errors import CannotRunError, UnmodelledError
from backend.observation import Numbers
from backend.path import judge
from fuzz.accuracy.choices import ServingChoice
from fuzz.verdict import Counts, Verdict
from reprod.text import one_line

if TYPE_CHECKING:
    from backend.cdna.result import Schedule
    from fuzz.accuracy.machine import UnroundedInputs


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """kernel: against float64 attention on the very bytes that the kernel reads: what the kernel adds. whole: against float64
    attention on the numbers before they were rounded to the types of q and KV, None where the device does not know them.
    how: schedule of the machine, or the GPU. failed: why there are no numbers, "" where there are.
    """

    choice: ServingChoice
    kernel: Numbers | None = None
    whole: Numbers | None = None
    how: str = ""
    failed: str = ""


def verdict(found: Sequence[Measured]) -> Verdict:
    """Of all choices of a shape: wrong ones are blamed; what AITER takes and what gave no numbers is missing."""
    ran = [each.kernel for each in found if each.kernel is not None]
    wrong = sum(not within(numbers) for numbers in ran)
    missing = [each for each in found if each.kernel is None and (each.choice.call is not None or each.choice.unknown)]
    counts = Counts(clean=len(ran) - wrong, faulty=wrong, not_run=len(missing), refused=len(found) - len(ran) - len(missing))
    lines = (
        f"{each.choice.case.mode}, q {each.choice.case.q_dtype} KV {each.choice.case.kv_dtype}: {each.failed}"
        for each in missing
    )
    return Verdict(counts, wrong, tuple(one_line(each) for each in lines))


def on_machine(choice: ServingChoice, shape: Case, source: CodeSource | None, seed: int) -> Measured:
    """From machine code. Waves in turn; where that leaves the error budget, the timing model, and `how` says which."""
    from backend.cdna.result import Schedule

    try:
        found = _on_machine(choice, shape, source or installed_wheel(), seed, Schedule.ROUND_ROBIN)
        if found.kernel is not None and not within(found.kernel):
            return _on_machine(choice, shape, source or installed_wheel(), seed, Schedule.TIMED)
    except (CannotRunError, UnmodelledError) as error:
        return Measured(choice, failed=str(error))
    return found


def on_gpu(choice: ServingChoice, device: Device) -> Measured:
    """From a GPU: `cuda` runs our own kernel with AITER's plan, `rocm` AITER itself. A group of heads stands for all."""
    assert choice.call is not None
    try:
        outcome = judge(choice.call, device)
    except CannotRunError as error:
        return Measured(choice, failed=str(error))
    seen = outcome.observation
    if seen is None:
        return Measured(choice, failed=str(outcome.reason))
    how = seen.notes[0] if seen.notes else ""
    if seen.numbers is None:
        return Measured(choice, how=how, failed="no numbers: the run did not come to its end")
    return Measured(choice, seen.numbers, None, how)


def rounding_alone(shape: Case, q_dtype: DType, kv_dtype: DType, seed: int) -> Numbers:
    """What rounding q and KV to their types does: float64 attention on rounded numbers against that on the numbers given."""
    from fuzz.accuracy.machine import UnroundedInputs, rounded

    inputs = UnroundedInputs.of(sum(shape.rows()), shape.num_head, shape.kv_lens, seed)
    cut = UnroundedInputs(
        rounded(inputs.q, q_dtype, shape.arch), tuple(rounded(one, kv_dtype, shape.arch) for one in inputs.kv)
    )
    made = np.concatenate(
        [_exact(cut, shape, request, begin, end) for request, (begin, end) in enumerate(_query_ranges(shape))]
    )
    return _compared(shape, inputs, made, np.zeros(made.shape[:2], np.bool_), q_dtype)


def measured(choices: Sequence[ServingChoice], one: Callable[[ServingChoice], Measured]) -> Iterator[Measured]:
    """Each choice that AITER takes, measured."""
    for choice in choices:
        yield one(choice) if choice.call is not None else Measured(choice, failed=choice.refused)


def _on_machine(choice: ServingChoice, shape: Case, source: CodeSource, seed: int, schedule: Schedule) -> Measured:
    from fuzz.accuracy.machine import UnroundedInputs, rounded, run

    assert choice.call is not None
    inputs = UnroundedInputs.of(sum(shape.rows()), shape.num_head, shape.kv_lens, seed)
    width = shape.num_head // choice.groups
    parts = [run(choice.call, inputs.heads(g * width, (g + 1) * width), source, schedule) for g in range(choice.groups)]
    o = np.concatenate([part.o for part in parts], axis=1)
    unwritten = np.concatenate([part.unwritten for part in parts], axis=1)
    case = choice.case
    held = UnroundedInputs(
        rounded(inputs.q, case.q_dtype, case.arch), tuple(rounded(one, case.kv_dtype, case.arch) for one in inputs.kv)
    )
    bad = sum(part.bad for part in parts)
    ran = f"{schedule}, {sum(part.instructions for part in parts):,} wave instructions"
    return Measured(
        choice,
        _compared(shape, held, o, unwritten, case.q_dtype),
        _compared(shape, inputs, o, unwritten, case.q_dtype),
        ran + (f", {bad} bad accesses" if bad else ""),
    )


def _compared(shape: Case, inputs: UnroundedInputs, o: Any, unwritten: Any, q_dtype: DType) -> Numbers:
    import torch

    from backend.devices.gpu.numbers import BF16_P, FP8_P, NumbersTally

    comparison = NumbersTally(FP8_P if q_dtype is DType.FP8 else BF16_P)
    for request, (begin, end) in enumerate(_query_ranges(shape)):
        q, kv, rows, missing = (
            torch.from_numpy(np.ascontiguousarray(each))
            for each in (inputs.q[begin:end], inputs.kv[request], o[begin:end], unwritten[begin:end])
        )
        comparison.add(q, kv, rows, missing, None, begin)
    return from_plain(Numbers, comparison.result())


def _query_ranges(shape: Case) -> list[tuple[int, int]]:
    ends = np.cumsum(shape.rows()).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _exact(inputs: UnroundedInputs, shape: Case, request: int, begin: int, end: int) -> Any:
    """Attention in float64: [queries, heads, 512]; zeros for a query that sees nothing."""
    out = np.zeros((end - begin, shape.num_head, V_HEAD_DIM))
    for query in range(begin, end):
        kv = inputs.kv[request][: shape.kv_lens[request] - (end - 1 - query)]
        if len(kv):
            score = inputs.q[query] @ kv.T / QK_HEAD_DIM**0.5
            p = np.exp(score - score.max(axis=1, keepdims=True))
            out[query - begin] = p @ kv[:, :V_HEAD_DIM] / p.sum(axis=1, keepdims=True)
    return out


def within(numbers: Numbers) -> bool:
    """Whether every row is there, and within what rounding alone may do."""
    return not numbers.not_a_number + numbers.unwritten + numbers.outside
