"""A deployment as its clients and its operator see it: configuration, health, updates, numbers of replicas.

Replicas run on the test's own loop, in virtual time.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from inline_app import app_of
from virtual_time import in_virtual_time

from modelplex import context, errors, serve
from modelplex.deployment import Application, flatten
from modelplex.engines.inline import InlineProcess
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.replica import Replica
from modelplex.serve import DeploymentHandle
from modelplex.status import ApplicationStatus, DeploymentStatus
from modelplex.testing import InlineCluster


class World:
    """A cluster with one application, which is deployed by its version."""

    def __init__(self, cluster: InlineCluster) -> None:
        self.cluster = cluster
        self.handle = DeploymentHandle("default", "D")

    async def deploy(self, application: Application, version: str = "1") -> None:
        spec = AppSpec.of("default", flatten(application, "default"), "/", version=version)
        await self.cluster.controller.deploy(spec)

    @property
    def processes(self) -> list[InlineProcess]:
        """All that have ever been started."""
        return list(self.cluster.engine._processes.values())

    @property
    def replicas(self) -> list[Replica]:
        """Those that have not exited, in the order in which they were started."""
        return [process.replica for process in self.processes if not process.exited.done()]

    @property
    def objects(self) -> list[Any]:
        """The user's objects of those."""
        return [replica.servable.instance for replica in self.replicas]

    @property
    def started(self) -> int:
        """How many replicas have ever been started."""
        return len(self.processes)

    @property
    def app(self) -> ApplicationStatus:
        return self.cluster.status().applications["default"]

    @property
    def status(self) -> DeploymentStatus:
        return self.app.deployments["D"]


@contextlib.asynccontextmanager
async def world(application: Application | None = None) -> AsyncIterator[World]:
    """Afterwards nothing may be left."""
    before = asyncio.all_tasks()
    async with InlineCluster() as cluster:
        made = World(cluster)
        if application is not None:
            await made.deploy(application)
        yield made
    assert made.replicas == []
    assert asyncio.all_tasks() <= before


