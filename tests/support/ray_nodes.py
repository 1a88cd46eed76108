"""A Ray cluster of several nodes on this machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RayNodes:
    """Three nodes with two CPUs each; tests may add and end some.

    Attributes:
        cluster: Ray's own.
        workers: the nodes besides the head.
    """

    def __init__(self, workers: int = 2, num_cpus: int = 2) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": num_cpus, "include_dashboard": False}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.workers = [self.add(num_cpus=num_cpus) for _ in range(workers)]

    def add(self, **options: Any) -> Any:
        return self.cluster.add_node(**options)

    def end(self, node: Any) -> None:
        """All processes of this node are killed."""
        self.workers.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@contextmanager
def ray_nodes(workers: int = 2, num_cpus: int = 2) -> Iterator[RayNodes]:
    """A cluster that this program is connected to."""
    import ray

    nodes = RayNodes(workers, num_cpus)
    try:
        ray.init(
            address=nodes.cluster.address, namespace="of_the_test", log_to_driver=False, logging_level=logging.ERROR
        )
        yield nodes
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()
