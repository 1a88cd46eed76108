"""Records who asks for which model when, from systems that run: a watcher on a link to each of their replicas."""

import asyncio
import contextlib
import functools
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from modelplex import errors
from modelplex.runtime.link import Connect, Link, connect_unix
from modelplex.sim.log import LogWriter
from modelplex.wire import messages
from modelplex.wire.messages import Message, Records, Watching

# How often new replicas are looked for. What one answers before it is found is not recorded.
LOOK_S = 0.25

# A replica whose user code blocks its event loop answers late; one that takes longer is tried again.
ANSWER_TIMEOUT_S = 5.0

# What replicas may take, when the recording ends, to tell what they have not told yet.
REST_TIMEOUT_S = 2.0

STANDARD_OUTPUT = Path("-")

_say = functools.partial(print, file=sys.stderr, flush=True)


def record(out: Path, app_name: str = "", deployment: str = "", duration_s: float | None = None) -> None:
    """Record into a file until Ctrl-C, SIGTERM, or the end of the time. What the file held before is gone.

    Args:
        out: JSON lines if it ends in `.jsonl`, else CSV (see `sim.log`); `-` is standard output.
        app_name: only this application, unless empty.
        deployment: only deployments of this name, unless empty.
        duration_s: None for any time.

    Raises:
        ModelplexError: nothing runs that could be recorded, or the file cannot be written.
    """
    asyncio.run(_record(out, app_name, deployment, duration_s))


async def _record(out: Path, app_name: str, deployment: str, duration_s: float | None) -> None:
    recorder = Recorder(connect_unix, sockets, app_name, deployment, say=_say)
    _stop_on_signal(recorder)
    try:
        await recorder.start()
        with _opened(out) as file:
            await recorder.run(LogWriter(file, as_json=out.suffix == ".jsonl"), duration_s)
    except OSError as error:
        raise errors.ModelplexError(f"{out} cannot be written: {error.strerror}.") from error
    finally:
        await recorder.close()
    _say(f"{recorder.rows_written} requests are recorded in {out}; {recorder.rows_lost} were lost.")


def _stop_on_signal(recorder: "Recorder") -> None:
    """A second signal finds the system's own handlers, even while the file takes nothing."""
    loop = asyncio.get_running_loop()

    def asked(number: int, frame: object) -> None:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        loop.call_soon_threadsafe(recorder.stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked)


def _opened(out: Path) -> TextIO:
    if out == STANDARD_OUTPUT:
        return open(sys.stdout.fileno(), "w", encoding="utf-8", newline="", closefd=False)
    return out.open("w", encoding="utf-8", newline="")


def sockets() -> list[str]:
    """The addresses at which replicas of this user listen. Some may be of systems that are dead."""
    found: list[str] = []
    for folder in Path(tempfile.gettempdir()).glob("modelplex-*"):
        with contextlib.suppress(OSError):  # a folder goes with its system
            if folder.stat().st_uid == os.getuid():
                found += map(str, folder.glob("*.sock"))
    return found


@dataclass(slots=True)
class _Replica:
    """The far end of one link. `name` is empty as long as it is not known to be one that is recorded."""

    address: str
    answered: asyncio.Future[None]
    name: str = ""


