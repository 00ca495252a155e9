"""Ray: starting or joining a cluster, checking what it has, actors and their answers. The only module that talks to Ray.

Nothing here waits without a limit, and nothing is asked of Ray that it does not have: a request that cannot be met would wait
for ever without a word.
"""

from __future__ import annotations

import atexit
import functools
import ipaddress
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.child.process_end import EndKind
from backend.child.scratch import Scratch
from backend.errors import CannotRunError, UsageError
from backend.words import counted
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.pool import Lost
from fuzz.campaign.worker import Seen
from fuzz.own_process import ending_after

OBJECT_STORE_BYTES = 128 << 20
"""What passes through it is a few megabytes a generation; Ray's default takes a third of the memory."""

GET_SECONDS = 60.0
"""To fetch an answer that is known to be ready, from another node at worst."""

START_SECONDS = 180.0
"""For a Ray that is started here: five on an idle machine; where one of its processes dies meanwhile, it never is."""

REACH_SECONDS = 10.0
"""Until the head of a cluster accepts a connection."""

HEALTH_SECONDS = 30.0
"""For Ray's own health check, a process of its own that imports Ray."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers are held to their memory one by one, where the case that did it is known; Ray would kill by age.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default workers are 15 nicer than what starts Ray: beside whatever else computes they wait nine tenths of the time.
    "RAY_worker_niceness": "0",
}
"""Environment that Ray reads when it is imported; what the user has set stays."""

FEW_WORKERS = {"RAY_prestart_worker_first_driver": "0"}
"""The same where workers are far fewer than cores: Ray would start a process a core first, which takes two seconds."""

AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Environment that says who may talk to a cluster. Of a user's cluster it is the user's."""

ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own way to keep to 127.0.0.1, where its servers bind to what the node's address is; on Linux it is off by default."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What workers need of a cluster.

    resource: "CPU" or "GPU". sharing: workers that may share one of it. ranks: processes that run each case of a worker, each
    on one of its own as far as there are as many.
    """

    resource: str
    sharing: int = 1
    ranks: int = 1

    def most(self, total: int, free: float) -> int:
        """Workers that fit. total: whole ones of the resource; free: what of them nobody holds."""
        if self.ranks > 1:
            return int(free) // min(self.ranks, total) if total else 0
        return int(free * self.sharing + _EPSILON)

    def each(self, total: int, free: float, workers: int) -> float:
        """What one of `workers`, at least one and at most `most`, is given: a whole one while there are as many."""
        if self.ranks > 1:
            return min(self.ranks, total)
        whole = int(free + _EPSILON)
        together = -(-workers // whole) if whole else self.sharing
        return 1 / min(together, self.sharing)


_EPSILON = 1e-6
"""Ray counts parts of a GPU in floating point."""


class Cluster:
    """A Ray cluster for workers that need what `demand` says. Use as a context manager.

    address: of an existing one, None: one is started here and ended at the end. Raises CannotRunError where there is none.
    """

    def __init__(self, address: str | None, demand: Demand) -> None:
        for name, value in {**SETTINGS, **(FEW_WORKERS if demand.resource == "GPU" else {})}.items():
            os.environ.setdefault(name, value)
        self._before: dict[str, str | None] = {}
        if address is None:
            self._set(ON_LOOPBACK | only_with_a_token())
        else:
            _require_reachable(address)  # before Ray is imported, which reads for good who may talk to whom
        import ray

        self._ray: Any = ray  # its own annotations leave out what it documents (a level by name, untyped queries)
        self.demand = demand
        self.address = address
        self._each = 1.0
        self._actor: Any = None

    def __enter__(self) -> Cluster:
        local: dict[str, Any] = (
            {}
            if self.address
            else {
                "num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_temp_dir": str(_private_folder() / "s"),  # Ray opens this one to everybody
            }
        )
        try:
            with ending_after(START_SECONDS):
                self._ray.init(address=self.address or "local", log_to_driver=False, logging_level="ERROR", **local)
        except Exception as error:  # Ray raises the bare class too, where a part of it does not come up
            self._restore()
            where = f"Ray cluster at {self.address}" if self.address else "a local Ray"
            raise CannotRunError(f"{where}: cannot be reached or started ({_first_line(error)})") from error
        if self.address is None:
            self._require_loopback()
        return self

    def _require_loopback(self) -> None:
        """Whoever reaches Ray may run code: one that we start is for this machine alone."""
        at = self._ray.util.get_node_ip_address()
        if not ipaddress.ip_address(at).is_loopback:
            self.__exit__()
            raise CannotRunError(
                f"a local Ray: it listens on {at}, not on 127.0.0.1 (Ray was imported before with other settings, or "
                f"{', '.join(ON_LOOPBACK)} does not do it in this version); start a cluster of your own and give --address"
            )

    def _set(self, variables: Mapping[str, str | None]) -> None:
        self._before = {name: os.environ.get(name) for name in variables}
        _put(variables)

    def _restore(self) -> None:
        _put(self._before)

    def __exit__(self, *exception: object) -> None:
        self._ray.shutdown()
        self._restore()

    @property
    def nodes(self) -> int:
        """Nodes that are alive."""
        return sum(1 for node in self._ray.nodes() if node["Alive"])

    @property
    def resources(self) -> Mapping[str, float]:
        """All that the cluster has, by Ray's names, without those that name single nodes."""
        return {name: float(n) for name, n in self._ray.cluster_resources().items() if not name.startswith("node:")}

    @property
    def name(self) -> str:
        """The cluster's name, for people."""
        return self.address or "local"

    def free(self) -> int:
        """Workers that fit beside what runs now."""
        return int(self._free() / self._each + _EPSILON)

    def workers(self, wanted: int) -> int:
        """How many workers to start, `wanted` or as many as fit where it is 0; raises where they do not fit."""
        resource, free = self.demand.resource, self._free()
        total = int(self.resources.get(resource, 0))
        most = self.demand.most(total, free)
        has = f"Ray cluster ({self.name}, {counted(self.nodes, 'node')}) has {total} {resource}, {free:g} of them free"
        if wanted > most:
            sharing, ranks = self.demand.sharing, self.demand.ranks
            needs = (
                f"up to {counted(sharing, 'worker')} share a {resource}"
                if sharing > 1
                else f"a worker needs a {resource} of its own"
            )
            needs = f"a worker needs {min(ranks, total)} {resource}" if ranks > 1 else needs
            raise UsageError.not_allowed("workers", wanted, f"1..{most}", f"{needs}; the {has}")
        if not most:
            raise CannotRunError(f"no {resource} for a worker: the {has}")
        self._each = self.demand.each(total, free, wanted or most)
        return wanted or most

    def _free(self) -> float:
        return float(self._ray.available_resources().get(self.demand.resource, 0.0))

    def spawn(self, setup: WorkerSetup, name: str, running: str) -> Any:
        """Starts a worker; it answers `hello` when it is there."""
        from fuzz.campaign.worker import Worker

        needs = {"num_gpus": self._each, "num_cpus": 0} if self.demand.resource == "GPU" else {"num_cpus": 1}
        if self._actor is None:
            self._actor = self._ray.remote(Worker)
        # A worker that was lost is replaced by name and with a check of what is free, not by Ray, which would wait for ever
        # where its node is gone for good.
        options = {**needs, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1, "scheduling_strategy": "SPREAD"}
        return self._actor.options(**options).remote(setup, name, running)

    def listen(self, seen: Seen) -> None:
        """Nobody: a worker elsewhere says what it found when it answers, some seconds later at most."""

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Asks a worker for something; the answer is fetched by `answer` when `wait` says so."""
        return getattr(actor, method).remote(*arguments)

    def put(self, value: Any) -> Any:
        """Makes a value known to all nodes, to be passed as an argument."""
        return self._ray.put(value)

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """Those calls that have an answer, as soon as one has, or none after so many seconds."""
        ready, _ = self._ray.wait(list(calls), num_returns=1, timeout=seconds)
        if not ready:
            return []
        more, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return list(more)

    def answer(self, call: Any) -> Any:
        """The answer of a call that has one; Lost where its worker or node is gone."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(call, timeout=GET_SECONDS)
        except errors.GetTimeoutError:
            return Lost(EndKind.NODE, f"its answer could not be fetched within {GET_SECONDS:g} s")
        except errors.RayTaskError:
            raise
        except errors.ObjectLostError as error:
            return Lost(EndKind.NODE, _first_line(error))
        except errors.RayActorError as error:
            text = " ".join(str(error).split())
            return Lost(EndKind.NODE if "because its node" in text else EndKind.ACTOR, text[:400])

    def end(self, actor: Any) -> None:
        """Ends a worker, whatever it is doing."""
        self._ray.kill(actor, no_restart=True)


