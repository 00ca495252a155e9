"""Python functions of AITER's host side, executed from the text of any revision; here its sizing, and how any is executed.

A function is taken out of its module's syntax tree and runs on tensors that have a shape and a dtype and no elements. Nothing
is imported, built or launched; there are no builtins for files, imports or evaluation, and a name that is not provided for
ends the run (HostCodeError), never with a guess. This module knows neither planners nor kernels.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from backend.aiter.arguments import BufferSizes, SizingArguments, TargetGpu
from backend.revision.tensors import HostCodeError, RefusedByHostCode, ShapedTensor, check_extents

SIZING_FILE, SIZING = "aiter/ops/attention.py", "get_mla_metadata_info_v1"
DECODE_FILE, DECODE = "aiter/mla.py", "mla_decode_fwd"


def executed_sizes(
    text: str, device: TargetGpu, arguments: SizingArguments, environment: Mapping[str, str] | None = None
) -> BufferSizes:
    """The sizing of a revision. text: its aiter/ops/attention.py. Raises RefusedByHostCode, HostCodeError."""
    function = _sizing(text, device, tuple(sorted((environment or {}).items())))
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


@lru_cache(maxsize=256)
def _sizing(text: str, device: TargetGpu, environment: tuple[tuple[str, str], ...]) -> Callable[..., Any]:
    return defined(text, SIZING, namespace_of(device, dict(environment)))


class Missing:
    """A name that a revision has and that is not provided for: carried along, and the end of the run when it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self._name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise HostCodeError(f"{self._name} is not provided for")

    def __bool__(self) -> bool:
        raise HostCodeError(f"{self._name} is not provided for")

    def __eq__(self, other: object) -> bool:
        raise HostCodeError(f"{self._name} is not provided for")

    __hash__ = None  # type: ignore[assignment]


BUILTINS: dict[str, Any] = {
    each.__name__: each
    for each in (
        *(abs, all, any, bool, dict, enumerate, float, int, isinstance, len, list, max, min, range, round, set, sorted, str),
        *(sum, tuple, zip, AssertionError, ImportError, OSError, RuntimeError, TypeError, ValueError),
    )
}
"""All that a revision's text can call without being given it; importing raises, as where a package is not installed."""


def no_import(name: str, *_: Any, **__: Any) -> Any:
    raise ImportError(f"{name} is not imported here")


def namespace_of(device: TargetGpu, environment: dict[str, str]) -> dict[str, Any]:
    """What a revision's functions may use of torch, the chip queries and the environment."""

    def empty(*shape: Any, dtype: str = "fp32", **_: Any) -> ShapedTensor:
        extents = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], (int, float)) else shape
        check_extents("empty", extents)
        return ShapedTensor(extents, dtype)

    def arange(start: float, end: float, step: float = 1, dtype: str = "int64", **_: Any) -> ShapedTensor:
        return ShapedTensor((max(0, math.ceil((end - start) / step)),), dtype)

    def full(shape: tuple[int, ...], value: Any, dtype: str = "fp32", **_: Any) -> ShapedTensor:
        return empty(shape, dtype=dtype)

    properties = SimpleNamespace(multi_processor_count=device.num_cu, gcnArchName=device.arch.value)
    cuda = SimpleNamespace(current_device=lambda: 0, get_device_properties=lambda _: properties)
    names = {name: name for name in ("uint8", "int8", "int32", "int64", "uint32", "uint64")}
    names |= {"float32": "fp32", "bfloat16": "bf16", "int": "int32", "float": "fp32", "float16": "fp16"}
    short = {"fp8": "fp8", "bf16": "bf16", "fp32": "fp32", "i32": "int32", "u8": "uint8", "fp16": "fp16", "i64": "int64"}
    made = {"empty": empty, "arange": arange, "full": full, "zeros": empty, "ones": empty}
    return {
        "__builtins__": {**BUILTINS, "__import__": no_import},
        "math": math,
        "torch": SimpleNamespace(**names, dtype=str, Tensor=ShapedTensor, cuda=cuda, **made),
        "dtypes": SimpleNamespace(**short),
        "triton": SimpleNamespace(next_power_of_2=lambda n: 1 << (n - 1).bit_length(), cdiv=lambda a, b: -(-a // b)),
        "os": SimpleNamespace(getenv=environment.get, environ=environment),
        "get_gfx": lambda: device.arch.value,
        "get_cu_num": lambda: device.num_cu,
        "get_fp8_e4m3_dtype": lambda: "fp8",
        "is_experimental_enabled": lambda: _is_set(environment.get("AITER_ENABLE_EXPERIMENTAL", "0")),
    }


def _is_set(value: str) -> bool:
    """As aiter/jit/core.py reads it: a number that is not 0; what is no number is not set."""
    try:
        return int(value) != 0
    except ValueError:
        return False


def defined(text: str, name: str, namespace: dict[str, Any]) -> Callable[..., Any]:
    """A function of a module's text, with the plain functions and constants that the module defines beside it."""
    code, names = module_code(text, name)
    namespace |= {each: Missing(each) for each in names if each not in namespace and each not in BUILTINS}
    try:
        exec(code, namespace)
    except HostCodeError:
        raise
    except Exception as error:
        raise HostCodeError(f"{name}: the module's definitions raise {type(error).__name__}: {error}") from error
    function: Callable[..., Any] = namespace[name]
    return function


@lru_cache(maxsize=64)
def module_code(text: str, name: str) -> tuple[Any, frozenset[str]]:
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
    except (HostCodeError, RefusedByHostCode):
        raise
    except (AssertionError, KeyError, IndexError, ZeroDivisionError) as error:
        raise RefusedByHostCode(f"{type(error).__name__}: {error}") from error
    except Exception as error:
        raise HostCodeError(f"{function.__name__} raises {type(error).__name__}: {error}") from error


def _words(shape: Any) -> int:
    return math.prod(_extents(shape))


def _extents(shape: Any) -> Iterator[int]:
    yield from (shape,) if isinstance(shape, int) else shape
