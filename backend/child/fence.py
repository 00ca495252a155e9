"""What a stranger's code is kept from: the network, other processes, the home folder, other files' content, tokens.

Behind bubblewrap where it is installed and works; else in namespaces of the kernel's, where it allows them to a user, which
keep from the network and from other processes, but not from files; else behind limits alone. `weaker_than_promised` says which.
docs/security.md says what is promised where, and whom it guards. Knows no case and no framework.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from backend.errors import UsageError

VARIABLE = "AITERFUZZ_FENCE"
"""Environment variable that asks for a kind of fence by its name."""

PROBE_SECONDS = 20.0

SETTLED_SECONDS = 600.0
"""Age of a socket from which it is one of those that stay."""


class FenceKind(StrEnum):
    """What there is to keep strangers' code by, the best first."""

    BUBBLEWRAP = "bubblewrap"
    NAMESPACES = "namespaces"
    NONE = "none"


HIDDEN = ("/home", "/root", "/run")
"""Folders that are empty behind the fence but for what is named; the home folder too, wherever it is. The rest can be read."""

KEPT_VARIABLES = (
    "PATH", "LANG", "LANGUAGE", "TZ", "TERM", "COLUMNS", "LINES", "USER", "LOGNAME", "SHELL", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONUNBUFFERED",
    "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE", "NO_COLOR", "SGLANG_AITER_MLA_PERSIST",
)  # fmt: skip
KEPT_PREFIXES = ("LC_", "AITERFUZZ_", "AITER_", "TRITON_", "TORCH_", "NUMBA_", "OMP_", "MKL_", "OPENBLAS_", "VLLM_", "SGLANG_")
SECRET = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
"""Environment that passes: a token may have any name, so whatever is not known to be needed stays outside, and so does a name
with a known prefix that speaks of a secret (VLLM_API_KEY)."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Of one child. scratch: the only folder that it can write to, its TMPDIR and HOME. readable: what it must see of HIDDEN.

    writable: other folders that it can write to. directory: where it starts.
    """

    scratch: Path
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    directory: Path | None = None

    def environment(self, given: Mapping[str, str], passed: Iterable[str] = ()) -> dict[str, str]:
        """What of an environment passes, with places of its own to write to. passed: further names that do."""
        names = {*KEPT_VARIABLES, *passed}
        kept = {
            name: value
            for name, value in given.items()
            if name in names or (name.startswith(KEPT_PREFIXES) and not SECRET.search(name))
        }
        home = {"HOME": str(self.scratch), "TMPDIR": str(self.scratch)}
        return kept | home | {"NUMBA_CACHE_DIR": str(_compiled(self.scratch, given))}

    def command(self, command: Sequence[str]) -> list[str]:
        """The command behind the best fence that there is."""
        match kind():
            case FenceKind.BUBBLEWRAP:
                return [*_BUBBLEWRAP, *self._folders(), "--", *command]
            case FenceKind.NAMESPACES:
                return [*_UNSHARE, sys.executable, "-I", "-S", "-c", _FIRST_PROCESS, *command]
        return list(command)

    def _folders(self) -> list[str]:
        home = Path.home()
        hidden = [Path(folder) for folder in HIDDEN if Path(folder).is_dir() and not Path(folder).is_symlink()]
        if home.is_dir() and home != Path("/") and not any(home.is_relative_to(folder) for folder in hidden):
            hidden.append(home)
        words = [word for folder in hidden for word in ("--tmpfs", str(folder))]
        for path in (*_interpreter(), *self.readable, *([self.directory] if self.directory else ())):
            where = path.absolute()
            under = any(where != folder and where.is_relative_to(folder) for folder in hidden)
            if under and where.exists() and where != home:
                words += ["--ro-bind", str(where), str(where)]
        words += [word for path in _sockets(hidden) for word in ("--ro-bind", os.devnull, path)]
        for path in (self.scratch, *self.writable):
            words += ["--bind", str(path), str(path)]
        words += [word for folder in hidden for word in ("--remount-ro", str(folder))]
        if self.directory is not None:
            seen = not any(each.is_relative_to(self.directory.absolute()) for each in (home, *hidden))
            words += ["--chdir", str(self.directory if seen or self.directory == Path("/") else self.scratch)]
        return words


