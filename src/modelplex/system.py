"""All that makes up a system, on one event loop: the engine, the controller, and doors to them for other programs."""

import asyncio
import contextlib
import dataclasses
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelplex import config, context, errors
from modelplex.config import ADMIN, CONTROL, AdminOptions, HTTPOptions
from modelplex.config_file import SystemConfig
from modelplex.core.proxy_places import DISABLED
from modelplex.home import Home
from modelplex.runtime.admin import Admin
from modelplex.runtime.admin_doors import AdminDoors
from modelplex.runtime.control_server import ControlServer
from modelplex.runtime.controller import Controller
from modelplex.runtime.desired_state import StateFile
from modelplex.runtime.directory import Directory
from modelplex.runtime.engine import Engine
from modelplex.runtime.listening_sockets import grpc_address, hold_grpc, listen, url
from modelplex.status import ServeStatus


class System:
    """Started by `start`, ended by `stop`.

    Args:
        engine: a name of `config.ENGINES`.
        http: where to serve HTTP; None, or location "Disabled", for handles alone. One that goes on serves as it did
            before.
        log_dir: where replicas write logs; empty for none.
        console: whether they log to the console as well.
        home: where it keeps what it is; it goes on from what an earlier controller has left there, and its processes
            outlive it. Unless given, they end with it.
        admin: where its admin interface is open over TCP; nowhere unless given.
        shutdown: called when somebody has asked for the end of everything.

    Attributes:
        address: the URL that is served; empty if HTTP is not.
        http: as it was given, or saved; with the port of gRPC once that is known.
    """

    def __init__(
        self,
        engine: str,
        http: HTTPOptions | None,
        log_dir: str,
        *,
        console: bool = True,
        home: Home | None = None,
        admin: AdminOptions | None = None,
        shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        self.http = http
        self.log_dir = log_dir
        self.address = ""
        self._home = home
        self._shutdown = shutdown
        self._folder = ""
        self._succeeds = False
        if engine != "inline":
            self._folder = str(home.sockets) if home is not None else tempfile.mkdtemp(prefix="modelplex-")
        register_at = self._path(CONTROL) if home is not None else ""
        make_engine: Callable[..., Engine] = config.load(config.ENGINES[engine])
        self.engine = make_engine(log_dir=log_dir, folder=self._folder, console=console, register_at=register_at)
        self.listener: socket.socket | None = None
        self._grpc_holder: socket.socket | None = None
        if home is not None:
            home.lock_for_good()
        self._control: ControlServer | None = None
        self._admin_options = admin
        self._admin_doors: AdminDoors | None = None
        if admin is not None and not self._folder:
            raise errors.ModelplexError("Everything in one process has no admin interface: admin_options must be None.")

    def _path(self, name: str) -> str:
        return str(Path(self._folder) / name)

    async def start(self) -> None:
        """Raises `ModelplexError`; then nothing is left behind that was not there before."""
        try:
            await self._start()
        except BaseException:
            await self._close_doors()
            self._let_go()
            if self._grpc_holder is not None:
                self._grpc_holder.close()
            if self._home is None:
                await self.engine.close()
            elif self._succeeds:
                self._home.expect_processes()
            else:
                with contextlib.suppress(OSError):
                    self._home.sockets.rmdir()
            raise

    async def _start(self) -> None:
        saved = None if self._home is None else StateFile.read(self._home.state)
        # They may be there although what they were for has been lost: they are told to end when they register.
        succeeds = self._succeeds = self._home is not None and self._home.may_have_processes
        if self._folder:
            self._admin_doors = AdminDoors(self._path(ADMIN), self._admin_options)
        self.directory = Directory(self.engine.connect)
        if self._folder:
            self._control = ControlServer(self._path(CONTROL))
        if saved is not None:
            self.http = saved.http
        if self.http is not None and self.http.location != DISABLED:
            self.listener = await self._listener(self.http, succeeds=succeeds)
            self.address = url(self.http, self.listener)
            self.http, self._grpc_holder = hold_grpc(self.http, succeeds=succeeds)
        kept = None
        if self._home is not None and self.http is not None:
            kept = StateFile(self._home.state, self.http)
            if saved is None:
                _save_nothing(kept)
        self.controller = Controller(self.engine, self.directory, kept)
        context.set_caller(self.directory, self._path(CONTROL) if self._folder else "")
        wait_s = config.REGISTER_S if succeeds else 0.0
        if self.http is not None and self.listener is not None:
            self.controller.start_proxies(self.http, self.listener, recover_s=wait_s)
        if saved is not None:
            self.controller.recover(saved.apps, wait_s)
        if self._control is not None:
            self._control.serve(self.controller)
            await self._open_admin()

    async def _listener(self, http: HTTPOptions, *, succeeds: bool) -> socket.socket:
        """That of an earlier controller's proxies, if there are any: clients wait in its backlog."""
        if succeeds and self._control is not None:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(self._control.listener), config.REGISTER_S)
        return listen(http)

    async def _open_admin(self) -> None:
        options: dict[str, Any] = {}
        if self.http is not None:
            options = SystemConfig(http_options=self.http, logging_config=None, applications=()).as_dict()
        http = options.get("http_options", {})
        assert self._admin_doors is not None
        await self._admin_doors.open(
            Admin(self.controller, self.status, http, self._forget_and_shut_down, self.directory)
        )

    def _forget_and_shut_down(self) -> None:
        self.controller.forget()
        if self._home is not None:
            self._home.state.unlink(missing_ok=True)
        self._shutdown()

    @property
    def admin_address(self) -> str:
        """The URL of the admin interface; empty if it is not open over TCP."""
        return "" if self._admin_doors is None else self._admin_doors.address

    def status(self) -> ServeStatus:
        found = self.controller.status()
        urls = {name: url or self.address for name, url in found.proxy_addresses.items()}
        address = self.address or found.address
        grpc = grpc_address(self.http) if self._grpc_holder is not None else ""
        return dataclasses.replace(
            found,
            address=address,
            grpc_address=grpc,
            log_dir=self.log_dir,
            proxy_addresses=urls,
            admin_address=self.admin_address,
        )

    async def stop(self) -> None:
        """End every process. What is wanted stays on disk, if it is kept there."""
        if self.listener is not None:
            self.listener.close()  # the proxies close theirs: whoever comes now is refused at once
        if self._grpc_holder is not None:
            self._grpc_holder.close()
        await self._close_doors()
        await self.controller.stop()
        self._let_go()
        await self.directory.close()
        context.set_caller(None)

    async def kill(self) -> None:
        """End every process at once."""
        await self._close_doors()
        await self.controller.kill()
        self._let_go()

    def _let_go(self) -> None:
        """Of processes that were started by others."""
        if self._control is not None:
            self._control.close()

    async def _close_doors(self) -> None:
        if self._admin_doors is not None:
            await self._admin_doors.close()
        if self._control is not None:
            await self._control.stop()


def _save_nothing(kept: StateFile) -> None:
    """So that the next controller knows how HTTP is served. Raises `ModelplexError`."""
    try:
        kept.save([])
    except OSError as error:
        raise errors.ModelplexError(f"What is to run cannot be kept: {error}.") from error
