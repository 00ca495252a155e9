"""Behind the fence: no network, no token, no home folder, no other process, and nothing to write to but its scratch."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backend.child import fence
from backend.child.fence import Fence, FenceKind, exit_status, kind, weaker_than_promised
from backend.child.process import ROOT
from backend.errors import UsageError
from backend.real.frameworks.fetch import cache_folder, open_source

PROBE = """
import json, os, socket
answers = {}
try:
    socket.create_connection(("127.0.0.1", PORT), 2)
    answers["network"] = True
except OSError:
    answers["network"] = False
answers["variables"] = sorted(name for name in os.environ if "SECRET" in name or "TOKEN" in name or "KEY" in name)
answers["home"] = os.path.exists(os.path.join(HOME, "secret"))
try:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.connect(SOCKET)
    answers["agent"] = True
except OSError:
    answers["agent"] = False
answers["others"] = os.path.exists(f"/proc/{OUTSIDE}") and "pytest" in open(f"/proc/{OUTSIDE}/cmdline").read()
answers["wrote"] = []
for place in (HOME, NEAR, ROOT, "/etc", "/usr", "/var/tmp", "."):
    try:
        open(os.path.join(place, "written-by-a-stranger"), "w").close()
        answers["wrote"].append(place)
    except OSError:
        pass
open(os.path.join(os.environ["TMPDIR"], "mine"), "w").close()
print("ANSWERS", json.dumps(answers), flush=True)
"""

REFUSED = {"network": False, "variables": [], "home": False, "agent": False, "others": False, "wrote": []}


def needs_bubblewrap() -> None:
    if kind() is not FenceKind.BUBBLEWRAP:
        pytest.skip("bubblewrap is not installed, or the kernel or container does not let it work")


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A program that tries everything. Its home has a secret, and so has a folder beside; somebody listens on loopback."""
    home, near = tmp_path / "home", tmp_path / "near"
    for folder in (home, near):
        folder.mkdir()
    (home / "secret").write_text("secret")
    monkeypatch.setenv("AITERFUZZ_CACHE", str(cache_folder().absolute()))  # wheels that are fetched already
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GITHUB_TOKEN", "1")
    monkeypatch.setenv("MY_SECRET", "1")
    monkeypatch.setenv("VLLM_API_KEY", "1")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(near / "agent"))
        agent.listen()
        os.utime(near / "agent", (1, 1))
        places = {"HOME": str(home), "NEAR": str(near), "ROOT": str(ROOT), "SOCKET": str(near / "agent")}
        values = {"PORT": server.getsockname()[1], "OUTSIDE": os.getpid(), **places}
        yield "".join(f"{name} = {value!r}\n" for name, value in values.items()) + PROBE
    assert not list(tmp_path.rglob("written-by-a-stranger"))
    assert not (ROOT / "written-by-a-stranger").exists()


def answers(output: str) -> dict[str, object]:
    line = next((line for line in output.splitlines() if line.startswith("ANSWERS ")), None)
    assert line is not None, output
    found: dict[str, object] = json.loads(line.removeprefix("ANSWERS "))
    return found


def command_line(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzz.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_under_verify(probe: str, tmp_path: Path) -> None:
    needs_bubblewrap()
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "script.py").write_text(f"import torch\n{probe}")
    done = command_line(folder, "verify", "script.py")
    assert answers(done.stdout + done.stderr) == REFUSED
    assert "nothing was judged" in done.stdout
    assert done.returncode == 3, done.stderr


def test_a_script_sees_the_variables_that_it_is_given(probe: str, tmp_path: Path) -> None:
    needs_bubblewrap()
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "script.py").write_text(probe)
    done = command_line(folder, "verify", "--env", "MY_SECRET", "script.py")
    assert answers(done.stdout + done.stderr) == REFUSED | {"variables": ["MY_SECRET"]}


@pytest.mark.parametrize(
    "command",
    [
        ["gate", "rule.py", "--seconds", "1"],
        ["explain", "--backend", "rule.py", "--heads", "64", "--kv-lens", "1"],
        ["run", "--backend", "rule.py"],
    ],
    ids=lambda command: command[0],
)
def test_a_rule(command: list[str], probe: str, tmp_path: Path) -> None:
    needs_bubblewrap()
    folder = tmp_path / "rules"
    folder.mkdir()
    rule = "def policy(case):\n    raise SystemExit(1)\n"
    (folder / "rule.py").write_text(raising(probe) + rule)
    done = command_line(folder, *command)
    said = done.stderr[done.stderr.index("ANSWERS ") :].splitlines()[0].partition("}")[0] + "}"
    assert answers(said) == REFUSED


