"""Whose an exception is that reaches a script: its own, torch's, AITER's and the runtime's among it, or an error of ours.

What is raised in others' words goes through `says`, and what others raise comes out of `done_by`: an exception whose innermost
frame of this project is another one is ours. So is what a torch without a GPU says where the simulated one lacks something.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import numpy as np

from backend.errors import AiterfuzzError

OURS = str(Path(__file__).resolve().parents[1])
"""Folder of what simulates."""

_USED_BY_ALL = (sysconfig.get_path("stdlib"), str(Path(np.__file__).parent))

_WITHOUT_A_GPU = re.compile(
    r"not compiled with (CUDA|ROCM|HIP)|not linked with support for cuda|dummy base class|no attribute '_cuda|requires a GPU"
    r"|No (CUDA|HIP) GPUs|Found no NVIDIA driver|CUDA driver|from the 'CUDA' backend|requires CUDA support|have a CUDA build"
    r"|accelerator device when none",
    re.IGNORECASE,
)


def says(error: BaseException) -> NoReturn:
    """Raises what torch, Triton or the runtime raises on hardware."""
    raise error


def done_by(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls others' code: what it raises is its own."""
    return function(*args, **kwargs)


def error_of_ours(error: BaseException) -> str | None:
    """What an exception says that is none of the script's, torch's or AITER's; None for one of theirs."""
    if isinstance(error, AiterfuzzError):
        return str(error)
    if _WITHOUT_A_GPU.search(str(error)):
        return f"torch lacks it on the simulated GPU: {error}"
    frame = _innermost(error.__traceback__)
    if frame is None or not frame.f_code.co_filename.startswith(OURS) or frame.f_code in (says.__code__, done_by.__code__):
        return None
    where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
    return f"an error of aiterfuzz itself ({type(error).__name__}: {error}; {where})"


def _innermost(trace: TracebackType | None) -> FrameType | None:
    """The innermost frame of whoever calls what all of them use (Python's own modules, numpy)."""
    found = None
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        is_used = name.startswith(_USED_BY_ALL) and ("site-packages" not in name or name.startswith(_USED_BY_ALL[1]))
        if not is_used and not name.startswith("<frozen "):
            found = trace.tb_frame
        trace = trace.tb_next
    return found
