"""What this project makes of a revision, part by part: built in and equal, evaluated from its text, or a stand-in.

A part is evaluated if every call of a fixed grid of what gfx942 and gfx950 are served with is; kernels are lowered and not run.
Knows no device and no check.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from backend.aiter.arguments import BufferSizes, DecodeArguments, PlanArguments, SizingArguments, TargetGpu
from backend.aiter.codefiles import CodeSource
from backend.aiter.text.launcher import Launcher
from backend.aiter.text.planners import HEADERS, PLANNER_FILES, Planners
from backend.aiter.text.reduction import REDUCTION_FILE, Reduction
from backend.case import NUM_CU, Arch, DType
from backend.errors import CannotRunError
from backend.host import Basis
from backend.revision.decode import MERGE, OtherStage, executed_decode, merge_is_known
from backend.revision.host_code import DECODE_FILE, SIZING_FILE, executed_sizes
from backend.revision.launch import for_launcher, for_reduction
from backend.revision.tensors import RefusedByHostCode

_TABLES = tuple(f"hsa/{arch}/mla/mla_asm.csv" for arch in Arch)
_REDUCTION_HEADERS = ("csrc/include/mla.h", "csrc/include/aiter_enum.h")
_LAUNCHER_HEADERS = ("csrc/include/aiter_hip_common.h", "csrc/include/aiter_enum.h")

PARTS = {
    "sizing": (SIZING_FILE,),
    "fold and splits": (DECODE_FILE, SIZING_FILE),
    "launcher": ("csrc/py_itfs_cu/asm_mla.cu", DECODE_FILE, SIZING_FILE, *_LAUNCHER_HEADERS, *_TABLES),
    "planner v1_0": (*HEADERS, *PLANNER_FILES, "csrc/kernels/mla/metadata.cu"),
    "planner v1_1": (*HEADERS, *PLANNER_FILES, "csrc/kernels/mla/metadata.cu"),
    "planner v1_2": (*HEADERS, *PLANNER_FILES, "csrc/kernels/mla/metadata.cu"),
    "second stage": (REDUCTION_FILE, *_REDUCTION_HEADERS, DECODE_FILE, SIZING_FILE),
}
"""Part -> files that decide it."""

_HEADS = (8, 16, 32, 48, 64, 96, 128)
_QUERIES = (1, 2, 4)
_TYPES = ((DType.BF16, DType.BF16), (DType.BF16, DType.FP8), (DType.FP8, DType.FP8))


@dataclass(frozen=True, slots=True)
class Assessed:
    """What one part of a revision rests on. reason: what its text uses that is not provided for, for a stand-in."""

    part: str
    basis: Basis
    reason: str = ""


def assess(source: CodeSource, part: str) -> Assessed:
    """One part of a revision."""

    def read(path: str) -> str | None:
        return _decoded(source.read(path))

    try:
        _CHECKS[part](source, read)
    except (CannotRunError, OtherStage) as error:
        return Assessed(part, Basis.STAND_IN, str(error))
    return Assessed(part, Basis.EVALUATED)


ReadFile = Callable[[str], str | None]


def _needed(read: ReadFile, path: str) -> str:
    text = read(path)
    if text is None:
        raise CannotRunError(f"no {path}")
    return text


def _grid() -> Iterator[tuple[TargetGpu, int, int, DType, DType]]:
    for arch, heads, queries, (q, kv) in itertools.product(Arch, _HEADS, _QUERIES, _TYPES):
        yield TargetGpu(arch, NUM_CU[arch]), heads, queries, q, kv


def _sizing(source: CodeSource, read: ReadFile) -> None:
    text = _needed(read, SIZING_FILE)
    for device, heads, queries, q, kv in _grid():
        for fast, intra in ((True, False), (False, False), (False, True)):
            _unless_refused(
                lambda d=device, h=heads, n=queries, a=q, b=kv, f=fast, i=intra: executed_sizes(  # type: ignore[misc]
                    text, d, SizingArguments(3, n, h, a, b, False, f, 32, i)
                )
            )


def _unless_refused(run: Callable[[], object]) -> None:
    try:
        run()
    except RefusedByHostCode:
        return


def _decode_arguments(heads: int, queries: int, q: DType, kv: DType, persistent: bool) -> DecodeArguments:
    batch = 2
    indptr = np.arange(batch + 1, dtype=np.int32)
    sizes = BufferSizes(257, 8 * 512, 65, 128, 512) if persistent else None
    ones = np.ones(batch, np.int32)
    return DecodeArguments(
        batch * queries,
        heads,
        batch * 64,
        1,
        q,
        kv,
        indptr * queries,
        indptr * 64,
        np.zeros(batch * 64, np.int32),
        ones,
        queries,
        sizes,
        None,
        False,
    )


def _decode(source: CodeSource, read: ReadFile, launcher: Launcher | None, reduction: Reduction | None = None) -> None:
    texts = _needed(read, DECODE_FILE), _needed(read, SIZING_FILE)
    for device, heads, queries, q, kv in _grid():
        for persistent in (True, False):
            arguments = _decode_arguments(heads, queries, q, kv, persistent)
            _unless_refused(lambda d=device, a=arguments: _decoded_call(texts, d, a, launcher, reduction))  # type: ignore[misc]


def _decoded_call(
    texts: tuple[str, str],
    device: TargetGpu,
    arguments: DecodeArguments,
    launcher: Launcher | None,
    reduction: Reduction | None,
) -> None:
    def launch(given: tuple[object, ...]) -> None:
        if launcher is not None:
            launcher.launch(device, for_launcher(launcher, device, given, {}), {})

    decoded = executed_decode(*texts, device, arguments, {}, launch)
    if reduction is not None and decoded.reduce is not None:
        reduction.launch(device, for_reduction(decoded.reduce))


def _fold(source: CodeSource, read: ReadFile) -> None:
    _decode(source, read, None)


def _launcher(source: CodeSource, read: ReadFile) -> None:
    _decode(source, read, Launcher(read, source.has))


def _second_stage(source: CodeSource, read: ReadFile) -> None:
    reduction = Reduction(read)
    if reduction.keeps_map is None:
        raise CannotRunError(f"kernels of {REDUCTION_FILE} are none of those that are known")
    if not merge_is_known(_needed(read, DECODE_FILE)):
        raise CannotRunError(f"{MERGE} of {DECODE_FILE} is none of those that are known")
    _decode(source, read, None, reduction)


@lru_cache(maxsize=2)
def _planners(source: CodeSource) -> Planners:
    return Planners(lambda path: _decoded(source.read(path)))


def _decoded(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "replace")


def _planner(fast: bool, intra: bool) -> Callable[[CodeSource, ReadFile], None]:
    def run(source: CodeSource, read: ReadFile) -> None:
        planners = _planners(source)
        ones, indptr = np.ones(2, np.int32), np.array([0, 70, 900], np.int32)
        for device, heads, queries, q, kv in _grid():
            for page, topk in ((1, -1), (64, -1), (1, 2048)):
                arguments = PlanArguments(
                    np.arange(3, dtype=np.int32) * queries,
                    indptr,
                    ones,
                    heads,
                    1,
                    True,
                    page,
                    64,
                    queries,
                    queries,
                    topk,
                    fast,
                    32,
                    intra,
                    q,
                    kv,
                )
                planners.lowered(device, arguments, BufferSizes(257, 8 * 512, 65, 128, 512))

    return run


_CHECKS: dict[str, Callable[[CodeSource, ReadFile], None]] = {
    "sizing": _sizing,
    "fold and splits": _fold,
    "launcher": _launcher,
    "planner v1_0": _planner(False, True),
    "planner v1_1": _planner(False, False),
    "planner v1_2": _planner(True, False),
    "second stage": _second_stage,
}