_BUBBLEWRAP = (
    "bwrap", "--die-with-parent", "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--new-session", "--cap-drop", "ALL", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
)  # fmt: skip
_UNSHARE = ("unshare", "--user", "--map-current-user", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--")
# The kernel spares the first process of its namespace the signals that it sends itself: a command that is this process would
# outlive its own abort(). This one stands before it, as bubblewrap's own does, and tells its end as a shell does.
_FIRST_PROCESS = """
import os, sys
command = os.fork()
if not command:
    os.execvp(sys.argv[1], sys.argv[1:])
ended, status = os.wait()
while ended != command:
    ended, status = os.wait()
code = os.waitstatus_to_exitcode(status)
os._exit(code if code >= 0 else 128 - code)
"""


@functools.cache
def kind() -> FenceKind:
    """The best fence that works here, or the one that VARIABLE asks for. Raises UsageError for a name that is none."""
    asked = os.environ.get(VARIABLE)
    if asked is not None and asked not in list(FenceKind):
        raise UsageError.not_allowed(VARIABLE, asked, ", ".join(FenceKind))
    if asked is not None:
        return FenceKind(asked)
    probes = {FenceKind.BUBBLEWRAP: [*_BUBBLEWRAP, "--tmpfs", "/tmp", "--", "true"], FenceKind.NAMESPACES: [*_UNSHARE, "true"]}
    return next((one for one, probe in probes.items() if _works(probe)), FenceKind.NONE)


def weaker_than_promised() -> str | None:
    """What strangers' code is not kept from on this machine, in a line; None where nothing is missing."""
    match kind():
        case FenceKind.BUBBLEWRAP:
            return None
        case FenceKind.NAMESPACES:
            return "no bubblewrap here: the code under test has no network, but reads and writes your files"
    return "neither bubblewrap nor namespaces here: the code under test has limits, but your network and your files"


def exit_status(code: int) -> int:
    """Of a command behind a fence, which tells a signal as a shell does: negative for a signal again."""
    return 128 - code if kind() is not FenceKind.NONE and code - 128 in signal.valid_signals() else code


def _sockets(hidden: Sequence[Path]) -> list[str]:
    """Sockets that are listened on by a path (agents, displays): a file system that is only read does not keep from them."""
    try:
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except OSError:
        return []
    paths = dict.fromkeys(line.split(maxsplit=7)[7] for line in lines if line.count(" /"))
    # One that has just been made may be gone when bubblewrap comes to it; agents and displays are there to stay.
    before = time.time() - SETTLED_SECONDS
    seen = (path for path in paths if Path(path).is_socket() and os.stat(path).st_mtime < before)
    return [path for path in seen if not any(Path(path).resolve().is_relative_to(folder) for folder in hidden)]


def _works(command: Sequence[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _interpreter() -> list[Path]:
    """What Python itself is read from, and this project."""
    found = {Path(place): None for place in (sys.prefix, sys.base_prefix, *sys.path) if place}
    return [Path(__file__).parents[2], *found]


def _compiled(scratch: Path, given: Mapping[str, str]) -> Path:
    """A cache of numba's to write to, which begins as what is compiled already: links, so that nothing outside is written."""
    cache = scratch / "numba"
    cache.mkdir(exist_ok=True)
    if "NUMBA_CACHE_DIR" in given:
        folders = {folder.name: folder for folder in Path(given["NUMBA_CACHE_DIR"]).glob("*") if folder.is_dir()}
    else:
        found = {file.parent for file in Path(__file__).parents[1].rglob("__pycache__/*.nbi")}
        folders = {_numbas_name(folder.parent): folder for folder in found}
    for name, folder in folders.items():
        (cache / name).mkdir(exist_ok=True)
        for file in folder.glob("*.nb[ic]"):
            link = cache / name / file.name
            if not link.is_symlink():
                link.symlink_to(file)
    return cache


def _numbas_name(folder: Path) -> str:
    """What numba calls a source folder in a cache that is not beside it (numba.core.caching.get_suitable_cache_subpath)."""
    return f"{folder.name}_{hashlib.sha1(str(folder).encode()).hexdigest()}"
