"""The launch of a revision: its mla_decode_fwd executed and its launcher evaluated, both from their text, as a Launch.

What the second stage touches is backend.aiter.reduction's to say; what of it is not the revision's own is said to stand in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from backend.aiter.arguments import DecodeArguments, TargetGpu
from backend.aiter.codefiles import CodeSource, blob_id, open_code
from backend.aiter.kernargs import Kernarg
from backend.aiter.launch import Launch, Refusal
from backend.aiter.reduction import SecondStage, SecondStageKind, reduce_stage
from backend.aiter.release import Release
from backend.aiter.tensors import ElementType, TensorSpec, gap_between_rows
from backend.aiter.text.launcher import ENTRY, Launched, Launcher
from backend.aiter.text.reduction import REDUCTION_FILE, Reduction
from backend.aiter.text.surroundings import NotLaunched, Tensor
from backend.case import OutputType
from backend.cxx.errors import CxxError
from backend.errors import CannotRunError
from backend.revision.decode import MERGE, Decoded, OtherStage, executed_decode, merge_is_known
from backend.revision.host_code import DECODE_FILE
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
_ELEMENTS = {"fp32": ElementType.F32, "fp16": ElementType.F16, "int32": ElementType.I32, "uint64": ElementType.U64}
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
    reduction: Reduction,
    texts: tuple[str, str],
    environment: Mapping[str, str],
) -> Launch | Refusal:
    """What the revision launches. texts: its aiter/mla.py and aiter/ops/attention.py.

    rules: of the release that stands in where the second stage's text is not provided for, which the second stage says.

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
    second = _second_stage(rules, device, decoded, names, reduction, texts[0])
    return _launch(rules, device, arguments, source, made[0], decoded, names, second)


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
    second: SecondStage,
) -> Launch:
    q = names["q"]
    values = {name: value for name, _, _, value in launched.kernargs}
    persistent = "num_kv_splits_indptr" not in names
    fold = q.shape[0] // arguments.q_rows if arguments.q_rows else 1
    content = open_code(source, device.arch, launched.code_object)
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


def _stage1_argument(decoded: Decoded, launched: Launched, name: str) -> int:
    """max_seqlen_q as handed to stage 1, which comes after ten tensors in all revisions."""
    assert decoded.stage1 is not None
    return int(next(value for value in decoded.stage1 if isinstance(value, int) and not isinstance(value, bool)))


def _second_stage(
    rules: Release,
    device: TargetGpu,
    decoded: Decoded,
    names: dict[str, ShapedTensor],
    reduction: Reduction,
    text: str,
) -> SecondStage:
    heads, splits = names["q"].shape[1], names["logits"].shape[1]
    is_o = names["logits"].name == "o"
    if decoded.reduce is not None:
        return _reduce(rules, device, decoded.reduce, names, reduction)
    if decoded.merge is None:
        return SecondStage(SecondStageKind.NONE, heads, splits, False, logits_is_o=is_o)
    _, options = decoded.merge
    return SecondStage(
        kind=SecondStageKind.TRITON,
        num_head=heads,
        max_splits=splits,
        stores_lse=bool(options.get("HAS_FINAL_LSE", False)),
        mgc=int(options["mgc"]),
        merges_tokens="KV_INDPTR_IS_PAGE_LEVEL" in options,
        logits_is_o=is_o,
        maybe_final_out=bool(options.get("MAYBE_FINAL_OUT", False)),
        tensors={"valid_split_count": _spec(names["valid_split_count"])} if "valid_split_count" in names else {},
        stands_in=None if merge_is_known(text) else f"{MERGE} of {DECODE_FILE} is none of those that are known",
    )


def _reduce(
    rules: Release, device: TargetGpu, given: tuple[Any, ...], names: dict[str, ShapedTensor], reduction: Reduction
) -> SecondStage:
    """mla_reduce_v1 by the revision's own text, or, said to stand in, as a release launches it."""
    numbers = [each for each in given if isinstance(each, int) and not isinstance(each, bool)]  # max_seqlen_q, splits
    final_lse = given[-1]
    stood_for = reduce_stage(
        rules,
        device,
        num_head=names["q"].shape[1],
        tiles=given[2].shape[0] - 1,
        max_splits=max(device.num_cu, *numbers[1:2], 0),
        max_seqlen_q=numbers[0] if numbers else 1,
        stores_lse=final_lse is not None,
        v_head_dim=names["o"].shape[-1],
        o_dtype=OutputType(names["o"].dtype),
        tensors={"final_lse": _spec(final_lse)} if final_lse is not None and "final_lse" not in names else {},
    )
    try:
        reduced = reduction.launch(device, for_reduction(given))
    except CxxError as error:
        return dataclasses.replace(stood_for, stands_in=f"reduced as {rules.name} does: {error}")
    keeps_map = reduction.keeps_map
    strange = None if keeps_map is not None else f"kernels of {REDUCTION_FILE} are none of those that are known"
    if isinstance(reduced, NotLaunched):
        ends = ", and the process ends" if reduced.ends_process else ""
        return dataclasses.replace(stood_for, refusal=f"mla_reduce_v1: {reduced.reason}{ends}")
    return dataclasses.replace(
        stood_for,
        refusal=None,
        max_splits=reduced.room,
        groups=reduced.groups,
        strides=reduced.strides,
        without_maps=reduced.without_maps,
        keeps_map=bool(keeps_map),
        stands_in=strange,
    )


def for_reduction(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """mla_reduce_v1's arguments as its evaluated host half takes them."""
    return tuple(_handle(each) if isinstance(each, ShapedTensor) else each for each in given)


def _handle(tensor: ShapedTensor) -> Tensor:
    dtype = _LAUNCHER_DTYPES.get(tensor.dtype, tensor.dtype)
    return Tensor(tensor.name, tensor.shape, dtype, tensor.element_size(), tensor.strides)


def _reduction_tensor(arguments: DecodeArguments, name: str) -> TensorSpec:
    words = getattr(arguments.metadata, name)
    return TensorSpec((words // 2, 2) if name == "reduce_final_map" else (words,), ElementType.I32)


def _spec(tensor: ShapedTensor) -> TensorSpec:
    gap = gap_between_rows(tensor.shape, tensor.strides)
    if gap is None:
        raise CannotRunError(f"tensor {tensor.name}: given strides {tensor.strides} for shape {tensor.shape}: no model of it")
    return TensorSpec(tensor.shape, _ELEMENTS.get(tensor.dtype) or ElementType(tensor.dtype), gap)
