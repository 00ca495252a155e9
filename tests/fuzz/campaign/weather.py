"""Backends that behave like weather: rules which kill, hang or fill the process that runs certain cases, as a device may.

`everywhere` makes them built-in ones, called "weather-" and the name, here and in the Python processes that are started from
here: a rule of one's own runs in a process of its own and could not do it. All else about a case is as sglang decides.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.case import Case
from backend.serving.bounds import OWN_POLICY
from backend.serving.policy import Choice
from backend.serving.sglang import SGLANG_27188


def marked(case: Case) -> bool:
    """About one case in 20, the same ones in every process; the smallest is three requests of one token."""
    return len(case.kv_lens) == 3


def calm(case: Case) -> Choice:
    """No weather."""
    return SGLANG_27188(case)


def aborts(case: Case) -> Choice:
    if marked(case):
        os.abort()
    return SGLANG_27188(case)


def segfaults(case: Case) -> Choice:
    if marked(case):
        import ctypes

        ctypes.string_at(0)
    return SGLANG_27188(case)


def aborts_once(case: Case) -> Choice:
    """Two processes abort at a marked case, and none after: a death like a kill from outside. The folder is the test's."""
    _abort_while(case, lambda deaths: deaths < 2)
    return SGLANG_27188(case)


def aborts_sometimes(case: Case) -> Choice:
    """The first two processes abort at a marked case, and the fifth."""
    _abort_while(case, lambda deaths: deaths in (0, 1, 4))
    return SGLANG_27188(case)


def _abort_while(case: Case, wanted: Callable[[int], bool]) -> None:
    """Counts the runs of marked cases in a file, one byte a run, and aborts where the count so far is wanted."""
    if not marked(case):
        return
    with Path(os.environ["AITERFUZZ_TEST_RUNS"]).open("ab") as runs:
        so_far = runs.tell()
        runs.write(b".")
    if wanted(so_far):
        os.abort()


def hangs(case: Case) -> Choice:
    if marked(case):
        time.sleep(3600)
    return SGLANG_27188(case)


_CALLS = 0


def hangs_late(case: Case) -> Choice:
    """Slow at first, so that there is something to stop; hangs at a marked case once its process has seen some."""
    global _CALLS
    _CALLS += 1
    time.sleep(0.01)
    if _CALLS > 100 and marked(case):
        time.sleep(3600)
    return SGLANG_27188(case)


def eats_memory(case: Case) -> Choice:
    if marked(case):
        hoard = []
        while True:
            hoard.append(bytearray(b"x" * (64 << 20)))
            time.sleep(0.02)
    return SGLANG_27188(case)


def leaves(case: Case) -> Choice:
    if marked(case):
        os._exit(7)
    return SGLANG_27188(case)


def kills_at_its_eighth(case: Case) -> Choice:
    """Of each process: once, or in each one after, as many cases as there are."""
    global _CALLS
    _CALLS += 1
    if _CALLS == 8:
        os.kill(os.getpid(), 9)
    return SGLANG_27188(case)


def raises(case: Case) -> Choice:
    if marked(case):
        raise ZeroDivisionError("of the policy")
    return SGLANG_27188(case)


def takes_long(case: Case) -> Choice:
    """Long enough to be killed at."""
    time.sleep(0.2)
    return SGLANG_27188(case)


def takes_its_time(case: Case) -> Choice:
    """Slow enough that a kill hits a case and not the time between two."""
    time.sleep(0.002)
    return SGLANG_27188(case)


def add(backends: dict[str, object], row: type) -> None:
    """Adds them to the built-in backends."""
    kinds = (calm, aborts, segfaults, aborts_once, aborts_sometimes, hangs, hangs_late, eats_memory, leaves, raises)
    for rule in (*kinds, kills_at_its_eighth, takes_long, takes_its_time):
        name = f"weather-{rule.__name__}"
        backends[name] = row(name, rule, OWN_POLICY, "as the weather is")


@contextmanager
def everywhere() -> Iterator[None]:
    """Adds them here and in every Python process that is started meanwhile."""
    from backend.serving.backends import BACKENDS, Backend

    kept, path = dict(BACKENDS), os.environ.get("PYTHONPATH")
    add(BACKENDS, Backend)  # type: ignore[arg-type]
    folder = Path(__file__).with_name("in_every_python")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), path]))
    try:
        yield
    finally:
        BACKENDS.clear()
        BACKENDS.update(kept)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
