"""Which shapes around a case show its fault and which do not: small sweeps through a path.

Knows Cases and outcomes; how a table looks is reprod.issue's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.case import RELEASES, Arch, Case, DType, MetadataMode
from backend.errors import CannotRunError
from backend.findings import Finding, FindingKind
from backend.outcome import Outcome
from backend.path import Path
from backend.serving.policy import Policy
from backend.words import counted
from reprod.shrink import Runner

HEADS = (4, 8, 12, 16, 32, 48, 64, 80, 96, 112, 128)

DTYPE_PAIRS = ((DType.FP8, DType.FP8), (DType.BF16, DType.FP8), (DType.BF16, DType.BF16))
"""q and KV dtypes that backends serve with."""

QUERY_ROWS = (1, 2, 3, 4)

BATCHES = (1, 2, 16, 256)

KV_LENS = (1, 16, 17, 197, 4096)
"""One token, a whole block of 16 and one more, the first length that fake mode splits, and a usual one."""


DIRECT = "direct"
"""Name of the backend that stands for a caller of AITER's own API."""

FLAGS = {
    MetadataMode.NON_PERSISTENT: "no metadata (non-persistent)",
    MetadataMode.FAKE: "fast_mode=False, intra_batch_mode=True (planner v1_0)",
    MetadataMode.GREEDY: "fast_mode=False, intra_batch_mode=False (planner v1_1)",
    MetadataMode.FAST: "fast_mode=True (planner v1_2)",
}
"""What AITER is handed in a mode, in AITER's own words."""


class Effect(StrEnum):
    """What a shape shows."""

    AFFECTED = "affected"
    OTHER = "another fault"
    UNAFFECTED = "not affected"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SweptShape:
    """One shape of a sweep. dimension, value: what differs from the case. detail: of the fault or the refusal, "" for none."""

    dimension: str
    value: str
    effect: Effect
    detail: str


@dataclass(frozen=True, slots=True)
class SweptSurroundings:
    """Sweeps around one case.

    by_heads: (heads, effects) with one effect for each of DTYPE_PAIRS. one_by_one: shapes that differ in one dimension.
    ran: devices that ran them, and whether outputs were compared with attention; empty where nothing was launched.
    """

    by_heads: tuple[tuple[int, tuple[Effect, ...]], ...]
    one_by_one: tuple[SweptShape, ...]
    ran: Mapping[str, bool]


def surroundings(outcome: Outcome, path: Runner) -> SweptSurroundings:
    """Sweeps heads against dtypes, and then each other dimension alone.

    A shape is affected where its cause is of the same kind and severity; the stage may differ, as it names the kernel.
    """
    case, cause = outcome.case, outcome.cause
    assert cause is not None

    noting = _Noting(path)

    def effect(changed: Case) -> Effect:
        return _effect(changed, cause, noting)[0]

    by_heads = tuple(
        (heads, tuple(effect(_typed(case, q, kv).replace(num_head=heads)) for q, kv in DTYPE_PAIRS)) for heads in HEADS
    )
    one_by_one = tuple(
        SweptShape(dimension, value, *_effect(changed, cause, noting, dimension == "release"))
        for dimension, value, changed in _neighbours(case)
    )
    return SweptSurroundings(by_heads, one_by_one, noting.ran)


class _Noting:
    """Runs cases on a path and notes what they ran on: a path does not say so, its outcomes do."""

    def __init__(self, path: Runner) -> None:
        self._path = path
        self.ran: dict[str, bool] = {}

    def run(self, case: Case) -> Outcome:
        """The path's outcome, kept for the next time."""
        outcome = self._path.run(case)
        seen = outcome.observation
        if seen is not None:
            self.ran[seen.device] = self.ran.get(seen.device, False) or seen.numbers is not None
        return outcome


