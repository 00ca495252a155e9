"""mla_decode_fwd of any revision, executed from its text up to its end: what it hands to stage 1, what follows, what it raises.

The launcher behind aiter.mla_decode_stage1_asm_fwd is the caller's (backend.aiter.text.launcher evaluates the revision's own).
Nothing is imported, built or launched; a name that is not provided for ends the run (HostCodeError).
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import threading
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from backend.aiter.arguments import DecodeArguments, TargetGpu
from backend.aiter.tensors import contiguous_strides
from backend.revision.host_code import DECODE, defined, namespace_of
from backend.revision.tensors import HostCodeError, RefusedByHostCode, ShapedTensor

STAGE1 = "mla_decode_stage1_asm_fwd"
REDUCE = "mla_reduce_v1"
OTHER_STAGES = ("hk_mla_decode_fwd", "mla_decode_fwd_opus_stage1")
"""Stage 1 by kernels that are compiled from source, which a revision takes only where the environment asks for it."""

MERGE = "_fwd_kernel_stage2_asm"
MERGES = frozenset(
    (
        "088a77b4df851822",  # 2025-11-03, 7c0e15cdb7
        "7b350d92d7e0d65d",  # 2025-11-17, 6b0470c8ab
        "49831630edc9bc57",  # 2026-01-19, 37f5df855f
        "b6f6fd54d55241be",  # 2026-04-16, c849fd5845
        "8415751b464b3be9",  # 2026-06-18, 95c315c3e7
        "67a33436f5d40aae",  # 2026-06-26, c2f68ab382
        "c58c58ec2c353744",  # 2026-07-28, 044f906a8d
        "549670abfdce7bd9",  # 2026-08-12, 760a07977e
    )
)
"""`merge_of` each text that the Triton merge has had, with where it appeared on main. What it touches follows from its
arguments in all of them."""

_NEUTRAL: Mapping[str, Any] = {"page_size": 1, "intra_batch_mode": False, "return_lse": False}


class OtherStage(Exception):  # noqa: N818 - how the run ends
    """Stage 1 is a kernel that this project has no model of; the text names it."""


@dataclass(slots=True)
class Decoded:
    """What mla_decode_fwd does. stage1: its arguments by position. reduce: those of the reduction; merge: grid and keyword
    arguments of the Triton merge. raises: why it raises after stage 1 was launched."""

    stage1: tuple[Any, ...] | None = None
    reduce: tuple[Any, ...] | None = None
    merge: tuple[tuple[int, ...], Mapping[str, Any]] | None = None
    raises: str | None = None


def executed_decode(
    text: str,
    attention: str,
    device: TargetGpu,
    arguments: DecodeArguments,
    environment: Mapping[str, str],
    launch: Callable[[tuple[Any, ...]], None],
) -> Decoded:
    """What a revision does. text: its aiter/mla.py; attention: its aiter/ops/attention.py.

    launch: called with stage 1's arguments; may raise. Raises RefusedByHostCode where the function raises before stage 1,
    HostCodeError, OtherStage.
    """
    decoded = Decoded()
    calls = _Calls(decoded, launch)
    function, parameters = _entry(text, attention, device, tuple(sorted(environment.items())))
    given = _given(arguments)
    for name, value in given.items():
        if name not in parameters and (name not in _NEUTRAL or _NEUTRAL[name] != value) and name != "page_size":
            raise RefusedByHostCode(f"{DECODE} has no argument {name}")
    _CURRENT.calls = calls
    try:
        function(**{name: value for name, value in given.items() if name in parameters})
    except (HostCodeError, OtherStage):
        raise
    except RefusedByHostCode as refused:
        _ended(decoded, str(refused))
    except (AssertionError, KeyError, IndexError, ZeroDivisionError) as error:
        _ended(decoded, f"{type(error).__name__}: {error}")
    except _FromLauncher as ended:
        raise ended.reason from None
    except Exception as error:
        raise HostCodeError(f"{DECODE} raises {type(error).__name__}: {error}") from error
    finally:
        _CURRENT.calls = None
    if decoded.stage1 is None:
        raise HostCodeError(f"{DECODE} of this revision returns without launching {STAGE1}")
    return decoded


class _FromLauncher(Exception):  # noqa: N818 - carries another one through the revision's code
    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


def _ended(decoded: Decoded, reason: str) -> None:
    if decoded.stage1 is None:
        raise RefusedByHostCode(reason) from None
    decoded.raises = reason


@dataclass(slots=True)
class _Calls:
    """Takes what the function calls."""

    decoded: Decoded
    launch: Callable[[tuple[Any, ...]], None]

    def stage1(self, *arguments: Any) -> None:
        self.decoded.stage1 = arguments
        try:
            self.launch(arguments)
        except Exception as error:
            raise _FromLauncher(error) from error

    def reduce(self, *arguments: Any) -> None:
        self.decoded.reduce = arguments

    def merge(self, grid: tuple[int, ...], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        self.decoded.merge = (grid, options)


class _Current(threading.local):
    calls: _Calls | None = None


_CURRENT = _Current()


def _present() -> _Calls:
    assert _CURRENT.calls is not None
    return _CURRENT.calls


def _given(arguments: DecodeArguments) -> dict[str, Any]:
    heads, rows = arguments.num_head, arguments.q_rows
    kv_shape = (arguments.kv_pages, arguments.page_size, 1, arguments.qk_head_dim)
    given: dict[str, Any] = {
        "q": _view((rows, heads, arguments.qk_head_dim), arguments.q_dtype.value, "q", arguments.q_gap),
        "kv_buffer": _view(kv_shape, arguments.kv_dtype.value, "kv_buffer", arguments.kv_gap),
        "o": _view((arguments.output_rows, heads, arguments.v_head_dim), arguments.o_dtype.value, "o", arguments.o_gap),
        "qo_indptr": ShapedTensor((len(arguments.qo_indptr),), "int32", "qo_indptr"),
        "kv_indptr": ShapedTensor((len(arguments.kv_indptr),), "int32", "kv_indptr"),
        "kv_indices": ShapedTensor((len(arguments.kv_indices),), "int32", "kv_indices"),
        "kv_last_page_lens": ShapedTensor((len(arguments.kv_last_page_lens),), "int32", "kv_last_page_lens"),
        "max_seqlen_q": arguments.max_seqlen_q,
        "page_size": arguments.page_size,
        "num_kv_splits": arguments.num_kv_splits,
        "intra_batch_mode": arguments.intra_batch_mode,
        "return_lse": arguments.return_lse,
        "q_scale": ShapedTensor((1,), "fp32", "q_scale") if arguments.q_scale else None,
        "kv_scale": ShapedTensor((1,), "fp32", "kv_scale") if arguments.kv_scale else None,
        **dict(arguments.options),
    }
    if arguments.sm_scale is not None:
        given["sm_scale"] = arguments.sm_scale
    if arguments.g_kv_indptr is not None:
        given["g_kv_indptr"] = ShapedTensor((len(arguments.g_kv_indptr),), "int32", "g_kv_indptr")
    if (arguments.cp_world_size, arguments.cp_rank) != (1, 0):
        given |= {"cp_world_size": arguments.cp_world_size, "cp_rank": arguments.cp_rank}
    sizes = arguments.metadata
    if sizes is not None:
        given |= {
            "work_meta_data": ShapedTensor((2,), "uint64", "work_meta_data"),
            "work_indptr": ShapedTensor((sizes.work_indptr,), "int32", "work_indptr"),
            "work_info_set": ShapedTensor((sizes.work_info_set // 8, 8), "int32", "work_info_set"),
            "reduce_indptr": ShapedTensor((sizes.reduce_indptr,), "int32", "reduce_indptr"),
            "reduce_final_map": ShapedTensor((sizes.reduce_final_map // 2, 2), "int32", "reduce_final_map"),
            "reduce_partial_map": ShapedTensor((sizes.reduce_partial_map,), "int32", "reduce_partial_map"),
        }
    return given


def _view(shape: tuple[int, ...], dtype: str, name: str, gap: int) -> ShapedTensor:
    """A tensor with so many elements that are not its own between its rows."""
    first, *others = contiguous_strides(shape)
    return ShapedTensor(shape, dtype, name, (first + gap, *others))


@lru_cache(maxsize=256)
def merge_is_known(text: str) -> bool:
    """Whether the Triton merge of an aiter/mla.py is one that was read."""
    return merge_of(text) in MERGES


def merge_of(text: str) -> str:
    """Digest of the Triton merge, without comments, spacing and decorators; "" where there is none."""
    function = next((n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == MERGE), None)
    if function is None:
        return ""
    lines = iter([line + "\n" for line in text.splitlines()[function.lineno - 1 : function.end_lineno]])
    spacing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = [each.string for each in tokenize.generate_tokens(lambda: next(lines, "")) if each.type not in spacing]
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _entry(
    text: str, attention: str, device: TargetGpu, environment: tuple[tuple[str, str], ...]
) -> tuple[Callable[..., Any], frozenset[str]]:
    """mla_decode_fwd of a text, and the names of its parameters."""
    namespace = _namespace(device, dict(environment), attention)
    function = defined(text, DECODE, namespace)
    return function, frozenset(inspect.signature(function).parameters)


class _Merge:
    """The Triton kernel that merges: `kernel[grid](...)`."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: _present().merge(grid, arguments, options)


def _namespace(device: TargetGpu, environment: dict[str, str], attention: str) -> dict[str, Any]:
    """What the function may use of torch, aiter and the chip queries."""

    def other(name: str) -> Callable[..., Any]:
        def called(*_: Any, **__: Any) -> Any:
            raise OtherStage(name)

        return called

    def most_splits(*arguments: Any) -> Any:
        name = "get_mla_decode_fwd_max_splits"
        return defined(attention, name, namespace_of(device, environment))(*arguments)

    launches = {name: other(name) for name in OTHER_STAGES}
    stages = SimpleNamespace(
        **launches,
        mla_decode_stage1_asm_fwd=lambda *arguments: _present().stage1(*arguments),
        mla_reduce_v1=lambda *arguments: _present().reduce(*arguments),
    )
    return namespace_of(device, environment) | {
        "aiter": stages,
        MERGE: _Merge(),
        "get_mla_decode_fwd_max_splits": most_splits,
    }
