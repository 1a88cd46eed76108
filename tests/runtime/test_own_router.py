"""A user's class that chooses replicas, on its way to those who call, and as it is used there."""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from inline_app import app_of, replicas_of, serving
from virtual_time import in_virtual_time

from modelplex import serve
from modelplex.config import DeploymentConfig
from modelplex.core.chooser import PendingRequest, ReplicaInfo
from modelplex.deployment import flatten
from modelplex.runtime import payload
from modelplex.runtime.app_spec import AppSpec, Environment
from modelplex.runtime.own_router import OwnChoice, packed
from modelplex.wire.messages import Begin, DeploymentInfo, OwnRouter

ASKED: list[PendingRequest] = []


@pytest.fixture(autouse=True)
def nobody_asked() -> Iterator[None]:
    ASKED.clear()
    yield
    ASKED.clear()


class Nth:
    """Chooses the nth replica, by their ids."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        ASKED.append(request)
        return sorted(replica.replica_id for replica in replicas)[self.n]


class Raises:
    def __init__(self) -> None:
        self.asked = 0

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        self.asked += 1
        if self.asked % 2:
            raise ValueError(f"number {self.asked}")
        return f"unknown {self.asked}"


class Later:
    """Has every request wait for a second."""

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        ASKED.append(request)
        return None if request.waited_s < 1.0 else request.default_choice()


class Model:
    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id: str) -> str:
        return model_id

    async def __call__(self, run_s: float = 0.0) -> str:
        if model_id := serve.get_multiplexed_model_id():
            assert await self.get_model(model_id) == model_id
        await asyncio.sleep(run_s)
        return str(serve.get_replica_context().replica_id)

    async def other(self) -> str:
        return await self()


def routed_by(router_class: Callable[..., Any] | str, kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    given = {"request_router_class": router_class, "request_router_kwargs": kwargs}
    return app_of(Model, request_router_config=given, **{"num_replicas": 3, **options})


@pytest.mark.parametrize("named", [Nth, f"{__name__}:Nth"])
@in_virtual_time
async def test_calls_go_where_it_says_and_evict_there_what_is_in_the_way(named: Any) -> None:
    async with serving(routed_by(named, {"n": 1})) as (cluster, handle):
        ids = sorted(replica.context.replica_id for replica in replicas_of(cluster))
        for model_id in ("a", "b", "a", ""):
            assert await handle.options(multiplexed_model_id=model_id).remote() == ids[1]
        assert await handle.other.remote() == ids[1]
    assert [(r.model_id, r.method_name, r.attempt) for r in ASKED] == [
        *((model_id, "__call__", 1) for model_id in ("a", "b", "a", "")),
        ("", "other", 1),
    ]
    assert len({r.request_id for r in ASKED}) == 5


@in_virtual_time
async def test_a_class_that_no_module_has_travels_by_value() -> None:
    class Local:
        def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str:
            return max(replica.replica_id for replica in replicas)

    async with serving(routed_by(Local)) as (cluster, handle):
        last = max(replica.context.replica_id for replica in replicas_of(cluster))
        assert [await handle.remote() for _ in range(4)] == [last] * 4


@in_virtual_time
async def test_none_is_to_wait_as_long_as_the_request_has_time() -> None:
    loop = asyncio.get_running_loop()
    async with serving(routed_by(Later)) as (_, handle):
        began = loop.time()
        await handle.remote()
        assert 1.0 <= loop.time() - began < 1.2
        with pytest.raises(TimeoutError):
            await handle.options(timeout_s=0.55).remote()


class ChangesItsMind:
    """Sends the third request to the first replica, which is busy; then nowhere; then to the second."""

    def __init__(self) -> None:
        self.asked = 0

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        self.asked += 1
        first, second = sorted(replica.replica_id for replica in replicas)
        return {1: first, 2: second, 3: first, 4: None}.get(self.asked, second)


@in_virtual_time
async def test_who_comes_to_wait_for_nothing_in_particular_is_looked_at_soon() -> None:
    loop = asyncio.get_running_loop()
    async with serving(routed_by(ChangesItsMind, num_replicas=2, max_ongoing_requests=1)) as (_, handle):
        handle = handle.options(multiplexed_model_id="m")
        began, busy = loop.time(), asyncio.create_task(_value(handle.remote(60.0)))
        await asyncio.gather(handle.remote(0.1), handle.remote())
        assert loop.time() - began < 0.5
        await busy


async def _value(response: Any) -> Any:
    return await response


@in_virtual_time
async def test_its_errors_are_told_once_for_each_cause_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(routed_by(Raises)) as (_, handle):
        assert len({await handle.remote() for _ in range(12)}) == 3
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info and str(record.exc_info[1])[:18] for record in told] == ["number 1", "It chose 'unknown "]
    assert all(record.exc_info and record.exc_info[2] for record in told)


def no_arguments() -> None:
    """A class's name that is none."""


