"""AITER without its binaries: its real Python, with the compiled operations served by handlers.

`aiter_roots` gives the owned roots for VirtualPackages. With a tree (the installed wheel, a checkout's revision) every
name is AITER's own Python of that tree; only `compile_ops`, the chip queries and torch's compile guard are replaced.
Without one, the three calls of MLA decode exist with their true signatures and go to the handlers whole.

A compiled operation binds its arguments to the declared signature and hands an OpCall to the handlers; one that nobody
serves ends the run. The API functions named in `observed` are wrapped so that an observer sees call and result.
This module knows nothing of serving frameworks, and nothing of how operations are served.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from backend.aiter.codefiles import installed_wheel, open_source, revision_of, unrelated_aiter
from backend.aiter.release import PublicCalls, nearest_release
from backend.aiter.release import release as release_named
from backend.errors import CannotRunError
from backend.git import path_and_revision
from backend.host import BuiltIn, Host
from backend.real.python.modules import Root
from backend.real.python.poison import Undecidable
from backend.real.python.slicing import IndexedTree
from backend.real.python.trees import FolderTree, GitTree, Tree
from backend.real.theirs import says
from backend.revision.revision import host_of


class ActivationType(IntEnum):
    """AITER's enumeration (csrc/include/aiter_enum.h, 2026-08), which its Python takes from a compiled module."""

    No = -1
    Silu = 0
    Gelu = 1
    Swiglu = 2
    Situv2 = 3


class QuantType(IntEnum):
    """AITER's enumeration of how weights are quantized (csrc/include/aiter_enum.h, 2026-08)."""

    No = 0
    per_Tensor = 1  # noqa: N815 - AITER's names
    per_Token = 2  # noqa: N815
    per_1x32 = 3
    per_1x128 = 4
    per_128x128 = 5
    per_256x128 = 6
    per_1024x128 = 7


class MlaVersion(IntEnum):
    """Which family of MLA kernels metadata is for (csrc/include/aiter_enum.h, 2026-08)."""

    V32 = 0
    V40 = 1


AITER_DTYPES = {
    name: number
    for number, name in enumerate("fp8 fp8_e8m0 fp16 bf16 fp32 i4x2 fp4x2 u32 i32 i16 i8 u8 i64 u64".split())  # noqa: SIM905
}
"""AiterDtype by short name, which AITER's Python reads out of the C++ header."""

WITH_DATA = ("aiter/ops/triton",)
"""Packages whose Python opens files of its own: the tuned configurations of Triton kernels."""

SIZING = "get_mla_metadata_info_v1"
PLANNING = "get_mla_metadata_v1"
DECODING = "mla_decode_fwd"
UPDATING = "decode_update_mla_metadata_v1"
REDUCE = "mla_reduce_v1"
"""Decode reaches it from AITER's own Python, and so do callers of the prefill kernel."""


@dataclass(frozen=True, slots=True, eq=False)
class OpCall:
    """One call: `name` as AITER's Python declares it, `arguments` by parameter with defaults filled in.

    ignored: arguments that this release's function does not take, given with the value that means "off".
    """

    name: str
    arguments: dict[str, Any]
    ignored: tuple[str, ...] = ()


class Handlers(Protocol):
    """Who serves compiled operations. `serves` says whether an operation is known; `handle` does it."""

    def serves(self, name: str) -> bool:
        """Whether `handle` knows the operation."""

    def handle(self, call: OpCall) -> Any:
        """Do what the operation does to the tensors, and return what it returns."""


class Observer(Protocol):
    """Who watches the public calls. `entered` comes before the call's effect, `left` after it with its result."""

    def entered(self, call: OpCall) -> None:
        """A public function was called."""

    def left(self, call: OpCall, result: Any) -> None:
        """Notes that the call returned."""


OFF_VALUES: Mapping[str, Any] = {
    "is_cp_round_robin": False,
    "max_split_per_batch": -1,
    "g_kv_indptr": None,
    "cp_world_size": 1,
    "cp_rank": 0,
    "causal": True,
}
"""Arguments that younger releases added, and the value that means what older ones always do."""


