"""The processes of the benchmark: some with many replicas each, some with one router each."""

import asyncio
import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.dataplane.processes import BenchmarkError
from modelplex.wire.messages import ReplicaInfo

from .replicas import Crowd
from .routers import MeteredRouter

REPLICA_PROCESSES = 2
TIMEOUT_S = 120.0

_spawn = multiprocessing.get_context("spawn")


class Child:
    """One process that does what it is told, one thing after another."""

    def __init__(self, target: Any, *arguments: Any) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=_child, args=(target, theirs, *arguments), daemon=True)
        self._process.start()

    def ask(self, *question: Any) -> None:
        self._pipe.send(question)

    def answer(self) -> Any:
        """Raises `BenchmarkError` if there is none; what went wrong is on the child's stderr then."""
        try:
            if self._pipe.poll(TIMEOUT_S):
                return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise BenchmarkError("a process of the benchmark has ended") from error
        raise BenchmarkError("a process of the benchmark does not answer")

    def end(self) -> None:
        self._pipe.close()
        self._process.join(10.0)
        self._process.kill()


def ask_all(children: Sequence[Child], *question: Any) -> list[Any]:
    """All of them at the same time."""
    for child in children:
        child.ask(*question)
    return [child.answer() for child in children]


@contextlib.contextmanager
def fleet(replicas: int, routers: int, load_s: float) -> Iterator[tuple[list[Child], list[ReplicaInfo]]]:
    """Processes with replicas, and processes with one router each; the latter are not linked yet."""
    names = [f"r{number}" for number in range(replicas)]
    with tempfile.TemporaryDirectory() as name:
        parts = [names[at::REPLICA_PROCESSES] for at in range(REPLICA_PROCESSES)]
        crowds = [Child(_replicas, Path(name), part, load_s) for part in parts]
        routing = [Child(_router, str(number)) for number in range(routers)]
        try:
            infos = [info for child in crowds for info in child.answer()]
            yield routing, infos
        finally:
            for child in [*routing, *crowds]:
                child.end()


def _child(target: Any, pipe: Connection, *arguments: Any) -> None:
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        uvloop.run(target(pipe, *arguments))


async def _replicas(pipe: Connection, folder: Path, names: list[str], load_s: float) -> None:
    crowd = await Crowd.start(folder, names, load_s)
    pipe.send(crowd.infos)
    await _readable(pipe)  # the end of it


async def _router(pipe: Connection, name: str) -> None:
    router = MeteredRouter(name)
    while True:
        await _readable(pipe)
        what, *arguments = pipe.recv()
        pipe.send(await getattr(router, what)(*arguments))


async def _readable(pipe: Connection) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), readable.set)
    await readable.wait()
    loop.remove_reader(pipe.fileno())
    os.set_blocking(pipe.fileno(), True)  # which the event loop has ended, and a long message needs
