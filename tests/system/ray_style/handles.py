"""Handles: results, methods by name, keyword arguments, responses as arguments, time-outs, errors, several callers."""

import asyncio
import time

from modelplex import serve
from modelplex.serve.exceptions import RayServeException, RequestCancelledError
from modelplex.serve.handle import DeploymentHandle, DeploymentResponse


@serve.deployment
class Kettle:
    def __init__(self, litres: float = 1.0):
        self.litres = litres

    def __call__(self, cups: int) -> str:
        return f"{cups} cups"

    def volume(self, *, unit: str) -> str:
        return f"{self.litres} {unit}"

    async def slowly(self) -> str:
        await asyncio.sleep(60)
        return "never"


handle: DeploymentHandle = serve.run(Kettle.bind(litres=1.5))
response: DeploymentResponse = handle.remote(4)
assert response.result() == "4 cups"
assert response.request_id
assert handle.volume.remote(unit="l").result(timeout_s=30) == "1.5 l"
assert handle.options(method_name="volume").remote(unit="l").result() == "1.5 l"

waiting = handle.slowly.remote()
try:
    waiting.result(timeout_s=0.2)
    raise AssertionError("it was answered")
except TimeoutError:
    pass
waiting.cancel()
try:
    waiting.result(timeout_s=30)
    raise AssertionError("it was answered")
except RequestCancelledError:
    pass


async def from_a_loop():
    first, second = handle.remote(1), handle.remote(2)
    try:
        first.result()
        raise AssertionError("it has blocked the loop")
    except RuntimeError:
        pass
    return await asyncio.gather(first, second)


assert asyncio.run(from_a_loop()) == ["1 cups", "2 cups"]


@serve.deployment
class Grind:
    def __call__(self, grams: int) -> int:
        time.sleep(0.01)
        return grams * 2


@serve.deployment
class Brew:
    def __init__(self, first: DeploymentHandle, second: DeploymentHandle):
        self.first, self.second = first, second

    async def __call__(self, grams: int) -> int:
        ground: DeploymentResponse = self.first.remote(grams)
        again: DeploymentResponse = self.second.remote(ground)
        return await self.second.remote(grams=again)


brew = serve.run(
    Brew.bind(Grind.options(name="coarse").bind(), Grind.options(name="fine").bind()), name="brew", route_prefix="/brew"
)
assert brew.remote(3).result() == 24
assert serve.get_app_handle("brew").remote(1).result() == 8
assert serve.get_deployment_handle("fine", app_name="brew").remote(5).result() == 10
try:
    serve.get_app_handle("tea")
    raise AssertionError("there is no such application")
except RayServeException:
    pass


@serve.deployment
def sour(milk: int):
    raise ValueError(f"milk is {milk} days old")


try:
    serve.run(sour.bind(), name="sour", route_prefix=None).remote(9).result()
    raise AssertionError("it did not raise")
except ValueError as error:
    assert "9 days old" in str(error)
