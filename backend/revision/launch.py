"""The launch of a revision: its mla_decode_fwd executed and its launcher evaluated, both from their text, as a Launch.

What the second stage touches is by the rules of a built-in release (backend.aiter.reduction); all else is the revision's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.aiter.arguments import DecodeArguments, TargetGpu
from backend.aiter.codefiles import CodeSource, blob_id, open_code
from backend.aiter.kernargs import Kernarg
from backend.aiter.launch import Launch, Refusal
from backend.aiter.reduction import SecondStage, SecondStageKind, reduce_refusal
from backend.aiter.release import Release, release
from backend.aiter.tensors import ElementType, TensorSpec
from backend.aiter.text.launcher import ENTRY, Launched, Launcher, NotLaunched
from backend.aiter.text.surroundings import Tensor
from backend.case import RELEASES
from backend.errors import CannotRunError
from backend.revision.decode import Decoded, OtherStage, executed_decode
from backend.revision.tensors import RefusedByHostCode, ShapedTensor

ROLES = {
    "Q": "q",
    "KV": "kv_buffer",
    "kv_page_indices": "kv_indices",
    "splitData": "logits",
    "splitLse": "attn_lse",
    "output": "o",
    "lse": "final_lse",
}
"""Parameter of the launcher -> name of the tensor here, where they differ."""

_LAUNCHER_DTYPES = {"int32": "i32", "uint64": "u64", "int64": "i64", "uint8": "u8", "int8": "i8"}
_ELEMENTS = {"fp32": ElementType.F32, "int32": ElementType.I32, "uint64": ElementType.U64}
_IN_SECOND_STAGE = ("reduce_indptr", "reduce_final_map", "reduce_partial_map")


class _Ended(Exception):  # noqa: N818 - carries the launcher's refusal through Python host code
    def __init__(self, ended: NotLaunched) -> None:
        super().__init__()
        self.ended = ended


def evaluated_launch(
    rules: Release,
    device: TargetGpu,
    arguments: DecodeArguments,
    source: CodeSource,
    launcher: Launcher,
    texts: tuple[str, str],
    environment: Mapping[str, str],
) -> Launch | Refusal:
    """What the revision launches. texts: its aiter/mla.py and aiter/ops/attention.py; rules: of the second stage.

    Raises HostCodeError, CxxError where its text uses what is not provided for, CannotRunError for a kernel without a model.
    """
    made: list[Launched] = []
    names: dict[str, ShapedTensor] = {}

    def launch(given: tuple[Any, ...]) -> None:
        launched = launcher.launch(device, for_launcher(launcher, device, given, names), environment)
        if isinstance(launched, NotLaunched):
            raise _Ended(launched)
        made.append(launched)

    try:
        decoded = executed_decode(*texts, device, arguments, environment, launch)
    except RefusedByHostCode as refused:
        return Refusal("mla_decode_fwd", str(refused))
    except _Ended as ended:
        return Refusal(ENTRY, ended.ended.reason, ends_process=ended.ended.ends_process)
    except OtherStage as stage:
        raise CannotRunError(f"{source.label}: takes {stage}, of which there is no model") from stage
    return _launch(rules, device, arguments, source, made[0], decoded, names)


def for_launcher(
    launcher: Launcher, device: TargetGpu, given: tuple[Any, ...], names: dict[str, ShapedTensor]
) -> tuple[Any, ...]:
    """Stage 1's arguments as the launcher takes them; each tensor into `names` by its role."""
    made: list[Any] = []
    for parameter, value in zip(launcher.module.parameters[ENTRY], given, strict=False):
        if not isinstance(value, ShapedTensor):
            made.append(int(value) if isinstance(value, bool) else value)
            continue
        name = ROLES.get(parameter, parameter)
        names[name] = value
        dtype = launcher.dtype(_LAUNCHER_DTYPES.get(value.dtype, value.dtype), device.arch)
        made.append(Tensor(name, value.shape, dtype, value.element_size(), value.strides))
    return tuple(made)


