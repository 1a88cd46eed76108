"""Batches: NumPy results, sizes that a user config sets, sizes by a function, requests of HTTP, streams."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Union

import numpy as np
import requests
from starlette.requests import Request
from starlette.responses import StreamingResponse

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle


@serve.deployment(max_ongoing_requests=50, user_config={"size": 4, "wait": 0.5})
class Halves:
    def __init__(self):
        self.sizes = []

    def reconfigure(self, user_config: dict):
        self.__call__.set_max_batch_size(user_config["size"])
        self.__call__.set_batch_wait_timeout_s(user_config["wait"])

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.1)
    async def __call__(self, numbers: list[float]) -> list[float]:
        self.sizes.append(len(numbers))
        return np.array(numbers) / 2

    def seen(self):
        return self.sizes


handle: DeploymentHandle = serve.run(Halves.bind())
responses = [handle.remote(number) for number in range(8)]
assert [response.result() for response in responses] == [number / 2 for number in range(8)]
assert handle.seen.remote().result() == [4, 4]


class Basket:
    def __init__(self, apples: int):
        self.apples = apples


@serve.deployment(max_ongoing_requests=50)
class Press:
    @serve.batch(
        max_batch_size=100,
        batch_wait_timeout_s=0.3,
        max_concurrent_batches=2,
        batch_size_fn=lambda baskets: sum(basket.apples for basket in baskets),
    )
    async def press(self, baskets: list[Basket]) -> list[str]:
        total = sum(basket.apples for basket in baskets)
        assert total <= 100 or len(baskets) == 1
        return [f"{basket.apples} of at most 100" for basket in baskets]

    async def __call__(self, basket: Basket) -> str:
        return await self.press(basket)


handle = serve.run(Press.bind())
responses = [handle.remote(Basket(apples)) for apples in (60, 50, 30)]
assert [response.result() for response in responses] == [f"{apples} of at most 100" for apples in (60, 50, 30)]


@serve.deployment(max_ongoing_requests=50)
class OverHttp:
    @serve.batch(max_batch_size=3, batch_wait_timeout_s=5)
    async def __call__(self, arrived: list[Request]) -> list[str]:
        bodies = await asyncio.gather(*(request.body() for request in arrived))
        return [f"{body.decode()} of {len(arrived)}" for body in bodies]


serve.run(OverHttp.bind())
with ThreadPoolExecutor(3) as pool:
    answers = pool.map(lambda text: requests.post("http://localhost:8000/", data=text).text, "abc")
    assert list(answers) == ["a of 3", "b of 3", "c of 3"]


@serve.deployment(max_ongoing_requests=50)
class Countdowns:
    @serve.batch(max_batch_size=5, batch_wait_timeout_s=0.5)
    async def count(self, starts: list[int]) -> AsyncGenerator[list[Union[str, StopIteration]], None]:
        for number in range(max(starts)):
            yield [str(start - number) if number < start else StopIteration for start in starts]
            await asyncio.sleep(0.02)

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.count(int(request.query_params["start"])), media_type="text/plain")


def count(start: int) -> list[str]:
    response = requests.get(f"http://localhost:8000/?start={start}", stream=True)
    return list(response.iter_content(chunk_size=None, decode_unicode=True))


serve.run(Countdowns.bind())
with ThreadPoolExecutor(5) as pool:
    for start, parts in zip([1, 2, 5, 3, 4], pool.map(count, [1, 2, 5, 3, 4])):
        assert parts == [str(number) for number in range(start, 0, -1)]