class Client:
    """Calls without a pause, with what each answer was."""

    def __init__(self, handle: DeploymentHandle, model_ids: tuple[str, ...] = ("",)) -> None:
        self._handle = handle
        self._model_ids = model_ids
        self.answers: list[Any] = []
        self.failures: list[BaseException] = []
        self.slowest_s = 0.0
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(3)]

    async def _call(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            number += 1
            model_id = self._model_ids[number % len(self._model_ids)]
            began = loop.time()
            try:
                answer = await self._handle.options(multiplexed_model_id=model_id).remote()
                self.answers.append(answer)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test fails by it
                self.failures.append(error)
            self.slowest_s = max(self.slowest_s, loop.time() - began)
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


# Configuration


class Configured:
    """Has its configuration, and refuses some."""

    def __init__(self) -> None:
        self.configs: list[Any] = []

    async def reconfigure(self, user_config: Any) -> None:
        await asyncio.sleep(0.1)
        if user_config == "bad":
            raise ValueError(f"{user_config!r} makes no sense")
        self.configs.append(user_config)

    async def __call__(self) -> Any:
        return self.configs[-1] if self.configs else None


def configured(user_config: Any, **options: Any) -> Application:
    return app_of(Configured, name="D", user_config=user_config, **options)


@in_virtual_time
async def test_the_first_configuration_is_there_before_the_first_request() -> None:
    async with world(configured({"a": 1}, num_replicas=2)) as it:
        assert [made.configs for made in it.objects] == [[{"a": 1}]] * 2
        assert await it.handle.remote() == {"a": 1}


@in_virtual_time
async def test_without_a_configuration_nobody_is_configured() -> None:
    async with world(configured(None)) as it:
        assert it.objects[0].configs == []


@in_virtual_time
async def test_a_configuration_for_an_object_that_takes_none_fails_the_start() -> None:
    async with world() as it:
        with pytest.raises(errors.DeploymentFailedError, match="no method `reconfigure`"):
            await it.deploy(app_of(Plain, name="D", user_config=1))
        assert it.app.status.value == "DEPLOY_FAILED"


@in_virtual_time
async def test_another_configuration_starts_no_replica() -> None:
    async with world(configured(1, num_replicas=3)) as it:
        before = it.replicas
        await it.deploy(configured(2, num_replicas=3))
        assert it.replicas == before
        assert it.started == 3
        assert [made.configs for made in it.objects] == [[1, 2]] * 3
        assert await it.handle.remote() == 2


@in_virtual_time
async def test_the_same_configuration_is_not_given_again() -> None:
    async with world(configured(1)) as it:
        await it.deploy(configured(1, max_queued_requests=7))
        assert it.objects[0].configs == [1]


@in_virtual_time
async def test_a_replica_that_starts_later_has_the_configuration_that_is_wanted_now() -> None:
    async with world(configured(1)) as it:
        await it.deploy(configured(2))
        await it.deploy(configured(2, num_replicas=2))
        assert [made.configs for made in it.objects] == [[1, 2], [2]]


@in_virtual_time
async def test_a_configuration_that_is_refused_is_taken_back_everywhere() -> None:
    async with world(configured(1, num_replicas=2)) as it:
        with pytest.raises(errors.DeploymentFailedError, match=r"does not take its user_config.*'bad' makes no sense"):
            await it.deploy(configured("bad", num_replicas=2))
        assert it.started == 2
        assert {made.configs[-1] for made in it.objects} == {1}
        assert it.app.status.value == "RUNNING"
        assert "'bad' makes no sense" in it.app.message
        assert await it.handle.remote() == 1
        await it.deploy(configured(3, num_replicas=2))
        assert {made.configs[-1] for made in it.objects} == {3}
        assert it.app.message == ""


@in_virtual_time
async def test_a_configuration_that_one_refuses_is_taken_back_from_those_that_took_it() -> None:
    refused: list[object] = []

    class Choosy(Configured):
        async def reconfigure(self, user_config: Any) -> None:
            if user_config == 2 and not refused:
                refused.append(self)
                raise ValueError("not me")
            await super().reconfigure(user_config)

    def app(user_config: int) -> Application:
        return app_of(Choosy, name="D", num_replicas=3, user_config=user_config)

    async with world(app(1)) as it:
        with pytest.raises(errors.DeploymentFailedError, match="not me"):
            await it.deploy(app(2))
        assert sorted(made.configs for made in it.objects) == [[1, 1], [1, 2, 1], [1, 2, 1]]


@in_virtual_time
async def test_a_replica_that_is_starting_when_the_configuration_changes_gets_it_too() -> None:
    class Slow(Configured):
        async def reconfigure(self, user_config: Any) -> None:
            await super().reconfigure(user_config)
            await asyncio.sleep(5)

    def app(user_config: int) -> Application:
        return app_of(Slow, name="D", num_replicas=2, user_config=user_config)

    async with world(app(1)) as it:
        it.processes[0].kill()
        await asyncio.sleep(1)
        await it.deploy(app(2))
        await asyncio.sleep(20)
        assert [made.configs[-1] for made in it.objects] == [2, 2]


# Health


class Healthy:
    """Is well while its class says so."""

    well = True

    def __init__(self) -> None:
        self.sick = False
        self.checks = 0

    async def check_health(self) -> None:
        self.checks += 1
        if self.sick or not type(self).well:
            raise RuntimeError("feels unwell")

    async def __call__(self) -> str:
        return context.get_replica_context().replica_id


def healthy(kind: type[Healthy], **options: Any) -> Application:
    return app_of(kind, name="D", health_check_period_s=10, health_check_failure_threshold=2, **options)


@in_virtual_time
async def test_one_that_is_not_well_at_first_cannot_start() -> None:
    class Sick(Healthy):
        well = False

    async with world() as it:
        with pytest.raises(errors.DeploymentFailedError, match="feels unwell"):
            await it.deploy(healthy(Sick))
        assert it.app.status.value == "DEPLOY_FAILED"
        assert it.replicas == []


@in_virtual_time
async def test_a_version_that_is_not_well_does_not_take_the_place_of_one_that_is() -> None:
    class Sick(Healthy):
        well = False

    async with world(healthy(Healthy, num_replicas=2)) as it:
        before = it.replicas
        client = Client(it.handle)
        with pytest.raises(errors.DeploymentFailedError, match="feels unwell"):
            await it.deploy(healthy(Sick, num_replicas=2), "2")
        await client.stop()
        assert client.failures == []
        assert it.replicas == before
        assert "feels unwell" in it.app.message
        assert it.app.status.value == "RUNNING"


@in_virtual_time
async def test_a_check_that_hangs_fails_the_start() -> None:
    class Hangs(Healthy):
        async def check_health(self) -> None:
            await asyncio.Event().wait()

    async with world() as it:
        with pytest.raises(errors.DeploymentFailedError):
            await it.deploy(healthy(Hangs, health_check_timeout_s=5))


@in_virtual_time
async def test_one_that_is_unwell_later_is_replaced_and_no_request_is_lost() -> None:
    async with world(healthy(Healthy, num_replicas=2)) as it:
        client = Client(it.handle)
        sick, well = it.replicas
        it.objects[0].sick = True
        await asyncio.sleep(25)
        assert sick not in it.replicas
        assert well in it.replicas
        assert len(it.replicas) == 2
        assert it.started == 3
        assert it.status.status.value == "HEALTHY"
        await asyncio.sleep(100)
        await client.stop()
        assert (client.failures, it.started) == ([], 3)
        assert sick.context.replica_id not in client.answers[-10:]


@in_virtual_time
async def test_one_that_fails_now_and_then_is_left_in_peace() -> None:
    async with world(healthy(Healthy)) as it:
        for _ in range(5):
            it.objects[0].sick = True
            await asyncio.sleep(10)
            it.objects[0].sick = False
            await asyncio.sleep(10)
        assert it.started == 1


@in_virtual_time
async def test_objects_without_a_check_are_never_unwell() -> None:
    async with world(app_of(Plain, name="D", health_check_period_s=1)) as it:
        await asyncio.sleep(1000)
        assert it.started == 1


@in_virtual_time
async def test_another_period_goes_for_replicas_that_run() -> None:
    def app(period_s: float) -> Application:
        return app_of(Healthy, name="D", health_check_period_s=period_s)

    async with world(app(1000)) as it:
        await it.deploy(app(1))
        await asyncio.sleep(10)
        assert it.started == 1
        assert it.objects[0].checks > 5


# Updates


class Plain:
    def __init__(self, answer: str = "plain") -> None:
        self.answer = answer

    async def __call__(self) -> str:
        await asyncio.sleep(0.05)
        return self.answer


def plain(answer: str, **options: Any) -> Application:
    return app_of(Plain, answer, name="D", **options)


@pytest.mark.parametrize("changes", [{}, {"max_surge_percent": 0.0}, {"rolling_update_percentage": 1.0}], ids=str)
@in_virtual_time
async def test_a_client_that_calls_without_pause_does_not_notice_an_update(changes: dict[str, float]) -> None:
    async with world(plain("old", num_replicas=4, **changes)) as it:
        before = it.replicas
        client = Client(it.handle)
        await asyncio.sleep(1)
        await it.deploy(plain("new", num_replicas=4, **changes), "2")
        await asyncio.sleep(2)
        await client.stop()
        assert client.failures == []
        assert not set(before) & set(it.replicas)
        assert (len(it.replicas), it.started) == (4, 8)
        assert client.answers[0] == "old"
        assert set(client.answers[-20:]) == {"new"}
        assert client.slowest_s < 1
        assert it.app.status.value == "RUNNING"


@in_virtual_time
async def test_an_update_never_has_more_or_fewer_replicas_than_it_may() -> None:
    counts: list[int] = []

    async def watch(it: World) -> None:
        while True:
            counts.append(len([r for r in it.replicas if not r.retiring]))
            await asyncio.sleep(0.05)

    async with world(plain("old", num_replicas=5, rolling_update_percentage=0.4)) as it:
        watching = asyncio.create_task(watch(it))
        await it.deploy(plain("new", num_replicas=5, rolling_update_percentage=0.4), "2")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert min(counts) >= 5
        assert max(counts) <= 7


@in_virtual_time
async def test_a_version_that_cannot_start_is_rolled_back() -> None:
    class Broken(Plain):
        def __init__(self) -> None:
            raise ImportError("no module named nothing")

    async with world(plain("old", num_replicas=3)) as it:
        before = it.replicas
        client = Client(it.handle)
        with pytest.raises(errors.DeploymentFailedError, match="no module named nothing"):
            await it.deploy(app_of(Broken, name="D", num_replicas=3), "2")
        await asyncio.sleep(5)
        await client.stop()
        assert client.failures == []
        assert it.replicas == before
        assert set(client.answers) == {"old"}
        assert it.app.status.value == "RUNNING"
        assert it.app.message.startswith("The last change was rolled back: ")
        assert "no module named nothing" in it.app.message
        await it.deploy(plain("new", num_replicas=3), "3")
        assert it.app.message == ""
        assert await it.handle.remote() == "new"


@in_virtual_time
async def test_a_version_of_which_some_replicas_start_is_rolled_back_as_a_whole() -> None:
    made: list[int] = []

    class Sometimes(Plain):
        def __init__(self) -> None:
            super().__init__("new")
            made.append(1)
            if len(made) > 2:
                raise RuntimeError("no memory left")

    async with world(plain("old", num_replicas=4)) as it:
        client = Client(it.handle)
        with pytest.raises(errors.DeploymentFailedError, match="no memory left"):
            await it.deploy(app_of(Sometimes, name="D", num_replicas=4), "2")
        await asyncio.sleep(60)
        await client.stop()
        assert client.failures == []
        assert [made.answer for made in it.objects] == ["old"] * 4
        assert "no memory left" in it.app.message


@in_virtual_time
async def test_an_update_that_is_called_off_goes_back() -> None:
    class Slow(Plain):
        async def __init__(self) -> None:  # type: ignore[misc]  # which deployments may have
            await asyncio.sleep(3600)

    async with world(plain("old", num_replicas=2)) as it:
        before = it.replicas
        deploying = asyncio.create_task(it.deploy(app_of(Slow, name="D", num_replicas=2), "2"))
        await asyncio.sleep(5)
        assert len(it.replicas) == 3
        deploying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deploying
        await asyncio.sleep(5)
        assert it.replicas == before
        assert await it.handle.remote() == "old"


# Models


class Models:
    """Counts the loads of all replicas."""

    loads: ClassVar[Counter[str]] = Counter()

    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id: str) -> str:
        self.loads[model_id] += 1
        await asyncio.sleep(1)
        return model_id

    async def __call__(self) -> str:
        model: str = await self.get_model(serve.get_multiplexed_model_id())
        return model


