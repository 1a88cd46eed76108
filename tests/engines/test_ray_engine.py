"""What the Ray engine asks of Ray and makes of its answers, in virtual time without a cluster."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError, RuntimeEnvSetupError

from modelplex import errors
from modelplex.config import DeploymentConfig
from modelplex.engines import ray as ray_engine
from modelplex.engines import ray_cluster
from modelplex.engines.ray import RayEngine, replica_options
from modelplex.engines.ray_actor import Membership, RaySite
from modelplex.engines.ray_process import UNREACHABLE_S, RayProcess
from modelplex.runtime.app_spec import Definition, Environment
from modelplex.runtime.engine import Machine
from modelplex.runtime.link import MemoryLink
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.testing import run_virtual
from modelplex.wire import messages

SECRET = bytes(range(32))


def options(environment: Environment | None = None, **of_deployment: Any) -> dict[str, Any]:
    config = DeploymentConfig(name="D", **of_deployment)
    return replica_options(ReplicaSpec("a", "tag", config, Definition(int), "", environment or Environment()))


# What Ray is asked for


def test_a_replica_takes_one_cpu_and_is_spread_unless_its_options_say_otherwise() -> None:
    assert options() == {"num_cpus": 1, "scheduling_strategy": "SPREAD", "runtime_env": {}}
    own = {"num_cpus": 0.5, "num_gpus": 1, "scheduling_strategy": "DEFAULT", "resources": {"tpu": 1}}
    assert options(ray_actor_options=own) == {**own, "runtime_env": {}}


def test_the_nearer_environment_goes_over_the_others_one_variable_at_a_time() -> None:
    of_job = {"env_vars": {"A": "job", "B": "job", "C": "job"}, "working_dir": "gcs://job.zip", "pip": ["x"]}
    of_deployment = {"env_vars": {"C": "deployment"}, "working_dir": "gcs://deployment.zip"}
    environment = Environment(env_vars={"B": "app", "C": "app"}, runtime_env=of_job)
    found = options(environment, ray_actor_options={"runtime_env": of_deployment})["runtime_env"]
    assert found == {
        "env_vars": {"A": "job", "B": "app", "C": "deployment"},
        "working_dir": "gcs://deployment.zip",
        "pip": ["x"],
    }
    assert of_job["env_vars"] == {"A": "job", "B": "job", "C": "job"}


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 9, 13, 99])
def test_just_as_many_replicas_as_are_allowed_fit_on_a_machine(count: int) -> None:
    own = {"resources": {"tpu": 1}}
    resources = options(ray_actor_options=own, max_replicas_per_node=count)["resources"]
    assert resources.pop("tpu") == 1
    (share,) = resources.values()
    parts = round(share * 10_000)  # as Ray counts
    assert count * parts <= 10_000 < (count + 1) * parts
    assert own == {"resources": {"tpu": 1}}


# One process


class FakeRay:
    """Answers `ended` with what the test says; what was killed is dead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.killed: list[Any] = []
        self.unavailable = False
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = self
        monkeypatch.setattr(ray, "kill", self.kill)

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        assert actor is self
        assert no_restart
        self.killed.append(actor)
        self.dies(ActorDiedError())

    def dies(self, how: Exception) -> None:
        if not self.dead.done():
            self.dead.set_exception(how)
            self.dead.exception()

    def remote(self) -> "asyncio.Future[None]":
        if not self.unavailable:
            return self.dead
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.set_exception(ActorUnavailableError("lost", None))
        answer.exception()
        return answer


