"""Freed memory goes back to the system, some time after unloads and seldom."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from modelplex.runtime import give_back
from modelplex.runtime.give_back import GiveBack, malloc_trim


class Trims:
    """Counts trims, of which each takes its time."""

    def __init__(self) -> None:
        self.count = 0
        self.threads: set[str] = set()

    def __call__(self) -> None:
        self.count += 1
        self.threads.add(threading.current_thread().name)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in a thread
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(give_back, "DELAY_S", 0.02)


async def test_many_unloads_are_one_trim_in_a_thread() -> None:
    trims = Trims()
    memory = GiveBack(trims)
    for _ in range(100):
        memory.soon()
    assert trims.count == 0
    await until(lambda: trims.count > 0)
    await asyncio.sleep(0.05)
    assert trims.count == 1
    assert threading.current_thread().name not in trims.threads
    memory.soon()
    await until(lambda: trims.count == 2)


async def test_one_that_takes_long_is_not_soon_followed_by_another() -> None:
    clock = iter([0.0, 1000.0, 1000.0, 1000.0])
    trims = Trims()
    memory = GiveBack(trims, lambda: next(clock))
    memory.soon()
    await until(lambda: memory._not_before > 0)  # a thousand seconds took 1% of the time until then
    assert memory._not_before > asyncio.get_running_loop().time() + 90_000
    memory.soon()
    await asyncio.sleep(0.1)
    assert trims.count == 1
    memory.close()


async def test_what_is_closed_trims_no_more_and_without_glibc_nothing_happens() -> None:
    trims = Trims()
    memory = GiveBack(trims)
    memory.soon()
    memory.close()
    without = GiveBack(None)
    without.soon()
    without.close()
    await asyncio.sleep(0.1)
    assert trims.count == 0


PROGRAM = """
from modelplex.runtime.give_back import malloc_trim
from modelplex.runtime.sizes import process_bytes
import numpy as np
model = [np.ones(20 + i % 200) for i in range(60_000)]
last = np.ones(100)  # above all of them
full = process_bytes()
del model[::2], model[::3], model[100:]
freed = process_bytes()
malloc_trim()()
print(full, freed, process_bytes())
"""


@pytest.mark.system
@pytest.mark.skipif(malloc_trim() is None, reason="the C library is not glibc")
def test_the_allocator_keeps_what_is_freed_until_it_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    full, freed, trimmed = map(int, done.stdout.split())
    assert full - trimmed > 25 * 2**20
    assert freed - trimmed > 5 * 2**20