def signature_2026_06() -> dict[str, inspect.Signature]:
    """The three calls as release 2026-06 declares them (aiter/ops/attention.py, aiter/mla.py)."""

    def get_mla_metadata_info_v1(
        batch_size: int,
        max_seqlen_qo: int,
        num_head_qo: int,
        q_dtype: torch.dtype,
        kv_dtype: torch.dtype,
        is_sparse: bool,
        fast_mode: bool = True,
        num_kv_splits: int = 32,
        intra_batch_mode: bool = False,
    ) -> Any: ...

    def get_mla_metadata_v1(
        seqlens_qo_indptr: torch.Tensor,
        seqlens_kv_indptr: torch.Tensor,
        kv_last_page_lens: torch.Tensor,
        num_heads_per_head_k: int,
        num_heads_k: int,
        is_causal: bool,
        work_metadata_ptrs: torch.Tensor,
        work_info_set: torch.Tensor,
        work_indptr: torch.Tensor,
        reduce_indptr: torch.Tensor,
        reduce_final_map: torch.Tensor,
        reduce_partial_map: torch.Tensor,
        page_size: int = 1,
        kv_granularity: int = 16,
        max_seqlen_qo: int = -1,
        uni_seqlen_qo: int = -1,
        fast_mode: bool = True,
        topk: int = -1,
        max_split_per_batch: int = -1,
        intra_batch_mode: bool = False,
        dtype_q: torch.dtype | None = None,
        dtype_kv: torch.dtype | None = None,
    ) -> None: ...

    def mla_decode_fwd(
        q: torch.Tensor,
        kv_buffer: torch.Tensor,
        o: torch.Tensor,
        qo_indptr: torch.Tensor,
        kv_indptr: torch.Tensor,
        kv_indices: torch.Tensor,
        kv_last_page_lens: torch.Tensor,
        max_seqlen_q: int,
        page_size: int = 1,
        nhead_kv: int = 1,
        sm_scale: float | None = None,
        logit_cap: float = 0.0,
        num_kv_splits: int | None = None,
        num_kv_splits_indptr: torch.Tensor | None = None,
        work_meta_data: torch.Tensor | None = None,
        work_indptr: torch.Tensor | None = None,
        work_info_set: torch.Tensor | None = None,
        reduce_indptr: torch.Tensor | None = None,
        reduce_final_map: torch.Tensor | None = None,
        reduce_partial_map: torch.Tensor | None = None,
        q_scale: torch.Tensor | None = None,
        kv_scale: torch.Tensor | None = None,
        intra_batch_mode: bool = False,
        return_logits: bool = False,
        return_lse: bool = False,
    ) -> Any: ...

    return {f.__name__: inspect.signature(f) for f in (get_mla_metadata_info_v1, get_mla_metadata_v1, mla_decode_fwd)}


def signature_2026_08() -> dict[str, inspect.Signature]:
    """The same in release 2026-08: parameters appended, and two groups put into the metadata call."""
    signatures = signature_2026_06()
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD

    def add(name: str, before: str | None, **defaults: Any) -> None:
        parameters = list(signatures[name].parameters.values())
        at = len(parameters) if before is None else [p.name for p in parameters].index(before)
        parameters[at:at] = [inspect.Parameter(key, keyword, default=value) for key, value in defaults.items()]
        signatures[name] = signatures[name].replace(parameters=parameters)

    add(SIZING, None, max_split_per_batch=-1)
    add(PLANNING, "dtype_q", is_cp_round_robin=False, mla_version=0)
    add(PLANNING, "dtype_q", dtype_q_nope=None, dtype_q_rope=None, dtype_kv_nope=None, dtype_kv_rope=None)
    add(DECODING, None, g_kv_indptr=None, cp_world_size=1, cp_rank=0, causal=True)
    return signatures


SIGNATURES: Mapping[PublicCalls, Callable[[], dict[str, inspect.Signature]]] = {
    PublicCalls.FIRST: signature_2026_06,
    PublicCalls.CONTEXT_PARALLEL: signature_2026_08,
}
"""For use without a checkout; the release on PyPI is the installed wheel's own Python."""


_NO_NUMBER, _NO_TENSOR = (float, str), (int, float, str, list, tuple)
_NEVER: Mapping[Any, tuple[type, ...]] = {
    **dict.fromkeys(("int", int), _NO_NUMBER),
    **dict.fromkeys(("torch.Tensor", "torch.Tensor | None", torch.Tensor, torch.Tensor | None), _NO_TENSOR),
}
"""By annotation, what a compiled operation is not called with: AITER compares the types, torch's schemas do."""


