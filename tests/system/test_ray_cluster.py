# mypy: disable-error-code="attr-defined, union-attr"
"""What users rely on, on a real Ray cluster of three nodes: the programs of one machine, and the loss of a node."""

import collections
import concurrent.futures
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from ray_nodes import RayNodes, ray_nodes
from served import wait_until

from modelplex import serve
from modelplex.errors import DeploymentFailedError

pytestmark = [pytest.mark.system, pytest.mark.cluster]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes() as found:
        serve.start({"port": 0}, engine="ray")
        yield found
        serve.shutdown()


@pytest.fixture(autouse=True)
def nothing_is_left(nodes: RayNodes) -> Iterator[None]:
    yield
    for name in serve.status().applications:
        serve.delete(name)


def machine() -> str:
    import ray

    name: str = ray.get_runtime_context().get_node_id()
    return name


def urls() -> list[str]:
    return list(serve.status().proxy_addresses.values())


@serve.deployment(num_replicas=3)
class Models:
    """Answers with the model and where it is."""

    def __init__(self, load_s: float = 0.0) -> None:
        self.load_s = load_s
        self.loads: list[str] = []

    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id: str) -> str:
        import asyncio

        await asyncio.sleep(self.load_s)
        self.loads.append(model_id)
        return model_id

    async def __call__(self, request: Any = None) -> dict[str, str]:
        return {"model": await self.get_model(serve.get_multiplexed_model_id()), "machine": machine()}

    def loaded(self) -> list[str]:
        return self.loads


# Which sleep and import in their bodies: they travel by value, and this module's imports do not travel with them.


def test_the_first_program_of_every_user() -> None:
    @serve.deployment
    class Inferencer:
        @serve.multiplexed(max_num_models_per_replica=3)
        async def get_model(self, model_id: str) -> Any:
            return lambda text: f"{model_id}({text})"

        async def __call__(self, request: Any) -> str:
            model_id = serve.get_multiplexed_model_id()
            model = await self.get_model(model_id)
            answer: str = model("x")
            return answer

    handle = serve.run(Inferencer.bind(), engine="ray")
    assert handle.options(multiplexed_model_id="1").remote(None).result(timeout_s=30) == "1(x)"
    reply = httpx.get(urls()[0], headers={"serve_multiplexed_model_id": "2"})
    assert (reply.status_code, reply.text) == (200, "2(x)")


def test_models_that_fit_are_loaded_once_each_whoever_asks() -> None:
    handle = serve.run(Models.bind())
    wait_until(lambda: len(urls()) == 3, "each machine has a proxy")
    model_ids = [f"m{random.Random(seed).randrange(12)}" for seed in range(600)]
    clients = [httpx.Client(base_url=url) for url in urls()]

    def ask(number: int) -> dict[str, str]:
        model_id = model_ids[number]
        if number % 4 == 3:
            found: dict[str, str] = handle.options(multiplexed_model_id=model_id).remote().result(timeout_s=30)
            return found
        reply = clients[number % 4].get("/", headers={"serve_multiplexed_model_id": model_id})
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(model_ids))))
    assert [answer["model"] for answer in answers] == model_ids
    assert len({answer["machine"] for answer in answers}) == 3
    loads = [model_id for loads in handle.broadcast("loaded").result() for model_id in loads]
    assert sorted(loads) == sorted(set(model_ids))


def test_composition_and_streams_cross_machines() -> None:
    @serve.deployment(num_replicas=2)
    class Inner:
        async def count(self, to: int) -> AsyncIterator[int]:
            for number in range(to):
                yield number

        async def double(self, number: int) -> int:
            return 2 * number

    @serve.deployment
    class Outer:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, request: Any) -> Any:
            from starlette.responses import StreamingResponse

            async def lines() -> AsyncIterator[str]:
                async for number in self.inner.count.options(stream=True).remote(5):
                    yield f"{await self.inner.double.remote(number)}\n"

            return StreamingResponse(lines())

    serve.run(Outer.bind(Inner.bind()))
    with httpx.stream("GET", urls()[0]) as reply:
        assert list(reply.iter_lines()) == ["0", "2", "4", "6", "8"]


