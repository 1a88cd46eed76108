"""The fixture for other people's tests, on what they would test: all of an application, in this process."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from inline_app import app_of
from starlette.requests import Request

from modelplex import driver, metrics, serve
from modelplex.errors import RequestCancelledError
from modelplex.pytest_plugin import ServeLocal

events: list[str] = []


@pytest.fixture(autouse=True)
def _events() -> None:
    events.clear()


async def until(event: str) -> None:
    async with asyncio.timeout(10):
        while event not in events:  # noqa: ASYNC110 - another event loop appends to it
            await asyncio.sleep(0.001)


class Model:
    def __init__(self, model_id: str) -> None:
        self.model_id = model_id

    def __del__(self) -> None:
        events.append(f"unload {self.model_id}")


class Models:
    """Plain code, which runs in threads, and other code, which does not."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    @serve.multiplexed(max_num_models_per_replica=2)
    def get_model(self, model_id: str) -> Model:
        assert threading.current_thread() is not threading.main_thread()
        events.append(f"load {model_id}")
        return Model(model_id)

    async def __call__(self, text: str) -> str:
        model = await self.get_model(serve.get_multiplexed_model_id())
        return f"{model.model_id}: {text}"

    def plain(self, number: int) -> int:
        return 2 * number

    def count(self, end: int) -> Iterator[int]:
        yield from range(end)

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=5)
    async def squares(self, numbers: list[int]) -> list[tuple[int, int]]:
        return [(number * number, len(numbers)) for number in numbers]

    async def hang(self) -> None:
        events.append("hangs")
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("cancelled")


class Front:
    def __init__(self, models: serve.DeploymentHandle) -> None:
        self.models = models

    async def __call__(self, request: Request) -> str:
        model_id = request.query_params["model"]
        answer: str = await self.models.options(multiplexed_model_id=model_id).remote("hello")
        return answer

    def plain(self, number: int) -> int:
        """Code that blocks may call others, too."""
        answer: int = self.models.plain.remote(number).result(timeout_s=10)
        return answer


def test_models_are_loaded_kept_and_evicted(serve_local: ServeLocal) -> None:
    handle = serve_local(app_of(Models))
    answers = [handle.options(multiplexed_model_id=m).remote("x").result(timeout_s=10) for m in "aabca"]
    assert answers == ["a: x", "a: x", "b: x", "c: x", "a: x"]
    assert events[:3] == ["load a", "load b", "unload a"]


def test_plain_code_streams_and_batches_work_without_an_event_loop(serve_local: ServeLocal) -> None:
    handle = serve_local(app_of(Models))
    assert handle.plain.remote(21).result(timeout_s=10) == 42
    assert list(handle.options(stream=True).count.remote(3)) == [0, 1, 2]
    responses = [handle.squares.remote(n) for n in range(4)]
    assert [response.result(timeout_s=10) for response in responses] == [(0, 4), (1, 4), (4, 4), (9, 4)]


def test_deployments_call_each_other_and_http_reaches_them(serve_local: ServeLocal) -> None:
    handle = serve_local(app_of(Front, app_of(Models)))
    assert handle.plain.remote(4).result(timeout_s=10) == 8
    answer = serve_local.http_client().get("/", params={"model": "m"})
    assert (answer.status_code, answer.text) == (200, "m: hello")


async def test_async_tests_await_what_runs_beside_them(serve_local: ServeLocal) -> None:
    handle = serve_local(app_of(Front, app_of(Models)))
    models = serve.get_deployment_handle("Models", "default")
    assert await asyncio.gather(*(handle.plain.remote(n) for n in range(5))) == [0, 2, 4, 6, 8]
    assert [n async for n in models.options(stream=True).count.remote(3)] == [0, 1, 2]
    async with serve_local.async_http_client() as client:
        assert (await client.get("/?model=m")).text == "m: hello"
    with pytest.raises(RuntimeError, match="await"):
        handle.plain.remote(1).result()


