"""How many loads requests cost, with real processes over HTTP.

    python benchmarks/loads.py [--requests 4000] [--clients 8] [--seeds 3]

Zipf(1.0) over 40 models, 3 replicas of 4 models, loads of 50 ms; and 12 models that just fit. Beside each figure is
what one cache with all the room would need, request by request: LRU, and Belady's optimum.
"""

import argparse
import asyncio
import http.client
import itertools
import statistics
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from modelplex import driver, serve
from modelplex.config import HTTPOptions
from modelplex.sim.bounds import belady
from modelplex.sim.trace import Trace
from modelplex.sim.workloads import Workload

REPLICAS = 3
MODELS_EACH = 4
LOAD_S = 0.05


def application(eviction: str) -> serve.Application:
    @serve.deployment(num_replicas=REPLICAS)
    class Model:
        @serve.multiplexed(max_num_models_per_replica=MODELS_EACH, eviction=eviction)
        async def get_model(self, model_id: str) -> str:
            await asyncio.sleep(LOAD_S)
            return model_id

        async def __call__(self, request: object) -> str:
            model: str = await self.get_model(serve.get_multiplexed_model_id())
            return model

    app: serve.Application = Model.bind()  # type: ignore[attr-defined]
    return app


def replay(ports: Sequence[int], models: Sequence[int], clients: int) -> list[str | None]:
    """Send the requests in their order, `clients` at a time, each client to one of the ports.

    Answers their headers `x-modelplex-model`. Raises RuntimeError if one is not answered by its model.
    """
    todo = iter(models)
    lock = threading.Lock()
    headers: list[str | None] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", ports[number % len(ports)])
        while True:
            with lock:
                model = next(todo, None)
            if model is None:
                return
            connection.request("GET", "/", headers={"serve_multiplexed_model_id": f"m{model}"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 or body.decode() != f"m{model}":
                raise RuntimeError(f"{response.status} {body!r}")
            headers.append(response.getheader("x-modelplex-model"))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(headers) != len(models):
        raise RuntimeError(f"{len(models) - len(headers)} requests were not answered")
    return headers


def lru_loads(trace: Trace) -> int:
    """What one LRU cache with the room of all replicas loads."""
    held: OrderedDict[int, None] = OrderedDict()
    missed = 0
    for model in trace.models.tolist():
        if model in held:
            held.move_to_end(model)
            continue
        missed += 1
        if len(held) == REPLICAS * MODELS_EACH:
            held.popitem(last=False)
        held[model] = None
    return missed


def measure(models: int, zipf_s: float, options: argparse.Namespace, eviction: str, proxies: int) -> None:
    counted, pooled, best = [], [], []
    for seed in range(options.seeds):
        trace = Workload(requests=options.requests, models=models, rate_per_s=1.0, zipf_s=zipf_s, seed=seed).trace()
        driver.start("local", HTTPOptions(port=0, num_proxies=proxies), console=False)
        serve.run(application(eviction), name=f"{eviction}-{seed}")
        port = int(serve.status().address.rsplit(":", 1)[1])
        counted.append(replay([port], trace.models.tolist(), options.clients).count("cold"))
        serve.shutdown()
        pooled.append(lru_loads(trace))
        best.append(belady(trace, REPLICAS * MODELS_EACH).loads)
    relative = statistics.median(c / p for c, p in zip(counted, pooled, strict=True))
    print(
        f"| {models} models, Zipf {zipf_s:g} | {eviction} | {proxies} | {counted} | {pooled} | {relative:.3f} "
        f"| {np.array(best, int).tolist()} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| workload | eviction | proxies | loads, by seed | one LRU cache | ratio, median | Belady |")
    print("|---|---|---|---|---|---|---|")
    for (models, zipf_s), eviction, proxies in itertools.product(((40, 1.0), (12, 0.0)), ("lru", "gdsf"), (1, 2)):
        measure(models, zipf_s, options, eviction, proxies)


if __name__ == "__main__":
    main()