def test_another_version_takes_over_without_a_failed_request() -> None:
    @serve.deployment(num_replicas=3)
    class Versioned:
        def __init__(self, version: str) -> None:
            self.version = version

        async def __call__(self) -> str:
            return self.version

    handle = serve.run(Versioned.bind("1"))
    seen: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            seen.append(handle.remote().result(timeout_s=30))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            wait_until(lambda: len(seen) > 50, "requests run")
            serve.run(Versioned.bind("2"))
        finally:
            over.set()
        for each in asking:
            each.result()
    assert set(seen) == {"1", "2"}
    assert handle.remote().result(timeout_s=30) == "2"


def test_replicas_come_with_the_load_and_go_with_it() -> None:
    @serve.deployment(
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": 1,
            "upscale_delay_s": 0.2,
            "downscale_delay_s": 0.5,
            "look_back_period_s": 0.5,
        }
    )
    class Slow:
        async def __call__(self) -> None:
            import asyncio

            await asyncio.sleep(0.2)

    handle = serve.run(Slow.bind())
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            handle.remote().result(timeout_s=30)

    def running() -> int:
        return serve.status().applications["default"].deployments["Slow"].replica_states.get("RUNNING", 0)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            wait_until(lambda: running() >= 3, "there are more")
        finally:
            over.set()
        for each in asking:
            each.result()
    wait_until(lambda: running() == 1, "there are fewer", timeout_s=30)


def test_ray_places_replicas_as_their_options_say(nodes: RayNodes) -> None:
    import ray

    @serve.deployment(max_replicas_per_node=1, num_replicas=3, ray_actor_options={"num_cpus": 0})
    class Spread:
        def where(self) -> str:
            return machine()

    @serve.deployment(
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": {"GREETING": "hello"}}},
        placement_group_bundles=[{"CPU": 1}, {"CPU": 1}],
        placement_group_strategy="STRICT_PACK",
    )
    class Grouped:
        def env(self) -> Any:
            import os

            return os.environ["GREETING"], len(ray.util.get_current_placement_group().bundle_specs)

    spread = serve.run(Spread.bind(), name="spread", route_prefix="/spread")
    assert len(set(spread.broadcast("where").result())) == 3
    grouped = serve.run(Grouped.bind(), name="grouped", route_prefix="/grouped")
    assert grouped.env.remote().result(timeout_s=30) == ("hello", 2)
    serve.delete("grouped")

    def groups() -> set[str]:
        return {group["state"] for group in ray.util.placement_group_table().values()}

    wait_until(lambda: groups() == {"REMOVED"}, "its placement group is gone")


def test_what_does_not_start_says_why() -> None:
    @serve.deployment(max_constructor_retry_count=1)
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no such thing")

    with pytest.raises(DeploymentFailedError, match="no such thing"):
        serve.run(Broken.bind())

    @serve.deployment(ray_actor_options={"resources": {"CPU": 1}}, max_constructor_retry_count=1)
    class Impossible:
        pass

    with pytest.raises(DeploymentFailedError, match="num_cpus"):
        serve.run(Impossible.bind())


def test_the_status_says_that_there_is_no_place() -> None:
    @serve.deployment(ray_actor_options={"num_cpus": 64})
    class Large:
        pass

    def message() -> str:
        app = serve.status().applications.get("large")
        return "" if app is None else app.deployments["Large"].message

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(serve.run, Large.bind(), name="large", route_prefix="/large")
        wait_until(lambda: "ray status" in message(), "it is said")
        serve.delete("large")
        with pytest.raises(DeploymentFailedError, match="called off"):
            running.result(timeout=30)


