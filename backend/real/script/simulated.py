"""One Python process of a script on the simulated GPU: from its start to its end, however it ends, told to whoever keeps it.

Each process that finds VARIABLE in its environment, the script's first one as well as what it starts or forks, has a file of
its own in the folder that is named there. A line is added when it starts, when the simulation begins, whenever something is
found, and at its end; the last line counts. So nothing is lost by os._exit or a signal, and a process whose last line is not
its end is known as one of which nothing certain can be said.

The simulation itself (backend.real.script.run, which imports torch) begins with the first import of torch, triton or aiter: a
helper process that has no use for them starts as fast as ever.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import shlex
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backend.real.script.run import Simulation

VARIABLE = "AITERFUZZ_SIMULATION"
"""JSON of backend.real.script.messages.Options; inherited by whatever a script starts."""

SIMULATED = ("torch", "triton", "aiter")
"""Packages whose import begins the simulation."""

EXIT_CANNOT_RUN, EXIT_ABORTED = 3, 134
"""As in backend.real.script.messages, which is not imported before it is needed."""

_IGNORES_ENVIRONMENT = re.compile(r"python[\d.]*(?:\s+-\w+)*?\s+-\w*[IES]")
"""A Python that reads no PYTHONPATH, or imports no sitecustomize: it cannot be reached."""

_HANDED_DOWN = (VARIABLE, "PYTHONPATH", "PATH", "TRITON_INTERPRET", "HOME", "TMPDIR", "NUMBA_CACHE_DIR")


class SimulatedProcess:
    """This process. simulation: None until a package of SIMULATED is imported."""

    def __init__(self, options: str) -> None:
        self.options = options
        self.environment = {name: os.environ[name] for name in _HANDED_DOWN if name in os.environ}
        self.simulation: Simulation | None = None
        self.could_not_run: str | None = None
        self._simulates = False
        self._open()

    def _open(self) -> None:
        folder = json.loads(self.options)["reports"]
        path = os.path.join(folder, f"{time.monotonic_ns():020d}-{os.getpid()}.jsonl")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.tell()

    def tell(self, ended: bool = False) -> None:
        """Adds what is known now to the process's file."""
        report = None
        if self.simulation is not None:
            from backend.codec import to_plain

            report = to_plain(self.simulation.report(self.could_not_run))
        record = {
            "pid": os.getpid(),
            "command": list(sys.orig_argv),
            "simulates": self._simulates,
            "ended": ended,
            "could_not_run": self.could_not_run,
            "report": report,
        }
        os.write(self._file, json.dumps(record).encode() + b"\n")

    def notice(self, why: str) -> None:
        """Something could not be simulated. Whatever the script makes of it: this run says nothing of hardware."""
        if self.could_not_run is None:
            self.could_not_run = why
            self.tell()

    def simulate(self) -> None:
        """Puts the simulation in place of torch's GPU, and of aiter and triton."""
        from backend.errors import AiterfuzzError

        self._simulates = True
        self.tell()
        from backend.codec import from_plain
        from backend.real.python.poison import Undecidable
        from backend.real.script.messages import Options
        from backend.real.script.run import Simulation

        Undecidable.listener = self.notice
        try:
            simulation = Simulation(from_plain(Options, json.loads(self.options)), self.tell, self.notice)
            self.simulation = simulation
            simulation.begin()
        except AiterfuzzError as error:
            self.notice(str(error))
            raise ImportError(f"cannot be simulated: {error}") from error
        except BaseException as error:
            self.notice(f"the simulation does not start: {type(error).__name__}: {error}")
            raise
        self.tell()

    def end(self) -> int | None:
        """The process ends now. The exit code that takes the place of its own, None for that one."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self.tell(ended=True)
        if self.simulation is not None and self.simulation.aborted:
            return EXIT_ABORTED
        return EXIT_CANNOT_RUN if self.could_not_run is not None else None

    def forked(self) -> None:
        """In the child of a fork: it tells of itself alone from here on."""
        os.close(self._file)
        if self.simulation is not None:
            self.simulation.forked()
        self._open()


def begin() -> None:
    """Has everything ready; called once, before any other code of the process."""
    process = SimulatedProcess(os.environ[VARIABLE])
    sys.meta_path.insert(0, _Starter(process))
    os.register_at_fork(after_in_child=process.forked)
    _tell_of_the_end(process)
    _reach_threads(process)
    _reach_children(process)


def _tell_of_the_end(process: SimulatedProcess) -> None:
    leave = os._exit

    def exit_now(status: int) -> None:
        instead = process.end()
        leave(status if instead is None else instead)

    def at_exit() -> None:
        instead = process.end()
        if instead is not None:
            leave(instead)
        if process.simulation is not None:
            process.simulation.close()

    os._exit = exit_now  # type: ignore[assignment]
    atexit.register(at_exit)  # the first one that is registered is called last
    shown = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
        _notice_ours(process, error)
        if process.simulation is not None:
            process.simulation.uncaught = str(error)
        if process.could_not_run is not None and process.could_not_run == str(error):
            print(f"aiterfuzz: cannot be simulated: {error}", file=sys.stderr)
        else:
            shown(kind, error, trace)

    sys.excepthook = show
    of_thread = threading.excepthook

    def show_of_thread(arguments: Any) -> None:
        if arguments.exc_value is not None:
            _notice_ours(process, arguments.exc_value)
        of_thread(arguments)

    threading.excepthook = show_of_thread

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.exec":
            _check_environment(process, [arguments[0]], arguments[2])
            process.tell(ended=True)  # what it becomes tells of itself
        elif event == "os.posix_spawn":
            _check_environment(process, [arguments[0]], arguments[2])
        elif event == "os.system":
            _check_flags(process, os.fsdecode(arguments[0]))

    sys.addaudithook(audit)


def _notice_ours(process: SimulatedProcess, error: BaseException) -> None:
    """An exception that nobody caught and that is no one's but ours: the run says nothing of the script."""
    if process.simulation is not None:
        from backend.real.theirs import error_of_ours

        ours = error_of_ours(error) if isinstance(error, Exception) else None
        if ours is not None:
            process.notice(ours)


