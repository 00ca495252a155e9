"""What a violation says as a finding: each thing once, and no empty name where no tensor is concerned."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from backend.checks.memory import ABOUT_ROWS, check_violations
from backend.observation import Violation, ViolationKind

WHY = "2 rows of o (16 heads) are written by nobody, the first is row 1"


def message(kind: ViolationKind, tensor: str, is_write: bool, why: str) -> str:
    violation = Violation(kind, "x.co", tensor, is_write, 16, 32, 16, 1, why)
    (finding,) = check_violations(SimpleNamespace(violations=(violation,)))  # type: ignore[arg-type]
    return finding.message


@pytest.mark.parametrize("kind", ABOUT_ROWS)
def test_what_is_about_rows_says_its_reason_alone(kind: ViolationKind) -> None:
    assert message(kind, "o", True, WHY) == WHY


@pytest.mark.parametrize(
    ("kind", "tensor", "is_write", "told"),
    [
        (ViolationKind.OUT_OF_BOUNDS, "o", True, "write of o 16 bytes past the end: ptr_R + 16"),
        (ViolationKind.OUT_OF_BOUNDS, "", False, "read of LDS 16 bytes past the end: ptr_R + 16"),
        (ViolationKind.NULL, "", True, "write through a null pointer: ptr_R + 16"),
        (ViolationKind.FOREIGN_PAGE, "kv_buffer", False, "read of kv_buffer, foreign page: ptr_R + 16"),
        (ViolationKind.UNWRITTEN, "logits", False, "read of logits, unwritten: ptr_R + 16"),
    ],
)
def test_an_access_is_told_with_its_address(kind: ViolationKind, tensor: str, is_write: bool, told: str) -> None:
    assert message(kind, tensor, is_write, "ptr_R + 16") == told


@pytest.mark.parametrize("kind", ViolationKind)
def test_no_message_names_an_empty_tensor_or_doubles_its_reason(kind: ViolationKind) -> None:
    for is_write in (False, True):
        text = message(kind, "" if kind in (ViolationKind.NULL, ViolationKind.OUT_OF_BOUNDS) else "o", is_write, "because")
        assert not re.search(r"\bof [,:]|\bof  ", text)
        assert text.count("nobody") <= 1
