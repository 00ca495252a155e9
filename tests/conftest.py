"""What all tests share: how they are spread over the cores, and why slow tests and those that need a checkout are skipped."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from fuzz.campaign.cluster import only_with_a_token
from tests.compiled import MACHINE, PLANNERS

if TYPE_CHECKING:
    from tests.kept_sources import KeptSources

CHECKOUT_VARIABLE = "AITERFUZZ_AITER_CHECKOUT"
SLOW_VARIABLE = "AITERFUZZ_SLOW"

# A first example compiles, and machines have other work.
settings.register_profile("aiterfuzz", deadline=None, max_examples=100 if os.environ.get(SLOW_VARIABLE) else 50)
settings.load_profile("aiterfuzz")

# Hundreds of processes are started here, each of which would compile the project's modules again, and every worker the tests'.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A background job of a shell is begun so, and all that it starts; a terminal's Ctrl-C is what tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Where several workers begin, what most of them need is compiled before (tests/compiled.py), and that is said."""
    if not session.config.getoption("numprocesses", None) or session.config.getoption("collectonly"):
        return
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    reporter.write_line("compiled code is looked up, or made once, before the workers begin (tests/compiled.py)")
    with contextlib.ExitStack() as stack:
        whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
        for part in (*PLANNERS, *([MACHINE] if whole else [])):
            command = [sys.executable, "-m", "tests.compiled", part]
            stack.enter_context(subprocess.Popen(command, cwd=session.config.rootpath))


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: a sixth of the time a worker waits for a process that it started to end, to stop or to answer."""
    return len(os.sched_getaffinity(0)) + 1


TOGETHER = (
    ("fuzz/gate/", "serving/"),
    ("fuzz/campaign/", "fuzz/test_each_command", "fuzz/test_ways_not_to_run"),
    ("cdna/",),
)
"""How files are called whose tests share what is dear to start or to compile (frameworks' files in processes; a Ray, files of
each kind; the machine's instructions): a worker begins with each."""

LONGEST = ("reprod", "child", "fuzz", "devices", "quality")
"""Folders with tests that take seconds, the longest first; of all others a worker does a hundred in one."""


def longest_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Equal shares one after the other, as workers begin with them: each whole files of TOGETHER and LONGEST, then short tests.

    A worker that is done takes over the last tests of another (xdist's worksteal), but never the next two: those are short.
    """
    tests = Path(__file__).parent
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path.relative_to(tests).as_posix(), []).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for at, beginnings in enumerate(TOGETHER):
        for beginning in beginnings:
            for file in [file for file in files if file.startswith(beginning)]:
                shares[at % workers] += files.pop(file)
    long = [file for folder in LONGEST for file in files if file.startswith(f"{folder}/")]
    for at, file in enumerate(long):  # the first of TOGETHER is as long as all that each of the others gets of these
        shares[-1 - at % max(workers - 1, 1)] += files.pop(file)
    short = [item for each in files.values() for item in each]
    for share in shares:
        left = max(0, -(-len(items) // workers) - len(share))
        share += short[:left]
        del short[:left]
    return [item for share in shares for item in share] + short


def pytest_collection_finish() -> None:
    """What has been collected stays to the end: it is no rubbish, and need not be looked through for any."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ordered = longest_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    assert len(set(ordered)) == len(items), "a test would be lost"
    items[:] = ordered
    checkout = os.environ.get(CHECKOUT_VARIABLE, "")
    no_checkout = pytest.mark.skip(reason=f"needs a checkout of ROCm/aiter: set {CHECKOUT_VARIABLE} to its path")
    too_slow = pytest.mark.skip(reason=f"slow: set {SLOW_VARIABLE}=1 to run it")
    for item in items:
        if item.get_closest_marker("checkout") and not (checkout and Path(checkout).is_dir()):
            item.add_marker(no_checkout)
        if item.get_closest_marker("slow") and not os.environ.get(SLOW_VARIABLE):
            item.add_marker(too_slow)


@pytest.fixture(scope="session")
def aiter_checkout() -> Path:
    """The checkout (or bare repository) of ROCm/aiter; tests that use it carry the marker `checkout`."""
    return Path(os.environ[CHECKOUT_VARIABLE])


@pytest.fixture(scope="session", autouse=True)
def _one_token_for_ray() -> Iterator[None]:
    """Ray keeps what it read of tokens first for the life of a process, and tests of one process start and join several."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in only_with_a_token().items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def kept_sources() -> Iterator[KeptSources]:
    """Opens frameworks' files in child processes that several tests share, file after file (tests/kept_sources.py)."""
    from tests.kept_sources import KeptSources  # imports what few tests need

    kept = KeptSources()
    yield kept
    kept.close()


@pytest.fixture
def sources_kept_open(kept_sources: KeptSources, monkeypatch: pytest.MonkeyPatch) -> None:
    """`gate`, and its tables, open sources that way."""
    for module in ("fuzz.gate.gate", "backend.real.frameworks.session"):
        monkeypatch.setattr(f"{module}.SourceSession", kept_sources.open)
