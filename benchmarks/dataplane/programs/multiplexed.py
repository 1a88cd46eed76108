"""What Modelplex and Ray Serve both serve, word for word. BENCH_SERVE names whose `serve` it is.

GET / answers the model's id, POST / the body that came, GET /stream/COUNT/BYTES that many parts of that size.
"""

import asyncio
import importlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

serve: Any = importlib.import_module(os.environ["BENCH_SERVE"])

LOAD_S = float(os.environ.get("BENCH_LOAD_S", "0"))
WORK_S = float(os.environ.get("BENCH_WORK_S", "0"))
CALLERS = 16

options: dict[str, Any] = {
    "num_replicas": int(os.environ["BENCH_REPLICAS"]),
    "max_ongoing_requests": int(os.environ.get("BENCH_MAX_ONGOING", "100")),
    "max_queued_requests": int(os.environ.get("BENCH_MAX_QUEUED", "-1")),
}
if serve.__name__ == "ray.serve":
    options["ray_actor_options"] = {"num_cpus": 0.1}  # replicas of a whole CPU each would not all fit on two cores


@serve.deployment(**options)
class Model:
    @serve.multiplexed(max_num_models_per_replica=int(os.environ.get("BENCH_MODELS", "3")))  # type: ignore[untyped-decorator]
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(LOAD_S)
        note_load()
        return model_id

    async def __call__(self, request: Request) -> str | Response:
        model: str = await self.get_model(serve.get_multiplexed_model_id())
        if WORK_S:
            await asyncio.sleep(WORK_S)
        if request.method == "POST":
            return Response(await request.body())
        path: str = request.scope["path"]
        if path.startswith("/stream/"):
            _, _, count, size = path.split("/")
            return StreamingResponse(parts(int(count), int(size)))
        return model

    async def called(self) -> str:
        model: str = await self.get_model(serve.get_multiplexed_model_id())
        return model


def note_load() -> None:
    """One byte for each load, whichever process makes it."""
    with open(os.environ["BENCH_LOADS_FILE"], "a") as file:
        file.write("x")


async def parts(count: int, size_bytes: int) -> AsyncIterator[bytes]:
    part = b"x" * size_bytes
    for _ in range(count):
        yield part


@serve.deployment(**options)
class Caller:
    """GET / calls `Model` in a closed loop for BENCH_SECONDS, and answers how many calls a second were answered."""

    def __init__(self, model: Any) -> None:
        self.handles = [model.options(multiplexed_model_id=f"m{number}") for number in range(3)]

    async def __call__(self, request: Request) -> str:
        await self.calls(0.5)  # models are loaded, connections are there
        seconds = float(os.environ["BENCH_SECONDS"])
        return str(await self.calls(seconds) / seconds)

    async def calls(self, seconds: float) -> int:
        ends = time.monotonic() + seconds

        async def caller(number: int) -> int:
            count = 0
            while time.monotonic() < ends:
                model = (number + count) % 3
                answer = await self.handles[model].called.remote()
                if answer != f"m{model}":
                    raise RuntimeError(f"m{model} was called, and {answer!r} answered")
                count += 1
            return count

        return sum(await asyncio.gather(*(caller(number) for number in range(CALLERS))))


app = Model.bind()  # type: ignore[attr-defined]
calls = Caller.bind(Model.bind())  # type: ignore[attr-defined]