class Ear:
    """The process's end of its link."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.is_lost = False

    def received(self, link: Any, message: object, body: bytes) -> None:
        self.heard.append(message)

    def lost(self, link: Any) -> None:
        self.is_lost = True


Check = Callable[[RayProcess, FakeRay], Awaitable[None]]


def watched(monkeypatch: pytest.MonkeyPatch, check: Check) -> None:
    """Checks an actor that has just been asked for, in virtual time."""

    async def main() -> None:
        fake = FakeRay(monkeypatch)
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("modelplex.engines.ray_process.time.monotonic", loop.time)
        process = RayProcess("a_D#tag", lambda: None)
        process.actor = fake
        watching = asyncio.create_task(process.watch(fake.remote()))
        await asyncio.sleep(0)
        await check(process, fake)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    run_virtual(main())


def link_to(process: RayProcess) -> Ear:
    ear = Ear()
    here, _ = MemoryLink.pair(Ear(), ear)
    process.linked(here)
    return ear


def lose_link(process: RayProcess) -> None:
    assert process._link is not None
    process.lost(process._link)


def test_one_that_has_come_again_is_heard_although_its_first_link_ends_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(process: RayProcess, fake: FakeRay) -> None:
        link_to(process)
        first = process._link
        assert first is not None
        ear = link_to(process)
        process.lost(first)
        process.send(messages.CheckHealth(1))
        await asyncio.sleep(0)
        assert ear.heard == [messages.CheckHealth(1)]

    watched(monkeypatch, check)


def test_one_that_ray_cannot_reach_and_that_has_no_link_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(process: RayProcess, fake: FakeRay) -> None:
        link_to(process)
        fake.unavailable = True
        lose_link(process)
        fake.dies(ActorUnavailableError("lost", None))
        await asyncio.sleep(UNREACHABLE_S - 1)
        assert not fake.killed
        await asyncio.sleep(2)
        assert fake.killed
        assert await process.exited == "cannot be reached"
        with pytest.raises(errors.DeploymentFailedError, match="cannot be reached before it was ready"):
            await process.started

    watched(monkeypatch, check)


def test_one_whose_link_is_there_is_not_given_up_whatever_ray_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(process: RayProcess, fake: FakeRay) -> None:
        link_to(process)
        process.received(messages.Ready("address"))
        fake.unavailable = True
        fake.dies(ActorUnavailableError("lost", None))
        await asyncio.sleep(100)
        lose_link(process)
        await asyncio.sleep(UNREACHABLE_S - 1)
        ear = link_to(process)  # it has come again
        await asyncio.sleep(100)
        assert not fake.killed
        assert not process.exited.done()
        process.send(messages.Stop(1.0))
        await asyncio.sleep(0)
        assert ear.heard == [messages.Stop(1.0)]

    watched(monkeypatch, check)


def test_one_that_is_stopped_while_its_link_is_lost_hears_of_it_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(process: RayProcess, fake: FakeRay) -> None:
        link_to(process)
        lose_link(process)
        process.send(messages.Stop(7.0))
        await asyncio.sleep(0)
        assert not fake.killed
        ear = link_to(process)
        await asyncio.sleep(0)
        assert ear.heard == [messages.Stop(7.0)]

    watched(monkeypatch, check)


def test_one_that_is_stopped_before_it_has_come_has_nothing_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(process: RayProcess, fake: FakeRay) -> None:
        process.send(messages.Table([], []))
        assert not fake.killed
        process.send(messages.Stop(3600.0))
        assert fake.killed
        async with asyncio.timeout(1):
            await process.exited
        with pytest.raises(errors.DeploymentFailedError, match="before it was ready"):
            await process.started

    watched(monkeypatch, check)


def test_an_actor_whose_process_has_failed_is_ended_since_ray_lets_it_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(process: RayProcess, fake: FakeRay) -> None:
        error: Any = RayTaskError
        fake.dies(error("run", "Traceback\nValueError: no certificate", ValueError()))
        with pytest.raises(errors.DeploymentFailedError, match="no certificate"):
            await process.started
        assert fake.killed

    watched(monkeypatch, check)


def test_a_runtime_env_that_cannot_be_is_named_with_all_that_pip_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(process: RayProcess, fake: FakeRay) -> None:
        fake.dies(RuntimeEnvSetupError("ERROR: No matching distribution found for no-such\n[notice] update pip"))
        with pytest.raises(errors.DeploymentFailedError, match=r"runtime_env: ERROR: No matching") as raised:
            await process.started
        assert "no-such" in str(raised.value)

    watched(monkeypatch, check)


# The engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], RayEngine]:
    monkeypatch.setattr(ray_cluster, "this_machine", lambda: "here")
    monkeypatch.setattr(ray_cluster, "this_host", lambda: "127.0.0.1")
    return lambda: RayEngine(membership=Membership("system", SECRET, "controller", log_dir="/nowhere"))


def test_machines_are_followed_on_when_the_head_has_been_away(
    monkeypatch: pytest.MonkeyPatch, engine: Callable[[], RayEngine]
) -> None:
    one, two = (Machine(name, name == "one") for name in ("one", "two"))
    answers: list[Any] = [[one], RuntimeError("no head"), [one], [one, two]]

    def machines() -> Any:
        answer = answers.pop(0) if answers else [one, two]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def main() -> None:
        monkeypatch.setattr(ray_cluster, "machines", machines)
        monkeypatch.setattr(ray_engine, "MACHINES_S", 0.01)
        told: list[Any] = []
        both = asyncio.Event()

        def note(machines: Any) -> None:
            told.append(machines)
            if len(told) == 2:
                both.set()

        running = engine()
        running.follow_machines(note)
        await both.wait()
        assert told == [[one], [one, two]]
        await running.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_what_an_earlier_controller_has_left_half_begun_is_ended_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, engine: Callable[[], RayEngine]
) -> None:
    async def main() -> None:
        running = engine()
        running._processes["a_D#known"] = RayProcess("a_D#known", lambda: None)
        running._placing.add("a_D#soon")
        killed: list[Any] = []
        removed: list[str] = []
        monkeypatch.setattr(ray_cluster, "actors_of", lambda kind: ["a_D#known", "a_D#strange", "a_D#gone"])
        monkeypatch.setattr(ray_cluster, "groups", lambda: ["a_D#known", "a_D#strange", "a_D#soon"])
        monkeypatch.setattr(ray_cluster, "remove_group", removed.append)
        monkeypatch.setattr(ray, "get_actor", get_actor)
        monkeypatch.setattr(ray, "kill", lambda actor, no_restart: killed.append(actor))
        await running.end_strangers()
        assert (killed, removed) == (["a_D#strange"], ["a_D#strange"])

    def get_actor(name: str, namespace: str) -> str:
        if name == "a_D#gone":
            raise ValueError("there is none")
        return name

    asyncio.run(main())


# What others see of it


def test_a_membership_shows_its_secret_nowhere() -> None:
    membership = Membership("system", SECRET, "controller")
    assert "secret" not in repr(membership)
    assert repr(SECRET) not in f"{membership} {membership!r} {vars(membership).keys()}"


def test_a_folder_that_the_last_one_removes_while_another_begins_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_cluster, "this_machine", lambda: "here")
    monkeypatch.setattr(ray_cluster, "this_host", lambda: "127.0.0.1")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))

    async def main() -> None:
        site = RaySite(Membership("system", SECRET, log_dir="/nowhere"), "a_D#tag")
        listen, left = site._network.listen, iter([True, False])

        async def after_somebody_left(receiver: Any, path: str, host: str) -> Any:
            if next(left):
                await site.leave()
            return await listen(receiver, path, host)

        monkeypatch.setattr(site._network, "listen", after_somebody_left)
        listening = await site.listen(Ear)
        assert sockets() == 1
        await listening.close()
        await site.leave()

    def sockets() -> int:
        return len(list(tmp_path.glob("modelplex-*/tag.sock")))

    asyncio.run(main())
    assert not list(tmp_path.iterdir())
