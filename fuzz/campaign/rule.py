"""Whether there is a rule of that name, found out without running a stranger's code in this process.

A rule that is a file or a module is loaded in a process of its own: what it does there (leave, crash, hang) ends that process
and not a search. Cases are decided by it in the processes of the workers alone.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import backend
from backend.errors import CannotRunError, UsageError
from backend.serving.backends import BACKENDS
from backend.serving.registry import named_policy, policy

LOAD_SECONDS = 60.0
"""For importing whatever a rule imports."""

_THERE, _WRONG = 17, 18
"""Exit statuses that no program ends with by itself."""

_LOADER = f"""
import os, sys
from backend.errors import UsageError
from backend.serving.registry import named_policy
try:
    named_policy(sys.argv[1])
except UsageError as error:
    sys.stderr.write("\\n" + str(error))
    sys.stderr.flush()
    os._exit({_WRONG})
os._exit({_THERE})
"""


def runs_code(name: str) -> bool:
    """Whether loading a rule runs code that is none of ours: a file of Python or a module. Neither is loaded to find out."""
    return name not in BACKENDS and (":" in name or name.endswith(".py"))


def require_rule(name: str, named: bool = True) -> None:
    """Raises UsageError where there is no such rule, CannotRunError where loading it ends or holds up its process.

    named: whether a person names it, on the command line or in a configuration, and not a store; others are not loaded.
    """
    if not named or name in BACKENDS:
        policy(name)
        return
    if not runs_code(name):
        named_policy(name)
        return
    paths = [str(Path(backend.__file__).parents[1]), *(path or os.getcwd() for path in sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", _LOADER, name]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=LOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotRunError(f"backend {name!r}: is not loaded within {LOAD_SECONDS:g} s; a rule only decides") from None
    except ValueError as error:  # of a name that no process can be given
        raise UsageError(f"backend {name!r}: no name of a rule ({error})") from None
    said = done.stderr.decode("utf-8", "replace").rstrip().rpartition("\n")[2]
    if done.returncode == _WRONG:
        raise UsageError(said)
    if done.returncode != _THERE:
        how = f"status {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
        raise CannotRunError(f"backend {name!r}: loading it ends its process ({how}); a rule only decides {said}".rstrip())


def rule_content(name: str) -> dict[str, str]:
    """The sha256 of a rule's file, by "rule NAME"; empty for a built-in one, and for a module that is not found.

    What the file imports is not looked at. The file of a module is found by its name, below the folders of sys.path.
    """
    if name in BACKENDS:
        return {}
    place = name.partition(":")[0]
    if place.endswith((".py", ".toml")):
        candidates = [Path(place)]
    else:
        path = Path(*place.split("."))
        candidates = [Path(root or ".", file) for root in sys.path for file in (path.with_suffix(".py"), path / "__init__.py")]
    for file in candidates:
        if file.is_file():
            return {f"rule {name}": hashlib.sha256(file.read_bytes()).hexdigest()}
    return {}
