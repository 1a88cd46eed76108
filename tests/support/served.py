"""A program of `modelplex run` as a user would start it, and clients that call it."""

import contextlib
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

APPS = Path(__file__).parent.parent / "system" / "apps"
EXAMPLES = Path(__file__).parents[2] / "examples"
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def replica(self) -> str:
        return self.headers["x-modelplex-replica"]

    @property
    def start(self) -> str:
        return self.headers["x-modelplex-model"]


class Client:
    """Calls one served program over one connection, opened again when it breaks."""

    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def call(self, model_id: str | None = None, path: str = "/", body: bytes | None = None, **headers: str) -> Reply:
        if model_id is not None:
            headers["serve_multiplexed_model_id"] = model_id
        named = {
            name.replace("_", "-") if name != "serve_multiplexed_model_id" else name: v for name, v in headers.items()
        }
        try:
            self._connection.request("GET" if body is None else "POST", path, body, named)
            response = self._connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except OSError:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()


class Served:
    """A running program. `events` is a file to which the test's applications append lines."""

    def __init__(self, process: "subprocess.Popen[str]", first_line: str, events: Path, log: Path) -> None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", first_line)
        assert found, f"it did not start: {first_line!r}\n{log.read_text()}"
        self.process = process
        self.first_line = first_line
        self.port = int(found[1])
        self._events = events
        self._log = log

    def client(self) -> Client:
        return Client(self.port)

    def call(self, model_id: str | None = None, path: str = "/", body: bytes | None = None, **more: str) -> Reply:
        with contextlib.closing(self.client()) as client:
            return client.call(model_id, path, body, **more)

    @property
    def events(self) -> list[str]:
        return self._events.read_text().splitlines() if self._events.exists() else []

    @property
    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[int]:
        """The processes of this program that run now, itself left out."""
        return children_of(self.process.pid)

    def sockets_folder(self) -> Path:
        """Where this program's Unix sockets are."""
        return next(self._events.parent.glob("modelplex-*/*.sock")).parent

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it as a user would, and answer its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=60)


def children_of(pid: int) -> list[int]:
    return [child for child, parent, _ in _processes() if parent == pid]


def processes_naming(text: str) -> list[int]:
    """The processes whose command line has this text."""
    return [pid for pid, _, command in _processes() if text in command]


def _processes() -> Iterator[tuple[int, int, str]]:
    """All that run: process, parent, command line."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, parent, command = line.split(maxsplit=2)
        yield int(pid), int(parent), command


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(
    import_path: str, app_dir: Path = APPS, *, proxies: int = 1, arguments: Iterable[str] = (), **environment: str
) -> Iterator[Served]:
    """Run `modelplex run <import_path>` until the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "modelplex.cli", "run", import_path, "--app-dir", str(app_dir), "--port", "0"]
        command += ["--proxies", str(proxies), *arguments]
        environment = {**os.environ, "EVENTS": str(folder / "events"), "TMPDIR": name, **environment}
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
            line = process.stdout.readline() if readable else ""
            yield Served(process, line, folder / "events", folder / "log")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextlib.contextmanager
def example_client(import_path: str) -> Iterator[httpx.Client]:
    """An HTTP client of one of the examples, which runs until the end of the block."""
    with (
        serving(import_path, EXAMPLES) as served,
        httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30.0, trust_env=False) as client,
    ):
        yield client


def run_script(folder: Path, text: str, *, code: int = 0, **environment: str) -> str:
    """Run a program to its end, without anything of the test's on its path, and answer what it printed."""
    script = folder / "program.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        check=False,
        env={**os.environ, "TMPDIR": str(folder), **environment},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert not list(folder.glob("modelplex-*/*.sock")), "a socket was left behind"
    assert not processes_naming(str(folder)), "a process was left behind"
    return done.stdout


def free_port() -> int:
    """One that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def call_from_many(port: int, model_ids: Iterable[str], clients: int) -> list[Reply]:
    """All calls, each once, from so many clients at a time. An exception of any client is raised."""
    todo = iter(list(model_ids))
    lock = threading.Lock()
    replies: list[Reply] = []
    failures: list[Exception] = []

    def work() -> None:
        with contextlib.closing(Client(port)) as client:
            while not failures:
                with lock:
                    model_id = next(todo, None)
                if model_id is None:
                    return
                try:
                    reply = client.call(model_id)
                except Exception as error:  # noqa: BLE001 - raised again below, in the test's own thread
                    failures.append(error)
                    return
                with lock:
                    replies.append(reply)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return replies