def models(**options: Any) -> tuple[type[Models], Application]:
    class Counted(Models):
        loads: ClassVar[Counter[str]] = Counter()

    return Counted, app_of(Counted, name="D", **options)


async def ask(it: World, *model_ids: str) -> list[Any]:
    return [await it.handle.options(multiplexed_model_id=model_id).remote() for model_id in model_ids]


@in_virtual_time
async def test_replicas_of_a_new_version_have_the_models_of_those_that_they_replace() -> None:
    kind, app = models(num_replicas=3)
    ids = tuple("abcdefghi")
    async with world(app) as it:
        await ask(it, *ids)
        await asyncio.sleep(3)  # until it has been reported
        assert kind.loads == dict.fromkeys(ids, 1)
        await it.deploy(app, "2")
        await asyncio.sleep(3)
        began = asyncio.get_running_loop().time()
        assert await ask(it, *ids) == list(ids)
        assert asyncio.get_running_loop().time() - began < 0.5  # nobody waited for a load, which takes 1 s
        assert kind.loads == dict.fromkeys(ids, 2)


@in_virtual_time
async def test_models_of_several_loaders_go_to_the_same_loaders_of_a_new_version() -> None:
    class Two:
        loads: ClassVar[Counter[str]] = Counter()

        @serve.multiplexed(max_num_models_per_replica=4)
        async def words(self, model_id: str) -> str:
            self.loads[f"words of {model_id}"] += 1
            return model_id

        @serve.multiplexed(max_num_models_per_replica=4)
        async def numbers(self, model_id: str) -> str:
            self.loads[f"numbers of {model_id}"] += 1
            return model_id

        async def __call__(self) -> str:
            model_id = serve.get_multiplexed_model_id()
            return str(await (self.words(model_id) if model_id.isalpha() else self.numbers(model_id)))

    app = app_of(Two, name="D")
    async with world(app) as it:
        assert await ask(it, "a", "1", "b") == ["a", "1", "b"]
        await asyncio.sleep(3)  # until it has been reported
        await it.deploy(app, "2")
        assert await ask(it, "a", "1", "b") == ["a", "1", "b"]
        assert Two.loads == dict.fromkeys(["words of a", "numbers of 1", "words of b"], 2)


