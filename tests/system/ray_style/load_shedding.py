"""Full queues: 503, or another status with a time to try again; BackPressureError by a handle."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from starlette.requests import Request

from modelplex import serve
from modelplex.serve.config import BackpressureConfig
from modelplex.serve.exceptions import BackPressureError


def statuses() -> list[requests.Response]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: requests.get("http://localhost:8000/"), range(8)))


@serve.deployment(max_ongoing_requests=2, max_queued_requests=1)
def slow(request: Request) -> str:
    time.sleep(1)
    return "served"


serve.run(slow.bind())
found = [response.status_code for response in statuses()]
assert set(found) == {200, 503}
assert found.count(200) == 3

polite = slow.options(backpressure_config=BackpressureConfig(status_code=429, retry_after_s=7))
serve.run(polite.bind())
found = statuses()
assert {response.status_code for response in found} == {200, 429}
assert {response.headers["Retry-After"] for response in found if response.status_code == 429} == {"7"}

handle = serve.run(polite.bind())


async def many():
    return await asyncio.gather(*(handle.remote(None) for _ in range(8)), return_exceptions=True)


outcomes = asyncio.run(many())
assert [outcome for outcome in outcomes if not isinstance(outcome, BackPressureError)] == ["served"] * 3
