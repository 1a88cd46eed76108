"""Recording what runs: every request once, from replicas that come and go, into a file that can be read at any time."""

import asyncio
import contextlib
import csv
import gc
import io
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from inline_app import app_of
from scripted_replica import Network, ScriptedReplica
from typer.testing import CliRunner
from virtual_time import in_virtual_time, turns

from modelplex import cli, errors, recorder, serve
from modelplex.recorder import ANSWER_TIMEOUT_S, LOOK_S, REST_TIMEOUT_S, Recorder
from modelplex.runtime.link import Link
from modelplex.runtime.watchers import FLUSH_S
from modelplex.sim.log import LogWriter
from modelplex.testing import InlineCluster
from modelplex.wire import messages
from modelplex.wire.messages import Message, Record, Records, Taken, Unwatch, Watch, Watching


class Model:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(1)
        return model_id

    async def __call__(self) -> None:
        await self.get_model(serve.get_multiplexed_model_id())


class Recording:
    """A recorder at work, and what it has written so far."""

    def __init__(self, made: Recorder, file: io.StringIO, said: list[str]) -> None:
        self.recorder = made
        self._file = file
        self.said = said

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self._file.getvalue(), newline="")))

    @property
    def models(self) -> list[str]:
        return [row["model_id"] for row in self.rows]


@contextlib.asynccontextmanager
async def recording(connect: Any, look: Callable[[], list[str]], *wanted: str) -> AsyncIterator[Recording]:
    """Record until the end of the block, and then what the replicas still have. Nothing is left then."""
    said: list[str] = []
    made, file = Recorder(connect, look, *wanted, say=said.append), io.StringIO(newline="")
    errors_of_tasks: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, error: errors_of_tasks.append(error))
    await made.start()
    running = asyncio.create_task(made.run(LogWriter(file, as_json=False)))
    try:
        yield Recording(made, file, said)
    finally:
        made.stop()
        await running
        await made.close()
    await turns(5)
    assert not [task for task in asyncio.all_tasks() if "Recorder." in repr(task.get_coro())]
    gc.collect()  # a task that nobody asks for its exception tells it when it goes
    assert errors_of_tasks == []


@contextlib.asynccontextmanager
async def recorded(*applications: tuple[str, serve.Application], wanted: tuple[str, ...] = ()) -> AsyncIterator[Any]:
    """A cluster of these applications, and what is recorded of it."""
    async with InlineCluster() as cluster:
        handles = {name: await cluster.run(app, name, None) for name, app in applications}
        async with recording(cluster.engine.connect, addresses(cluster), *wanted) as now:
            yield cluster, handles, now


def addresses(cluster: InlineCluster) -> Callable[[], list[str]]:
    """Of all replicas that ever were: nobody answers where one has ended."""
    return lambda: list(cluster.engine._processes)


# Replicas that do what replicas do


@in_virtual_time
async def test_every_request_is_written_once_with_its_replica_and_its_start() -> None:
    async with recorded(("app", app_of(Model, num_replicas=2))) as (cluster, handles, now):
        asked = ["a", "b", "a", "c", "b", "a"]
        for model_id in asked:
            await handles["app"].options(multiplexed_model_id=model_id).remote()
        await asyncio.sleep(2 * FLUSH_S)
        rows = sorted(now.rows, key=lambda row: float(row["arrival_s"]))
        assert [row["model_id"] for row in rows] == asked
        assert [row["start"] for row in rows] == ["cold", "cold", "warm", "cold", "warm", "warm"]
        assert {row["replica"] for row in rows} == set(addresses(cluster)())
        assert {row["outcome"] for row in rows} == {"ok"}
        assert now.recorder.rows_written == len(asked)


@in_virtual_time
async def test_what_has_not_been_told_is_asked_for_at_the_end() -> None:
    async with recorded(("app", app_of(Model))) as (_, handles, now):
        await handles["app"].options(multiplexed_model_id="a").remote()
        assert now.models == []
    assert now.models == ["a"]


@in_virtual_time
async def test_only_what_is_wanted_is_recorded() -> None:
    apps = [("one", app_of(Model)), ("other", app_of(Model)), ("third", app_of(Model, name="Third"))]
    for wanted, models in [
        (("one",), ["one"]),
        (("", "Model"), ["one", "other"]),
        (("", ""), ["one", "other", "third"]),
    ]:
        async with recorded(*apps, wanted=wanted) as (_, handles, now):
            for name, handle in handles.items():
                await handle.options(multiplexed_model_id=name).remote()
        assert sorted(now.models) == models


