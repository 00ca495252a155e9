"""What compiled planners calculate with: that it is compiled for numbers."""

import numba
import pytest

from backend.cxx import arithmetic


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_a_constant_has_nothing_compiled_for_itself() -> None:
    def of(number: int) -> int:
        return arithmetic.i32(3) + arithmetic.i32(2**31 + 5) + arithmetic.i32(number)

    before = set(arithmetic.i32.overloads)  # type: ignore[attr-defined]
    assert numba.njit(of)(2**31) == 3 - (2**31 - 5) - 2**31
    made = set(arithmetic.i32.overloads) - before  # type: ignore[attr-defined]
    assert all(not isinstance(kind, numba.types.Literal) for kinds in made for kind in kinds)
    assert len(before | made) <= 3
