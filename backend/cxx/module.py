"""Lowered code as Python modules: kernels compiled by numba and kept on disk by what they are made of, host code in memory."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba

from backend.cxx import arithmetic, host_runtime
from backend.cxx.host import HostModule
from backend.cxx.kernel import LoweredKernel

CACHE_VARIABLE = "AITERFUZZ_CACHE"
"""Names the folder of what is kept, in place of ~/.cache/aiterfuzz."""

_HEAD = '''"""Written from C++ by backend.cxx; do not edit."""
import numba
import numpy as np
from backend.cxx.arithmetic import divide, float_to_i32, i32, load, remainder, store, trailing_zeros, u32
f32 = np.float32


@numba.njit("i8(i4[::1],u1[::1],i8[:,::1],i8[:,::1],i8,i8[::1],f4[::1])", nogil=True, cache=True)
'''


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "aiterfuzz") / "cxx"


@cache
def _digest_of_ours() -> str:
    return hashlib.sha256(arithmetic.SOURCE.read_bytes() + numba.__version__.encode()).hexdigest()


@cache
def compiled_kernel(kernel: LoweredKernel) -> Callable[..., int]:
    """A kernel as a function that numba compiles now, or has compiled before; of several processes one does, others wait."""
    source = _HEAD + kernel.source
    digest = hashlib.sha256((source + _digest_of_ours()).encode()).hexdigest()[:24]
    name = f"aiterfuzz_cxx_{digest}"
    if name in sys.modules:
        return sys.modules[name].kernel  # type: ignore[no-any-return]
    file = cache_folder() / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file.with_suffix(".lock")):
        if not file.is_file() or file.read_text(encoding="utf-8") != source:
            _write(file, source)
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # numba looks there for what it has kept
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module.kernel  # type: ignore[no-any-return]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """While no other process holds the lock; it goes with the process that holds it."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(file: Path, source: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(source)
    os.replace(temporary, file)


def host_functions(module: HostModule, names: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """A host module's functions by C++ name. names: what its surroundings speak of, and `launch_kernel`."""
    namespace: dict[str, Any] = {name: getattr(host_runtime, name) for name in host_runtime.__all__}
    namespace.update(names)
    exec(compile(module.source, "<host code>", "exec"), namespace)
    return {name: namespace[python] for name, python in module.names.items()}


def local_at(ended: BaseException, name: str) -> int:
    """An integer variable of lowered host code at the moment at which a run ended, by its C++ name, the innermost one of that
    name; 0 where there is none."""
    found = 0
    trace = ended.__traceback__
    while trace is not None:
        for each, value in trace.tb_frame.f_locals.items():
            if each.rpartition("_")[0] == name and type(value) is int:
                found = value
        trace = trace.tb_next
    return found
