"""What wrk cannot do: requests at a fixed rate, whether they are answered or not; answers in chunks."""

import asyncio
import time
from dataclasses import dataclass

TIMEOUT_S = 30.0
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    status: int
    latency_s: float
    headers: dict[str, str]


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """The status, and the headers in small letters, of an answer's head."""
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


def unchunked(answer: bytes) -> bytes:
    """The body of an answer in chunks. Raises ValueError if it is none, or is not whole."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if parse_head(head)[1].get("transfer-encoding") != "chunked" or not rest.endswith(LAST_CHUNK):
        raise ValueError(f"no whole answer in chunks: {answer[:200]!r}")
    parts, at = [], 0
    while at < len(rest) - len(LAST_CHUNK):
        start = rest.index(b"\r\n", at) + 2
        at = start + int(rest[at : start - 2], 16) + 2
        parts.append(rest[start : at - 2])
    return b"".join(parts)


async def offer(port: int, rate_per_s: float, seconds: float) -> list[Answer]:
    """Send the requests that are due, each on a free connection or a new one; latencies count from when it was due.

    Raises what a broken connection raises, and TimeoutError for an answer that does not come.
    """
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    began = time.monotonic()

    async def ask(number: int) -> Answer:
        due = began + number / rate_per_s
        await asyncio.sleep(due - time.monotonic())
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            request = f"GET / HTTP/1.1\r\nhost: localhost\r\nserve_multiplexed_model_id: m{number % 3}\r\n\r\n"
            writer.write(request.encode())
            status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(int(headers["content-length"]))
        latency_s = time.monotonic() - due
        if headers.get("connection") == "close":
            writer.close()
        else:
            idle.append((reader, writer))
        return Answer(status, latency_s, headers)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(number)) for number in range(int(rate_per_s * seconds))]
    finally:
        for _, writer in idle:
            writer.close()
    return [task.result() for task in tasks]