@pytest.mark.parametrize(
    ("router_class", "kwargs", "why"),
    [
        ("no_such_module:Chooser", None, "No module named 'no_such_module'"),
        (f"{__name__}:Missing", None, "has no attribute 'Missing'"),
        (Nth, {"m": 1}, "unexpected keyword argument 'm'"),
        (no_arguments, None, "None has no method choose"),
    ],
)
@in_virtual_time
async def test_one_that_cannot_be_made_is_told_and_our_own_routing_used(
    router_class: Any, kwargs: dict[str, Any] | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(routed_by(router_class, kwargs)) as (_, handle):
        assert len({await handle.remote() for _ in range(6)}) == 3
    [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert told.getMessage() == "The request_router_class of default_Model cannot be made, so it is not used."
    assert told.exc_info
    assert why in str(told.exc_info[1])


@in_virtual_time
async def test_one_that_cannot_be_sent_is_told_once_and_our_own_routing_used(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(routed_by(Nth, {"n": threading.Lock()})) as (_, handle):
        assert len({await handle.remote() for _ in range(6)}) == 3
    [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "cannot be sent to other processes, so it is not used: TypeError: cannot pickle" in told.getMessage()


@in_virtual_time
async def test_another_class_takes_over_with_the_version_that_has_it() -> None:
    async with serving(routed_by(Nth, {"n": 0})) as (cluster, handle):
        await handle.remote()
        for kwargs in ({"n": 2}, {"n": 1}):
            await cluster.run(routed_by(Nth, kwargs))
            ids = sorted(info.replica_id for info in cluster.controller._table().deployments[0].replicas)
            assert [await handle.remote() for _ in range(3)] == [ids[kwargs["n"]]] * 3
        await cluster.run(routed_by(Nth, {"n": 1}).deployment.options(request_router_config=None).bind())
        assert len({await handle.remote() for _ in range(6)}) == 3


# On its way


def info_of(own: OwnRouter | None) -> DeploymentInfo:
    return DeploymentInfo("app", "D", -1, [], own_router=own)


def never(number: int) -> Begin:
    raise AssertionError("nobody asks")


def test_it_is_made_anew_only_for_a_new_version() -> None:
    choice = OwnChoice(never)
    assert not choice.changes(info_of(None))
    data = payload.dumps((Nth, {}))
    assert choice.changes(info_of(OwnRouter("1", data, [])))
    assert not choice.changes(info_of(OwnRouter("1", data + b"other bytes of the same", [])))
    assert choice.changes(info_of(OwnRouter("2", data, [])))
    assert choice.changes(info_of(None))
    assert not choice.changes(info_of(None))


def test_it_is_imported_from_where_the_application_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_there.py").write_text(
        "class Far:\n    def choose(self, request, replicas):\n        return None\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = OwnRouter("1", payload.dumps(("only_there:Far", {})), [sys.path[0], str(tmp_path)])
    choice = OwnChoice(never)
    assert choice.made(info_of(own)) is not None
    assert choice.in_use
    assert sys.path[-1] == str(tmp_path)
    assert choice.made(info_of(None)) is None
    assert not choice.in_use


def test_a_module_that_exits_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exits_at_once.py").write_text("raise SystemExit(1)\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = OwnRouter("1", payload.dumps(("exits_at_once:Any", {})), [str(tmp_path)])
    assert OwnChoice(never).made(info_of(own)) is None


def test_without_one_nothing_travels() -> None:
    [spec] = AppSpec.of("app", flatten(app_of(Model), "app"), "/").deployments
    assert packed("app_Model", spec, Environment()) is None
    assert spec.config == DeploymentConfig(name="Model")