@in_virtual_time
async def test_replicas_that_come_later_are_followed_and_those_that_die_leave_what_they_told() -> None:
    async with recorded(("app", app_of(Model))) as (cluster, handles, now):
        handle = handles["app"].options(multiplexed_model_id="a")
        await handle.remote()
        await asyncio.sleep(2 * FLUSH_S)
        [first] = cluster.engine._processes.values()
        first.kill()
        await asyncio.sleep(1)  # for another to be started
        await asyncio.sleep(2 * LOOK_S)
        await handle.remote()
        names = addresses(cluster)()
    assert [(row["start"], row["replica"]) for row in now.rows] == [("cold", names[0]), ("cold", names[1])]
    assert now.said == [
        f"{names[0]} is being recorded.",
        f"{names[0]} has gone.",
        f"{names[1]} is being recorded.",
    ]


@in_virtual_time
async def test_a_recording_ends_with_its_time() -> None:
    async with InlineCluster() as cluster:
        await cluster.run(app_of(Model))
        made = Recorder(cluster.engine.connect, addresses(cluster), say=lambda text: None)
        await made.start()
        began = asyncio.get_running_loop().time()
        await made.run(LogWriter(io.StringIO(), as_json=False), 100.0)
        assert 100.0 <= asyncio.get_running_loop().time() - began < 100.0 + REST_TIMEOUT_S
        await made.close()


# Replicas that do not


class Told(ScriptedReplica):
    """A replica that answers whoever watches it, and says what the test wants.

    Args:
        answers: whether it says who it is.
        ends: whether it lets go of whoever wants to leave.
    """

    def __init__(
        self, replica_id: str, *, version: int = messages.VERSION, answers: bool = True, ends: bool = True
    ) -> None:
        super().__init__(replica_id)
        self._who = Watching(version, "app", "D", replica_id)
        self._answers = answers
        self._ends = ends

    def received(self, link: Link, message: Message, body: bytes) -> None:
        super().received(link, message, body)
        self.link = link
        if isinstance(message, Watch) and self._answers:
            self.say(self._who)
        elif isinstance(message, Unwatch) and self._ends:
            link.close()

    def tell(self, *model_ids: str, lost: int = 0) -> None:
        self.say(Records([Record(0.0, m, "warm", 0, 0, 0, None, ok=True) for m in model_ids], lost))


def all_of(network: Network) -> Callable[[], list[str]]:
    return lambda: list(network.replicas)


@in_virtual_time
async def test_a_batch_is_taken_when_it_was_written() -> None:
    replica = Told("r")
    network = Network(replica)
    async with recording(network.connect, all_of(network)) as now:
        replica.tell("a", "b", lost=3)
        await turns(5)
        assert (now.models, len(replica.all_of(Taken))) == (["a", "b"], 1)
        replica.tell("c", lost=4)
    assert now.models == ["a", "b", "c"]
    assert (now.recorder.rows_written, now.recorder.rows_lost) == (3, 7)


@in_virtual_time
async def test_the_first_batch_may_come_with_the_answer() -> None:
    class Hasty(Told):
        def received(self, link: Link, message: Message, body: bytes) -> None:
            super().received(link, message, body)
            if isinstance(message, Watch):
                self.tell("a")

    network = Network(Hasty("r"))
    async with recording(network.connect, all_of(network)) as now:
        pass
    assert now.models == ["a"]


@in_virtual_time
async def test_addresses_where_nobody_answers_disturb_nobody_and_are_tried_again() -> None:
    dead, busy, replica = Told("dead"), Told("busy", answers=False), Told("r")
    dead.refuses_links = True
    network = Network(dead, busy, replica)
    async with recording(network.connect, all_of(network)) as now:
        assert now.said == ["r is being recorded."]
        await asyncio.sleep(2 * ANSWER_TIMEOUT_S)
        dead.refuses_links, busy._answers = False, True
        await asyncio.sleep(2 * ANSWER_TIMEOUT_S)
        assert sorted(now.said[1:]) == ["busy is being recorded.", "dead is being recorded."]
        assert len(replica.connected_at) == 1
        assert 2 <= len(busy.connected_at) <= 4
        assert busy.links_lost == len(busy.connected_at) - 1


@in_virtual_time
async def test_a_replica_that_is_lost_is_found_again_if_it_is_still_there() -> None:
    replica = Told("r")
    network = Network(replica)
    async with recording(network.connect, all_of(network)) as now:
        replica.break_link()
        await asyncio.sleep(2 * LOOK_S)
        replica.tell("a")
        await turns(5)
        assert now.models == ["a"]