@in_virtual_time
async def test_clients_of_models_do_not_notice_an_update() -> None:
    _, app = models(num_replicas=3)
    ids = tuple("abcdefghi")
    async with world(app) as it:
        await ask(it, *ids)
        await asyncio.sleep(3)
        client = Client(it.handle, ids)
        await it.deploy(app, "2")
        await asyncio.sleep(3)
        await client.stop()
        assert client.failures == []
        assert set(client.answers) == set(ids)


@in_virtual_time
async def test_a_model_that_cannot_be_loaded_any_more_does_not_hold_up_an_update() -> None:
    gone: set[str] = set()

    class Missing(Models):
        @serve.multiplexed(max_num_models_per_replica=4)
        async def get_model(self, model_id: str) -> str:
            if model_id in gone:
                raise LookupError(model_id)
            return model_id

    app = app_of(Missing, name="D")
    async with world(app) as it:
        await ask(it, "a", "b")
        await asyncio.sleep(3)
        gone.add("a")
        await it.deploy(app, "2")
        assert await ask(it, "b") == ["b"]


@in_virtual_time
async def test_the_limits_of_the_code_are_overridden() -> None:
    kind, app = models(multiplexing_config={"max_num_models_per_replica": 1})
    async with world(app) as it:
        await ask(it, "a", "b", "a", "b")
        assert kind.loads == {"a": 2, "b": 2}


