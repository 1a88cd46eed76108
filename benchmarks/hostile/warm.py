"""Warm traffic at an offered rate: how much of it is answered, and when."""

import asyncio
from dataclasses import dataclass

from .attacks import LOOPBACK, asking_for

CLIENTS = 8


@dataclass(frozen=True)
class Figures:
    """Of some seconds of warm traffic. Times are from when each request was due."""

    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


async def measure(port: int, models: list[str], per_s: float, seconds: float) -> Figures:
    """Ask for models that are loaded, so often in all, over a few connections that are opened again when they break."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    failed = 0
    began = loop.time()

    async def one(number: int) -> None:
        nonlocal failed
        request = asking_for(models[number % len(models)].encode())
        due, step = began + number / per_s, CLIENTS / per_s
        writer = None
        while due < began + seconds:
            await asyncio.sleep(max(0.0, due - loop.time()))
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(LOOPBACK, port)
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
                if not head.startswith(b"HTTP/1.1 200 "):
                    raise ConnectionError(head[:12])
                times.append(loop.time() - due)
            except (OSError, EOFError):
                failed += 1
                if writer is not None:
                    writer.transport.abort()
                writer = None
            due += step
        if writer is not None:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(one(number))
    times.sort()
    took = loop.time() - began
    p50, p99 = (times[min(len(times) - 1, int(len(times) * part))] * 1e3 if times else 1e9 for part in (0.5, 0.99))
    return Figures(len(times) / took, p50, p99, failed)
