"""Processes that fetch models from a store side by side, and are killed if a test wants it.

`run_crowd` starts this file as a program. It forks its processes when everything is imported and nothing was asked yet,
so that each costs milliseconds; the program of the tests has threads, and could not.
"""

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_S = 120.0
# Each process that is to be killed is at a random moment of this time, or of a longer one where the machine is busy: as
# long as most are killed before they have fetched something, the next ones live longer.
LIFE_S = 0.4
LONGER = 1.05
# Of the models that it has fetched, each process keeps so many in use.
KEPT = 1


@dataclass(frozen=True)
class Crowd:
    """What its processes do.

    Args:
        url, pattern, cache_dir, cache_bytes: of the store.
        files: the files of each model below its key, and their sizes; "" is the model itself. See `content`.
        report: a file; what they say is added to it, a line of JSON each.
        block_bytes: what the disk cache fetches at a time.
        processes: how many there are at a time.
        kills: how many of them are killed at random moments, others taking their places; with 0 each fetches all
            models at once, and ends.
        time_max_s: no more are killed after this.
    """

    url: str
    pattern: str
    cache_dir: str
    cache_bytes: int
    files: Mapping[str, Mapping[str, int]]
    report: str
    block_bytes: int
    processes: int = 8
    kills: int = 0
    time_max_s: float = TIMEOUT_S
    seed: int = field(default=0)


def content(model_id: str, name: str, size_bytes: int) -> bytes:
    """What the file of this name of this model has to be."""
    return hashlib.shake_256(f"{model_id}/{name}".encode()).digest(size_bytes)


def mistakes(path: Path, model_id: str, files: Mapping[str, int]) -> list[str]:
    """What is wrong with the files of a model."""
    return list(_mistakes(path, model_id, files))


def _mistakes(path: Path, model_id: str, files: Mapping[str, int]) -> Iterator[str]:
    if "" not in files:
        found = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
        if found != set(files):
            yield f"{model_id} has {sorted(found)}, not {sorted(files)}"
    for name, size_bytes in files.items():
        body = (path / name if name else path).read_bytes()
        if body != content(model_id, name, size_bytes):
            yield f"{model_id}/{name}: {len(body)} bytes that are not its {size_bytes}"


def run_crowd(crowd: Crowd) -> list[dict[str, Any]]:
    """Run it to its end; what its processes reported. AssertionError if it fails itself."""
    Path(crowd.report).touch()
    command = [sys.executable, __file__, json.dumps(asdict(crowd))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads(line) for line in Path(crowd.report).read_text().splitlines()]


# In the program


class _Members:
    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._report = os.open(crowd.report, os.O_WRONLY | os.O_APPEND)

    def say(self, **what: Any) -> None:
        os.write(self._report, json.dumps({"pid": os.getpid(), **what}).encode() + b"\n")

    def fork(self, task: Callable[[random.Random], Coroutine[Any, Any, None]], seed: int) -> int:
        """Start a process that does this and ends."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.run(task(random.Random(seed)))
                code = 0
            except BaseException as error:  # noqa: BLE001 - the test is told
                self.say(failed=repr(error))
            finally:
                os._exit(code)
        return pid

    def race(self) -> None:
        """All fetch all models, as nearly at once as can be."""
        gate, opens = os.pipe()

        async def fetch_all(rng: random.Random) -> None:
            os.close(opens)
            store = self._store()
            model_ids = rng.sample(sorted(self._crowd.files), len(self._crowd.files))
            os.read(gate, 1)
            await asyncio.gather(*(self._fetch_and_drop(store, model_id) for model_id in model_ids))

        pids = [self.fork(fetch_all, self._crowd.seed + n) for n in range(self._crowd.processes)]
        os.close(gate)
        time.sleep(0.2)  # all have come to the gate, or nearly
        os.close(opens)
        for pid in pids:
            os.waitpid(pid, 0)

    def chaos(self) -> None:
        """They are killed at random moments, and others take their places."""
        rng = random.Random(self._crowd.seed)
        ends = time.monotonic() + self._crowd.time_max_s
        alive: dict[int, float] = {}
        kills, life_s = 0, LIFE_S
        while kills < self._crowd.kills and time.monotonic() < ends:
            while len(alive) < self._crowd.processes:
                alive[self.fork(self._fetch_for_ever, rng.getrandbits(30))] = time.monotonic() + rng.random() * life_s
            pid = min(alive, key=lambda pid: alive[pid])
            time.sleep(max(0.0, alive.pop(pid) - time.monotonic()))
            kills += self._kill(pid)
            life_s = max(LIFE_S, life_s * LONGER if self._fetched() < kills else life_s / LONGER)
        for pid in alive:
            self._kill(pid)
        self.say(kills=kills)

    def _kill(self, pid: int) -> bool:
        """False if it had ended of itself."""
        os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

    def _fetched(self) -> int:
        """How often a model was, or nearly."""
        return os.fstat(self._report).st_size // len('{"pid": 12345, "fetched": "model-12"}\n')

    async def _fetch_for_ever(self, rng: random.Random) -> None:
        store = self._store()
        model_ids = sorted(self._crowd.files)
        kept: dict[str, Path] = {}
        while True:
            model_id = rng.choice(model_ids)
            kept[model_id] = await self._fetch(store, model_id)
            while len(kept) > KEPT:
                model_id, path = next(iter(kept.items()))
                self._check(path, model_id, "what was in use")  # and is still there
                del kept[model_id], path

    async def _fetch(self, store: Any, model_id: str) -> Path:
        path: Path = await store.fetch(model_id)
        self._check(path, model_id, "fetched")
        return path

    async def _fetch_and_drop(self, store: Any, model_id: str) -> None:
        await self._fetch(store, model_id)

    def _check(self, path: Path, model_id: str, what: str) -> None:
        wrong = mistakes(path, model_id, self._crowd.files[model_id])
        if wrong:
            self.say(corrupt=wrong, what=what)
        else:
            self.say(fetched=model_id)

    def _store(self) -> Any:
        from modelplex.stores.model_store import ModelStore

        crowd = self._crowd
        return ModelStore(crowd.url, crowd.pattern, cache_dir=crowd.cache_dir, cache_bytes=crowd.cache_bytes)


def _main() -> None:
    import obstore  # noqa: F401 - before the forks
    from store_settings import fetch_in_blocks

    crowd = Crowd(**json.loads(sys.argv[1]))
    fetch_in_blocks(crowd.block_bytes)
    members = _Members(crowd)
    members.chaos() if crowd.kills else members.race()


if __name__ == "__main__":
    _main()