@in_virtual_time
async def test_other_limits_take_new_replicas() -> None:
    kind, _ = models()

    def limited(number: int) -> Application:
        return app_of(kind, name="D", multiplexing_config={"max_num_models_per_replica": number})

    async with world(limited(1)) as it:
        await it.deploy(limited(2))
        assert it.started == 2
        kind.loads.clear()
        await ask(it, "a", "b", "a", "b")
        assert kind.loads == {"a": 1, "b": 1}


# Numbers of replicas


@in_virtual_time
async def test_what_was_idle_before_it_was_to_follow_the_demand_goes_to_zero() -> None:
    quick = {"min_replicas": 0, "downscale_delay_s": 1, "look_back_period_s": 1, "metrics_interval_s": 0.5}
    async with world(plain("old")) as it:
        await asyncio.sleep(10)  # it has said that it is idle, and says no more
        await it.deploy(plain("old", autoscaling_config=quick))
        await asyncio.sleep(10)
        assert it.replicas == []
        assert await it.handle.remote() == "old"


@in_virtual_time
async def test_more_of_the_same_version_starts_the_difference() -> None:
    async with world(plain("same", num_replicas=2)) as it:
        before = it.replicas
        await it.deploy(plain("same", num_replicas=5))
        assert it.started == 5
        assert it.replicas[:2] == before
        assert it.status.replica_states == {"RUNNING": 5}


