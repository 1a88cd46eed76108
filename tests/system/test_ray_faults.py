# mypy: disable-error-code="attr-defined, union-attr"
"""What hurts on a Ray cluster: a controller that is killed while it works, machines that go, no place to start."""

import base64
import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import RayNodes, ray_nodes
from served import wait_until

from modelplex import serve
from modelplex.errors import DeploymentFailedError

pytestmark = [pytest.mark.system, pytest.mark.long]

NAMESPACE = "modelplex"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with ray_nodes() as found:
        yield found


@pytest.fixture
def nodes(cluster: RayNodes) -> Iterator[RayNodes]:
    """With a system, of which nothing is left afterwards."""
    serve.start({"port": 0}, engine="ray")
    yield cluster
    serve.shutdown()
    assert actors() == []
    assert groups() == []
    assert kept() == []


def actors() -> list[str]:
    """What Modelplex has on the cluster."""
    import ray

    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(each["name"].partition("#")[0] for each in named if each["namespace"] == NAMESPACE)


def groups() -> list[str]:
    import ray

    return [g["name"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]


def kept() -> list[bytes]:
    from ray.experimental import internal_kv

    found: list[bytes] = internal_kv._internal_kv_list(b"", namespace=NAMESPACE.encode())
    return found


def controller() -> Any:
    import ray

    return ray.get_actor("controller", namespace=NAMESPACE)


def kill_controller() -> None:
    """As the kernel does it when memory is short."""
    from ray._private import state

    (pid,) = [a["Pid"] for a in state.actors().values() if a["Name"] == "controller" and a["State"] == "ALIVE"]
    os.kill(pid, signal.SIGKILL)


def replicas(app: str) -> int:
    (deployment,) = serve.status().applications[app].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


@contextmanager
def asking(ask: Callable[[], object], clients: int = 4) -> Iterator[list[object]]:
    """Calls all the time until the end of the block; none may fail."""
    answers: list[object] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            answers.append(ask())

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(work) for _ in range(clients)]
        try:
            wait_until(lambda: len(answers) > 20 or any(f.done() for f in futures), "requests run")
            yield answers
        finally:
            over.set()
        for each in futures:
            each.result()


@serve.deployment(num_replicas=3, placement_group_bundles=[{"CPU": 1}])
class Versioned:
    async def __init__(self, version: str, start_s: float = 0.0) -> None:  # type: ignore[misc]
        import asyncio

        self.version = version
        await asyncio.sleep(start_s)

    async def __call__(self) -> str:
        return self.version


@serve.deployment(
    ray_actor_options={"num_cpus": 0},
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 1,
        "upscale_delay_s": 0.2,
        "downscale_delay_s": 0.5,
        "look_back_period_s": 0.5,
    },
)
class Scaled:
    async def __init__(self) -> None:  # type: ignore[misc]
        import asyncio

        await asyncio.sleep(1)

    async def __call__(self) -> str:
        import asyncio

        await asyncio.sleep(0.2)
        return "scaled"


