"""What is measured of a system that runs. Each measurement answers figures by name and unit.

One that is not valid, since a single request failed or an answer was wrong, raises ValueError, RuntimeError or OSError.
"""

import asyncio
import socket
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks import loads
from modelplex.sim.workloads import Workload

from . import client, processes, wrk
from .systems import LOADS_FILE, System

Figures = dict[str, float]

MIB = 2**20
CONNECTIONS = (1, 16, 64)
BODIES = {"1 KiB": 2**10, "100 KiB": 100 * 2**10, "10 MiB": 10 * MIB}
BODY_CONNECTIONS = 4
STREAMS = 5
CHUNKS = 10_000
CHUNK = b"x" * 16
SOCKET_TIMEOUT_S = 60.0
IDLE_S = 1.0
READER_BYTES_PER_S = 20_000_000
ONGOING, QUEUED, WORK_S = 4, 16, 0.01
LOADS_REQUESTS, LOADS_CLIENTS = 2_000, 8


@dataclass(frozen=True)
class Target:
    """A system that runs, and how long each measurement may take. `seed` is another one in each round."""

    system: System
    running: processes.Running
    port: int
    seconds: int
    seed: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wrk(self, connections: int, seconds: int, body: bytes = b"") -> wrk.Outcome:
        """Raises ValueError if a single request failed."""
        file = self.running.folder / "body"
        file.write_bytes(body or self.system.body)
        outcome = wrk.run(self.url, self.system.paths, connections, seconds, file if file.stat().st_size else None)
        if outcome.errors:
            raise ValueError(f"of {outcome.requests} requests of {connections} connections failed {outcome.errors}")
        return outcome

    def connect(self, path: str) -> socket.socket:
        """A connection on which a path was asked for, with nothing read yet."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=SOCKET_TIMEOUT_S)
        head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nserve_multiplexed_model_id: m0\r\n\r\n"
        connection.sendall(head.encode())
        return connection


def start(target: Target) -> Figures:
    time.sleep(IDLE_S)
    memory_bytes = sum(processes.memory_bytes("Pss").values())
    return {"first answer, s": target.running.first_answer_s, "memory, MiB": memory_bytes / MIB}


def small(target: Target) -> Figures:
    target.wrk(16, 1)  # models are loaded, connections are there
    figures: Figures = {}
    for connections in CONNECTIONS:
        before_s = processes.cpu_s()
        outcome = target.wrk(connections, target.seconds)
        used_s = processes.cpu_s() - before_s
        what = f"{connections} connection{'s' * (connections > 1)}"
        figures[f"{what}, requests/s"] = outcome.requests_per_s
        figures[f"{what}, p50, ms"] = outcome.p50_ms
        figures[f"{what}, p99, ms"] = outcome.p99_ms
        figures[f"{what}, p99.9, ms"] = outcome.p999_ms
        if connections == CONNECTIONS[-1]:
            figures["CPU of 10,000 requests, s"] = used_s / outcome.requests * 10_000
    return figures


def bodies(target: Target) -> Figures:
    figures: Figures = {}
    for name, size_bytes in BODIES.items():
        outcome = target.wrk(BODY_CONNECTIONS, max(1, target.seconds // 2), b"x" * size_bytes)
        if outcome.received_bytes < outcome.requests * size_bytes:
            raise ValueError(f"bodies of {name} came back shorter")
        figures[f"echo of {name}, requests/s"] = outcome.requests_per_s
        figures[f"echo of {name}, MB/s"] = outcome.requests_per_s * size_bytes / 1e6
    return figures


def stream(target: Target) -> Figures:
    def chunks_per_s() -> float:
        began, received = time.monotonic(), bytearray()
        with target.connect(f"/stream/{CHUNKS}/{len(CHUNK)}") as connection:
            while not received.endswith(b"\r\n" + client.LAST_CHUNK) and (part := connection.recv(2**16)):
                received += part
        elapsed_s = time.monotonic() - began
        if client.unchunked(bytes(received)) != CHUNK * CHUNKS:
            raise ValueError("a stream is not what it should be")
        return CHUNKS / elapsed_s

    return {"stream, chunks/s": statistics.median(chunks_per_s() for _ in range(STREAMS))}


def slow_reader(target: Target) -> Figures:
    """How much larger the process that grows most becomes while a client reads 1 GiB more slowly than it is made."""
    before = processes.memory_bytes("Rss")
    growth_bytes, received_bytes, looked_s = 0, 0, 0.0
    with target.connect(f"/stream/1024/{MIB}") as connection:
        began = time.monotonic()
        while (elapsed_s := time.monotonic() - began) < target.seconds:
            part = connection.recv(2**16)
            if not part:
                raise ValueError("a stream broke off")
            received_bytes += len(part)
            if elapsed_s - looked_s > 0.25:
                looked_s = elapsed_s
                now = processes.memory_bytes("Rss")
                growth_bytes = max(growth_bytes, *(now[pid] - before.get(pid, 0) for pid in now))
            time.sleep(max(0.0, received_bytes / READER_BYTES_PER_S - elapsed_s))
    return {"slow reader, growth, MiB": growth_bytes / MIB}


def calls(target: Target) -> Figures:
    request = urllib.request.Request(target.url)
    with urllib.request.urlopen(request, timeout=SOCKET_TIMEOUT_S) as response:
        return {"handle, calls/s": float(response.read())}


def overloaded(target: Target) -> Figures:
    # As many connections as are let in: each waits for its answer, so none is refused.
    peak_per_s = target.wrk(ONGOING + QUEUED, target.seconds).requests_per_s
    answers = asyncio.run(client.offer(target.port, 2 * peak_per_s, target.seconds))
    good = sum(answer.status == 200 for answer in answers)
    refused = [answer for answer in answers if answer.status == 503]
    if good + len(refused) != len(answers) or len(refused) < 2:
        raise ValueError(f"{good} were answered and {len(refused)} refused of {len(answers)}")
    if not all(answer.headers.get("retry-after", "").isdecimal() for answer in refused):
        raise ValueError("a 503 has no retry-after")
    return {
        "overload, peak, requests/s": peak_per_s,
        "overload, goodput of the peak": good / target.seconds / peak_per_s,
        "overload, p99 of a 503, ms": statistics.quantiles((a.latency_s for a in refused), n=100)[-1] * 1e3,
    }


def loaded(target: Target, models: int, zipf_s: float) -> Figures:
    trace = Workload(requests=LOADS_REQUESTS, models=models, rate_per_s=1.0, zipf_s=zipf_s, seed=target.seed).trace()
    loads.replay([target.port], trace.models.tolist(), LOADS_CLIENTS)
    return {f"{models} models, loads": (target.running.folder / LOADS_FILE).stat().st_size}


@dataclass(frozen=True, eq=False)
class Session:
    """One start of a system: which application its program is to serve, and how. Measurements may share one."""

    entry: str = "app"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """A measurement, in which session, of which systems (all unless named), with how many replicas."""

    measure: Callable[[Target], Figures]
    session: Session
    systems: tuple[str, ...] = ()
    replicas: tuple[int, ...] = (1, 2)

    def applies_to(self, system: System, replicas: int) -> bool:
        return (
            replicas in self.replicas
            and replicas in system.replicas
            and (not self.systems or system.name in self.systems)
        )


def _loads(models: int, zipf_s: float) -> Measurement:
    session = Session(environment={"BENCH_MODELS": str(loads.MODELS_EACH), "BENCH_LOAD_S": str(loads.LOAD_S)})
    return Measurement(lambda target: loaded(target, models, zipf_s), session, _MULTIPLEXING, (loads.REPLICAS,))


_MULTIPLEXING = ("modelplex", "ray", "ray-fast")
_HTTP = Session()
_SLOW_READER = Session()  # of its own, since memory that large bodies took would hide growth
_CALLS = Session(entry="calls")
_OVERLOAD = Session(
    environment={"BENCH_MAX_ONGOING": str(ONGOING), "BENCH_MAX_QUEUED": str(QUEUED), "BENCH_WORK_S": str(WORK_S)}
)

# In this order: the memory is that of a system that has done nothing yet.
MEASUREMENTS = {
    "start": Measurement(start, _HTTP),
    "small": Measurement(small, _HTTP),
    "bodies": Measurement(bodies, _HTTP, (*_MULTIPLEXING, "haproxy"), (1,)),
    "stream": Measurement(stream, _HTTP, (*_MULTIPLEXING, "haproxy"), (1,)),
    "slow-reader": Measurement(slow_reader, _SLOW_READER, ("modelplex",), (1,)),
    "calls": Measurement(calls, _CALLS, _MULTIPLEXING, (1,)),
    "overload": Measurement(overloaded, _OVERLOAD, ("modelplex",), (1,)),
    "loads-12": _loads(12, 0.0),
    "loads-40": _loads(40, 1.0),
}
