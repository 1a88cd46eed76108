"""Clients that mean harm, on every door of a running system: the others are served, and nothing breaks or grows."""

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, is_running, serving, wait_until
from started import Started, home_in

from benchmarks.hostile.attacks import ATTACKS, ask_for_invented
from benchmarks.hostile.malformed import CASES
from benchmarks.hostile.processes import attacked, open_files, resident_bytes
from benchmarks.hostile.warm import measure

pytestmark = [pytest.mark.system, pytest.mark.doors]

WARM = ["real-1", "real-2"]
MIB = 2**20


def warm(port: int, per_s: float = 50, seconds: float = 3.0) -> float:
    """Warm traffic, all of which is answered; the part of it that came in time."""
    found = asyncio.run(measure(port, WARM, per_s, seconds))
    assert found.failed == 0
    return found.per_s / per_s


def told(port: int, data: bytes) -> bytes:
    """All that the server says to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        heard = b""
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                heard += part
        return heard


@contextlib.contextmanager
def unharmed(served: Served) -> Iterator[None]:
    """The same processes run in the end, have not grown much, and have nothing to complain of."""
    parent = served.process.pid
    before = resident_bytes(parent)
    files = {pid: open_files(pid) for pid in served.children()}
    yield
    after = resident_bytes(parent)
    assert set(served.children()) == set(files)
    grown = {pid: (after[pid] - before[pid]) / MIB for pid in files}
    assert max(grown.values()) < 64, grown
    wait_until(lambda: all(open_files(pid) <= files[pid] + 20 for pid in files), "connections are closed")
    assert "Traceback" not in served.log


def test_requests_that_are_none_are_refused_and_end_their_connections() -> None:
    with serving("invented:known") as served:
        warm(served.port, seconds=0.5)
        with unharmed(served):
            for name, (data, status) in CASES.items():
                heard = told(served.port, data)
                assert heard.startswith(b"HTTP/1.1 %d " % status), (name, heard[:80])
                assert heard.count(b"HTTP/1.1 ") == 1, (name, heard)
                assert b"connection: close\r\n" in heard.lower(), name
            first, _ = CASES["two lengths"]
            behind = told(
                served.port, b"GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n" + first + b"GET / HTTP/1.1\r\n\r\n"
            )
            assert (behind.count(b"HTTP/1.1 200 "), behind.count(b"HTTP/1.1 400 ")) == (1, 1)
        assert warm(served.port, seconds=0.5) > 0.5


@pytest.mark.parametrize("attack", ["slow-heads", "slow-bodies", "slow-chunks"])
def test_a_thousand_slow_clients_keep_nobody_out(attack: str) -> None:
    with serving("invented:known") as served:
        warm(served.port, seconds=0.5)
        with unharmed(served), attacked(attack, served.port):
            [proxy] = [pid for pid in served.children() if "proxy" in Path(f"/proc/{pid}/cmdline").read_text()] or [0]
            wait_until(lambda: max(open_files(pid) for pid in served.children()) > 1000, "all are connected")
            assert proxy == 0 or open_files(proxy) > 1000
            assert warm(served.port) > 0.5


def test_when_there_are_too_many_connections_the_slow_ones_go(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(
        "http_options: {max_connections: 100, body_timeout_s: 5}\n"
        "applications: [{name: default, import_path: 'invented:known'}]\n"
    )
    with serving(str(config)) as served:
        warm(served.port, seconds=0.5)
        with unharmed(served), attacked("slow-heads", served.port):
            wait_until(lambda: max(open_files(pid) for pid in served.children()) > 100, "it is full")
            asked = answered = 0
            until = time.monotonic() + 5
            while time.monotonic() < until:
                asked += 1
                with contextlib.suppress(OSError):  # refused, or among those that went
                    answered += served.call("real-1").status == 200
                time.sleep(0.05)
            assert answered >= asked / 2, (answered, asked)
            assert max(open_files(pid) for pid in served.children()) < 300


@pytest.mark.parametrize("attack", ["malformed", "noise"])
def test_warm_traffic_goes_on_beside_it(attack: str) -> None:
    with serving("invented:known") as served:
        warm(served.port, seconds=0.5)
        with unharmed(served), attacked(attack, served.port):
            assert warm(served.port) > 0.5


@pytest.mark.long
def test_of_100_000_invented_models_none_is_loaded() -> None:
    with serving("invented:known") as served:
        warm(served.port, seconds=0.5)
        loads = served.events
        assert set(loads) == {f"load {model_id}" for model_id in WARM}
        assert sum(asyncio.run(ask_for_invented(served.port, 2_000)).values()) == 2_000  # what is made once is made now
        with unharmed(served):
            statuses = asyncio.run(ask_for_invented(served.port, 100_000))
        assert set(statuses) == {400, 404}
        assert sum(statuses.values()) == 100_000
        assert served.events == loads
        assert [served.call(model_id).start for model_id in WARM] == ["warm", "warm"]


def test_models_that_only_their_loader_knows_not_to_exist_evict_nothing_in_use() -> None:
    with serving("invented:unknown") as served:
        warm(served.port, seconds=0.5)
        loads = served.events
        with unharmed(served):
            asking = threading.Thread(target=lambda: asyncio.run(ask_for_invented(served.port, 5_000)))
            asking.start()
            while asking.is_alive():
                assert warm(served.port, seconds=0.5) > 0.3
            asking.join()
        assert {event for event in served.events if event not in loads} == set()


# Every socket


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Started]:
    with home_in(tmp_path) as started:
        source = Path(__file__).parent / "apps" / "invented.py"
        started.write("invented.py", source.read_text())
        config = started.config({"name": "default", "import_path": "invented:known"})
        ports = ("--port", "0", "--grpc-port", "0", "--admin-port", "0")
        started.command("start", *ports, "--admin-token-file", "token", EVENTS=str(tmp_path / "events"))
        started.command("deploy", config, EVENTS=str(tmp_path / "events"))
        yield started


def shout(address: str | tuple[str, int], chance: random.Random) -> None:
    """Random bytes, some of which begin like what is expected there."""
    openings = (b"", b"GET / HTTP/1.1\r\n", b"\0", b"\0\0\0\x10\0\0\0\0", b"\xff" * 8, b"\0\0\0\x02\0\0\0\0\x92\x01")
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as stranger:
        stranger.settimeout(5)
        with contextlib.suppress(OSError):
            stranger.connect(address)
            stranger.sendall(chance.choice(openings) + chance.randbytes(chance.randrange(1, 4096)))
            if chance.random() < 0.3:
                stranger.shutdown(socket.SHUT_WR)
            stranger.settimeout(0.02)
            stranger.recv(4096)


def test_random_bytes_on_every_door_of_a_system_harm_nobody(system: Started) -> None:
    port = system.port
    warm(port, seconds=0.5)
    processes = system.processes()
    doors = [str(path) for path in system.home.sockets.iterdir() if path.is_socket()]
    assert len(doors) >= 4, doors  # admin, control, two replicas
    ports = [int(system.status[f"{name}address"].rpartition(":")[2]) for name in ("", "grpc_", "admin_")]
    chance = random.Random(time.time_ns())

    enough = threading.Event()

    def shout_at_all() -> None:
        rounds = 0
        while rounds < 100 or not enough.is_set():
            for door in doors:
                shout(door, chance)
            for each in ports:
                shout(("127.0.0.1", each), chance)
            rounds += 1

    shouting = threading.Thread(target=shout_at_all)
    shouting.start()
    try:
        assert warm(port, seconds=2) > 0.3
    finally:
        enough.set()
        shouting.join()
    assert warm(port, seconds=0.5) > 0.3
    assert sorted(system.processes()) == sorted(processes)
    assert all(map(is_running, processes))
    assert system.status["applications"]["default"]["status"] == "RUNNING"
    logs = [system.home.log, *(path for path in system.home.folder.rglob("*.log"))]
    assert not [path for path in logs if "Traceback" in path.read_text()]


def test_every_attack_says_what_it_does() -> None:
    assert all(attack.__doc__ for attack in ATTACKS.values())