def _effect(case: Case, cause: Finding, path: Runner, of_release: bool = False) -> tuple[Effect, str]:
    """What a case shows. of_release: whether it must be the release that the case names which runs, and no revision."""
    try:
        outcome = path.run(case)
    except CannotRunError as error:
        return Effect.UNKNOWN, str(error)
    made = outcome.call
    if of_release and (outcome.case.release != case.release or (made is not None and not made.is_a_release_s)):
        return Effect.UNKNOWN, "not tried: another AITER stands for that release"
    if outcome.unknown:
        return Effect.UNKNOWN, str(outcome.reason)
    shown = outcome.cause
    if shown is not None and (shown.kind, shown.severity) == (cause.kind, cause.severity):
        return Effect.AFFECTED, _consequences(outcome)
    if outcome.faulty and shown is not None:
        return Effect.OTHER, shown.signature
    return (Effect.UNAFFECTED, "") if outcome.refused is None else (Effect.REFUSED, outcome.refused)


def _consequences(outcome: Outcome) -> str:
    """What the fault reaches: tensors accessed outside, with bytes or words."""
    parts = []
    for finding in outcome.findings:
        if finding.evidence.get("bytes_outside"):
            verb = "write" if finding.kind is FindingKind.OUT_OF_BOUNDS_WRITE else "read"
            parts.append(f"{finding.tensor} {verb} {finding.evidence['bytes_outside']:,} B")
        elif finding.kind is FindingKind.PLANNER_OVERRUN:
            rows = int(finding.evidence["rows"])
            parts.append(f"{finding.tensor} {counted(rows, 'row')}")
    return ", ".join(parts)


def _typed(case: Case, q_dtype: DType, kv_dtype: DType) -> Case:
    return case.replace(q_dtype=q_dtype, kv_dtype=kv_dtype)


def _neighbours(case: Case) -> Iterator[tuple[str, str, Case]]:
    for rows in QUERY_ROWS:
        lens = tuple(max(length, rows) for length in case.kv_lens)
        yield "max_seqlen_q", str(rows), case.replace(max_seqlen_q=rows, query_lens=None, kv_lens=lens)
    if case.backend != DIRECT:  # a direct caller decides nothing but what it passes
        yield "flags", f"as {case.backend} decides", case.replace(mode=None)
    for mode in MetadataMode:
        yield "flags", FLAGS[mode], case.replace(mode=mode)
    for batch in BATCHES:
        lens = (max(case.kv_lens),) * batch
        graph = None if case.graph_batch is None else max(case.graph_batch, batch)
        yield "requests", str(batch), case.replace(kv_lens=lens, query_lens=None, graph_batch=graph)
    for length in dict.fromkeys(max(length, case.max_seqlen_q) for length in KV_LENS):  # fewer are no valid call
        yield "kv tokens", str(length), case.replace(kv_lens=(length,) * case.batch)
    for release in RELEASES:
        yield "release", release, case.replace(release=release)
    for arch in Arch:
        yield "GPU", arch.value, case.replace(arch=arch, num_cu=0)


MAX_TOKENS = 512
"""KV tokens of a batch up to which a kernel of 128 heads is executed in some seconds."""


class WholeKernels(Path):
    """The path of one release's code objects, for what ends within seconds.

    A finding of numbers shows where outputs are compared, which the model does not do; its neighbours run as the case itself
    did.

    run raises CannotRunError for cases of another release, whose code objects are not at hand, and of more than MAX_TOKENS
    tokens.
    """

    def __init__(self, path: Path, release: str) -> None:
        super().__init__(path.host, path.device)
        self._release = release

    def run(self, case: Case, rule: Policy | None = None) -> Outcome:
        """The outcome of a case, as Path.run gives it."""
        if case.release != self._release:
            raise CannotRunError(f"not tried: the code objects at hand are those of {self._release}")
        if sum(case.kv_lens) > MAX_TOKENS:
            raise CannotRunError(f"not tried: more than {MAX_TOKENS} tokens take minutes")
        return super().run(case, rule)
