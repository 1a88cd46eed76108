"""The controller inside of a program, without processes: one engine at a time, logs in a folder of the user's own."""

import asyncio
import atexit
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from inline_app import app_of

from modelplex import driver, errors, serve


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; what the test serves is stopped at its end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    serve.shutdown()


@serve.deployment
async def double(x: int) -> int:
    return 2 * x


def test_an_application_in_this_process_answers_until_it_is_deleted(folder: Path) -> None:
    handle = serve.run(double.bind(), _local_testing_mode=True)
    assert handle.remote(21).result(timeout_s=10) == 42
    assert serve.get_app_handle("default").remote(1).result(timeout_s=10) == 2
    assert serve.get_deployment_handle("double", "default").remote(2).result(timeout_s=10) == 4
    serve.delete("default")
    with pytest.raises(errors.DeploymentUnavailableError):
        handle.remote(1).result(timeout_s=10)
    with pytest.raises(errors.ModelplexError, match="no application 'default'"):
        serve.get_app_handle("default")


def test_what_is_no_application_is_refused(folder: Path) -> None:
    with pytest.raises(TypeError, match=r"\.bind\(\)"):
        serve.run(double)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="begins with '/'"):
        serve.run(double.bind(), route_prefix="x", _local_testing_mode=True)
    with pytest.raises(ValueError, match="must be a non-empty string"):
        serve.run(double.bind(), name="", _local_testing_mode=True)
    assert driver.current() is None


def test_one_program_has_one_engine_at_a_time(folder: Path) -> None:
    serve.run(double.bind(), _local_testing_mode=True)
    with pytest.raises(errors.ModelplexError, match="inline engine already"):
        serve.start({"port": 0})
    serve.shutdown()
    serve.shutdown()
    assert serve.status() == serve.ServeStatus()


def test_without_anything_served_handles_say_so(folder: Path) -> None:
    with pytest.raises(errors.NotInReplicaError, match=r"serve\.run"):
        serve.DeploymentHandle("default", "double").remote(1)


def test_in_one_process_no_file_is_written_and_the_log_is_pythons_own(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        handle = serve.run(double.bind(), _local_testing_mode=True)
        handle.remote("x").result(timeout_s=10)
        with pytest.raises(TypeError):
            handle.remote(None).result(timeout_s=10)
        serve.shutdown()
    assert list(folder.iterdir()) == []
    assert serve.status().log_dir == ""
    assert any(message.startswith("__CALL__ OK") for message in caplog.messages)
    assert any(record.exc_info and "double" in (record.exc_text or caplog.text) for record in caplog.records)


class Restless:
    """Begins what never ends, and says when it has ended."""

    ended: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            self.ended.append("the task")

    def __call__(self) -> None: ...


def test_tasks_that_user_code_has_left_end_with_the_event_loop(folder: Path) -> None:
    serve.run(app_of(Restless), _local_testing_mode=True).remote().result(timeout_s=10)
    serve.shutdown()
    assert Restless.ended == ["the task"]


def test_programs_that_run_and_stop_often_leave_nothing_behind(folder: Path) -> None:
    def run_and_stop() -> None:
        assert serve.run(double.bind(), _local_testing_mode=True).remote(1).result(timeout_s=10) == 2
        serve.shutdown()

    run_and_stop()
    threads, at_exit = threading.active_count(), atexit._ncallbacks()
    for _ in range(20):
        run_and_stop()
    assert (threading.active_count(), atexit._ncallbacks()) == (threads, at_exit)


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError, pytest.fail.Exception])
def test_a_constructor_may_raise_anything(folder: Path, error: type[BaseException]) -> None:
    class Bad:
        def __init__(self) -> None:
            raise error("no way")

    with pytest.raises(errors.DeploymentFailedError, match="no way"):
        serve.run(app_of(Bad, max_constructor_retry_count=1), _local_testing_mode=True)


def test_the_logs_of_the_last_runs_are_kept_and_no_more(folder: Path) -> None:
    logs = folder / f"modelplex-logs-{os.getuid()}"
    for number in range(driver.LOG_DIRS_KEPT + 5):
        (logs / f"2000-01-01_00-00-{number:02}-4194305").mkdir(parents=True)
    assert Path(driver._new_log_dir()).parent == logs
    assert len(list(logs.iterdir())) == driver.LOG_DIRS_KEPT
    assert not (logs / "2000-01-01_00-00-00-4194305").exists()


def test_the_response_of_one_call_may_be_the_argument_of_another(folder: Path) -> None:
    handle = serve.run(double.bind(), _local_testing_mode=True)
    assert handle.remote(handle.remote(x=handle.remote(1))).result(timeout_s=10) == 8


@serve.deployment
async def slow() -> str:
    await asyncio.sleep(0.2)
    return "done"


def test_what_runs_may_end_when_its_application_is_deleted(folder: Path) -> None:
    handle = serve.run(slow.bind(), _local_testing_mode=True)
    response = handle.remote()
    time.sleep(0.1)
    serve.delete("default")
    assert response.result(timeout_s=10) == "done"
