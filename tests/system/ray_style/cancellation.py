"""Clients that leave: user code is cancelled, what it shields is not, what it calls is; time-outs of requests."""

import asyncio
import tempfile
import time
from pathlib import Path

import requests

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle

told = Path(tempfile.mkdtemp()) / "told"


def tell(what: str) -> None:
    with told.open("a") as file:
        file.write(f"{what}\n")


def wait_for(*what: str) -> None:
    deadline = time.time() + 30
    while not (told.exists() and set(what) <= set(told.read_text().splitlines())):
        assert time.time() < deadline, told.read_text() if told.exists() else "nothing"
        time.sleep(0.02)


def leave_early() -> None:
    try:
        requests.get("http://localhost:8000/", timeout=1.0)
        raise AssertionError("it was answered")
    except requests.exceptions.Timeout:
        pass


@serve.deployment
async def hesitant():
    try:
        tell("begun")
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        tell("cancelled")
        raise


serve.run(hesitant.bind())
leave_early()
wait_for("begun", "cancelled")


@serve.deployment
class Baker:
    async def bake(self):
        await asyncio.sleep(2)
        tell("baked")

    async def __call__(self):
        try:
            await asyncio.shield(self.bake())
        except asyncio.CancelledError:
            tell("the customer has left")
            raise


serve.run(Baker.bind())
leave_early()
wait_for("the customer has left", "baked")


@serve.deployment
class Below:
    async def __call__(self):
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            tell("cancelled below")
            raise


@serve.deployment
class Above:
    def __init__(self, below: DeploymentHandle):
        self.below = below

    async def __call__(self):
        return await self.below.remote()


serve.run(Above.bind(Below.bind()))
leave_early()
wait_for("cancelled below")