def _reach_threads(process: SimulatedProcess) -> None:
    """torch's modes are those of a thread; a GPU is there for all of them."""
    inner = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def bootstrap(thread: threading.Thread) -> None:
        with process.simulation.thread() if process.simulation is not None else contextlib.nullcontext():
            inner(thread)

    threading.Thread._bootstrap_inner = bootstrap  # type: ignore[attr-defined]
    import _thread

    start = _thread.start_new_thread

    def start_new_thread(function: Callable[..., Any], arguments: Any, keywords: Any = None) -> int:
        def run() -> None:
            with process.simulation.thread() if process.simulation is not None else contextlib.nullcontext():
                function(*arguments, **(keywords or {}))

        return start(run, ())

    _thread.start_new_thread = start_new_thread


def _reach_children(process: SimulatedProcess) -> None:
    """What a script starts with an environment of its own gets the simulation all the same."""
    import subprocess

    started = subprocess.Popen.__init__

    def start(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        given = options.get("env")
        if given is not None:
            first = process.environment.get("PYTHONPATH", "")
            theirs = given.get("PYTHONPATH", "")
            paths = theirs if first in theirs else os.pathsep.join(filter(None, (first, theirs)))
            options["env"] = {"PATH": process.environment["PATH"], **given, **_without_paths(process), "PYTHONPATH": paths}
        words = args if isinstance(args, (str, bytes)) else shlex.join(map(os.fsdecode, args))
        _check_flags(process, os.fsdecode(words))
        started(self, args, *rest, **options)

    subprocess.Popen.__init__ = start  # type: ignore[method-assign]


def _without_paths(process: SimulatedProcess) -> dict[str, str]:
    return {name: value for name, value in process.environment.items() if name not in ("PATH", "PYTHONPATH")}


def _check_flags(process: SimulatedProcess, command: str) -> None:
    if _IGNORES_ENVIRONMENT.search(command):
        process.notice(f"{command.strip()[:200]!r} starts a Python that the simulation cannot reach (-I, -E or -S)")


def _check_environment(process: SimulatedProcess, command: Sequence[Any], environment: Any) -> None:
    names = {os.fsdecode(name) for name in environment or {VARIABLE: ""}}
    if "python" in os.path.basename(os.fsdecode(command[0])) and VARIABLE not in names:
        process.notice(f"{os.fsdecode(command[0])!r} is started with an environment that leaves the simulation out")


class _Starter(importlib.abc.MetaPathFinder):
    """Begins the simulation at the first import of a package that it stands in for."""

    def __init__(self, process: SimulatedProcess) -> None:
        self._process = process

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if name not in SIMULATED:
            return None
        sys.meta_path.remove(self)
        self._process.simulate()
        module = importlib.import_module(name)
        spec = importlib.machinery.ModuleSpec(name, _Loaded(module))
        module.__spec__ = spec  # Python takes the specification of a module that has come in meanwhile, and would load it again
        return spec


class _Loaded(importlib.abc.Loader):
    """Gives the module that is there already."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        del spec
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec
