"""Two functions of AITER's host side, executed from the text of any revision: what it sizes and how it folds.

`get_mla_metadata_info_v1` (aiter/ops/attention.py) and `mla_decode_fwd` (aiter/mla.py) are taken out of the module's syntax
tree and run on tensors that have a shape and a dtype and nothing else, up to the launch of stage 1. Nothing is imported,
built or launched; there are no builtins for files, imports or evaluation, and a name that is not provided for ends the run
(HostCodeError), never with a guess. This module knows neither planners nor kernels.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from backend.aiter.arguments import BufferSizes, DecodeArguments, Device, SizingArguments
from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.errors import CannotRunError

SIZING_FILE, SIZING = "aiter/ops/attention.py", "get_mla_metadata_info_v1"
DECODE_FILE, DECODE = "aiter/mla.py", "mla_decode_fwd"

LAUNCHES = ("mla_decode_stage1_asm_fwd", "hk_mla_decode_fwd")
"""Where mla_decode_fwd hands q, the first argument, to stage 1; `max_seqlen_q` is found by its declared position."""

ROW_SLOTS = {"mla_decode_stage1_asm_fwd": 10, "hk_mla_decode_fwd": 8}
"""Position of max_seqlen_q among their arguments, the same in all revisions since 2025-11."""


class HostCodeError(CannotRunError):
    """The revision's function uses something that is not provided for; the message names it. Such a revision is skipped."""


class RefusedByHostCode(Exception):  # noqa: N818 - an answer, not an error
    """The revision's own assertion does not hold; the text is AITER's."""


@dataclass(frozen=True, slots=True)
class Stage1:
    """What mla_decode_fwd hands to stage 1. rows, heads: of q after folding. max_seqlen_q: as passed, folded too or not.

    experimental: a HipKittens kernel, which a revision takes without being asked to by the environment.
    """

    rows: int
    heads: int
    max_seqlen_q: int
    experimental: bool


def executed_sizes(text: str, device: Device, arguments: SizingArguments) -> BufferSizes:
    """The sizing of a revision. text: its aiter/ops/attention.py. Raises RefusedByHostCode, HostCodeError."""
    function = _function(text, SIZING, device)
    given = {
        "batch_size": arguments.batch,
        "max_seqlen_qo": arguments.max_seqlen_q,
        "num_head_qo": arguments.num_head,
        "q_dtype": arguments.q_dtype.value,
        "kv_dtype": arguments.kv_dtype.value,
        "is_sparse": arguments.is_sparse,
        "fast_mode": arguments.fast_mode,
        "num_kv_splits": arguments.num_kv_splits,
        "intra_batch_mode": arguments.intra_batch_mode,
        "max_split_per_batch": arguments.max_split_per_batch,
    }
    neutral = {"intra_batch_mode": False, "num_kv_splits": arguments.num_kv_splits, "max_split_per_batch": -1}
    made = _called(function, _accepted(text, SIZING, given, neutral))
    words = [_words(shape) for shape, _ in made]
    return BufferSizes(*words[1:6])


