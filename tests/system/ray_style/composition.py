"""Composition: a deployment that chooses among others, ensembles, one class bound with other arguments, conditions."""

import asyncio

import requests
from starlette.requests import Request

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle, DeploymentResponse


@serve.deployment
class Harbour:
    def __init__(self, danish: DeploymentHandle, finnish: DeploymentHandle):
        self.greeters = {"da": danish, "fi": finnish}

    async def __call__(self, request: Request) -> str:
        arrival = await request.json()
        return await self.greeters[arrival["flag"]].welcome.remote(arrival["ship"])


@serve.deployment
class Dane:
    def welcome(self, ship: str):
        return f"Velkommen, {ship}"


@serve.deployment
class Finn:
    async def welcome(self, ship: str):
        return f"Tervetuloa, {ship}"


app = Harbour.bind(Dane.bind(), Finn.bind())
serve.run(app)
answer = requests.post("http://localhost:8000/", json={"flag": "fi", "ship": "Otava"})
assert answer.text == "Tervetuloa, Otava"
assert requests.post("http://localhost:8000/", json={"flag": "da", "ship": "Freja"}).text == "Velkommen, Freja"


@serve.deployment
class Plus:
    def __init__(self, amount: int):
        self.amount = amount

    def __call__(self, number: int) -> int:
        return number + self.amount


@serve.deployment
class Times:
    def __init__(self, factor: int):
        self.factor = factor

    def __call__(self, number: int) -> int:
        return number * self.factor


@serve.deployment
def combine(*numbers: int) -> int:
    return sum(numbers)


@serve.deployment
class Sums:
    def __init__(self, plus_one: DeploymentHandle, plus_ten: DeploymentHandle, times: DeploymentHandle, total):
        self.plus = [plus_one, plus_ten]
        self.times: DeploymentHandle = times
        self.total: DeploymentHandle = total

    async def __call__(self, request: Request):
        number = int(request.query_params["number"])
        if request.query_params.get("way") == "chain":
            partial: DeploymentResponse = self.times.remote(self.plus[0].remote(number))
            return await partial
        if request.query_params.get("way") == "gather":
            return await asyncio.gather(*[plus.remote(number) for plus in self.plus])
        return await self.total.remote(*[plus.remote(number) for plus in self.plus])


plus = [Plus.bind(1), Plus.bind(10)]
serve.run(Sums.bind(plus[0], plus[1], Times.bind(3), combine.bind()))
assert requests.get("http://localhost:8000/?number=4&way=chain").json() == 15
assert requests.get("http://localhost:8000/?number=4&way=gather").json() == [5, 14]
assert requests.get("http://localhost:8000/?number=4").json() == 19
assert sorted(serve.status().applications["default"].deployments) == ["Plus", "Plus_1", "Sums", "Times", "combine"]


@serve.deployment
class Votes:
    def __init__(self, judges: list, by_name: dict):
        self.judges, self.by_name = judges, by_name

    async def __call__(self):
        return [await judge.remote(1) for judge in [*self.judges, *self.by_name.values()]]


shared = Plus.bind(100)
serve.run(Votes.bind([shared, Times.bind(7)], by_name={"again": shared}))
assert requests.get("http://localhost:8000/").json() == [101, 7, 101]
assert sorted(serve.status().applications["default"].deployments) == ["Plus", "Times", "Votes"]
