"""A fault is the run's, whichever process of a script it is in and however that ends; what is out of reach is exit 3."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backend.case import Arch, Case
from backend.child.tree import Limits
from backend.path import Path as CasePath
from backend.real.script.messages import Options
from reprod.script import script_text
from reprod.verify import Verification, verify
from reprod.write import SCRIPT

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")

HEAD = """
import multiprocessing, os, runpy, subprocess, sys, threading, time
REPRO = {repro!r}
PYTHON = {python!r}
RUN = [PYTHON, REPRO]

def main(*_):
    sys.argv = [REPRO]
    runpy.run_path(REPRO, run_name="__main__")

def quiet(*_):
    try:
        main()
    except BaseException:
        pass

if __name__ == "__main__":
"""

FAULTY = {
    "plain": "main()",
    "swallowed": "quiet()",
    "its exit code lost": "quiet()\nos._exit(0)",
    "fork": "if os.fork() == 0:\n    quiet()\n    os._exit(0)\nos.wait()",
    "fork after torch": "import torch\nif os.fork() == 0:\n    quiet()\n    os._exit(0)\nos.wait()",
    "fork that ends as Python does": "if os.fork() == 0:\n    quiet()\n    sys.exit(0)\nos.wait()",
    "daemon": "ended, held = os.pipe()\nif os.fork() == 0:\n    os.setsid()\n    if os.fork():\n        os._exit(0)\n"
    "    quiet()\n    os._exit(0)\nos.wait()\nos.close(held)\nos.read(ended, 1)",
    "multiprocessing fork": "p = multiprocessing.get_context('fork').Process(target=main)\np.start()\np.join()",
    "multiprocessing spawn": "p = multiprocessing.get_context('spawn').Process(target=main)\np.start()\np.join()",
    "multiprocessing forkserver": "p = multiprocessing.get_context('forkserver').Process(target=main)\np.start()\np.join()",
    "pool": "with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
    "    pool.map(quiet, [0])\n    pool.close()\n    pool.join()",
    "torch spawn": "import torch.multiprocessing as mp\nmp.spawn(quiet, nprocs=1)",
    "executor": "from concurrent.futures import ProcessPoolExecutor\n"
    "with ProcessPoolExecutor(1) as some:\n    some.submit(quiet).result()",
    "thread": "t = threading.Thread(target=main)\nt.start()\nt.join()",
    "thread after torch": "import torch\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "thread of another kind": "import torch, _thread, time\nover = threading.Event()\ndef run():\n    try:\n        main()\n"
    "    finally:\n        over.set()\n_thread.start_new_thread(run, ())\nover.wait()\n"
    "while _thread._count():\n    time.sleep(0.01)  # Python's own end, with torch on the stack of a thread, aborts",
    "thread executor": "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor(1) as some:\n    some.submit(quiet).result()",
    "shell": "os.system(' '.join(RUN))",
    "shell by name": "os.system(f'python3 {REPRO}')",
    "unbuffered": "subprocess.run([PYTHON, '-u', *RUN[1:]])",
    "module": "subprocess.run([PYTHON, '-m', 'runpy', *RUN[1:]])\nimport torch\n"
    "subprocess.run([PYTHON, '-m', os.path.basename(REPRO)[:-3], *RUN[2:]], cwd=os.path.dirname(REPRO))",
    "no environment": "subprocess.run(RUN, env={})",
    "shell of subprocess": "subprocess.run(' '.join(RUN), shell=True)",
    "posix_spawn": "os.waitpid(os.posix_spawn(PYTHON, RUN, os.environ), 0)",
    "exec": "os.execv(PYTHON, RUN)",
    "killed afterwards": "if os.fork() == 0:\n    quiet()\n    os.kill(os.getpid(), 9)\nos.wait()",
    "torchrun": "subprocess.run(['torchrun', '--nproc-per-node', '1', REPRO])",
}

OUT_OF_REACH = {
    "isolated": "subprocess.run([PYTHON, '-I', *RUN[1:]])",
    "no site": "subprocess.run([PYTHON, '-u', '-S', *RUN[1:]])",
    "isolated in a shell": "os.system(f'{PYTHON} -I {REPRO}')",
    "shell without an environment": "os.system(f'env -i {PYTHON} -c \"import time; time.sleep(3)\"')",
    "spawned without an environment": "os.waitpid(os.posix_spawn(PYTHON, RUN, {}), 0)",
    "exec without an environment": "os.execve(PYTHON, RUN, {})",
    "killed before its end": "import torch\nif os.fork() == 0:\n    os.kill(os.getpid(), 9)\nos.wait()",
    "no model, swallowed": "import aiter\ntry:\n    aiter.rms_norm(1, 2, 3)\nexcept BaseException:\n    pass",
    "no model, in a child": "import aiter\nif os.fork() == 0:\n    aiter.rms_norm(1, 2, 3)\nos.wait()",
    "no model, in multiprocessing": "import aiter\np = multiprocessing.get_context('fork').Process("
    "target=aiter.rms_norm, args=(1, 2, 3))\np.start()\np.join()",
    "no model, in a thread": "import aiter\nt = threading.Thread(target=aiter.rms_norm, args=(1, 2, 3))\nt.start()\nt.join()",
    "nothing of a GPU": "print('all is well')",
}


@pytest.fixture(scope="module")
def repro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The founding fault's script."""
    file = tmp_path_factory.mktemp("founding") / SCRIPT
    file.write_text(script_text(CasePath().run(FOUNDING), None), encoding="utf-8")
    return file


