"""The supervisor of child processes: nothing lost, deaths named, what came before a death found. The child here is a script."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

import pytest

from backend.child.messages import Task
from backend.child.process_end import EndKind
from backend.child.supervisor import RANK_VARIABLE, Ranks, Supervisor
from backend.child.tree import Limits
from backend.errors import CannotRunError

CHILD = """
    import os, sys, time
    from backend.child.process_end import failure_of
    from backend.child.serve import serve

    class Worker:
        poisoned = False

        def facts(self):
            print("a library that prints")
            return {"hardware": False, "device": "script"}

        def run(self, payload, reporter):
            do = payload["do"]
            reporter.ranges([("q", 0x1000, 16)])
            if do == "wait":
                reporter.meet()
                return {"rank": os.environ["AITERFUZZ_RANK"], "launched_at": time.monotonic()}
            if do == "die early" and os.environ["AITERFUZZ_RANK"] == "1":
                os._exit(7)
            if do == "poison":
                Worker.poisoned = True
            if do == "abort" or (do == "if poisoned" and Worker.poisoned):
                said = "Memory access fault by GPU node-1 (Agent handle: 0x1) on address 0x2000. Reason: Unknown."
                print(said, file=sys.stderr, flush=True)
                os.abort()
            if do == "raise fault":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if do == "raise":
                raise ValueError("no such thing")
            if do == "sleep":
                time.sleep(60)
            if do == "once" and not os.path.exists(payload["mark"]):
                open(payload["mark"], "w").close()
                os.abort()
            return {"did": do, "size": len(payload.get("bulk", ""))}

        def failure(self, error):
            return failure_of(str(error))

    serve(Worker)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("child") / "child.py"
    path.write_text(textwrap.dedent(CHILD))
    return [sys.executable, str(path)]


def tasks(*does: str) -> list[Task]:
    return [Task(number, {"do": do}) for number, do in enumerate(does)]


def test_every_task_comes_out_once_in_order_whatever_happens(command: list[str]) -> None:
    does = ("a", "raise", "abort", "b", "raise fault", "c", "abort", "d")
    with Supervisor(command) as supervisor:
        ended = list(supervisor.run(tasks(*does)))
        assert supervisor.facts["device"] == "script"
    assert [one.task for one in ended] == list(range(len(does)))
    assert [one.death for one in ended] == [
        None,
        EndKind.ERROR,
        EndKind.MEMORY_FAULT,
        None,
        EndKind.MEMORY_FAULT,
        None,
        EndKind.MEMORY_FAULT,
        None,
    ]
    assert [one.result["did"] for one in ended if one.result] == ["a", "b", "c", "d"]
    fault = ended[2].fault
    assert fault is not None
    assert (fault.address, ended[2].again, ended[2].ranges[0].name) == (0x2000, True, "q")
    assert "no such thing" in ended[1].message
    assert ended[4].message == "CUDA error: an illegal memory access was encountered"


def test_large_tasks_do_not_block_on_a_full_pipe(command: list[str]) -> None:
    bulky = [Task(number, {"do": "a", "bulk": "x" * (1 << 20)}) for number in range(6)]
    with Supervisor(command) as supervisor:
        assert [one.result and one.result["size"] for one in supervisor.run(bulky)] == [1 << 20] * 6


def test_a_task_that_dies_only_after_another_names_that_one(command: list[str]) -> None:
    with Supervisor(command) as supervisor:
        ended = list(supervisor.run(tasks("a", "b", "poison", "c", "d", "e", "if poisoned", "f")))
    assert [one.death for one in ended] == [None] * 6 + [EndKind.MEMORY_FAULT, None]
    assert (ended[6].again, ended[6].after) == (False, 2)


def test_a_death_that_never_comes_again_is_reported_beside_what_comes_of_the_task_alone(
    command: list[str], tmp_path: Path
) -> None:
    mark = str(tmp_path / "mark")
    with Supervisor(command) as supervisor:
        ended = list(supervisor.run([Task(0, {"do": "a"}), Task(1, {"do": "once", "mark": mark})]))
    assert ended[1].result == {"did": "once", "size": 0}
    once = ended[1].once
    assert once is not None
    assert (once.death, once.again, once.after) == (EndKind.SIGNAL, False, None)


def test_a_hang_is_killed_in_time(command: list[str]) -> None:
    began = time.monotonic()
    with Supervisor(command, limits=Limits(seconds=1.0)) as supervisor:
        ended = list(supervisor.run(tasks("sleep", "a")))
    assert [one.death for one in ended] == [EndKind.HANG, None]
    assert ended[0].again
    assert time.monotonic() - began < 30


def test_a_child_that_does_not_come_up_is_an_error_with_its_words() -> None:
    with pytest.raises(CannotRunError, match="RuntimeError: no GPU here"):
        list(Supervisor([sys.executable, "-c", "raise RuntimeError('no GPU here')"]).run(tasks("a")))
    with pytest.raises(CannotRunError, match="no hello within"):
        list(Supervisor([sys.executable, "-c", "import time; time.sleep(60)"], limits=Limits(start=1.0)).run(tasks("a")))


def test_ranks_meet_before_the_launch_and_outlive_one_of_them(command: list[str]) -> None:
    ranks = Ranks(command, 3)
    try:
        together = ranks.run(Task(0, {"do": "wait"}))
        assert [one.result and one.result["rank"] for one in together] == ["0", "1", "2"]
        launched = [one.result["launched_at"] for one in together if one.result]
        assert max(launched) - min(launched) < 0.5
        early = ranks.run(Task(1, {"do": "die early"}))
        assert [one.death for one in early] == [None, EndKind.EXIT, None]
        assert all(one.result for one in ranks.run(Task(2, {"do": "wait"})))
    finally:
        ranks.close()
    assert RANK_VARIABLE == "AITERFUZZ_RANK"  # the script above reads it
