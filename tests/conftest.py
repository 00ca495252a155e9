"""What all tests share: slow tests and tests that need a checkout of ROCm/aiter say why they are skipped."""

from __future__ import annotations

import fcntl
import importlib
import os
import pkgutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.cdna import execute
from backend.cdna.code_object import Denormals, FloatMode, Kernel
from backend.cdna.execute.native import Handler
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from fuzz.campaign.cluster import only_with_a_token
from fuzz.compiling import announced

CHECKOUT_VARIABLE = "AITERFUZZ_AITER_CHECKOUT"
SLOW_VARIABLE = "AITERFUZZ_SLOW"

TESTS = Path(__file__).parent

MACHINE_ROOMS = ("cdna", "devices", "real", "corpus", "quality")
"""Folders below tests/ of which many tests run machine code in their own process."""

ENDS_AT_ONCE = Kernel(
    name="ends at once",
    arch="gfx950",
    text=(0xBF810000).to_bytes(4, "little"),  # s_endpgm
    entry=0,
    kernarg_size=16,
    lds_size=0,
    private_segment_size=0,
    vgpr_count=8,
    agpr_count=0,
    user_sgpr_count=2,
    has_kernarg_pointer=True,
    kernarg_preload_offset=0,
    kernarg_preload_length=0,
    workgroup_id_x=True,
    workgroup_id_y=False,
    workgroup_id_z=False,
    work_item_id_mode=0,
    float_mode=FloatMode(0, 0, Denormals.FLUSH, Denormals.KEEP, True, True, False),
    max_workgroup_size=64,
    arguments=(),
)
"""A kernel that needs nothing of the machine but what every launch needs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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


@pytest.fixture(autouse=True)
def _compiled_before_machine_tests(request: pytest.FixtureRequest) -> None:
    if request.path.relative_to(TESTS).parts[0] in MACHINE_ROOMS:
        request.getfixturevalue("compiled_machine")


@pytest.fixture(scope="session")
def compiled_machine() -> None:
    """The machine's handlers, compiled once for all processes of a run; one line says so when they are not in numba's cache.

    Without it the first test that runs an instruction would take that half minute upon itself, in each process.
    """
    with (Path(tempfile.gettempdir()) / f"aiterfuzz-compiling-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with announced(sys.__stderr__):
            Machine(ENDS_AT_ONCE).run(MachineLaunch((1, 1, 1), (64, 1, 1), bytes(16)), AddressSpace())
            for module in pkgutil.iter_modules(execute.__path__, f"{execute.__name__}."):
                for value in vars(importlib.import_module(module.name)).values():
                    if isinstance(value, Handler):
                        _ = value.address  # compiles it
