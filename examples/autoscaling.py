"""Replicas that come with the load, and go when there is none, the last one too.

    modelplex run autoscaling:entry --app-dir examples
    curl -H "serve-multiplexed-model-id: north" http://127.0.0.1:8000/

`python examples/autoscaling.py` makes load of its own, and prints how many replicas there are. The times are short, so
that something is to be seen; those of the defaults suit most loads better.
"""

import asyncio
import time
from collections.abc import Callable

from modelplex import serve


@serve.deployment(
    max_ongoing_requests=10,
    autoscaling_config={
        "min_replicas": 0,
        "initial_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 4,
        "metrics_interval_s": 0.1,
        "look_back_period_s": 0.5,
        "upscale_delay_s": 0.2,
        "downscale_delay_s": 0.5,
        "downscale_to_zero_delay_s": 1.0,
    },
)
class Forecast:
    @serve.multiplexed(max_num_models_per_replica=20)
    async def get_model(self, region: str) -> str:
        await asyncio.sleep(0.1)  # where a model would be loaded
        return region

    async def __call__(self) -> str:
        region = await self.get_model(serve.get_multiplexed_model_id() or "everywhere")
        await asyncio.sleep(0.5)  # where it would compute
        return f"sun in the {region}"


entry = Forecast.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return


def replicas() -> int:
    return serve.status().applications["default"].deployments["Forecast"].replica_states.get("RUNNING", 0)


def wait_until(true: Callable[[int], bool]) -> int:
    deadline = time.monotonic() + 60
    while not true(count := replicas()):
        assert time.monotonic() < deadline, f"{count} replicas are left"
        time.sleep(0.02)
    return count


def main() -> None:
    serve.start(http_options={"port": 0})  # any port, since only a handle calls
    handle = serve.run(entry, route_prefix=None)
    print("replicas at first:", replicas())
    calls = [handle.options(multiplexed_model_id=f"region-{n % 8}").remote() for n in range(120)]
    print("replicas under load:", wait_until(lambda count: count == 3))
    print("all were answered:", all(call.result() for call in calls))
    print("replicas when nobody asks:", wait_until(lambda count: count == 0))
    print("and the next request waits for one:", handle.options(multiplexed_model_id="south").remote().result())
    serve.shutdown()


if __name__ == "__main__":
    main()