@in_virtual_time
async def test_fewer_of_the_same_version_stops_the_difference() -> None:
    async with world(plain("same", num_replicas=5)) as it:
        before = it.replicas
        client = Client(it.handle)
        await it.deploy(plain("same", num_replicas=2))
        await asyncio.sleep(3)
        await client.stop()
        assert client.failures == []
        assert len(it.replicas) == 2
        assert set(it.replicas) <= set(before)
        assert it.started == 5
        assert it.status.replica_states == {"RUNNING": 2}


@in_virtual_time
async def test_of_those_that_stop_the_ones_with_the_models_in_use_stay() -> None:
    kind, app = models(num_replicas=3)
    async with world(app) as it:
        await ask(it, "a", "a", "a")
        await asyncio.sleep(3)
        await it.deploy(app_of(kind, name="D", num_replicas=1))
        await asyncio.sleep(3)
        await ask(it, "a")
        assert kind.loads == {"a": 1}


@in_virtual_time
async def test_another_number_and_another_version_at_once() -> None:
    async with world(plain("old", num_replicas=3)) as it:
        await it.deploy(plain("new", num_replicas=1), "2")
        await asyncio.sleep(3)
        assert [made.answer for made in it.objects] == ["new"]
        await it.deploy(plain("newer", num_replicas=3), "3")
        await asyncio.sleep(3)
        assert [made.answer for made in it.objects] == ["newer"] * 3


@in_virtual_time
async def test_a_number_that_cannot_be_reached_goes_back_to_what_ran() -> None:
    room: list[int] = [1, 1]

    class Large(Plain):
        def __init__(self) -> None:
            super().__init__()
            if not room:
                raise MemoryError("no room")
            room.pop()

    async with world(app_of(Large, name="D", num_replicas=2)) as it:
        before = it.replicas
        with pytest.raises(errors.DeploymentFailedError, match="no room"):
            await it.deploy(app_of(Large, name="D", num_replicas=3))
        await asyncio.sleep(60)
        assert it.replicas == before
        assert it.status.replica_states == {"RUNNING": 2}
        assert "no room" in it.app.message


# Several changes at a time


class Below(Plain):
    pass


class Above:
    def __init__(self, below: DeploymentHandle, *, broken: bool = False) -> None:
        if broken:
            raise ImportError("no module named nothing")
        self.below = below

    async def __call__(self) -> Any:
        return await self.below.remote()


def two(answer: str, *, broken: bool = False) -> Application:
    below = app_of(Below, answer, name="Below", num_replicas=2)
    deployment = serve.deployment(name="D")(Above)
    application: Application = deployment.bind(below, broken=broken)
    return application


@in_virtual_time
async def test_callees_go_back_when_their_caller_cannot_start() -> None:
    async with world(two("old")) as it:
        client = Client(it.handle)
        with pytest.raises(errors.DeploymentFailedError, match="no module named nothing"):
            await it.deploy(two("new", broken=True), "2")
        await asyncio.sleep(20)
        await client.stop()
        assert client.failures == []
        assert client.answers[-1] == "old"
        assert [made.answer for made in it.objects if isinstance(made, Below)] == ["old"] * 2


@in_virtual_time
async def test_what_is_deployed_while_callees_still_go_back_is_what_runs() -> None:
    async with world(two("old")) as it:
        with pytest.raises(errors.DeploymentFailedError, match="no module named nothing"):
            await it.deploy(two("bad", broken=True), "2")
        await it.deploy(two("new"), "3")
        await asyncio.sleep(20)
        assert await it.handle.remote() == "new"
        assert [made.answer for made in it.objects if isinstance(made, Below)] == ["new"] * 2


@in_virtual_time
async def test_what_is_deployed_during_an_update_takes_its_place() -> None:
    async with world(plain("old", num_replicas=4)) as it:
        client = Client(it.handle)
        first = asyncio.create_task(it.deploy(plain("bad", num_replicas=4), "2"))
        await asyncio.sleep(1.5)
        await it.deploy(plain("new", num_replicas=4), "3")
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(5)
        await client.stop()
        assert client.failures == []
        assert [made.answer for made in it.objects] == ["new"] * 4