def bind(name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpCall:
    """Arguments by parameter. A keyword that the release does not know is dropped only where it says "off".

    Raises TypeError as Python would, with the signature in the message, and as AITER does for a value of another type.
    """
    unknown = [key for key in kwargs if key not in signature.parameters]
    ignored = tuple(key for key in unknown if key in OFF_VALUES and kwargs[key] == OFF_VALUES[key])
    given = {key: value for key, value in kwargs.items() if key not in ignored}
    try:
        bound = signature.bind(*args, **given)
    except TypeError as error:
        says(TypeError(f"{name}{signature}: {error}; this release of AITER declares it so"))
    bound.apply_defaults()
    for key, value in bound.arguments.items():
        annotation = signature.parameters[key].annotation
        if isinstance(value, _NEVER.get(annotation, ())):
            says(TypeError(f"{name}: {key} needs to be {annotation} but got {type(value)}"))  # aiter/jit/core.py
    return OpCall(name, dict(bound.arguments), ignored)


def operation(name: str, signature: inspect.Signature, handlers: Handlers) -> Callable[..., Any]:
    """A function that hands its call to the handlers, with the true __signature__ (callers inspect it)."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not handlers.serves(name):
            raise Undecidable(f"aiter.{name} is called and nothing serves it; declare a handler for it")
        return handlers.handle(bind(name, signature, args, kwargs))

    call.__name__ = call.__qualname__ = name
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def observed(function: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    """The function with an observer before and after it."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = bind(function.__name__, signature, args, kwargs)
        observer.entered(bound)
        for key in bound.ignored:
            del kwargs[key]
        result = function(*args, **kwargs)
        observer.left(bound, result)
        return result

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


class KernelOperation:
    """A Triton kernel of AITER as an operation: `kernel[grid](...)` is an OpCall with the grid in it."""

    def __init__(self, name: str, handlers: Handlers) -> None:
        self._name = name
        self._handlers = handlers

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        """The launcher for one grid."""

        def launch(*args: Any, **kwargs: Any) -> Any:
            return self._handlers.handle(OpCall(self._name, {"grid": grid, "arguments": args, **kwargs}))

        return launch


@dataclass(frozen=True, slots=True)
class AiterSource:
    """Which AITER runs. host: its host side. release: the built-in one that decides where the host is none of its own.

    tree: its Python; None: only the three calls, served whole by the handlers. label: for people. warning: one line about
    what of a revision is not its own.
    """

    release: str
    tree: IndexedTree | None
    label: str
    host: Host
    warning: str | None = None

    @property
    def commit(self) -> str:
        """Of ROCm/aiter, or what else its source says; that of the built-in rules where they are what runs."""
        source = self.host.source
        return release_named(self.release).commit if source is None or isinstance(self.host, BuiltIn) else revision_of(source)


def open_aiter(text: str | None, release: str | None = None) -> AiterSource:
    """AITER by PATH[@REVISION] of a checkout, whose own Python then runs, or (text None) by built-in release.

    release: whose rules serve the operations; None: the nearest to the checkout, or 2026-06. Without a checkout 2025-11 is
    the installed wheel's Python, and the others are this project's rules.
    """
    if text is None:
        rules = release_named(release or "2026-06")
        if rules.is_wheel:
            tree = IndexedTree(installed_tree())
            return AiterSource(rules.name, tree, "the installed amd-aiter", BuiltIn(installed_wheel()))
        return AiterSource(rules.name, None, f"built-in rules of release {rules.name}", BuiltIn())
    checkout = open_source(text)
    rules = nearest_release(checkout) if release is None else release_named(release)
    path, revision = path_and_revision(text)
    is_work_tree = not revision and Path(path, "aiter", "mla.py").is_file()
    checked_out: Tree = FolderTree(Path(path)) if is_work_tree else GitTree(Path(path), revision or "HEAD", data=WITH_DATA)
    host = host_of(checkout)
    return AiterSource(rules.name, IndexedTree(checked_out), checkout.label, host, host.warning())


def installed_tree() -> Tree:
    """The installed wheel's Python, which is not imported; CannotRunError where it is missing or is another package."""
    try:
        distribution = importlib.metadata.distribution("amd-aiter")
    except importlib.metadata.PackageNotFoundError as error:
        raise CannotRunError("amd-aiter is not installed; install it, or give a checkout of ROCm/aiter") from error
    root = Path(str(distribution.locate_file("")))
    if not (root / "aiter" / "mla.py").is_file():
        stranger = unrelated_aiter() or "its files are gone"
        raise CannotRunError(f"{root / 'aiter'}: not AMD's: {stranger}; reinstall amd-aiter")
    return FolderTree(root)


def _signature_of_update() -> inspect.Signature:
    def decode_update_mla_metadata_v1(
        seqlens_qo_indptr: Any,
        seqlens_kv_indptr: Any,
        kv_last_page_lens: Any,
        num_heads_per_head_k: Any,
        num_heads_k: Any,
        is_causal: Any,
        work_metadata_ptrs: Any,
        work_info_set: Any,
        work_indptr: Any,
        reduce_indptr: Any,
        reduce_final_map: Any,
        reduce_partial_map: Any,
        page_size: Any = 1,
        kv_granularity: Any = 16,
        max_seqlen_qo: Any = 1,
        dtype_q: Any = torch.bfloat16,
        dtype_kv: Any = torch.bfloat16,
        num_reject_tokens: Any = None,
    ) -> None: ...

    return inspect.signature(decode_update_mla_metadata_v1)


UPDATE = _signature_of_update()
"""Of the function that brings a plan up to the next step (ROCm/aiter e4048607a5, aiter/ops/attention.py)."""


def aiter_roots(
    source: AiterSource,
    handlers: Handlers,
    observer: Observer,
    arch: str,
    num_cu: int,
    fakes: Mapping[str, Any] | None = None,
    absent: frozenset[str] = frozenset(),
    modules: Mapping[str, Mapping[str, Any]] | None = None,
    also_observed: tuple[str, ...] = (),
) -> list[Root]:
    """Owned roots `aiter` and `csrc` (AITER's own package of C++ interfaces, next to it in a checkout).

    fakes: further stand-ins by bare name, in front of AITER's own; modules: in front of both, of one module by its full name.
    also_observed: functions besides the three calls of decode that the observer is told of.
    """
    replaced: dict[str, Any] = {
        "compile_ops": _compile_ops(handlers),
        "torch_compile_guard": lambda *args, **kwargs: lambda function: function,
        "get_gfx": lambda: arch,
        "get_gfx_runtime": lambda: arch,
        "get_cu_num": lambda: num_cu,
        "is_experimental_enabled": lambda: False,
        "aiter_dtypes": dict(AITER_DTYPES),
        "_ActivationType": ActivationType,
        "_QuantType": QuantType,
        "_MlaVersion": MlaVersion,
        "_fwd_kernel_stage2_asm": KernelOperation("_fwd_kernel_stage2_asm", handlers),
    }
    if source.tree is None:
        replaced["dtypes"] = _dtypes(arch)
        replaced["get_ps_metadata_info_v1"] = _prefill_sizes(num_cu)
        for name, signature in {**SIGNATURES[release_named(source.release).public_calls](), UPDATING: UPDATE}.items():
            replaced[name] = observed(operation(name, signature, handlers), observer)
    replaced.update(fakes or {})
    wrappers = {name: functools.partial(observed, observer=observer) for name in (SIZING, PLANNING, DECODING, *also_observed)}
    return [
        Root(
            "aiter",
            source.tree,
            replaced,
            {"aiter.mla": {}, **(modules or {})},
            refuse_calls=True,
            absent=absent,
            wrappers=wrappers,
        ),
        Root("csrc", source.tree, refuse_calls=True),
    ]


def _dtypes(arch: str) -> SimpleNamespace:
    """aiter.dtypes as far as MLA decode goes."""
    named = {
        "fp8": torch.float8_e4m3fnuz if arch == "gfx942" else torch.float8_e4m3fn,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "fp32": torch.float32,
        "i32": torch.int32,
        "u8": torch.uint8,
        "u64": torch.uint64,
    }
    return SimpleNamespace(**named, d_dtypes=named)


def _prefill_sizes(num_cu: int) -> Callable[..., Any]:
    """get_ps_metadata_info_v1 (aiter/ops/attention.py, 2026-06): backends allocate prefill's buffers beside decode's."""

    def get_ps_metadata_info_v1(batch_size: int, num_head_k: int, max_qlen: int, qlen_granularity: int = 256) -> Any:
        units = num_cu // math.gcd(num_head_k, num_cu)
        splits = -(-max_qlen // qlen_granularity)
        tiles = batch_size * splits
        return (
            (2, torch.uint64),
            (num_cu + 1, torch.int32),
            (((batch_size + units - 1) * splits * num_head_k, 8), torch.int32),
            (tiles + 1, torch.int32),
            ((tiles, 2), torch.int32),
            (min(batch_size + units - 1, (units - 1) * 2) * splits, torch.int32),
        )

    return get_ps_metadata_info_v1


def _compile_ops(handlers: Handlers) -> Callable[..., Any]:
    """AITER's decorator: the declared function becomes an operation of that name."""

    def compile_ops(*decorator_arguments: Any, **options: Any) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            declared = operation(function.__name__, inspect.signature(function), handlers)
            return functools.wraps(function)(declared)

        return decorate

    return compile_ops
