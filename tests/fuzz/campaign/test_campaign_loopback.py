"""A Ray that we start is for this machine and this user alone, and its death is no find."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from disturbed import descendants, start

from tests.tiers import one_of_each

ROOT = Path(__file__).parents[3]
SPACE = ["--shapes", "tp2", "--no-verify", "--workers", "1", "--chunk-cases", "50", "--seconds", "60"]


def listening(pids: set[int]) -> dict[str, set[str]]:
    """Addresses that processes listen on, by "tcp" and "tcp6", read from the kernel."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found: dict[str, set[str]] = {"tcp": set(), "tcp6": set()}
    for family, addresses in found.items():
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                data = bytes.fromhex(words[1].partition(":")[0])
                turned = b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4))
                addresses.add(socket.inet_ntop(socket.AF_INET if family == "tcp" else socket.AF_INET6, turned))
    return found


def running(process: subprocess.Popen[bytes], folder: Path) -> None:
    ends = time.monotonic() + 120
    while "fuzz.campaign.child" not in " ".join(descendants(process.pid).values()):
        assert process.poll() is None, folder.with_suffix(".log").read_text()
        assert time.monotonic() < ends
        time.sleep(0.2)


def joins(port: int, environment: dict[str, str], home: Path) -> bool:
    """Whether a program with this environment gets something out of a Ray on this machine."""
    program = f"import ray; ray.init(address='127.0.0.1:{port}', logging_level='ERROR'); print('in', len(ray.nodes()))"
    given = {"RAY_AUTH_MODE": "disabled"} | environment | {"HOME": str(home)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=given, capture_output=True, text=True, check=False, timeout=60
        )
    except subprocess.TimeoutExpired:
        return False
    return "in 1" in done.stdout


@pytest.mark.parametrize("asked", one_of_each([False, True]), ids=["told to", "asked"])
def test_only_loopback_is_listened_on_and_only_with_a_token(asked: bool, tmp_path: Path) -> None:
    """asked: programs with and without the token try to come in, of which the one without waits for a while."""
    folder = tmp_path / "c"
    process = start([*SPACE, "--out", str(folder)], folder.with_suffix(".log"))
    try:
        running(process, folder)
        cases = [pid for pid, command in descendants(process.pid).items() if "fuzz.campaign.child" in command]
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in cases} == {os.nice(0)}, "Ray's workers are 15 nicer if let"
        found = listening({process.pid, *descendants(process.pid)})
        assert found["tcp"] | found["tcp6"], "Ray listens somewhere"
        assert found["tcp"] <= {"127.0.0.1"}
        assert found["tcp6"] <= {"::1", "::ffff:127.0.0.1"}
        server = next(one for one in psutil.Process(process.pid).children(recursive=True) if one.name() == "gcs_server")
        port = next(at.laddr.port for at in server.net_connections("tcp") if at.status == "LISTEN")
        settings = server.environ()
        assert settings["RAY_AUTH_MODE"] == "token"
        if asked:
            without = {name: value for name, value in settings.items() if "AUTH" not in name}
            with ThreadPoolExecutor(2) as both:
                told = list(both.map(lambda environment: joins(port, environment, tmp_path), (settings, without)))
            assert told == [True, False], "whoever has the token comes in, and nobody else"
        private = {Path(word).parent for word in server.cmdline() if word.startswith("/tmp/aiterfuzz-ray-")} or {
            Path(one.split("=")[1]) for one in server.cmdline() if "=/tmp/aiterfuzz-ray-" in one
        }
        assert private, server.cmdline()
        top = {Path("/", *one.parts[1:3]) for one in private}
        assert {one.stat().st_mode & 0o777 for one in top} == {0o700}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.slow(guard="test_a_command_that_is_ended_from_below_could_not_run")
def test_the_death_of_ray_is_no_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its C++ ends the process that it serves with status 1, which would say that faults were found."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")  # for which it waits for its server to come back: 60
    folder = tmp_path / "c"
    process = start([*SPACE[:-1], "600", "--backend", "sglang-27188", "--out", str(folder)], folder.with_suffix(".log"))
    try:
        running(process, folder)
        for one in psutil.Process(process.pid).children(recursive=True):
            if one.name() == "gcs_server":
                one.kill()
        assert process.wait(200) == 3
    finally:
        process.kill()
    assert "Traceback" not in folder.with_suffix(".log").read_text()


NEVER_UP = """
    import fuzz.campaign.cluster as cluster
    cluster.START_SECONDS = 0.2
    ray = cluster.Cluster(None, cluster.Demand("CPU"))
    ray._ray.init = lambda **_: ctypes.PyDLL(None).sleep(600)  # no Python runs meanwhile
    with ray:
        return 0"""


@pytest.mark.parametrize(
    "end", ["sys.exit(1)", "os._exit(1)", "os.kill(os.getpid(), 9)", "ctypes.CDLL(None).exit(1)", NEVER_UP.strip()]
)
def test_a_command_that_is_ended_from_below_could_not_run(end: str) -> None:
    program = f"""
import ctypes, os, sys
from backend.errors import CannotRunError
from fuzz.own_process import in_own_process
def run():
    {end}
try:
    print(in_own_process(run))
except CannotRunError as error:
    print("said:", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.startswith("said: the process of the search ")


def test_a_command_says_its_own_exit_code() -> None:
    program = "from fuzz.own_process import in_own_process\nprint(in_own_process(lambda: 1), in_own_process(lambda: 0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == "1 0\n"