class SlowToStart(Plain):
    async def __init__(self) -> None:  # type: ignore[misc]  # which deployments may have
        await asyncio.sleep(3600)


@in_virtual_time
async def test_what_is_deleted_while_it_starts_is_gone() -> None:
    async with world() as it:
        deploying = asyncio.create_task(it.deploy(app_of(SlowToStart, name="D")))
        await asyncio.sleep(1)
        await it.cluster.controller.delete("default")
        with pytest.raises(errors.DeploymentFailedError, match="called off"):
            await deploying
        assert it.cluster.status().applications == {}
        assert it.replicas == []


@in_virtual_time
async def test_what_is_deleted_while_it_is_updated_is_gone() -> None:
    async with world(plain("old", num_replicas=2)) as it:
        deploying = asyncio.create_task(it.deploy(app_of(SlowToStart, name="D", num_replicas=2), "2"))
        await asyncio.sleep(1)
        await it.cluster.controller.delete("default")
        with pytest.raises(errors.DeploymentFailedError, match="called off"):
            await deploying
        assert it.cluster.status().applications == {}
        assert it.replicas == []


@in_virtual_time
async def test_a_configuration_that_is_called_off_is_taken_back() -> None:
    async with world(configured(1, num_replicas=2)) as it:
        deploying = asyncio.create_task(it.deploy(configured(2, num_replicas=2)))
        await asyncio.sleep(0.05)
        deploying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deploying
        await asyncio.sleep(5)
        assert [made.configs[-1] for made in it.objects] == [1, 1]


@in_virtual_time
async def test_replicas_that_never_had_another_configuration_are_not_given_theirs_again() -> None:
    class Broken(Configured):
        def __init__(self) -> None:
            raise ImportError("no module named nothing")

    async with world(configured(1)) as it:
        with pytest.raises(errors.DeploymentFailedError, match="no module named nothing"):
            await it.deploy(app_of(Broken, name="D", user_config=2), "2")
        assert it.objects[0].configs == [1]


@in_virtual_time
async def test_what_has_gone_back_is_healthy_and_says_what_was_wrong() -> None:
    class Broken(Plain):
        def __init__(self) -> None:
            raise ImportError("no module named nothing")

    async with world(plain("old", num_replicas=2)) as it:
        with pytest.raises(errors.DeploymentFailedError):
            await it.deploy(app_of(Broken, name="D", num_replicas=2), "2")
        await asyncio.sleep(60)
        assert it.status.status.value == "HEALTHY"
        assert "no module named nothing" in it.status.message


@in_virtual_time
async def test_a_policy_that_cannot_be_imported_fails_the_start() -> None:
    async with world() as it:
        with pytest.raises(errors.DeploymentFailedError, match="no_such_module"):
            await it.deploy(plain("bad", autoscaling_config={"policy": "no_such_module:policy"}))


@in_virtual_time
async def test_what_could_not_begin_can_be_put_right() -> None:
    async with world() as it:
        with pytest.raises(errors.DeploymentFailedError):
            await it.deploy(plain("bad", autoscaling_config={"policy": "no_such_module:policy"}))
        assert it.app.status.value == "DEPLOY_FAILED"
        await it.deploy(plain("good"), "2")
        assert await it.handle.remote() == "good"


@in_virtual_time
async def test_a_policy_that_cannot_be_imported_changes_nothing() -> None:
    def app(**scaling: Any) -> Application:
        return plain("same", autoscaling_config={"max_replicas": 2, **scaling})

    async with world(app()) as it:
        with pytest.raises(errors.DeploymentFailedError, match="no_such_module"):
            await it.deploy(app(policy="no_such_module:policy"))
        deployment = it.cluster.controller._apps["default"].deployments["D"]
        assert deployment.spec.config.scaling is not None
        assert deployment.spec.config.scaling.policy is None
