"""Behind the fence: no network, no token, no home folder, no other process, and nothing to write to but its scratch."""

from __future__ import annotations

import json
import os
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
    (folder / "script.py").write_text(f"import torch\n{probe}")
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
    says = probe.replace('print("ANSWERS", ', 'raise ValueError("ANSWERS " + ').replace(", flush=True", "")
    (folder / "rule.py").write_text(says + rule)
    done = command_line(folder, *command)
    said = done.stderr[done.stderr.index("ANSWERS ") :].splitlines()[0].partition("}")[0] + "}"
    assert answers(said) == REFUSED


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
    (folder / "script.py").write_text(f"import torch\n{probe.replace('for place in', 'for place in () and')}")
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
