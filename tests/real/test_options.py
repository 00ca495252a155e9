"""Every parameter of AITER's three calls is honoured by a field, refused in words, or named as not varied: docs/options.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest
import torch

from backend.call import Call
from backend.case import FIELDS, ORDINARY, Arch, Case, DType, MetadataMode, PageOrder
from backend.case_fields import CaseField
from backend.decision import Decision
from backend.errors import UnmodelledError
from backend.path import Path
from backend.real.aiter_ops import DECODING, PLANNING, SIGNATURES, SIZING, PublicCalls
from backend.real.handlers import AiterAsserts, check_logit_cap
from backend.real.observe import decode_arguments, plan_arguments, sizing_arguments

DOCUMENT = FilePath(__file__).parents[2] / "docs" / "options.md"
NOT_VARIED = "not varied"
DECLARED = SIGNATURES[PublicCalls.CONTEXT_PARALLEL]()
BASE = Case(16, (40, 130), 4, release="2026-08", backend="direct", mode=MetadataMode.FAST)


def rows() -> dict[str, dict[str, tuple[str, str, str]]]:
    """Of each call and parameter (field, drawn, remark)."""
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        heading, cells = re.match(r"## (\w+)$", line), [cell.strip() for cell in line.strip("|").split("|")]
        if heading:
            current = found.setdefault(heading[1], {})
        elif line.startswith("|") and len(cells) == 4 and not set(cells[0]) <= set("- ") and cells[0] != "parameter":
            assert cells[0] not in current, cells[0]
            current[cells[0]] = (cells[1], cells[2], cells[3])
    return found


def fields_of_row(field: str) -> list[str]:
    return [] if field == NOT_VARIED else [name.strip() for name in field.split(",")]


def test_every_parameter_has_a_row_and_every_row_a_parameter() -> None:
    assert {call: set(of_call) for call, of_call in rows().items()} == {
        call: set(signature.parameters) for call, signature in DECLARED.items()
    }


OF_NO_PARAMETER = {"arch", "num_cu", "release", "backend"}
"""Fields that say what runs, and whose rule."""


def test_every_field_is_in_a_row() -> None:
    named = {name for of_call in rows().values() for row in of_call.values() for name in fields_of_row(row[0])}
    assert {field.name for field in FIELDS} - named == OF_NO_PARAMETER


def test_every_field_of_a_row_is_one_and_is_drawn_as_the_row_says() -> None:
    known, by_flag = {field.name for field in FIELDS}, {field.name for field in ORDINARY} | {"return_lse"}
    for of_call in rows().values():
        for parameter, (field, drawn, _) in of_call.items():
            names = fields_of_row(field)
            assert set(names) <= known, parameter
            assert drawn == ("" if not names else "flag" if set(names[:1]) <= by_flag else "yes"), parameter


OTHER: Mapping[str, Any] = {
    "num_head": 48,
    "kv_lens": (41, 131),
    "max_seqlen_q": 2,
    "query_lens": (1, 4),
    "page_size": 16,
    "q_dtype": DType.BF16,
    "kv_dtype": DType.BF16,
    "mode": MetadataMode.FAKE,
    "graph_batch": 8,
    "max_batch": 8,
    "first_page": 3,
    "page_order": PageOrder.REVERSED,
    "return_lse": True,
    "padded_heads": 48,
}
"""Another value of each field that a row names and that not any other value of will do."""


def another(field: CaseField) -> Any:
    """A value that is allowed and not neutral: a bool turned round, another member, the next number, or the least."""
    if field.name in OTHER:
        return OTHER[field.name]
    if field.kind is bool:
        return not field.neutral
    if issubclass(field.kind, Enum):
        return next(member for member in field.kind if member is not field.neutral)
    return field.neutral + 1 if field.holds(field.neutral + 1) else field.least


def sent(decision: Decision) -> dict[str, Any]:
    """Everything that reaches AITER, as comparable values."""
    said: dict[str, Any] = {}
    for name, part in (("sizing", decision.sizing), ("planning", decision.planning), ("decode", decision.decode)):
        for field in part.__dataclass_fields__ if part is not None else ():
            value = getattr(part, field)
            said[f"{name}.{field}"] = value.tolist() if isinstance(value, np.ndarray) else value
    return said


@pytest.mark.parametrize(
    "name", sorted({name for of_call in rows().values() for row in of_call.values() for name in fields_of_row(row[0])})
)
def test_no_field_is_dropped(name: str) -> None:
    """Another value of it changes what reaches AITER."""
    field = next(each for each in FIELDS if each.name == name)
    base = BASE.replace(**{field.below: 2}) if field.below else BASE
    made = [Path().call(case) for case in (base, base.replace(**{name: another(field)}))]
    decisions = [each.decision for each in made if isinstance(each, Call) or each.decision is not None]
    assert len(decisions) == 2
    assert decisions[0] is not None
    assert decisions[1] is not None
    assert sent(decisions[0]) != sent(decisions[1])


def words(remark: str) -> str:
    found = re.search(r"refused[^`]*`([^`]+)`", remark)
    return found[1] if found else ""


def i32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


BF16 = torch.bfloat16
GIVEN: Mapping[str, Callable[[], dict[str, Any]]] = {
    SIZING: lambda: {
        "batch_size": 2,
        "max_seqlen_qo": 1,
        "num_head_qo": 16,
        "q_dtype": BF16,
        "kv_dtype": BF16,
        "is_sparse": False,
        "fast_mode": True,
    },
    PLANNING: lambda: {
        "seqlens_qo_indptr": i32(0, 1),
        "seqlens_kv_indptr": i32(0, 4),
        "kv_last_page_lens": i32(1),
        "num_heads_per_head_k": 16,
        "num_heads_k": 1,
        "is_causal": True,
        "kv_granularity": 16,
        "max_seqlen_qo": 1,
        "uni_seqlen_qo": 1,
        "topk": -1,
        "fast_mode": True,
        "max_split_per_batch": -1,
    },
    DECODING: lambda: {
        "q": torch.zeros(1, 16, 576, dtype=BF16),
        "o": torch.zeros(1, 16, 512, dtype=BF16),
        "kv_buffer": torch.zeros(4, 1, 1, 576, dtype=BF16),
        "qo_indptr": i32(0, 1),
        "kv_indptr": i32(0, 4),
        "kv_indices": i32(0, 1, 2, 3),
        "kv_last_page_lens": i32(1),
        "max_seqlen_q": 1,
    },
}
READ: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    SIZING: sizing_arguments,
    PLANNING: plan_arguments,
    DECODING: decode_arguments,
}
STRANGE: Mapping[str, Any] = {
    "max_split_per_batch": 4,
    "num_heads_k": 2,
    "mla_version": 1,
    "dtype_q_rope": torch.float32,
    "dtype_kv_rope": torch.float32,
    "page_size": 16,
    "nhead_kv": 2,
    "num_kv_splits_indptr": i32(0, 2),
}
REFUSED = [
    (call, name) for call, of_call in rows().items() for name, row in of_call.items() if words(row[2]) and name != "logit_cap"
]


@pytest.mark.parametrize(("call", "parameter"), REFUSED)
def test_what_is_not_modelled_is_refused_in_the_words_of_its_row(call: str, parameter: str) -> None:
    said = words(rows()[call][parameter][2])
    READ[call](GIVEN[call]())
    with pytest.raises(UnmodelledError, match=re.escape(said)):
        READ[call](GIVEN[call]() | {parameter: STRANGE[parameter]})


def test_the_part_with_rope_is_of_the_type_of_the_part_without_where_nobody_names_it() -> None:
    """As AITER's own op test of e4048607a535 calls it (aiter/ops/attention.py: None is the matching NoPE dtype)."""
    given = GIVEN[PLANNING]() | {"dtype_q_nope": torch.bfloat16, "dtype_kv_nope": torch.float8_e4m3fn}
    read = [plan_arguments(given | each) for each in ({}, {"dtype_q_rope": None, "dtype_kv_rope": None})]
    assert [(each.q_dtype, each.kv_dtype) for each in read] == [(DType.BF16, DType.FP8)] * 2