async def test_a_call_that_is_cancelled_is_cancelled_where_it_runs(serve_local: ServeLocal) -> None:
    handle = serve_local(app_of(Models))
    response = handle.hang.remote()
    await until("hangs")
    response.cancel()
    with pytest.raises(RequestCancelledError):
        await response
    await until("cancelled")


@pytest.mark.parametrize("backend", ["asyncio"])
def test_tests_that_run_under_anyio_work_too(serve_local: ServeLocal, backend: str) -> None:
    import anyio

    async def check() -> None:
        assert await serve_local(app_of(Models)).plain.remote(1) == 2

    anyio.run(check, backend=backend)


def test_an_application_replaces_the_one_of_its_name(serve_local: ServeLocal) -> None:
    @serve.deployment
    def two() -> int:
        return 2

    first = serve_local(app_of(Models))
    second = serve_local(two.bind())
    third = serve_local(app_of(Models), name="other", route_prefix="/other")
    assert second.remote().result(timeout_s=10) == 2
    assert third.plain.remote(3).result(timeout_s=10) == 6
    with pytest.raises(Exception, match="no deployment Models in application default"):
        first.plain.remote(1).result(timeout_s=10)
    assert set(serve.status().applications) == {"default", "other"}


# The end of a test


def test_everything_has_stopped_after_the_test() -> None:
    before = threading.active_count()
    with ServeLocal() as local:
        local(app_of(Models)).options(multiplexed_model_id="a").remote("x").result(timeout_s=10)
        assert local.http_client().get("/-/healthz").status_code == 200
    assert driver.current() is None
    assert events == ["load a", "unload a"]
    assert "modelplex-controller" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= before + 2  # threads that have nothing more to do end by themselves


def test_what_still_runs_is_cancelled_at_once() -> None:
    local = ServeLocal()
    handle = local(app_of(Models, graceful_shutdown_timeout_s=3600))
    response = handle.hang.remote()
    asyncio.run(until("hangs"))
    closing = threading.Thread(target=local.close, daemon=True)
    closing.start()
    closing.join(timeout=60)
    assert not closing.is_alive()
    assert events == ["hangs", "cancelled"]
    with pytest.raises(Exception, match=r"."):
        response.result(timeout_s=1)


def test_what_the_test_does_not_own_goes_on() -> None:
    serve.run(app_of(Models), name="before", route_prefix=None, _local_testing_mode=True)
    counter = metrics.Counter("kept")
    counter.inc()
    try:
        with ServeLocal() as local:
            local(app_of(Models))
        assert set(serve.status().applications) == {"before"}
        assert "kept 1.0" in metrics.render()
    finally:
        serve.shutdown()


@pytest.mark.parametrize("turn", [1, 2])
def test_metrics_begin_with_the_test(serve_local: ServeLocal, turn: int) -> None:
    assert metrics.snapshot() == []
    metrics.Counter("turns").inc(turn)


# The plug-in


def test_the_plug_in_imports_nothing_before_it_is_used() -> None:
    code = (
        "import sys, pytest; before = {*sys.modules}; import modelplex.pytest_plugin; print(*{*sys.modules} - before)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(printed.split()) == {"modelplex", "modelplex.pytest_plugin"}


PROGRAM = """
import asyncio
import pytest
from modelplex import serve

@serve.deployment
def double(number: int) -> int:
    return 2 * number

@pytest.mark.parametrize("number", range(5))
def test_double(serve_local, number):
    assert serve_local(double.bind()).remote(number).result(timeout_s=10) == 2 * number

def test_async(serve_local):
    async def check():
        return await serve_local(double.bind()).remote(4)
    assert asyncio.run(check()) == 8

def test_fails(serve_local):
    serve_local(double.bind()).remote(None).result(timeout_s=10)

def test_after_a_failure(serve_local):
    assert serve.status().applications == {}
"""


@pytest.mark.system
def test_pytest_processes_side_by_side_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "test_program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "modelplex.pytest_plugin", "-p", "no:cacheprovider", "."]
    running = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in running:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1, output
        assert "1 failed, 7 passed" in output
        assert "unsupported operand" in output