def test_a_program_may_leave_and_another_one_go_on(nodes: RayNodes) -> None:
    program = textwrap.dedent("""
        import sys

        import ray

        from modelplex import serve

        ray.init(address=sys.argv[1], namespace="another", log_to_driver=False)

        @serve.deployment
        class Echo:
            def __call__(self, text):
                return text

        serve.run(Echo.bind(), name="left", route_prefix="/left", engine="ray")
    """)
    subprocess.run([sys.executable, "-c", program, nodes.cluster.address], check=True, timeout=60, cwd="/")
    assert serve.get_app_handle("left").remote("hello").result(timeout_s=30) == "hello"
    another = textwrap.dedent("""
        import sys

        import ray

        from modelplex import serve

        ray.init(address=sys.argv[1], namespace="another", log_to_driver=False)

        @ray.remote
        def ask(word):
            return serve.get_app_handle("left").remote(word).result()

        assert ray.get(ask.remote("from a task")) == "from a task"
        assert serve.get_app_handle("left").remote("hello").result() == "hello"
        assert serve.status().applications["left"].status == "RUNNING"
        serve.delete("left")
    """)
    subprocess.run([sys.executable, "-c", another, nodes.cluster.address], check=True, timeout=60, cwd="/")
    wait_until(lambda: "left" not in serve.status().applications, "another program has deleted it")


def test_a_controller_that_dies_comes_back_and_knows_what_runs() -> None:
    import ray

    handle = serve.run(Models.bind())
    for number in range(12):
        handle.options(multiplexed_model_id=f"m{number}").remote().result(timeout_s=30)
    before = urls()
    ray.kill(ray.get_actor("controller", namespace="modelplex"), no_restart=False)
    for number in range(12):  # nobody misses it
        handle.options(multiplexed_model_id=f"m{number}").remote().result(timeout_s=30)

    def is_back() -> bool:
        found = serve.status().applications.get("default")
        return found is not None and found.deployments["Models"].replica_states == {"RUNNING": 3}

    wait_until(is_back, "the next controller knows the replicas")
    assert sorted(map(len, handle.broadcast("loaded").result())) == [4, 4, 4]
    wait_until(lambda: sorted(urls()) == sorted(before), "the proxies are the same")
    handle = serve.run(Models.options(num_replicas=2).bind())
    assert handle.options(multiplexed_model_id="m1").remote().result(timeout_s=30)["model"] == "m1"


def test_a_machine_that_dies_fails_no_request_and_its_hot_models_are_back_soon(nodes: RayNodes) -> None:
    nodes.workers.append(nodes.add(num_cpus=2))
    handle = serve.run(Models.options(num_replicas=4, max_replicas_per_node=1).bind(load_s=0.3))
    wait_until(lambda: len(urls()) == 4, "each machine has a proxy")
    hot = [f"m{number}" for number in range(8)]
    weights = [1 / (place + 1) for place in range(len(hot))]
    answered: collections.defaultdict[str, list[tuple[float, str, float]]] = collections.defaultdict(list)
    over = threading.Event()
    head = httpx.get(urls()[0])  # the head's is the first
    assert head.status_code == 400  # it names no model

    def ask(client: int) -> None:
        chance, http = random.Random(client), httpx.Client(base_url=urls()[0], timeout=60)
        while not over.is_set():
            model_id = chance.choices(hot, weights)[0]
            began = time.monotonic()
            if client % 2:
                found = handle.options(multiplexed_model_id=model_id).remote().result(timeout_s=60)
            else:
                reply = http.get("/", headers={"serve_multiplexed_model_id": model_id})
                assert reply.status_code == 200, reply.text
                found = reply.json()
            assert found["model"] == model_id
            answered[model_id].append((time.monotonic(), found["machine"], time.monotonic() - began))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, client) for client in range(8)]
        try:
            wait_until(lambda: all(len(answered[m]) > 20 for m in hot), "all models are in use")
            time.sleep(1)
            held = collections.Counter(answered[m][-1][1] for m in hot)
            lost = max(nodes.workers, key=lambda node: held[node.node_id])
            there = [m for m in hot if answered[m][-1][1] == lost.node_id]
            nodes.end(lost)
            lost_at = time.monotonic()
            time.sleep(8)
        finally:
            over.set()
        for each in asking:
            each.result()
    assert there, "the machine that died held models"
    for model_id in there:
        back = next(at for at, machine, took_s in answered[model_id] if at > lost_at and machine != lost.node_id)
        assert back - lost_at < 5
