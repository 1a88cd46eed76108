"""Generators called by handles: in a program, in a deployment, by method, cut short."""

import asyncio
from collections.abc import AsyncGenerator, Generator

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle, DeploymentResponseGenerator


@serve.deployment
class Steps:
    def __call__(self, count: int) -> Generator[int, None, None]:
        for number in range(count):
            yield number * number

    async def forever(self) -> AsyncGenerator[int, None]:
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0.001)


@serve.deployment
class Walk:
    def __init__(self, steps: DeploymentHandle):
        self.steps = steps.options(stream=True)

    async def __call__(self, count: int) -> AsyncGenerator[str, None]:
        parts: DeploymentResponseGenerator = self.steps.remote(count)
        async for part in parts:
            yield f"step {part}"

    async def first(self, count: int) -> list[int]:
        found = []
        async for part in self.steps.forever.remote():
            found.append(part)
            if len(found) == count:
                break
        return found


handle: DeploymentHandle = serve.run(Walk.bind(Steps.bind()))
streamed: DeploymentResponseGenerator = handle.options(stream=True).remote(4)
assert list(streamed) == ["step 0", "step 1", "step 4", "step 9"]
assert handle.first.remote(3).result() == [0, 1, 2]

endless = serve.get_deployment_handle("Steps", "default").options(stream=True).forever.remote()
assert next(endless) == 0
assert next(endless) == 1
endless.cancel()


async def from_a_loop():
    return [part async for part in handle.options(method_name="__call__", stream=True).remote(2)]


assert asyncio.run(from_a_loop()) == ["step 0", "step 1"]