def run(folder: Path, repro: Path, body: str) -> Verification:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    script = folder / "script.py"
    script.write_text(HEAD.format(repro=str(repro), python=sys.executable) + lines, encoding="utf-8")
    options = Options(Arch.GFX950, release="2026-06")
    return verify(script, (), options, Limits(seconds=200.0, memory=8 << 30), captured=True)


AS_ANOTHER = {
    "plain": "fork after torch",
    "its exit code lost": "fork after torch",
    "fork": "fork after torch",
    "module": "no environment",
    "multiprocessing forkserver": "shell",
    "pool": "shell",
    "torch spawn": "shell",
    "multiprocessing fork": "fork after torch",
    "executor": "fork after torch",
    "fork that ends as Python does": "fork after torch",
    "swallowed": "fork after torch",
    "thread executor": "thread of another kind",
    "thread after torch": "thread of another kind",
    "shell by name": "shell",
    "shell of subprocess": "shell",
    "unbuffered": "no environment",
    "torchrun": "no environment",
    "multiprocessing spawn": "shell",
    "posix_spawn": "shell",
    "exec": "shell",
    "daemon": "fork after torch",
    "thread": "thread of another kind",
    "killed afterwards": "killed before its end",
    "no model, swallowed": "no model, in a child",
    "isolated in a shell": "isolated",
    "exec without an environment": "isolated",
    "spawned without an environment": "isolated",
    "shell without an environment": "isolated",
    "no site": "isolated",
    "no model, in multiprocessing": "no model, in a child",
    "no model, in a thread": "no model, in a child",
}
"""Ways that come down to another one of the same kind, which is always run: these are for slow runs."""


def ways(each: dict[str, str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in AS_ANOTHER else name for name in each]


def test_each_kind_is_run() -> None:
    assert set(AS_ANOTHER.values()) <= (FAULTY | OUT_OF_REACH).keys() - AS_ANOTHER.keys()
    assert AS_ANOTHER.keys() <= (FAULTY | OUT_OF_REACH).keys()


@pytest.mark.parametrize("name", ways(FAULTY))
def test_a_fault_is_the_run_s_in_whatever_process_it_is(tmp_path: Path, repro: Path, name: str) -> None:
    done = run(tmp_path, repro, FAULTY[name])
    found = {(seen.finding.stage.partition(" ")[0], seen.finding.tensor) for seen in done.findings}
    assert {("planner", "reduce_indptr"), ("planner", "reduce_final_map")} <= found, done.output
    assert done.code == (3 if name == "killed afterwards" else 1), done.could_not_run


@pytest.mark.parametrize("name", ways(OUT_OF_REACH))
def test_what_is_out_of_reach_could_not_run(tmp_path: Path, repro: Path, name: str) -> None:
    done = run(tmp_path, repro, OUT_OF_REACH[name])
    assert done.code == 3, done.output
    assert done.could_not_run


@pytest.mark.slow(guard="test_a_fault_is_the_run_s_in_whatever_process_it_is")
def test_helpers_that_use_no_gpu_are_as_they_were(tmp_path: Path, repro: Path) -> None:
    """Neither slowed down by a simulation nor missed where they are ended."""
    sleeper = "p = subprocess.Popen([PYTHON, '-c', 'import time; time.sleep(60)'])"
    body = f"subprocess.run([PYTHON, '-c', 'print(1)'])\n{sleeper}\nquiet()\np.kill()"
    done = run(tmp_path, repro, body)
    assert done.code == 1
    assert len(done.reports) == 1
    assert done.processes == 3
