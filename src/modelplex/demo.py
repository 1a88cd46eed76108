"""An example without bucket or framework: small numpy models in a local folder, served and called.

`modelplex demo` shows it. The deployment below is all that serving takes; the rest makes the models and calls them.
"""

import http.client
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request

from modelplex import driver, serve

MODELS = 300
MODELS_PER_REPLICA = 25
REPLICAS = 3
FEATURES = 4


@serve.deployment(num_replicas=REPLICAS)
class Forecast:
    """One linear model per shop: `predict(features) = weights @ features`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @serve.multiplexed(max_num_models_per_replica=MODELS_PER_REPLICA)
    def get_model(self, model_id: str) -> Any:
        return np.load(self.folder / f"{model_id}.npy")

    async def __call__(self, request: Request) -> dict[str, Any]:
        model_id = serve.get_multiplexed_model_id()
        weights = await self.get_model(model_id)
        features = np.array(await request.json() if await request.body() else [1.0] * FEATURES)
        return {"model": model_id, "forecast": weights @ features}


def make_models(folder: Path) -> None:
    """Write the models: `shop-000.npy` and so on, each the weights of one shop."""
    generator = np.random.default_rng(7)
    for number in range(MODELS):
        np.save(folder / f"shop-{number:03}.npy", generator.normal(size=(FEATURES, FEATURES)))


def show(options: serve.HTTPOptions, *, then_wait: bool) -> None:
    """Make models, serve them, call them, print how it went, and perhaps go on serving until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="modelplex-demo-") as folder:
        make_models(Path(folder))
        running = driver.start("local", options, console=False)
        app = Forecast.bind(folder)  # type: ignore[attr-defined]  # mypy overlooks what decorators make of classes
        running.deploy(app, serve.DEFAULT_APP_NAME, "/")
        print(f"{MODELS} models in {folder}")
        _call_and_print(running.address)
        if then_wait:
            print("Ctrl-C stops.", flush=True)
            driver.wait_for_signal()
        driver.shutdown()


def _call_and_print(address: str) -> None:
    print(f"{REPLICAS} replicas that hold {MODELS_PER_REPLICA} models each, at {address}/\n")
    client = Client(address)
    print(f"{'model':10} {'replica':26} {'model was':10} {'latency':>10}")
    for number in (0, 1, 2, 0, 1, 2, 250, 250):
        answer = client.call(f"shop-{number:03}")
        print(f"{answer.model:10} {answer.replica:26} {answer.start:10} {answer.latency_ms:7.2f} ms")
    _print_summary([client.call(model_id) for model_id in popular_models(2000)])
    print(f"\nTry: curl -H 'serve_multiplexed_model_id: shop-042' -d '[1, 2, 3, 4]' {address}/")


def popular_models(count: int) -> list[str]:
    """Model ids to ask for: a few shops are asked for often and most seldom, by Zipf's law."""
    weights = [1 / rank for rank in range(1, MODELS + 1)]
    numbers = random.Random(7).choices(range(MODELS), weights, k=count)
    return [f"shop-{number:03}" for number in numbers]


class Answer:
    """What the client saw of one answer."""

    def __init__(self, model: str, response: http.client.HTTPResponse, latency_ms: float) -> None:
        self.model = model
        self.replica = response.headers["x-modelplex-replica"]
        self.start = response.headers["x-modelplex-model"]
        self.latency_ms = latency_ms


class Client:
    """Calls the application over one connection."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)

    def call(self, model_id: str) -> Answer:
        began = time.perf_counter()
        body = json.dumps([1.0] * FEATURES)
        self._connection.request("POST", "/", body, {"serve_multiplexed_model_id": model_id})
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{model_id}: {response.status} {text.decode()}")
        return Answer(model_id, response, (time.perf_counter() - began) * 1e3)


def _print_summary(answers: list[Answer]) -> None:
    print(f"\n{len(answers)} more calls, a few shops often and most seldom (Zipf):")
    for start in ("warm", "cold"):
        times = [a.latency_ms for a in answers if a.start == start]
        if times:
            share = len(times) / len(answers)
            print(f"  {start} {share:6.1%}   median {statistics.median(times):.2f} ms   worst {max(times):.2f} ms")