def test_the_split_cap_of_sizing_is_taken_as_it_is_given() -> None:
    given = GIVEN[SIZING]()
    assert (sizing_arguments(given).max_split_per_batch, sizing_arguments({**given, **STRANGE}).max_split_per_batch) == (-1, 4)


def test_every_parameter_that_is_not_varied_says_why_and_all_but_two_are_refused_or_taken() -> None:
    not_varied = [
        (call, name, row[2]) for call, of_call in rows().items() for name, row in of_call.items() if row[0] == NOT_VARIED
    ]
    assert all(remark for _, _, remark in not_varied)
    assert [name for _, name, remark in not_varied if not words(remark)] == ["max_split_per_batch", "return_logits"]


def test_a_cap_of_the_logits_is_refused_in_aiters_words() -> None:
    said = words(rows()[DECODING]["logit_cap"][2])
    assert said in str(Path().run(BASE.replace(logit_cap=30)).refused)
    with pytest.raises(AiterAsserts, match=said):
        check_logit_cap({"logit_cap": 30.0})
    check_logit_cap({"logit_cap": 0.0})


def test_another_scale_reaches_the_kernel() -> None:
    made = Path().call(BASE.replace(sm_scale=300, arch=Arch.GFX950))
    assert isinstance(made, Call)
    (scalar,) = [kernarg.value for kernarg in made.launched.kernargs if kernarg.name == "scalar"]
    assert scalar == pytest.approx(3 / 24)
