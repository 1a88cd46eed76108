"""A system of `modelplex start` as a user would start it, one for each test, of which nothing is left in the end."""

import collections
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from served import is_running, processes_naming, wait_until

from modelplex.admin_client import AdminClient
from modelplex.home import Home, answers

COMMAND_TIMEOUT_S = 90.0

Completed = subprocess.CompletedProcess[str]


class Started:
    """The system whose home is below a folder of the test's, which is also where its code is.

    Attributes:
        admin: asks it without a command.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home.of(folder / "home")
        self.admin = AdminClient(self.home.sockets)

    def command(self, *words: str, code: int = 0, **environment: str) -> Completed:
        """Run `modelplex <words>` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "modelplex.cli", *words],
            cwd=self.folder,
            env={**os.environ, "MODELPLEX_HOME": str(self.home.folder), **environment},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == code, (done, self.home.log.read_text() if self.home.log.exists() else "")
        return done

    def start(self, *words: str, code: int = 0, **environment: str) -> Completed:
        return self.command("start", "--port", "0", *words, code=code, **environment)

    def write(self, name: str, text: str) -> str:
        """A file in the folder; answers its name."""
        (self.folder / name).write_text(text)
        return name

    def config(self, *applications: dict[str, Any], **more: Any) -> str:
        """A configuration file in the folder; answers its name."""
        return self.write("serve.yaml", yaml.safe_dump({**more, "applications": list(applications)}))

    @property
    def status(self) -> dict[str, Any]:
        return self.admin.status()

    @property
    def port(self) -> int:
        return int(self.status["address"].rpartition(":")[2])

    def get(self, path: str = "/", timeout_s: float = 30.0) -> tuple[int, bytes]:
        """Over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def controllers(self) -> list[int]:
        return processes_naming(f"start --blocking --home {self.home.folder}")

    def proxies(self) -> list[int]:
        return processes_naming(str(self.home.sockets / "proxy-"))

    def replicas(self) -> list[int]:
        return sorted(set(processes_naming(str(self.home.sockets))) - set(self.proxies()))

    def processes(self) -> list[int]:
        return [*self.controllers(), *processes_naming(str(self.home.sockets))]

    def kill_controller(self) -> None:
        [controller] = self.controllers()
        os.kill(controller, signal.SIGKILL)
        wait_until(lambda: not is_running(controller), "the controller has gone")


@contextlib.contextmanager
def home_in(folder: Path) -> Iterator[Started]:
    """A home; what runs in it at the end is shut down, and nothing may be left then."""
    started = Started(folder)
    try:
        yield started
        if answers(started.home.sockets) or started.home.may_have_processes:
            started.command("shutdown", "--yes")
        wait_until(lambda: not started.processes(), "every process has ended")
        assert not started.home.sockets.exists()
    finally:
        for pid in started.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(started.home.sockets, ignore_errors=True)


class Clients:
    """Threads that call a port without a pause, each over a connection that it keeps.

    What HTTP clients may do they do: a request is sent again when a connection that was kept is closed before any byte
    of the answer, and never else.

    Args:
        port: where.
        models: that they ask for in turn.
        count: of the threads.
    """

    def __init__(self, port: int, models: list[str], count: int) -> None:
        self._port = port
        self._models = models
        self._stop = threading.Event()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.bodies: collections.Counter[bytes] = collections.Counter()
        self.cold: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.streams: list[bytes] = []
        self.retries = 0
        self._threads = [threading.Thread(target=self._calls, args=(number,)) for number in range(count)]
        self._threads.append(threading.Thread(target=self._reads_streams))

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def take_cold(self) -> int:
        """How many answers have been cold since the last time."""
        cold, self.cold = self.cold, collections.Counter()
        return cold.total()

    def go_on(self, requests: int = 400) -> None:
        """Return when so many more have been answered."""
        until = self.statuses.total() + requests
        wait_until(lambda: self.statuses.total() >= until or bool(self.failures), "requests are answered")

    def _calls(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        kept = False
        while not self._stop.is_set():
            number += 1
            model = self._models[number % len(self._models)]
            try:
                connection.request("GET", "/", headers={"serve_multiplexed_model_id": model})
                response = connection.getresponse()
                body = response.read()
            except OSError as error:
                connection.close()
                was_kept, kept = kept, False
                if was_kept and isinstance(error, ConnectionError):  # http.client.RemoteDisconnected is one
                    number -= 1
                    self.retries += 1
                    continue
                self.failures.append(f"{time.time():.3f} {error!r}")
                continue
            kept = response.getheader("connection") != "close"
            self.statuses[response.status] += 1
            self.bodies[body] += 1
            if response.status != 200:
                self.failures.append(f"{time.time():.3f} {response.status} {body!r}")
            elif response.getheader("x-modelplex-model") == "cold":
                self.cold[model] += 1
        connection.close()

    def _reads_streams(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            try:
                connection.request("GET", "/slow")
                self.streams.append(connection.getresponse().read())
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{time.time():.3f} a stream: {error!r}")
            finally:
                connection.close()


def as_json(done: Completed) -> Any:
    return json.loads(done.stdout)