def executed_stage1(text: str, device: Device, arguments: DecodeArguments) -> Stage1:
    """What a revision launches. text: its aiter/mla.py. Raises RefusedByHostCode, HostCodeError."""
    function = _function(text, DECODE, device)
    heads, rows = arguments.num_head, arguments.q_rows
    given: dict[str, Any] = {
        "q": ShapedTensor((rows, heads, QK_HEAD_DIM), arguments.q_dtype.value),
        "kv_buffer": ShapedTensor((arguments.kv_pages, arguments.page_size, 1, QK_HEAD_DIM), arguments.kv_dtype.value),
        "o": ShapedTensor((rows, heads, V_HEAD_DIM), "bf16"),
        "qo_indptr": ShapedTensor((len(arguments.qo_indptr),), "int32"),
        "kv_indptr": ShapedTensor((len(arguments.kv_indptr),), "int32"),
        "kv_indices": ShapedTensor((len(arguments.kv_indices),), "int32"),
        "kv_last_page_lens": ShapedTensor((len(arguments.kv_last_page_lens),), "int32"),
        "max_seqlen_q": arguments.max_seqlen_q,
        "page_size": arguments.page_size,
        "num_kv_splits": arguments.num_kv_splits,
        "intra_batch_mode": arguments.intra_batch_mode,
        "return_lse": arguments.return_lse,
        **dict(arguments.options),
    }
    sizes = arguments.metadata
    if sizes is not None:
        given |= {
            "work_meta_data": ShapedTensor((2,), "uint64"),
            "work_indptr": ShapedTensor((sizes.work_indptr,), "int32"),
            "work_info_set": ShapedTensor((sizes.work_info_set // 8, 8), "int32"),
            "reduce_indptr": ShapedTensor((sizes.reduce_indptr,), "int32"),
            "reduce_final_map": ShapedTensor((sizes.reduce_final_map // 2, 2), "int32"),
            "reduce_partial_map": ShapedTensor((sizes.reduce_partial_map,), "int32"),
        }
    neutral = {"page_size": 1, "intra_batch_mode": False, "return_lse": False}
    try:
        _called(function, _accepted(text, DECODE, given, neutral))
    except _Launched as launched:
        q = launched.arguments[0]
        experimental = launched.name != LAUNCHES[0]
        return Stage1(q.shape[0], q.shape[1], launched.arguments[ROW_SLOTS[launched.name]], experimental)
    raise HostCodeError(f"{DECODE} of this revision returns without launching {' or '.join(LAUNCHES)}")


class ShapedTensor:
    """A tensor that is its shape and its dtype."""

    device = "cuda"

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = dtype

    def size(self, dim: int) -> int:
        """One extent."""
        return self.shape[dim]

    def numel(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    def stride(self, dim: int) -> int:
        """Elements between neighbours in `dim`, of a contiguous tensor."""
        return math.prod(self.shape[dim:][1:])

    def view(self, *shape: Any) -> ShapedTensor:
        """The same elements in another shape; one extent may be -1. Raises RefusedByHostCode where they do not divide."""
        wanted = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        known = math.prod(extent for extent in wanted if extent != -1)
        whole = known and self.numel() % known == 0
        if not whole or (-1 not in wanted and known != self.numel()):
            raise RefusedByHostCode(f"shape {list(wanted)} is invalid for input of {self.numel()} elements")
        return ShapedTensor(tuple(self.numel() // known if extent == -1 else extent for extent in wanted), self.dtype)

    reshape = view

    def permute(self, *dims: int) -> ShapedTensor:
        """Dimensions in another order."""
        return ShapedTensor(tuple(self.shape[dim] for dim in dims), self.dtype)

    def contiguous(self) -> ShapedTensor:
        """Itself."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise HostCodeError(f"a tensor's {name!r} is not provided for")


class _Launched(Exception):  # noqa: N818 - how the run ends
    """Stage 1 was called."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.arguments = arguments


class _Missing:
    """A name that a revision has and that is not provided for: carried along, and the end of the run when it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self._name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise HostCodeError(f"{self._name} is not provided for")

    def __bool__(self) -> bool:
        raise HostCodeError(f"{self._name} is not provided for")

    def __eq__(self, other: object) -> bool:
        raise HostCodeError(f"{self._name} is not provided for")

    __hash__ = None  # type: ignore[assignment]


_BUILTINS: dict[str, Any] = {
    each.__name__: each
    for each in (
        *(abs, all, any, bool, dict, enumerate, float, int, isinstance, len, list, max, min, range, round, set, sorted, str),
        *(sum, tuple, zip, AssertionError, ImportError, RuntimeError, TypeError, ValueError),
    )
}
"""All that a revision's text can call without being given it; importing raises, as where a package is not installed."""


def _import(name: str, *_: Any, **__: Any) -> Any:
    raise ImportError(f"{name} is not imported here")


def _namespace(device: Device) -> dict[str, Any]:
    """What the functions may use of torch, aiter and the chip queries."""

    def chip() -> str:
        return device.arch.value

    def compute_units() -> int:
        return device.num_cu

    def launch(name: str) -> Callable[..., Any]:
        def launched(*arguments: Any, **_: Any) -> Any:
            raise _Launched(name, arguments)

        return launched

    def empty(*shape: Any, dtype: str = "fp32", **_: Any) -> ShapedTensor:
        extents = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return ShapedTensor(extents, dtype)

    def arange(start: int, end: int, step: int = 1, **_: Any) -> ShapedTensor:
        return ShapedTensor((len(range(start, end, step)),), "int32")

    def full(shape: tuple[int, ...], *_: Any, **options: Any) -> ShapedTensor:
        return empty(shape, **options)

    properties = SimpleNamespace(multi_processor_count=device.num_cu, gcnArchName=chip())
    cuda = SimpleNamespace(current_device=lambda: 0, get_device_properties=lambda _: properties)
    names = {name: name for name in ("uint8", "int8", "int32", "int64", "uint32", "uint64", "float32", "bfloat16", "int")}
    short = {"fp8": "fp8", "bf16": "bf16", "fp32": "fp32", "i32": "int32", "u8": "uint8", "fp16": "fp16"}
    return {
        "__builtins__": {**_BUILTINS, "__import__": _import},
        "math": math,
        "torch": SimpleNamespace(**names, dtype=str, Tensor=ShapedTensor, cuda=cuda, empty=empty, arange=arange, full=full),
        "dtypes": SimpleNamespace(**short),
        "triton": SimpleNamespace(next_power_of_2=lambda n: 1 << (n - 1).bit_length(), cdiv=lambda a, b: -(-a // b)),
        "os": SimpleNamespace(getenv=lambda _, default=None: default, environ={}),
        "get_gfx": chip,
        "get_cu_num": compute_units,
        "is_experimental_enabled": lambda: False,
        # 2026-08: the compute units, or twice as many for the experimental kernels.
        "get_mla_decode_fwd_max_splits": lambda *_, **__: device.num_cu,
        "aiter": SimpleNamespace(**{name: launch(name) for name in LAUNCHES}),
    }


def _function(text: str, name: str, device: Device) -> Callable[..., Any]:
    """A function of a module's text, with the plain functions and constants that the module defines beside it."""
    namespace = _namespace(device)
    module, names = _module(text, name)
    namespace |= {each: _Missing(each) for each in names if each not in namespace and each not in _BUILTINS}
    try:
        exec(module, namespace)
    except HostCodeError:
        raise
    except Exception as error:
        raise HostCodeError(f"{name}: the module's definitions raise {type(error).__name__}: {error}") from error
    function: Callable[..., Any] = namespace[name]
    return function


@lru_cache(maxsize=64)
def _module(text: str, name: str) -> tuple[Any, frozenset[str]]:
    """Compiled definitions of a module that `name` may use, and every name that they load."""
    tree = ast.parse(text)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if name not in functions:
        raise HostCodeError(f"this revision defines no {name}")
    kept: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not _is_kernel(node):
            kept.append(_plain(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and _is_constant(node.value):
            kept.append(node)
    loaded = {node.id for stmt in kept for node in ast.walk(stmt) if isinstance(node, ast.Name)}
    code = compile(ast.Module(body=kept, type_ignores=[]), f"<{name}>", "exec")
    return code, frozenset(loaded)


def _is_kernel(node: ast.FunctionDef) -> bool:
    return any("jit" in ast.unparse(decorator) or "compile_ops" in ast.unparse(decorator) for decorator in node.decorator_list)


def _plain(node: ast.FunctionDef) -> ast.FunctionDef:
    """Without decorators (caches) and annotations, which may name anything."""
    node.decorator_list = []
    node.returns = None
    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        argument.annotation = None
    return node


def _is_constant(value: ast.expr | None) -> bool:
    try:
        ast.literal_eval(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, SyntaxError):
        return False
    return True


def _accepted(text: str, name: str, given: Mapping[str, Any], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that this revision's function has; one that it lacks may only be left out at its neutral value."""
    parameters = set(_parameters(text, name))
    for argument, value in given.items():
        if argument not in parameters and (argument not in neutral or neutral[argument] != value):
            raise RefusedByHostCode(f"{name} has no argument {argument}")
    return {argument: value for argument, value in given.items() if argument in parameters}


@lru_cache(maxsize=64)
def _parameters(text: str, name: str) -> tuple[str, ...]:
    found = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    return tuple(argument.arg for argument in (*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs))


def _called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    try:
        return function(**arguments)
    except (HostCodeError, RefusedByHostCode, _Launched):
        raise
    except AssertionError as error:
        raise RefusedByHostCode(str(error) or "an assertion does not hold") from error
    except Exception as error:
        raise HostCodeError(f"{function.__name__} raises {type(error).__name__}: {error}") from error


def _words(shape: Any) -> int:
    return math.prod(_extents(shape))


def _extents(shape: Any) -> Iterator[int]:
    yield from (shape,) if isinstance(shape, int) else shape
