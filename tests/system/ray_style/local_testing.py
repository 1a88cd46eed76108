"""Local testing mode: an application in the process of the test."""

import os

from starlette.requests import Request

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle, DeploymentResponse


@serve.deployment
class Twice:
    def double(self, text: str):
        return f"{text} {text}"


@serve.deployment
class Caller:
    def __init__(self, twice: DeploymentHandle):
        self.twice = twice

    async def call(self, word: str):
        return await self.twice.double.remote(f"{word}!")

    async def pid(self):
        return os.getpid()

    async def __call__(self, request: Request):
        return await self.call(request.query_params["word"])


app = Caller.bind(Twice.bind())

if __name__ == "__main__":
    serve.shutdown()
    handle: DeploymentHandle = serve.run(app, _local_testing_mode=True)
    response: DeploymentResponse = handle.call.remote(word="Ada")
    assert response.result() == "Ada! Ada!"
    assert handle.pid.remote().result() == os.getpid()
    serve.shutdown()