BASE = "sglang==0.5.13"
ASKED = ("--base", BASE, "--heads", "64", "--kv-dtype", "fp8", "--seconds", "60", "--lives", "0")


def backend_file(folder: Path, first: str = "", constructing: str = "pass") -> str:
    """A copy of sglang's file that does something more when it is imported, and when its class is constructed."""
    future, line = (
        "from __future__ import annotations\n",
        "self.num_head_padded = 16 if self.num_head < 16 else self.num_head\n",
    )
    text = open_source(BASE).target.text
    assert future in text
    assert line in text
    (folder / "mine.py").write_text(
        text.replace(future, future + first, 1).replace(line, f"{line}            {constructing}\n")
    )
    return "mine.py"


def raising(probe: str) -> str:
    return probe.replace('print("ANSWERS", ', 'raise ValueError("ANSWERS " + ').replace(", flush=True", "")


def test_a_file_under_gate(probe: str, tmp_path: Path) -> None:
    needs_bubblewrap()
    folder = tmp_path / "files"
    folder.mkdir()
    done = command_line(folder, "gate", backend_file(folder, raising(probe)), *ASKED)
    assert answers(done.stderr[done.stderr.index("ANSWERS ") :].partition("}")[0] + "}") == REFUSED
    assert (done.returncode, "clean" in done.stdout) == (3, False)


PLANTED = """
import ctypes, importlib.util, os, sys
ctypes.CDLL({library!r})
spec = importlib.util.spec_from_file_location("planted", {compiled!r})
planted = importlib.util.module_from_spec(spec)
spec.loader.exec_module(planted)
"""
LIBRARY = """
#include <stdio.h>
__attribute__((constructor)) static void planted(void) { FILE *mark = fopen("%s", "w"); if (mark) fclose(mark); }
"""
IMPORTED_BY_US = ("numpy", "torch", "psutil", "json", "sitecustomize", "usercustomize", "fuzz", "backend")


@pytest.mark.slow(guard="test_a_file_under_gate")
def test_compiled_code_that_is_planted_beside_a_file_under_gate(probe: str, tmp_path: Path) -> None:
    """What the file loads of it runs behind the fence; what has the name of something that the command needs runs nowhere."""
    needs_bubblewrap()
    compiler = shutil.which("cc") or pytest.skip("no C compiler to make a library with")
    folder, mark = tmp_path / "files", tmp_path / "near" / "mark"
    folder.mkdir()
    (folder / "planted.c").write_text(LIBRARY % mark)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "planted.so", "planted.c"], cwd=folder, check=True)
    (folder / "planted.py").write_text(raising(probe))
    py_compile.compile(str(folder / "planted.py"), str(folder / "planted.pyc"), doraise=True)
    (folder / "marks.py").write_text(f"open({str(mark)!r}, 'w').close()")
    for name in IMPORTED_BY_US:
        shutil.copy(folder / "planted.so", folder / f"{name}.so")
        py_compile.compile(str(folder / "marks.py"), str(folder / f"{name}.pyc"), doraise=True)
        py_compile.compile(str(folder / "marks.py"), importlib.util.cache_from_source(str(folder / f"{name}.py")), doraise=True)
    loads = PLANTED.format(library=str(folder / "planted.so"), compiled=str(folder / "planted.pyc"))
    start = tmp_path / "start.py"  # as the installed command: where one stands is not searched for modules
    start.write_text("import sys\nfrom fuzz.cli import main\nsys.exit(main())\n")
    done = subprocess.run(
        [sys.executable, str(start), "gate", backend_file(folder, loads), *ASKED],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answers(done.stderr[done.stderr.index("ANSWERS ") :].partition("}")[0] + "}") == REFUSED
    assert done.returncode == 3
    assert not mark.exists()


GROWS = "import time; held = [(b'x' * (512 << 20), time.sleep(0.3)) for _ in range(18)]; time.sleep(60)"
"""Nine gigabytes, half a one at a time, so that what looks four times a second sees it in time."""


@pytest.mark.slow(guard="test_memory_of_what_a_script_under_verify_starts")
def test_memory_of_what_a_file_under_gate_starts(tmp_path: Path) -> None:
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GROWS!r}], start_new_session=True)"
    done = command_line(tmp_path, "gate", backend_file(tmp_path, constructing=starts), *ASKED)
    assert (done.returncode, "clean" in done.stdout) == (3, False), done.stdout
    assert "stopped at its limit of 4096 MiB" in done.stderr


def test_memory_of_what_a_script_under_verify_starts(tmp_path: Path) -> None:
    starts = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {GROWS!r}], start_new_session=True, env={{}})\n"
    (tmp_path / "script.py").write_text(starts)
    done = command_line(tmp_path, "verify", "--memory", "1024", "script.py")
    assert done.returncode == 3, done.stdout
    assert "stopped at its limit of 1024 MiB" in done.stdout + done.stderr