def _put(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@functools.cache
def _private_folder() -> Path:
    """For the token, sockets and logs of a Ray that we start, of this user alone; gone at the end of this process.

    Its path is short: those of Ray's sockets in it must stay below 108 bytes. A process that is forked off has the same one,
    because Ray keeps the first token that it has read, and leaves it where it is.
    """
    made = Scratch("ray-", os.environ.get("RAY_TMPDIR", "/tmp"))
    atexit.register(_remove, made, os.getpid())
    return made.path


def _remove(made: Scratch, owner: int) -> None:
    if os.getpid() == owner:
        made.close()


@functools.cache
def _token() -> Path:
    """File with a token of this process: Ray keeps the first one that it has read."""
    file = _private_folder() / "token"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        written.write(secrets.token_hex(32))
    return file


def only_with_a_token() -> dict[str, str | None]:
    """Environment of a cluster for this process and those that it starts alone; None: a variable that must not be set."""
    mode, token, path = AUTHENTICATION
    return {mode: "token", token: None, path: str(_token())}


def _require_reachable(address: str) -> None:
    """Complains where no Ray answers: joining would try for ten minutes or, where something else listens, for ever."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise UsageError.not_allowed("address of the Ray cluster", address, "host:port, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise CannotRunError(f"Ray cluster at {address}: cannot be reached ({error}); is its head running there?") from error
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        subprocess.run(check, timeout=HEALTH_SECONDS, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise CannotRunError(f"Ray cluster at {address}: something answers there, but no Ray of this version") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
