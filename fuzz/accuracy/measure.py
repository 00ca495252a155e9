"""Which kernels a shape can be served with, and each one's error against float64 attention, measured on one device.

A choice is a metadata mode, types of q and KV, heads natively or in groups of 16. Numbers come from machine code: a call's code
object run in full on the simulated CDNA machine. Inputs are normal numbers rounded to the types of q and KV, the same ones for
every choice of a shape. Stage 2 ships as no code object: its rule is followed in float32, by
backend/devices/cdna/merged_output.py,
and results say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.aiter.codefiles import CodeSource, installed_wheel
from backend.aiter.fold import FOLDED_HEADS
from backend.call import Call
from backend.case import QK_HEAD_DIM, V_HEAD_DIM, Arch, Case, DType, MetadataMode
from backend.cdna.machine import MachineLaunch
from backend.cdna.result import MachineEnd, Mode, Schedule
from backend.codec import from_plain
from backend.devices.cdna import address_space as spaces
from backend.devices.cdna.device import machine_of
from backend.devices.cdna.merged_output import folded, outputs
from backend.devices.device import Device
from backend.errors import CannotRunError, UnmodelledError
from backend.observation import Numbers
from backend.path import Path, faults_before_launch, judge
from backend.revision.revision import host_of
from backend.words import counted
from fuzz.verdict import Counts, Verdict
from reprod.text import one_line

if TYPE_CHECKING:
    import torch

    from backend.cdna.result import Schedule


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


Doubles = npt.NDArray[np.float64]

POISON = 0xFF
"""Of pool and outputs: NaN in fp8 and bf16, so that what is read without being held shows."""


@dataclass(frozen=True, slots=True, eq=False)
class UnroundedInputs:
    """What the numbers are before any rounding. q: [queries, heads, 576]; kv: [tokens, 576] of each request."""

    q: Doubles
    kv: tuple[Doubles, ...]

    @classmethod
    def of(cls, queries: int, heads: int, kv_lens: tuple[int, ...], seed: int) -> UnroundedInputs:
        """Draws normally distributed numbers."""
        draw = np.random.default_rng(seed)
        kv = tuple(draw.standard_normal((length, QK_HEAD_DIM)) for length in kv_lens)
        return cls(draw.standard_normal((queries, heads, QK_HEAD_DIM)), kv)

    def heads(self, begin: int, end: int) -> UnroundedInputs:
        """The same with some heads only."""
        return UnroundedInputs(self.q[:, begin:end], self.kv)


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """o: [queries, heads, 512]; unwritten: [queries, heads]; bad: accesses that break bounds; instructions: of waves."""

    o: Doubles
    unwritten: npt.NDArray[np.bool_]
    bad: int
    instructions: int


def run(made: Call, inputs: UnroundedInputs, source: CodeSource, schedule: Schedule) -> Ran:
    """Runs stage 1 in full and merges. Raises UnmodelledError for machine code without a model, CannotRunError for a hang."""
    launch = made.launched
    q = folded(made, bits(inputs.q, made.decode.q_dtype, launch.arch))
    space, kernarg = spaces.build(made, {"q": q, "kv_buffer": _pool(made, inputs)})
    machine = machine_of(source, launch.arch, launch.code_object, launch.symbol)
    axis = None if launch.persistent else spaces.REQUEST_AXIS
    result = machine.run(MachineLaunch(launch.grid, launch.block, kernarg, requester_axis=axis), space, Mode.FULL, schedule)
    if result.outcome is MachineEnd.LIMIT:
        raise CannotRunError(f"{launch.code_object}: not at its end after {counted(result.executed, 'wave instruction')}")
    left = outputs(made, space)
    return Ran(left.values, left.unwritten, len(result.bad_accesses), result.executed)


def rounded(values: Doubles, dtype: DType, arch: Arch) -> Doubles:
    """The numbers as the type holds them."""
    torch, _, kind = _torch_type(dtype, arch)
    made: Doubles = torch.from_numpy(values).float().to(kind).double().numpy()
    return made


def bits(values: Doubles, dtype: DType, arch: Arch) -> npt.NDArray[Any]:
    """The numbers in the type's own bits: uint8 or uint16."""
    torch, raw, kind = _torch_type(dtype, arch)
    made: npt.NDArray[Any] = torch.from_numpy(np.ascontiguousarray(values)).float().to(kind).view(raw).numpy()
    return made.view(np.uint8 if dtype is DType.FP8 else np.uint16)


def _torch_type(dtype: DType, arch: Arch) -> tuple[Any, torch.dtype, torch.dtype]:
    import torch

    if dtype is DType.BF16:
        return torch, torch.int16, torch.bfloat16
    return torch, torch.uint8, torch.float8_e4m3fnuz if arch is Arch.GFX942 else torch.float8_e4m3fn


def _pool(made: Call, inputs: UnroundedInputs) -> npt.NDArray[Any]:
    decode, page = made.decode, made.decode.page_size
    kind = np.uint8 if decode.kv_dtype is DType.FP8 else np.uint16
    pool = np.full((decode.kv_pages, page, QK_HEAD_DIM), np.iinfo(kind).max, kind)
    first = 0
    for tokens in inputs.kv:
        position = np.arange(len(tokens))
        pages = decode.kv_indices[first + position // page]
        pool[pages, position % page] = bits(tokens, decode.kv_dtype, made.launched.arch)
        first += -(-len(tokens) // page)
    return pool


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
    from fuzz.accuracy.measure import UnroundedInputs, rounded

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
    from fuzz.accuracy.measure import UnroundedInputs, rounded, run

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
    ran = f"{schedule}, {counted(sum(part.instructions for part in parts), 'wave instruction')}"
    return Measured(
        choice,
        _compared(shape, held, o, unwritten, case.q_dtype),
        _compared(shape, inputs, o, unwritten, case.q_dtype),
        ran + (f", {counted(bad, 'bad access')}" if bad else ""),
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
