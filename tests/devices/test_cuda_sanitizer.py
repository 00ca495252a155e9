"""compute-sanitizer's records as violations. The log is of an H100: one row planned as 4 x 16 heads, q read past its end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backend.child.messages import Range
from backend.devices.cuda import CudaDevice, sanitizer
from backend.errors import CannotRunError

LOG = (Path(__file__).parent / "data" / "compute_sanitizer_memcheck.txt").read_text(encoding="utf-8")
Q = Range("q", 0x7FBF46C00000, 36864)
O = Range("o", 0x7FBF46E00000, 65536)  # noqa: E741


def test_records_are_gathered_by_tensor_and_direction() -> None:
    (violation,) = sanitizer.parse(LOG, [O, Q], "stage")
    assert (violation.tensor, violation.is_write, violation.count) == ("q", False, 3)
    assert (violation.first_offset, violation.end_offset, violation.extent) == (36864, 36864 + 48, 48)
    assert violation.workgroup == (1, 0, 0)
    assert "mla_decode_persistent+0x1bd0" in violation.why


def test_a_write_is_a_record_of_its_own() -> None:
    written = LOG.replace("read of size", "write of size", 1).replace(f"{Q.address + Q.size:#x}", f"{O.address - 16:#x}", 1)
    found = {(v.tensor, v.is_write): v for v in sanitizer.parse(written, [O, Q], "stage")}
    assert set(found) == {("o", True), ("q", False)}
    assert (found["o", True].first_offset, found["o", True].extent) == (-16, 16)


def test_a_clean_log_says_nothing() -> None:
    assert sanitizer.parse("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n", [O, Q], "stage") == []
    assert sanitizer.parse(LOG, [], "stage") == []


def test_logs_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "1.log").write_text(LOG)
    assert len(sanitizer.violations(tmp_path, [O, Q], "stage")) == 1
    assert sanitizer.violations(tmp_path, [O, Q], "stage") == []


def test_without_the_tool_it_says_so() -> None:
    if shutil.which("compute-sanitizer"):
        pytest.skip("it is installed here")
    with pytest.raises(CannotRunError, match="not on the PATH"):
        CudaDevice(sanitize=True)