class Recorder:
    """Watches replicas, those that come later as well, and writes what they tell.

    Args:
        connect: opens links to replicas.
        look: answers the addresses at which there may be replicas.
        app_name: only this application, unless empty.
        deployment: only deployments of this name, unless empty.
        say: told in words which replicas come and go.

    Attributes:
        rows_written: one for each request.
        rows_lost: requests that replicas could not keep until they were taken.
    """

    def __init__(
        self,
        connect: Connect,
        look: Callable[[], Iterable[str]],
        app_name: str = "",
        deployment: str = "",
        *,
        say: Callable[[str], None],
    ) -> None:
        self.rows_written = 0
        self.rows_lost = 0
        self._connect = connect
        self._look = look
        self._app_name = app_name
        self._deployment = deployment
        self._say = say
        self._meetings: dict[str, asyncio.Task[None]] = {}  # by address
        self._replicas: dict[Link, _Replica] = {}
        self._passed_over: dict[str, str] = {}  # addresses that are not to be recorded, and what is there
        # None says that there is something else to look at. Each replica has at most one batch here, and then waits.
        self._told: asyncio.Queue[tuple[Link, str, Records] | None] = asyncio.Queue()
        self._stopped = False

    async def start(self) -> None:
        """Watch what runs. Raises `ModelplexError` if nothing does that is to be recorded."""
        self._meet_new()
        if self._meetings:
            await asyncio.wait(self._meetings.values())
        if not self._replicas:
            others = "".join(f" There is {what}." for what in sorted(set(self._passed_over.values())))
            raise errors.ModelplexError(
                f"No replica runs below {tempfile.gettempdir()} that is to be recorded.{others}"
            )

    async def run(self, writer: LogWriter, duration_s: float | None = None) -> None:
        """Write until `stop` is called or the time is over, and then what the replicas still have. Raises OSError."""
        if duration_s is not None:
            asyncio.get_running_loop().call_later(duration_s, self.stop)
        while not self._stopped:
            self._meet_new()
            await self._write(writer, LOOK_S, lambda: self._stopped)
        await self._end_meetings()
        for link in self._replicas:
            link.send(messages.Unwatch())
        await self._write(writer, REST_TIMEOUT_S, lambda: not self._replicas)
        for replica in self._replicas.values():
            self._say(f"{replica.name} is too busy to tell what it has not told yet.")

    def stop(self) -> None:
        """Have `run` end."""
        self._stopped = True
        self._told.put_nowait(None)

    async def close(self) -> None:
        """Drop every link."""
        await self._end_meetings()
        for link in list(self._replicas):
            link.close()

    async def _write(self, writer: LogWriter, timeout_s: float, done: Callable[[], bool]) -> None:
        """Write what is told until that is done and nothing is left, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not (done() and self._told.empty()):
                    if (told := await self._told.get()) is not None:
                        link, name, batch = told
                        writer.write(name, batch.records)
                        link.send(messages.Taken())
                        self.rows_written += len(batch.records)
                        self.rows_lost += batch.lost

    # Replicas

    def _meet_new(self) -> None:
        found = set(self._look())
        self._passed_over = {address: what for address, what in self._passed_over.items() if address in found}
        for address in found - self._meetings.keys() - self._passed_over.keys():
            if all(replica.address != address for replica in self._replicas.values()):
                self._meetings[address] = asyncio.create_task(self._meet(address))

    async def _meet(self, address: str) -> None:
        """Have the replica at an address tell of its requests, if there is one and it is wanted."""
        link: Link | None = None
        replica = _Replica(address, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                link = await self._connect(address, self)
                self._replicas[link] = replica
                link.send(messages.Watch(messages.VERSION))
                await replica.answered
        except OSError:
            pass  # its system is dead, or it has no time: it is tried again at the next look
        finally:
            del self._meetings[address]
            if link is not None and not replica.name:
                self._replicas.pop(link, None)
                link.close()

    async def _end_meetings(self) -> None:
        for task in self._meetings.values():
            task.cancel()
        if self._meetings:
            await asyncio.wait(self._meetings.values())

    # What replicas say (link.Receiver)

    def received(self, link: Link, message: Message, body: bytes) -> None:
        replica = self._replicas.get(link)
        match message:
            case Watching() if replica is not None and not replica.answered.done():
                self._judge(replica, message)
                replica.answered.set_result(None)
            case Records() if replica is not None and replica.name:
                self._told.put_nowait((link, replica.name, message))
            case _:
                link.close()

    def _judge(self, replica: _Replica, who: Watching) -> None:
        if who.version != messages.VERSION:
            self._passed_over[replica.address] = f"{who.replica_id}, which speaks version {who.version}"
        elif self._app_name not in ("", who.app_name) or self._deployment not in ("", who.deployment):
            self._passed_over[replica.address] = f"deployment {who.deployment} of application {who.app_name}"
        else:
            replica.name = who.replica_id
            self._say(f"{replica.name} is being recorded.")

    def lost(self, link: Link) -> None:
        replica = self._replicas.pop(link, None)
        if replica is None:
            return
        if not replica.answered.done():
            self._passed_over[replica.address] = "something that is no replica of this version"
            replica.answered.set_result(None)
        elif replica.name and not self._stopped:
            self._say(f"{replica.name} has gone.")
        self._told.put_nowait(None)
