"""Checked memory: C's integers on the GPU, growth, sharing, and compiled code that is never outdated."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_cases import MI355X, planned, planning

from backend.aiter.planners import Branch, Plan, PlannerName
from backend.aiter.planners import memory as memory_module
from backend.aiter.planners.memory import divide_up, kernel_sources_digest, plain_python
from backend.aiter.planners.v1_0 import plan_v1_0
from backend.cxx.arithmetic import divide, i32, remainder

INT32 = st.integers(-(2**31), 2**31 - 1)


@pytest.mark.parametrize(
    ("numerator", "denominator", "quotient", "rest"),
    [(7, 2, 3, 1), (-7, 2, -3, -1), (7, -2, -3, 1), (-7, -2, 3, -1), (0, 5, 0, 0), (0, 0, 2, 0), (5, 0, 6, 5), (-5, 0, -6, -5)],
)
def test_division_is_truncated_and_has_an_answer_for_zero(numerator: int, denominator: int, quotient: int, rest: int) -> None:
    assert divide(numerator, denominator) == quotient
    assert remainder(numerator, denominator) == rest


@given(INT32, INT32.filter(bool))
def test_division_law(numerator: int, denominator: int) -> None:
    quotient, rest = divide(numerator, denominator), remainder(numerator, denominator)
    assert quotient * denominator + rest == numerator
    assert abs(rest) < abs(denominator)
    assert rest == 0 or (rest < 0) == (numerator < 0)


@given(st.integers(0, 2**30), st.integers(1, 2**20))
def test_divide_up_is_a_ceiling(numerator: int, denominator: int) -> None:
    assert divide_up(numerator, denominator) == -(-numerator // denominator)


@given(st.integers(-(2**40), 2**40))
def test_wrap_to_int32(value: int) -> None:
    assert i32(value) == int(np.array([value]).astype(np.int32)[0])


def test_plans_larger_than_the_first_window() -> None:
    """16 pieces a row on a batch of 4,096: 65,536 items are eight times what the memory starts with."""
    plan = planned("2026-06", MI355X, planning(PlannerName.V1_0, 16, [16 * 196] * 4096))
    assert len(plan.work_items) == 4096
    wide = planned("2026-06", MI355X, planning(PlannerName.V1_2, 16, [1] * 70000))
    assert len(wide.work_items) == 70000
    assert wide.work_items[-1].tolist() == [69999, -1, 69999, 70000, 69999, 70000, 0, 0]


def test_threads_do_not_share_memory() -> None:
    plans: dict[int, Plan] = {}

    def work(number: int) -> None:
        for _ in range(50):
            plans[number] = planned("2026-06", MI355X, planning(PlannerName.V1_0, 64, [1000 * number] * 8))

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, plan in plans.items():
        again = planned("2026-06", MI355X, planning(PlannerName.V1_0, 64, [1000 * number] * 8))
        assert np.array_equal(plan.work_items, again.work_items)


def test_read_only_arguments_are_taken() -> None:
    call = planning(PlannerName.V1_0, 16, [100])
    before = len(plan_v1_0.signatures) if planned("2026-06", MI355X, call) else 0  # type: ignore[attr-defined]
    for array in (call.qo_indptr, call.kv_indptr, call.kv_last_page_lens):
        array.flags.writeable = False
    planned("2026-06", MI355X, call)
    assert len(plan_v1_0.signatures) == before  # type: ignore[attr-defined]


def test_compiled_code_goes_stale_with_any_kernel_source(tmp_path: Path) -> None:
    """numba's own stamp looks at the file of the function only, and would keep a planner whose helper has changed."""
    package = Path(memory_module.__file__).parent
    digest = kernel_sources_digest(package)
    assert plan_v1_0._cache._cache_file._source_stamp[1] == digest  # type: ignore[attr-defined]
    compiled = [path for path in package.glob("*.py") if "@compiled" in path.read_text() or "@inlined" in path.read_text()]
    assert len(compiled) >= 6
    for changed in compiled:
        copy = tmp_path / changed.stem
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        assert kernel_sources_digest(copy) == digest
        (copy / changed.name).write_text(changed.read_text() + "\n")
        assert kernel_sources_digest(copy) != digest


def test_second_start_compiles_nothing() -> None:
    planned("2026-06", MI355X, planning(PlannerName.V1_0, 16, [100]))
    program = (
        "import sys; sys.path.insert(0, 'tests/aiter')\n"
        "from planner_cases import *\n"
        "from backend.aiter.planners.v1_0 import plan_v1_0\n"
        "planned('2026-06', MI355X, planning(PlannerName.V1_0, 16, [100]))\n"
        "print(len(plan_v1_0.stats.cache_misses), len(plan_v1_0.stats.cache_hits))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


def test_plain_python_calls_no_compiled_helper() -> None:
    kernel = plain_python(plan_v1_0)
    called = [kernel.__globals__[name] for name in kernel.__code__.co_names if name in kernel.__globals__]
    assert not any(hasattr(value, "py_func") for value in called)


def test_branches_have_their_own_bits() -> None:
    assert len({branch.value for branch in Branch}) == len(Branch)
    plan = planned("2026-06", MI355X, planning(PlannerName.V1_0, 64, [400]))
    assert all(plan.branches & branch for branch in (Branch.FOLDED, Branch.SPLIT, Branch.CAP_BY_LENGTH))


def test_compiled_code_that_speaks_of_a_class_that_is_gone_is_compiled_anew() -> None:
    """numba reads what it kept on disk before it compares its age, and cannot read arguments of a class that was renamed."""

    def renamed() -> dict[str, str]:
        raise AttributeError("Can't get attribute 'Memory'")

    assert memory_module._index_or_none(renamed) == {}
    assert memory_module._index_or_none(lambda: {"signature": "overload"}) == {"signature": "overload"}