@pytest.mark.slow(guard="test_daemons_behind_the_fence_end_with_it")
def test_a_daemon_of_a_file_under_gate_ends_with_it(tmp_path: Path) -> None:
    needs_bubblewrap()
    number = time.monotonic_ns() % 10**12
    starts = f"import subprocess; subprocess.Popen(['sleep', '602.{number}'], start_new_session=True, env={{}})"
    file = backend_file(tmp_path, constructing=f"{starts}; raise ValueError('no')")
    done = command_line(tmp_path, "gate", file, "--table", "--base", BASE, "--heads", "64", "--kv-dtype", "fp8")
    assert (done.returncode, "ValueError: no" in done.stdout) == (1, True), done.stderr  # its base did start
    assert not [one for one in psutil.process_iter(["cmdline"]) if f"602.{number}" in (one.info["cmdline"] or ())]


def test_daemons_behind_the_fence_end_with_it(tmp_path: Path) -> None:
    needs_bubblewrap()
    number = time.monotonic_ns() % 10**12
    text = f"import torch, subprocess\nsubprocess.Popen(['sleep', '602.{number}'], start_new_session=True, env={{}})\n"
    (tmp_path / "script.py").write_text(text)
    done = command_line(tmp_path, "verify", "script.py")
    assert done.returncode == 3, done.stderr
    assert "nothing was judged" in done.stdout
    assert not [one for one in psutil.process_iter(["cmdline"]) if f"602.{number}" in (one.info["cmdline"] or ())]


def test_without_bubblewrap_there_is_no_network_still(probe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fence._works([*fence._UNSHARE, "true"]):
        pytest.skip("the kernel gives no namespaces to this user")
    monkeypatch.setenv(fence.VARIABLE, FenceKind.NAMESPACES)
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "script.py").write_text(probe.replace("for place in", "for place in () and"))
    done = command_line(folder, "verify", "script.py")
    found = answers(done.stdout + done.stderr)
    assert (found["network"], found["variables"]) == (False, [])
    assert "reads and writes your files" in done.stderr


def test_where_there_is_nothing_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fence.VARIABLE, FenceKind.NONE)
    (tmp_path / "script.py").write_text("import torch\n")
    done = command_line(tmp_path, "verify", "script.py")
    assert done.returncode == 3
    assert "nothing was judged" in done.stdout
    assert "your network and your files" in done.stderr


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    kind.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    kind.cache_clear()


@pytest.mark.parametrize("each", FenceKind)
def test_a_signal_that_a_command_sends_itself_ends_it(each: FenceKind, asked: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first process of a namespace would be spared it."""
    probe = {FenceKind.BUBBLEWRAP: [*fence._BUBBLEWRAP, "true"], FenceKind.NAMESPACES: [*fence._UNSHARE, "true"]}.get(each)
    if probe is not None and not fence._works(probe):
        pytest.skip(f"no {each} on this machine")
    asked.setenv(fence.VARIABLE, each)
    for sent in ("SIGKILL", "SIGSEGV", "SIGABRT"):
        command = [sys.executable, "-c", f"import os, signal; os.kill(os.getpid(), signal.{sent})"]
        ended = subprocess.run(Fence(tmp_path, directory=tmp_path).command(command), check=False)
        assert exit_status(ended.returncode) == -signal.Signals[sent]
    ended = subprocess.run(Fence(tmp_path).command([sys.executable, "-c", "raise SystemExit(7)"]), check=False)
    assert exit_status(ended.returncode) == 7


def test_no_device_is_passed(asked: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever runs behind the fence runs on a simulated GPU: the driver of a real one is not for strangers."""
    asked.setenv(fence.VARIABLE, FenceKind.BUBBLEWRAP)
    words = Fence(tmp_path, directory=tmp_path).command(["true"])
    assert "--dev" in words
    assert not [word for word in words if word.startswith(("--dev-bind", "/dev/kfd", "/dev/dri", "/dev/nvidia"))]


def test_the_kinds(asked: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked.setenv(fence.VARIABLE, "wall")
    with pytest.raises(UsageError, match="allowed: bubblewrap, namespaces, none"):
        kind()
    asked.setenv(fence.VARIABLE, FenceKind.NONE)
    assert Fence(tmp_path).command(["true"]) == ["true"]
    assert weaker_than_promised()
    assert exit_status(139) == 139
    kind.cache_clear()
    asked.setenv(fence.VARIABLE, FenceKind.BUBBLEWRAP)
    assert weaker_than_promised() is None
    assert (exit_status(139), exit_status(3), exit_status(255)) == (-11, 3, 255)
