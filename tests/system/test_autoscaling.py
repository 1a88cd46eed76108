"""The number of replicas follows the demand, with real processes and short delays."""

import collections
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from served import Client, Reply, wait_until
from started import Started, home_in

from modelplex import follower
from modelplex.config import CONTROL
from modelplex.serve import DeploymentHandle

pytestmark = pytest.mark.system

APP = """
import asyncio
from modelplex import serve

@serve.deployment
class Scaled:
    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id):
        await asyncio.sleep(0.2)
        return model_id

    async def __call__(self, request):
        if model_id := serve.get_multiplexed_model_id():
            await self.get_model(model_id)
        await asyncio.sleep(float(request.query_params.get("s", 0)))
        return serve.get_replica_context().replica_tag

    async def tag(self):
        return serve.get_replica_context().replica_tag

app = Scaled.bind()
"""

ROUNDS_MAX = 10

QUICK = {
    "metrics_interval_s": 0.2,
    "look_back_period_s": 1.0,
    "upscale_delay_s": 0.2,
    "downscale_delay_s": 0.5,
    "downscale_to_zero_delay_s": 0.5,
    "target_ongoing_requests": 5,
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with home_in(tmp_path_factory.mktemp("scaled")) as started:
        started.write("scaled.py", APP)
        started.start()
        deploy(started, num_replicas=1)
        yield started


def deploy(system: Started, **options: Any) -> None:
    deployment = {"name": "Scaled", "max_ongoing_requests": 10, **options}
    system.command("deploy", system.config({"import_path": "scaled:app", "deployments": [deployment]}))


def running(system: Started) -> int:
    states = system.status["applications"]["default"]["deployments"]["Scaled"]["replica_states"]
    assert isinstance(states, dict)
    return int(states.get("RUNNING", 0))


def call_at_once(port: int, count: int, path: str) -> list[Reply]:
    replies: list[Reply] = []

    def call() -> None:
        replies.append(Client(port).call(path=path))

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def test_from_zero_by_load_up_and_by_silence_back_to_zero(system: Started) -> None:
    deploy(system, autoscaling_config={**QUICK, "min_replicas": 0, "max_replicas": 3})
    wait_until(lambda: running(system) == 0, "it is at zero")
    assert Client(system.port).call("a").status == 200
    assert running(system) == 1
    answered: set[bytes] = set()
    for _ in range(ROUNDS_MAX):  # a process may take longer to start than a round
        replies = call_at_once(system.port, 20, "/?s=1.5")
        assert collections.Counter(reply.status for reply in replies) == {200: 20}
        answered |= {reply.body for reply in replies}
        if len(answered) > 1:
            break
    assert len(answered) > 1
    wait_until(lambda: running(system) == 0, "it is at zero again")
    wait_until(lambda: not system.replicas(), "its process has ended")
    assert Client(system.port).call("a").status == 200


@pytest.mark.parametrize("by", ["http", "handle"])
def test_what_waits_while_there_is_no_controller_is_known_to_the_next_one(system: Started, by: str) -> None:
    deploy(system, autoscaling_config={**QUICK, "min_replicas": 0, "max_replicas": 1})
    handle = DeploymentHandle("default", "Scaled", system=str(system.home.sockets / CONTROL)).tag
    assert handle.remote().result(timeout_s=30)
    wait_until(lambda: not system.replicas(), "it is at zero")
    port = system.port
    system.kill_controller()
    answered: list[object] = []

    def ask() -> None:
        answered.append(Client(port).call("a").status if by == "http" else handle.remote().result(timeout_s=30))

    asking = threading.Thread(target=ask)
    asking.start()
    system.command("start")
    asking.join()
    assert answered
    assert answered[0] not in ("", 503)
    for each in follower._followed.values():
        each.end()
    follower._followed.clear()


@pytest.mark.parametrize("model", ["m0", "m1", "m2"])  # on one of two replicas, and not always on the same
def test_the_only_copy_of_a_model_in_use_survives_a_downscale(system: Started, model: str) -> None:
    system.admin.delete("default")  # its replicas have been asked for other models
    deploy(system, num_replicas=2)
    with contextlib.closing(Client(system.port)) as client:
        replies = [client.call(model) for _ in range(5)]
        deploy(system, autoscaling_config={**QUICK, "initial_replicas": 2, "max_replicas": 2})

        def one_is_left() -> bool:
            replies.append(client.call(model))
            return running(system) == 1

        wait_until(one_is_left, "there is one replica")
        replies += [client.call(model) for _ in range(20)]
    assert {reply.status for reply in replies} == {200}
    assert [reply.start for reply in replies] == ["cold"] + ["warm"] * (len(replies) - 1)
