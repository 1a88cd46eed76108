"""The cluster, and what is served on it or beside it."""

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.dataplane.processes import free_ports
from benchmarks.dataplane.systems import BENCH, fastest

from .processes import Program

CPUS = 2  # of each node, as Ray counts
FIRST_ANSWER_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 30.0
_POLL_S = 0.05


class Cluster:
    """Three nodes, each of which has its own processes of Ray's; they share this machine."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._hear()

    def _hear(self) -> None:
        said = self._program.answer()
        self.address: str = said["address"]
        self.nodes: list[str] = said["nodes"]

    @property
    def head(self) -> str:
        return self.nodes[0]

    def have(self, nodes: int) -> None:
        """Add some until there are so many."""
        while len(self.nodes) < nodes:
            self._program.tell("add")
            self._hear()

    def lose(self, node: str) -> None:
        """Kill all its processes."""
        self._program.tell(f"lose {node}")
        self._hear()


@contextlib.contextmanager
def cluster(nodes: int, folder: Path) -> Iterator[Cluster]:
    with Program("nodes.py", (str(nodes), str(CPUS)), {}, folder, BENCH / "cluster-nodes.log") as program:
        yield Cluster(program)


@dataclass(frozen=True)
class Deployed:
    """How the application is deployed, the same for all systems.

    Attributes:
        replicas: how many.
        models: the most of each replica.
        load_s: how long a load takes.
        spread: on a cluster, whether there is at most one on each node.
        nodes: which nodes may have them: "head", "other" or empty for all.
    """

    replicas: int
    models: int
    load_s: float = 0.0
    spread: bool = False
    nodes: str = ""

    def options(self, *, on_cluster: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"num_replicas": self.replicas, "max_ongoing_requests": 100}
        if on_cluster:
            found["ray_actor_options"] = {"num_cpus": 1, "resources": {self.nodes: 1} if self.nodes else {}}
            if self.spread:
                found["max_replicas_per_node"] = 1
        return found


@dataclass(frozen=True)
class Served:
    """What runs, until it is ended.

    Attributes:
        urls: of its proxies, the head's first.
        loads_file: has one byte for each load.
    """

    urls: list[str]
    loads_file: Path

    @property
    def ports(self) -> list[int]:
        return [int(url.rpartition(":")[2]) for url in self.urls]

    @property
    def loads(self) -> int:
        return self.loads_file.stat().st_size


@dataclass(frozen=True)
class System:
    """A system in one of its modes.

    Attributes:
        name: as it is chosen on the command line.
        title: as it stands in the report.
        engine: "local", or "ray" for Modelplex on the cluster, or "rayserve".
        proxies: 1 for the head's alone, or as many as there are nodes.
        fast: Ray Serve's fastest mode.
        nodes: which have its replicas; see `Deployed`.
        console: whether Ray brings the console of its processes to the program that has deployed it, as it does unless
            told otherwise (`log_to_driver`).
    """

    name: str
    title: str
    engine: str
    proxies: int = 1
    fast: bool = False
    nodes: str = ""
    console: bool = True

    @contextlib.contextmanager
    def serve(self, cluster: Cluster, deployed: Deployed, folder: Path) -> Iterator[Served]:
        """Deploy the application; when each proxy has answered for the model m0, it is yours. Raises BenchmarkError."""
        on_cluster = self.engine != "local"
        loads_file = folder / "loads"
        loads_file.write_bytes(b"")
        environment = {
            "BENCH_SERVE": "ray.serve" if self.engine == "rayserve" else "modelplex.serve",
            "BENCH_ADDRESS": cluster.address if on_cluster else "",
            "BENCH_OPTIONS": json.dumps(deployed.options(on_cluster=on_cluster)),
            "BENCH_MODELS": str(deployed.models),
            "BENCH_LOAD_S": str(deployed.load_s),
            "BENCH_LOADS_FILE": str(loads_file),
            "BENCH_CONSOLE": "1" if self.console else "",
            **(fastest(folder) if self.fast else {}),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # its end would take half a minute
        }
        arguments = (self.engine, str(free_ports(1)[0]), str(self.proxies))
        with Program("serving.py", arguments, environment, folder, BENCH / f"cluster-{self.name}.log") as program:
            served = Served(program.answer()["urls"], loads_file)
            for url in served.urls:
                if not _answers_soon(url):
                    raise program.error(f"{url} does not answer with 200")
            yield served


def ask(url: str, model: str) -> str:
    """Answers the body. Raises OSError, an `HTTPError` if the status is not 200 among them."""
    request = urllib.request.Request(url, headers={"serve_multiplexed_model_id": model})
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:
        text: str = response.read().decode()
        return text


def _answers_soon(url: str) -> bool:
    until = time.monotonic() + FIRST_ANSWER_TIMEOUT_S
    while time.monotonic() < until:
        with contextlib.suppress(urllib.error.URLError, OSError):
            return ask(url, "m0") == "m0"
        time.sleep(_POLL_S)
    return False