def _launch(
    rules: Release,
    device: TargetGpu,
    arguments: DecodeArguments,
    source: CodeSource,
    launched: Launched,
    decoded: Decoded,
    names: dict[str, ShapedTensor],
) -> Launch:
    rules = _second_stage_rules(rules, decoded)
    q = names["q"]
    values = {name: value for name, _, _, value in launched.kernargs}
    persistent = "num_kv_splits_indptr" not in names
    fold = q.shape[0] // arguments.q_rows if arguments.q_rows else 1
    content = open_code(source, device.arch, launched.code_object)
    second = _second_stage(rules, device, decoded, names)
    tensors = {name: _spec(tensor) for name, tensor in names.items() if name not in second.tensors}
    for name in _IN_SECOND_STAGE if persistent and arguments.metadata is not None else ():
        tensors[name] = _reduction_tensor(arguments, name)
    return Launch(
        release=rules,
        symbol=launched.symbol,
        code_object=launched.code_object,
        blob_id=blob_id(content),
        arch=device.arch,
        persistent=persistent,
        fold=fold,
        heads_in_kernel=q.shape[1],
        max_seqlen_q=_stage1_argument(decoded, launched, "max_seqlen_q"),
        q_copied=q.copied,
        grid=launched.grid,
        block=launched.block,
        sub_q=launched.rows_per_workgroup,
        s_mqa=int(values["s_MQA"]),
        kernargs=tuple(Kernarg(*each) for each in launched.kernargs),
        tensors=tensors,
        num_kv_splits=names["logits"].shape[1],
        second_stage=second,
        shadowed=launched.shadowed,
        raises_afterwards=decoded.raises,
    )


def _second_stage_rules(rules: Release, decoded: Decoded) -> Release:
    """The built-in release whose second stage is like the revision's: of the Triton merge, by whether it counts tokens."""
    if decoded.merge is None:
        return rules
    merges_tokens = "KV_INDPTR_IS_PAGE_LEVEL" in decoded.merge[1]
    if rules.reduction.merges_tokens == merges_tokens:
        return rules
    return next(each for each in map(release, reversed(RELEASES)) if each.reduction.merges_tokens == merges_tokens)


def _stage1_argument(decoded: Decoded, launched: Launched, name: str) -> int:
    """max_seqlen_q as handed to stage 1, which comes after ten tensors in all revisions."""
    assert decoded.stage1 is not None
    return int(next(value for value in decoded.stage1 if isinstance(value, int) and not isinstance(value, bool)))


def _second_stage(rules: Release, device: TargetGpu, decoded: Decoded, names: dict[str, ShapedTensor]) -> SecondStage:
    heads, splits = names["q"].shape[1], names["logits"].shape[1]
    is_o = names["logits"].name == "o"
    extra = {"valid_split_count": _spec(names["valid_split_count"])} if "valid_split_count" in names else {}
    if decoded.reduce is not None:
        asked = decoded.reduce[6] if isinstance(decoded.reduce[6], int) else 0
        final_lse = decoded.reduce[-1]
        most = max(device.num_cu, asked)
        return SecondStage(
            kind=SecondStageKind.REDUCE,
            num_head=heads,
            max_splits=most,
            stores_lse=final_lse is not None,
            tiles=decoded.reduce[2].shape[0] - 1,
            tensors={"final_lse": _spec(final_lse)} if final_lse is not None and "final_lse" not in names else {},
            refusal=reduce_refusal(rules, device, heads, most, names["o"].shape[-1]),
        )
    if decoded.merge is None:
        return SecondStage(SecondStageKind.NONE, heads, splits, False, logits_is_o=is_o)
    _, options = decoded.merge
    return SecondStage(
        kind=SecondStageKind.TRITON,
        num_head=heads,
        max_splits=splits,
        stores_lse=bool(options.get("HAS_FINAL_LSE", False)),
        mgc=int(options["mgc"]),
        logits_is_o=is_o,
        maybe_final_out=bool(options.get("MAYBE_FINAL_OUT", False)),
        tensors=extra,
    )


def _reduction_tensor(arguments: DecodeArguments, name: str) -> TensorSpec:
    words = getattr(arguments.metadata, name)
    return TensorSpec((words // 2, 2) if name == "reduce_final_map" else (words,), ElementType.I32)


def _spec(tensor: ShapedTensor) -> TensorSpec:
    return TensorSpec(tensor.shape, _ELEMENTS.get(tensor.dtype) or ElementType(tensor.dtype))