def test_a_controller_killed_while_it_updates_and_scales_goes_on_and_leaves_nothing_over(nodes: RayNodes) -> None:
    scaled = serve.run(Scaled.bind(), name="scaled", route_prefix="/scaled")
    handle = serve.run(Versioned.bind("1"))

    @serve.deployment(ray_actor_options={"num_cpus": 0}, placement_group_bundles=[{"nowhere": 1}])
    class Waits:
        pass

    def are_begun() -> bool:
        there = actors()
        return there.count("default_Versioned") > 3 and there.count("scaled_Scaled") > 1 and "waits_Waits" in there

    with (
        asking(lambda: handle.remote().result(timeout_s=60), clients=2) as answers,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        update = pool.submit(serve.run, Versioned.bind("2", 1.0))
        waits = pool.submit(serve.run, Waits.bind(), name="waits", route_prefix="/waits")
        with asking(lambda: scaled.remote().result(timeout_s=60)):
            wait_until(are_begun, "new replicas are begun of both")
            kill_controller()
            update.result(timeout=60)
            wait_until(lambda: replicas("scaled") == 3, "there are more")
        there = ["controller", *["default_Versioned"] * 3, *["proxy"] * 3, "scaled_Scaled", "waits_Waits"]
        wait_until(lambda: actors() == there and len(groups()) == 4, "what was half begun, or is too much, has ended")
        assert not waits.done()
        serve.delete("waits")
        with pytest.raises(DeploymentFailedError, match="called off"):
            waits.result(timeout=30)
        assert handle.remote().result(timeout_s=30) == "2"
    assert set(answers) == {"1", "2"}


def test_a_machine_that_is_drained_hands_over_its_replicas_and_fails_no_request(nodes: RayNodes) -> None:
    import ray
    from ray._private.worker import global_worker

    @serve.deployment(num_replicas=3, max_replicas_per_node=1)
    class Models:
        @serve.multiplexed(max_num_models_per_replica=4)
        async def get_model(self, model_id: str) -> str:
            return model_id

        async def __call__(self) -> Any:
            return await self.get_model(serve.get_multiplexed_model_id()), ray.get_runtime_context().get_node_id()

    node = nodes.add(num_cpus=2)
    handle = serve.run(Models.options(num_replicas=3).bind())
    chance = iter(range(10**9))

    def ask() -> str:
        model_id = f"m{next(chance) % 9}"
        model, machine = handle.options(multiplexed_model_id=model_id).remote().result(timeout_s=60)
        assert model == model_id
        return str(machine)

    with asking(ask, clients=1) as machines:
        wait_until(lambda: len(set(machines)) == 3, "all are in use")
        drained = next(str(machine) for machine in machines[::-1] if machine != ray.get_runtime_context().get_node_id())
        until_ms = int((time.time() + 60) * 1000)
        accepted, why = global_worker.gcs_client.drain_node(drained, 2, "spot", until_ms)
        assert accepted, why
        wait_until(lambda: drained not in machines[-200:] and len(machines) > 200, "it is left")
    assert len(set(machines[-200:])) == 3
    found = next(each for each in [*nodes.workers, node] if each.node_id == drained)
    if found is node:
        nodes.workers.append(node)
    nodes.end(found)
    if found is not node:
        nodes.workers.append(node)


def test_what_waits_for_a_place_is_demanded_and_may_be_deleted(nodes: RayNodes) -> None:
    @serve.deployment(ray_actor_options={"resources": {"accelerator": 1}}, graceful_shutdown_timeout_s=60)
    class Placed:
        def __call__(self) -> str:
            return "here"

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run = pool.submit(serve.run, Placed.bind(), name="waits")
        wait_until(lambda: "waits_Placed" in actors(), "it is asked for")
        began = time.monotonic()
        serve.delete("waits")
        took_s = time.monotonic() - began
        with pytest.raises(DeploymentFailedError, match="called off"):
            run.result(timeout=30)
    assert "waits_Placed" not in actors()
    assert took_s < 60  # it has nothing to end
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run = pool.submit(serve.run, Placed.bind(), name="comes")
        wait_until(lambda: "comes_Placed" in actors(), "it is asked for")
        wait_until(lambda: {"accelerator": 1.0} in demands(), "whoever adds machines is told")
        node = nodes.add(num_cpus=1, resources={"accelerator": 1})
        assert run.result(timeout=30).remote().result(timeout_s=30) == "here"
    serve.delete("comes")
    nodes.cluster.remove_node(node)


def demands() -> list[dict[str, float]]:
    """What Ray's autoscaler is asked for."""
    from ray._private.worker import global_worker
    from ray.core.generated import autoscaler_pb2

    data = global_worker.gcs_client.get_cluster_resource_state()
    state = autoscaler_pb2.GetClusterResourceStateReply.FromString(data).cluster_resource_state
    shapes = [dict(each.request.resources_bundle) for each in state.pending_resource_requests]
    return [{k: v for k, v in shape.items() if k == "accelerator"} for shape in shapes]


def test_a_failed_run_leaves_a_system_that_was_there(nodes: RayNodes) -> None:
    @serve.deployment(max_constructor_retry_count=1)
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no such thing")

    with pytest.raises(DeploymentFailedError):
        serve.run(Broken.bind())
    serve.delete("default")
    assert "controller" in actors()

    @serve.deployment(max_constructor_retry_count=1, ray_actor_options={"runtime_env": {"pip": ["no-such-package-x1"]}})
    class NoEnvironment:
        pass

    with pytest.raises(DeploymentFailedError, match="runtime_env"):
        serve.run(NoEnvironment.bind())


def test_tasks_and_actors_call_applications_and_stay(nodes: RayNodes) -> None:
    import ray

    serve.run(Versioned.options(num_replicas=1).bind("1"))

    @ray.remote(num_cpus=0)
    def task() -> Any:
        from modelplex import serve

        return serve.get_app_handle("default").remote().result(timeout_s=30)

    @ray.remote(num_cpus=0)
    class Own:
        async def ask(self) -> Any:
            from modelplex import serve

            return await serve.get_app_handle("default").remote()

    own = Own.options(name="own").remote()
    assert ray.get([task.remote(), own.ask.remote()], timeout=60) == ["1", "1"]
    serve.shutdown()
    assert ray.get_runtime_context().namespace == "of_the_test"
    assert ray.get_actor("own") == own
    with pytest.raises(Exception, match=r"(?i)nothing runs|no application|ended"):
        ray.get(own.ask.remote(), timeout=60)
    ray.kill(own)


PROGRAM = textwrap.dedent("""
    import os, signal, sys
    import ray
    from modelplex import serve

    ray.init(address=sys.argv[1], namespace="another", log_to_driver=False)

    @serve.deployment(placement_group_bundles=[{"CPU": 1}])
    class Echo:
        def __call__(self, text):
            return text

    serve.start({"port": 0}, engine="ray")
    serve.run(Echo.bind(), name="left")
    os.kill(os.getpid(), signal.SIGKILL)
""")


def test_a_program_killed_leaves_its_system_and_a_controller_killed_for_good_ends_it(cluster: RayNodes) -> None:
    import ray

    done = subprocess.run([sys.executable, "-c", PROGRAM, cluster.cluster.address], timeout=60, cwd="/", check=False)
    assert done.returncode == -signal.SIGKILL
    serve.start(engine="ray")
    assert serve.get_app_handle("left").remote("hello").result(timeout_s=30) == "hello"
    secret = ray.get(controller().membership.remote()).secret
    ray.kill(controller(), no_restart=True)
    wait_until(lambda: actors() == [] and groups() == [], "they end by themselves", timeout_s=60)
    with pytest.raises(Exception, match=r"(?i)ended|nothing runs"):
        serve.status()
    serve.shutdown()
    serve.start({"port": 0}, engine="ray")
    handle = serve.run(Versioned.options(num_replicas=1).bind("1"))
    assert handle.remote().result(timeout_s=30) == "1"
    serve.shutdown()
    assert (actors(), groups(), kept()) == ([], [], [])
    assert_is_in_no_log(secret)


def assert_is_in_no_log(secret: bytes) -> None:
    import ray

    shown = [secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)]
    shown.append(repr(secret)[2:-1].encode())
    logs = [path for path in Path(ray._private.worker._global_node.get_logs_dir_path()).rglob("*") if path.is_file()]
    assert any("modelplex" in str(path) for path in logs)
    for path in logs:
        text = path.read_bytes()
        assert not any(each in text for each in shown), path
