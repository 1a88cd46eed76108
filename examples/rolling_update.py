"""An application replaced by its next version while a client calls: no request is lost, and no model is cold.

python examples/rolling_update.py
"""

import asyncio
import threading
from collections import Counter

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle

REGULARS = ["ada", "bo", "cleo"]  # whose models every replica has from the start


@serve.deployment(num_replicas=3, rolling_update_percentage=0.34, graceful_shutdown_timeout_s=30)
class Prices:
    """One model for each customer. A replica is sent requests when its `preload` is loaded, and not before."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.cold = 0

    @serve.multiplexed(max_num_models_per_replica=10, preload=REGULARS)
    async def get_model(self, customer: str) -> str:
        await asyncio.sleep(0.3)  # where a model would be loaded
        return customer

    async def __call__(self) -> tuple[str, bool]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await self.get_model(serve.get_multiplexed_model_id())
        return self.version, loop.time() - begun >= 0.3


def call_until(
    stop: threading.Event, handle: DeploymentHandle, seen: list[tuple[str, bool]], begun: threading.Event
) -> None:
    """As a client would, one request after the other. What a request raises is not caught: it would be a lost one."""
    number = 0
    while not stop.is_set():
        customer = REGULARS[number % len(REGULARS)]
        seen.append(handle.options(multiplexed_model_id=customer).remote().result(timeout_s=30))
        begun.set()
        number += 1


def main() -> None:
    serve.start(http_options={"port": 0})  # any port, since only handles call
    first = Prices.bind("one")  # type: ignore[attr-defined] # mypy takes no notice of what
    second = Prices.bind("two")  # type: ignore[attr-defined] # class decorators return
    handle = serve.run(first, route_prefix=None)

    seen: list[tuple[str, bool]] = []
    stop, begun = threading.Event(), threading.Event()
    client = threading.Thread(target=call_until, args=(stop, handle, seen, begun))
    client.start()
    begun.wait(30)
    serve.run(second, route_prefix=None)  # returns when all replicas are of the new version
    after = [handle.options(multiplexed_model_id=customer).remote().result()[0] for customer in REGULARS]
    stop.set()
    client.join()

    versions = Counter(version for version, _ in seen)
    print("answers of both versions:", sorted(versions) == ["one", "two"])
    print("afterwards:", *sorted(set(after)))
    print("requests that met a cold model:", sum(cold for _, cold in seen))
    serve.shutdown()


if __name__ == "__main__":
    main()
