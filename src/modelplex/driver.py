"""The controller inside of a user's program: an event loop in a thread, started by the first `serve.run`."""

import asyncio
import atexit
import functools
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modelplex import config, errors
from modelplex.config import AdminOptions, HTTPOptions
from modelplex.config_file import SystemConfig
from modelplex.deployment import Application
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


class AnyDriver(Protocol):
    """What runs applications for a program: `Driver`, or `ray_driver.RayDriver`."""

    @property
    def engine(self) -> str: ...

    @property
    def address(self) -> str:
        """The URL that is served; empty if HTTP is not."""

    @property
    def log_dir(self) -> str: ...

    def deploy(
        self, application: Application, name: str, route_prefix: str | None, app_dir: str | None = None
    ) -> DeploymentHandle:
        """Run an application; answers a handle to it when it is ready. See `serve.run`.

        `app_dir` is the folder that it was imported from, which is sent along to other machines.
        """

    def deploy_config(self, settings: SystemConfig, app_dir: str) -> None:
        """Run the applications of a configuration file; returns when they are ready."""

    def delete(self, name: str, *, wait: bool = True) -> None:
        """Stop an application; without waiting for its end if that is not wanted."""

    def status(self) -> ServeStatus: ...

    def leave(self) -> None:
        """The program ends."""

    def stop_own(self) -> None:
        """End what this program has begun."""

    def stop(self) -> None:
        """End everything."""


class Driver:
    """Runs a system in a thread, and answers from any other thread.

    Args:
        engine: a name of `config.ENGINES`.
        http: where to serve HTTP; None for handles alone.
        console: whether replicas log to the console as well as to their files.
        home, admin: see `system.System`.
    """

    def __init__(
        self,
        engine: str,
        http: HTTPOptions | None,
        *,
        console: bool = True,
        home: Home | None = None,
        admin: AdminOptions | None = None,
    ) -> None:
        self.engine = engine
        # In one process there are no files to write, and the lines are Python's own logging's to show.
        log_dir = "" if engine == "inline" else str(home.folder / "logs") if home is not None else _new_log_dir()
        self._system = System(engine, http, log_dir, console=console, home=home, admin=admin, shutdown=_shut_down_soon)
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

    def deploy(
        self, application: Application, name: str, route_prefix: str | None, app_dir: str | None = None
    ) -> DeploymentHandle:
        """Run an application; answers a handle to it when it is ready. See `serve.run`."""
        spec = AppSpec.of_application(name, application, route_prefix, pickled=self.engine != "inline")
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

    def leave(self) -> None:
        """The program ends, and with it all that it serves."""
        self.stop()

    def stop_own(self) -> None:
        """All that runs is this program's own."""
        self.stop()

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


_driver: AnyDriver | None = None


def start(
    engine: str,
    http: HTTPOptions | None,
    *,
    console: bool = True,
    home: Home | None = None,
    admin: AdminOptions | None = None,
) -> AnyDriver:
    """The program's driver, started if there is none. Raises `ModelplexError` if there is one of another engine."""
    global _driver
    if engine not in config.ENGINES:
        raise errors.ModelplexError(f"There is no engine {engine!r}; there are {', '.join(config.ENGINES)}.")
    if engine == "ray" and admin is not None:
        raise errors.ModelplexError(
            "On a Ray cluster the admin interface is not open over TCP: leave admin_options out."
        )
    if _driver is None:
        if engine == "ray":
            _driver = _on_ray(http, console=console)
        else:
            _driver = Driver(engine, http, console=console, home=home, admin=admin)
        _leave_at_exit()
    if _driver.engine != engine:
        raise errors.ModelplexError(
            f"This program serves with the {_driver.engine} engine already; serve.shutdown() ends that before the "
            f"{engine} engine can begin."
        )
    return _driver


def _on_ray(http: HTTPOptions | None, *, console: bool) -> AnyDriver:
    needs_ray()
    from modelplex.ray_driver import RayDriver

    return RayDriver(http, console=console)


def needs_ray() -> None:
    """Raises `ModelplexError` if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise errors.ModelplexError("The Ray engine needs Ray: pip install 'modelplex[ray]'")


@functools.cache
def _leave_at_exit() -> None:
    """Once, however often something is started."""
    atexit.register(lambda: _finish(lambda driver: driver.leave()))


def current() -> AnyDriver | None:
    """The program's driver; None if it serves nothing."""
    return _driver


def found() -> AnyDriver | None:
    """The same; or, in a program on a Ray cluster, what serves there, whoever has begun it."""
    global _driver
    if _driver is None and system_on_ray():
        _driver = _on_ray(None, console=True)
        _leave_at_exit()
    return _driver


def connect_to_ray(address: str | None) -> None:
    """Connect this program to a Ray cluster. Raises `ModelplexError`."""
    needs_ray()
    from modelplex.ray_system import connect

    connect(address)


def system_on_ray() -> str:
    """What runs on the Ray cluster that this program is connected to; empty if it is to none, or nothing runs there."""
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        return ""
    from modelplex.ray_system import SYSTEM, controller

    return "" if controller() is None else SYSTEM


def shutdown() -> None:
    """Stop everything. Nothing happens if nothing runs."""
    _finish(lambda driver: driver.stop())


def stop_own() -> None:
    """Stop what this program has begun. Nothing happens if nothing runs."""
    _finish(lambda driver: driver.stop_own())


def _finish(how: Callable[[AnyDriver], None]) -> None:
    global _driver
    driver, _driver = _driver, None
    if driver is not None:
        how(driver)


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