@in_virtual_time
async def test_what_is_passed_over_is_not_tried_again_and_is_forgotten_with_its_address() -> None:
    wanted, other = Told("r"), Told("other", version=messages.VERSION + 1)
    silent = Told("silent", answers=False)
    network = Network(wanted, other, silent)
    meeting = asyncio.create_task(_hang_up_on(silent))
    async with recording(network.connect, all_of(network)) as now:
        await meeting
        await asyncio.sleep(10)
        assert (len(other.connected_at), len(silent.connected_at)) == (1, 1)
        assert other.links_lost == 1
        del network.replicas["other"], network.replicas["silent"]
        await asyncio.sleep(2 * LOOK_S)
        network.add(other)
        await asyncio.sleep(2 * LOOK_S)
        assert len(other.connected_at) == 2
        assert now.said == ["r is being recorded."]


async def _hang_up_on(replica: ScriptedReplica) -> None:
    while replica.link is None:
        await turns(1)
    replica.break_link()


@in_virtual_time
async def test_a_replica_that_does_not_tell_the_rest_is_not_waited_for_without_end() -> None:
    stuck, replica = Told("stuck", ends=False), Told("r")
    network = Network(stuck, replica)
    async with recording(network.connect, all_of(network)) as now:
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 2 * REST_TIMEOUT_S
    assert now.said[-1].startswith("stuck is too busy")
    assert stuck.links_lost == 1


@in_virtual_time
async def test_with_nothing_to_record_it_says_so_and_what_there_is() -> None:
    dead, other = Told("dead"), Told("other")
    dead.refuses_links = True
    for network, says in [
        (Network(), "No replica runs below"),
        (Network(dead, other), "deployment D of application app"),
    ]:
        made = Recorder(network.connect, all_of(network), "mine", say=lambda text: None)
        with pytest.raises(errors.ModelplexError, match=says):
            await made.start()
        await made.close()
    assert other.links_lost == 1


@in_virtual_time
async def test_a_file_that_takes_no_more_ends_the_recording() -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            if self.getvalue().count("\n") > 1:
                raise OSError(28, "No space left on device")

    replica = Told("r")
    network = Network(replica)
    made = Recorder(network.connect, all_of(network), say=lambda text: None)
    await made.start()
    running = asyncio.create_task(made.run(LogWriter(Full(), as_json=False)))
    replica.tell("a")
    with pytest.raises(OSError, match="No space left"):
        await running
    assert replica.all_of(Taken) == []
    await made.close()


# Where it looks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_sockets_of_this_user_are_found_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("modelplex-one/a.sock", "modelplex-two/b.sock", "modelplex-two/c.txt", "other-three/d.sock"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "modelplex-logs-0" / "run").mkdir(parents=True)
    (folder / "modelplex-file").touch()
    (folder / "modelplex-gone").symlink_to(folder / "nowhere")
    assert sorted(recorder.sockets()) == [str(folder / "modelplex-one/a.sock"), str(folder / "modelplex-two/b.sock")]
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert recorder.sockets() == []


# The command


def command(*arguments: str) -> tuple[int, str]:
    # Its own terminal width would break lines in the middle of names.
    done = CliRunner().invoke(cli.cli, ["record", *arguments], env={"COLUMNS": "500"})
    said = str(done.exception) if isinstance(done.exception, errors.ModelplexError) else done.output
    return done.exit_code, said


def test_a_socket_of_a_dead_system_is_nothing_that_runs(folder: Path) -> None:
    (folder / "modelplex-dead").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "modelplex-dead" / "a.sock"))
        listener.listen()
    out = folder / "log.csv"
    code, said = command(str(out))
    assert (code, f"No replica runs below {folder}" in said) == (1, True)
    assert not out.exists()


def test_a_file_that_exists_is_replaced_only_if_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(recorder, "record", lambda *args: asked.append(args))
    out = folder / "log.jsonl"
    out.write_text("precious")
    code, said = command(str(out))
    assert (code, "--force" in said, asked) == (2, True, [])
    assert command(str(out), "--force", "--app", "a", "--deployment", "D")[0] == 0
    assert command("-")[0] == 0
    assert asked == [(out, "a", "D", None), (Path("-"), "", "", None)]


RIGHT: list[tuple[str, float | None]] = [("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("1d", 86400.0)]
WRONG: list[tuple[str, float | None]] = [(duration, None) for duration in ("90", "s", "-1s", "1w", "1e3s", "1m30s")]


@pytest.mark.parametrize(("given", "duration_s"), RIGHT + WRONG)
def test_a_duration_has_a_unit(given: str, duration_s: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []
    monkeypatch.setattr(recorder, "record", lambda *args: asked.append(args[-1]))
    code, said = command("-", "--for", given)
    if duration_s is None:
        assert (code, asked) == (2, [])
        assert re.search("no duration", said)
    else:
        assert (code, asked) == (0, [duration_s])
