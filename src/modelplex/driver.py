"""The controller inside of a user's program: an event loop in a thread, started by the first `serve.run`."""

import asyncio
import atexit
import functools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from modelplex import config, errors
from modelplex.config import HTTPOptions
from modelplex.config_file import SystemConfig
from modelplex.deployment import Application, flatten
from modelplex.handle import DeploymentHandle
from modelplex.home import Home
from modelplex.observe import logs
from modelplex.runtime import config_deployer
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.engine import Engine
from modelplex.status import ServeStatus
from modelplex.system import System

T = TypeVar("T")

# Runs whose logs are kept.
LOG_DIRS_KEPT = 20

# Tasks that were left on the event loop and cancelled have so long to end.
LEFT_TASKS_S = 1.0


class Driver:
    """Runs a system in a thread, and answers from any other thread.

    Args:
        engine: a name of `config.ENGINES`.
        http: where to serve HTTP; None for handles alone.
        console: whether replicas log to the console as well as to their files.
        home: see `system.System`.
    """

    def __init__(
        self, engine: str, http: HTTPOptions | None, *, console: bool = True, home: Home | None = None
    ) -> None:
        self.engine = engine
        # In one process there are no files to write, and the lines are Python's own logging's to show.
        log_dir = "" if engine == "inline" else str(home.folder / "logs") if home is not None else _new_log_dir()
        self._system = System(engine, http, log_dir, console=console, home=home, shutdown=_shut_down_soon)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="modelplex-controller", daemon=True)
        self._thread.start()
        self._handler: logs.QueueHandler | None = None
        if log_dir:
            self._handler = logs.start("controller", f"controller#{os.getpid()}", logger="modelplex")
        try:
            self._do(self._system.start())
        except BaseException:
            self._end()
            raise

    @property
    def address(self) -> str:
        """The URL that is served; empty if HTTP is not."""
        return self._system.address

    @property
    def log_dir(self) -> str:
        return self._system.log_dir

    @property
    def processes(self) -> Engine:
        """What starts them."""
        return self._system.engine

    def deploy(self, application: Application, name: str, route_prefix: str | None) -> DeploymentHandle:
        """Run an application; answers a handle to it when it is ready. See `serve.run`."""
        if not name:
            raise errors.ModelplexError("The name of an application cannot be empty.")
        config.check_route_prefix(route_prefix)
        spec = AppSpec.of(name, flatten(application, name), route_prefix, pickled=self.engine != "inline")
        self._do(self._system.controller.deploy(spec))
        return DeploymentHandle(name, spec.ingress)

    def deploy_config(self, settings: SystemConfig, app_dir: str) -> None:
        """Run the applications of a configuration file; returns when they are ready."""
        self._do(config_deployer.deploy(self._system.controller, settings.as_dict(), app_dir))

    def delete(self, name: str, *, wait: bool = True) -> None:
        """Stop an application; without waiting for its end if that is not wanted."""
        controller = self._system.controller
        if wait:
            self._do(controller.delete(name))
        else:
            self._loop.call_soon_threadsafe(lambda: controller.own(controller.delete(name)))

    def status(self) -> ServeStatus:
        async def status() -> ServeStatus:
            return self._system.status()

        return self._do(status())

    def stop(self) -> None:
        """End every process, and the thread."""
        try:
            self._do(self._system.stop())
        except KeyboardInterrupt:
            self._do(self._system.kill())  # a second Ctrl-C: nobody wants to wait for what runs
            raise
        self._do(_end_tasks())
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._handler is not None:
            self._handler.close()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop; a KeyboardInterrupt while waiting cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


_driver: Driver | None = None


def start(engine: str, http: HTTPOptions | None, *, console: bool = True, home: Home | None = None) -> Driver:
    """The program's driver, started if there is none."""
    global _driver
    if _driver is None:
        _driver = Driver(engine, http, console=console, home=home)
        _shut_down_at_exit()
    if _driver.engine != engine:
        raise errors.ModelplexError(
            f"This program serves with the {_driver.engine} engine already; serve.shutdown() ends that before the "
            f"{engine} engine can begin."
        )
    return _driver


@functools.cache
def _shut_down_at_exit() -> None:
    """Once, however often something is started."""
    atexit.register(shutdown)


def current() -> Driver | None:
    return _driver


def shutdown() -> None:
    """Stop everything. Nothing happens if nothing runs."""
    global _driver
    driver, _driver = _driver, None
    if driver is not None:
        driver.stop()


_waits = threading.Event()  # the main thread waits for a signal


def _shut_down_soon() -> None:
    """Somebody has asked for the end from outside; this thread is the controller's, which cannot end itself."""
    if _waits.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        threading.Thread(target=shutdown, name="modelplex-shutdown").start()


def wait_for_signal() -> None:
    """Block the main thread until Ctrl-C or SIGTERM. A second such signal finds the system's own handlers."""
    reader, writer = os.pipe()
    _waits.set()

    def asked(number: int, frame: object) -> None:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.write(writer, b"!")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked)
    os.read(reader, 1)
    _waits.clear()
    os.close(reader)
    os.close(writer)


async def _end_tasks() -> None:
    """Cancel what is left on the event loop: in one process, tasks that user code has begun and never ended."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LEFT_TASKS_S)


def _new_log_dir() -> str:
    """A folder for this run's logs, beside those of the last runs."""
    folder = Path(tempfile.gettempdir()) / f"modelplex-logs-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        return tempfile.mkdtemp(prefix="modelplex-logs-")  # somebody else took the name
    for old in sorted(folder.iterdir())[:-LOG_DIRS_KEPT]:
        if not _runs(old.name.rpartition("-")[2]):
            shutil.rmtree(old, ignore_errors=True)
    return str(folder / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}")


def _runs(pid: str) -> bool:
    """Whether a process of this id runs, of ours or of another user's."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
