"""Autoscaling: options as a dict and as an object, "auto", a policy, up with the load and down after it."""

import asyncio
import time

from modelplex import serve
from modelplex.serve.config import AutoscalingConfig, AutoscalingContext
from modelplex.serve.handle import DeploymentHandle


def replicas(name: str) -> int:
    return serve.status().applications["default"].deployments[name].replica_states.get("RUNNING", 0)


def wait_for(name: str, true) -> None:
    deadline = time.time() + 60
    while not true(replicas(name)):
        assert time.time() < deadline, replicas(name)
        time.sleep(0.05)


@serve.deployment(
    max_ongoing_requests=5,
    autoscaling_config={
        "min_replicas": 1,
        "initial_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 2,
        "metrics_interval_s": 0.1,
        "look_back_period_s": 0.5,
        "upscale_delay_s": 0.2,
        "downscale_delay_s": 0.5,
        "upscaling_factor": 1.0,
    },
)
class Slow:
    async def __call__(self) -> str:
        await asyncio.sleep(2)
        return "done"


handle: DeploymentHandle = serve.run(Slow.bind())
wait_for("Slow", lambda number: number == 1)
responses = [handle.remote() for _ in range(12)]
wait_for("Slow", lambda number: number == 3)
assert [response.result() for response in responses] == ["done"] * 12
wait_for("Slow", lambda number: number == 1)


def always_two(ctx: AutoscalingContext) -> tuple[int, dict]:
    return 2, {"asked": ctx.policy_state.get("asked", 0) + 1}


quick = AutoscalingConfig(
    min_replicas=1,
    max_replicas=4,
    metrics_interval_s=0.1,
    upscale_delay_s=0.1,
    policy={"policy_function": always_two},
)
serve.run(Slow.options(name="Steered", autoscaling_config=quick).bind())
wait_for("Steered", lambda number: number == 2)

serve.run(Slow.options(name="Automatic", num_replicas="auto", autoscaling_config={"max_replicas": 2}).bind())
wait_for("Automatic", lambda number: number == 1)
