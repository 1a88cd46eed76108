"""What may block and what may not: threads, executors, an executor of one's own, many requests at a time."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from modelplex import serve


@serve.deployment(max_ongoing_requests=20)
class Waits:
    def __init__(self):
        self.here = self.most = 0
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(max_workers=16, thread_name_prefix="own"))

    async def __call__(self, request):
        self.here += 1
        self.most = max(self.most, self.here)
        await asyncio.sleep(0.5)
        self.here -= 1
        return self.most

    def blocking(self):
        time.sleep(0.1)
        return "slept"

    async def in_thread(self):
        return await asyncio.to_thread(lambda: __import__("threading").current_thread().name)

    async def in_executor(self, number):
        return await asyncio.get_running_loop().run_in_executor(None, self.compute, number)

    def compute(self, number):
        return sum(number * each for each in range(1000))

    async def matrix(self):
        return np.eye(3)


handle = serve.run(Waits.bind())
responses = [handle.remote(None) for _ in range(20)]
assert max(response.result() for response in responses) == 20
assert handle.blocking.remote().result() == "slept"
assert handle.in_thread.remote().result().startswith("own")
assert handle.in_executor.remote(2).result() == 999_000
assert handle.matrix.remote().result().shape == (3, 3)
