"""A Ray cluster on this machine, until its input ends: nodes.py NODES CPUS_OF_EACH.

It prints its address and its nodes, the head first, as JSON; then it answers the lines `add` and `lose NODE`. The head
has the resource `head`, the others have `other`.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

from ray.cluster_utils import Cluster

PLENTY = 1000


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what else is printed is for the log
    count, cpus = map(int, sys.argv[1:])
    head = {"num_cpus": cpus, "include_dashboard": False, "resources": {"head": PLENTY}}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    nodes = {cluster.head_node.node_id: cluster.head_node}

    def add() -> None:
        node = cluster.add_node(num_cpus=cpus, resources={"other": PLENTY})
        nodes[node.node_id] = node

    for _ in range(count - 1):
        add()
    say(answers, cluster.address, nodes)
    for line in sys.stdin:
        match line.split():
            case ["add"]:
                add()
            case ["lose", name]:
                node = nodes.pop(name)
                kill(node)
                cluster.remove_node(node, allow_graceful=False)
        say(answers, cluster.address, nodes)
    cluster.shutdown()


def kill(node: Any) -> None:
    """All at once, as when a machine fails. Ray would leave its workers to find out, a second later."""
    pid = node.all_processes["raylet"][0].process.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in (pid, *map(int, workers)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def say(answers: IO[str], address: str, nodes: dict[str, Any]) -> None:
    print(json.dumps({"address": address, "nodes": list(nodes)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
