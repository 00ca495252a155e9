"""A user's Ray, in a process of its own.

    python ray_nodes.py CPUS [CPUS ...]

A node each. Prints `address HOST:PORT`, kills its last node at a line `remove`, ends when its input does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ray_nodes(*cpus: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """(address, what kills the last node). It has the token of the tests' environment."""
    process = subprocess.Popen(
        [sys.executable, __file__, *map(str, cpus)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = next(line.split()[1] for line in process.stdout if line.startswith("address "))

        def remove() -> None:
            process.stdin.write("remove\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

        yield address, remove
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()


def main() -> None:
    from ray.cluster_utils import Cluster

    first, *more = map(int, sys.argv[1:])
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": first, "include_dashboard": False})
    added = [nodes.add_node(num_cpus=each) for each in more]
    print(f"address {nodes.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "remove":
            nodes.remove_node(added.pop(), allow_graceful=False)
    nodes.shutdown()


if __name__ == "__main__":
    main()
