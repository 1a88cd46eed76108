"""What those who watch a replica are told of each request, and that it costs neither requests nor memory."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from weakref import WeakSet

import pytest
from raw_router import RawRouter, replica_of
from router_alone import router_to, soon
from scripted_replica import ScriptedReplica
from virtual_time import in_virtual_time, turns

from modelplex.multiplex import Loader, multiplexed
from modelplex.runtime import payload, serving
from modelplex.runtime.link import Link
from modelplex.runtime.replica import Replica
from modelplex.runtime.watchers import BATCH_RECORDS, FLUSH_S, KEPT_RECORDS_MAX, Watchers
from modelplex.wire import messages
from modelplex.wire.messages import Begin, Message, Record, Records, Taken, Watch, Watching

LOAD_S = 10.0


def record(number: int = 0) -> Record:
    return Record(float(number), "a", "warm", 0.0, 0.0, 0.0, None, ok=True)


@dataclass(eq=False)
class Ear:
    """A link whose other end hears everything, and takes a batch when the test says so."""

    sent: list[Records] = field(default_factory=list)
    closed: bool = False
    is_remote: bool = False
    is_cut: bool = False

    def send(self, message: Message, body: bytes | memoryview = b"") -> None:
        assert isinstance(message, Records)
        assert not self.closed
        self.sent.append(message)

    async def flushed(self, timeout_s: float) -> None: ...

    def close(self) -> None:
        self.closed = True

    @property
    def numbers(self) -> list[int]:
        return [int(r.arrived_at) for batch in self.sent for r in batch.records]


def watched_by(*ears: Ear) -> Watchers:
    watchers = Watchers()
    for ear in ears:
        watchers.add(ear)
    return watchers


# When batches go out


@in_virtual_time
async def test_what_has_ended_is_told_together_after_a_while() -> None:
    ear = Ear()
    watchers = watched_by(ear)
    for number in range(3):
        watchers.tell(record(number))
        await asyncio.sleep(FLUSH_S / 10)
    assert ear.sent == []
    await asyncio.sleep(FLUSH_S)
    assert (len(ear.sent), ear.numbers) == (1, [0, 1, 2])
    await asyncio.sleep(10 * FLUSH_S)
    assert len(ear.sent) == 1


@in_virtual_time
async def test_a_full_batch_goes_at_once() -> None:
    ear = Ear()
    watchers = watched_by(ear)
    for number in range(BATCH_RECORDS):
        assert ear.sent == []
        watchers.tell(record(number))
    assert ear.numbers == list(range(BATCH_RECORDS))


@in_virtual_time
async def test_no_batch_goes_before_the_last_was_taken() -> None:
    ear = Ear()
    watchers = watched_by(ear)
    for number in range(2 * BATCH_RECORDS + 1):
        watchers.tell(record(number))
    await asyncio.sleep(10 * FLUSH_S)
    for taken in range(3):
        assert len(ear.sent) == taken + 1
        watchers.taken(ear)
    assert ear.numbers == list(range(2 * BATCH_RECORDS + 1))
    assert {len(batch.records) for batch in ear.sent} == {BATCH_RECORDS, 1}


@in_virtual_time
async def test_a_full_batch_that_had_to_wait_goes_as_soon_as_the_last_was_taken() -> None:
    ear = Ear()
    watchers = watched_by(ear)
    for number in range(2 * BATCH_RECORDS):
        watchers.tell(record(number))
    assert len(ear.sent) == 1
    watchers.taken(ear)
    assert len(ear.sent) == 2


@in_virtual_time
async def test_what_is_not_due_waits_although_the_last_was_taken() -> None:
    ear = Ear()
    watchers = watched_by(ear)
    for number in range(BATCH_RECORDS + 1):
        watchers.tell(record(number))
    watchers.taken(ear)
    assert len(ear.sent) == 1
    await asyncio.sleep(FLUSH_S)
    assert [len(batch.records) for batch in ear.sent] == [BATCH_RECORDS, 1]


@in_virtual_time
async def test_one_that_does_not_take_loses_what_is_beyond_the_bound_and_is_told_how_many() -> None:
    deaf, ear = Ear(), Ear()
    watchers = watched_by(deaf, ear)
    for number in range(BATCH_RECORDS + KEPT_RECORDS_MAX + 7):
        watchers.tell(record(number))
        watchers.taken(ear)
    assert len(deaf.sent) == 1
    await asyncio.sleep(FLUSH_S)
    assert ear.numbers == list(range(BATCH_RECORDS + KEPT_RECORDS_MAX + 7))
    for _ in range(KEPT_RECORDS_MAX // BATCH_RECORDS + 1):
        watchers.taken(deaf)
    assert deaf.numbers == list(range(BATCH_RECORDS + KEPT_RECORDS_MAX))
    assert [batch.lost for batch in deaf.sent if batch.lost] == [7]
    assert sum(batch.lost for batch in ear.sent) == 0


@in_virtual_time
async def test_one_that_leaves_is_told_the_rest_first() -> None:
    ear, other = Ear(), Ear()
    watchers = watched_by(ear, other)
    for number in range(3 * BATCH_RECORDS + 2):
        watchers.tell(record(number))
    watchers.dismiss(ear)
    assert ear.closed
    assert ear.numbers == list(range(3 * BATCH_RECORDS + 2))
    watchers.dismiss(ear)
    watchers.taken(ear)
    watchers.tell(record())
    await asyncio.sleep(FLUSH_S)
    assert len(ear.numbers) == 3 * BATCH_RECORDS + 2
    assert (len(other.numbers), other.closed) == (BATCH_RECORDS, False)


@in_virtual_time
async def test_there_are_watchers_until_the_last_has_left() -> None:
    one, other = Ear(), Ear()
    watchers = watched_by(one, other)
    watchers.remove(one)
    watchers.remove(one)
    assert watchers
    watchers.close()
    assert not watchers
    assert (one.closed, other.closed) == (False, True)


# What a replica tells


@pytest.fixture(autouse=True)
def no_loaders_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "standalone", WeakSet())


class Host:
    """Uses the models that it is asked to. A load takes 10 s, and a model 100 bytes."""

    @multiplexed(max_num_models_per_replica=2, size_of=lambda model: 100)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(LOAD_S)
        if model_id == "broken":
            raise ValueError("no such file")
        return model_id

    async def __call__(self, *model_ids: str) -> None:
        for model_id in model_ids:
            await self.get_model(model_id)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def fail(self, model_id: str) -> None:
        await self.get_model(model_id)
        raise RuntimeError("as asked")

    async def both(self, one: str, other: str) -> None:
        await asyncio.gather(self.get_model(one), self.get_model(other))


class Watcher(RawRouter):
    """Watches a replica, and takes what it is told unless told not to."""

    def __init__(self, replica: Replica, version: int = messages.VERSION, *, takes: bool = True) -> None:
        super().__init__(replica, version=None)
        self._takes = takes
        self.say(Watch(version))

    def received(self, link: Link, message: Message, body: bytes) -> None:
        super().received(link, message, body)
        if self._takes and isinstance(message, Records):
            self.say(Taken())

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.all_of(Records) for record in batch.records]

    async def told(self) -> list[Record]:
        """All that it has been told, when there was time to."""
        await asyncio.sleep(2 * FLUSH_S)
        return self.records


@in_virtual_time
async def test_a_watcher_is_told_who_the_replica_is() -> None:
    async with replica_of(Host) as replica:
        watcher = Watcher(replica)
        assert await watcher.first_of(Watching) == Watching(messages.VERSION, "app", "D", "app_D#tag")
        await turns(5)
        assert len(watcher.heard) == 1


@in_virtual_time
async def test_a_watcher_of_another_version_is_told_ours_and_sent_away() -> None:
    async with replica_of(Host) as replica:
        stranger = Watcher(replica, version=messages.VERSION + 1)
        await stranger.until_lost()
        assert stranger.all_of(Watching)[0].version == messages.VERSION
        assert not replica.watchers


@in_virtual_time
async def test_each_request_is_told_once_with_how_it_met_its_model() -> None:
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica), RawRouter(replica)
        first = router.call("__call__", "a", model_id="a")
        await asyncio.sleep(LOAD_S / 4)
        second = router.call("__call__", "a", model_id="a")
        await router.reply(first)
        await router.reply(second)
        await router.reply(router.call("__call__", "a", model_id="a"))
        await router.reply(router.call())
        told = await watcher.told()
        assert [(r.model_id, r.start, r.ok) for r in told] == [
            ("a", "cold", True),
            ("a", "joined", True),
            ("a", "warm", True),
            ("", "", True),
        ]
        assert [r.size_bytes for r in told] == [100, 100, 100, None]
        assert told[0].load_s == LOAD_S  # on the virtual clock, as the cache measures it
        assert all(0 <= r.load_s < LOAD_S / 2 for r in told[1:])


@in_virtual_time
async def test_requests_that_fail_are_told_as_errors() -> None:
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica), RawRouter(replica)
        await router.failure(router.call("fail", "a", model_id="a"))
        await router.failure(router.call("__call__", "broken", model_id="broken"))
        await router.failure(router.call("__call__", "bad id", model_id="bad id"))
        told = await watcher.told()
        assert [(r.model_id, r.start, r.ok) for r in told] == [
            ("a", "cold", False),
            ("broken", "", False),
            ("bad id", "", False),
        ]
        assert [r.size_bytes for r in told] == [100, None, None]


@in_virtual_time
async def test_requests_that_are_cancelled_are_told_as_errors_even_before_their_first_step() -> None:
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica), RawRouter(replica)
        running = router.call("sleep", 100.0, model_id="a")
        await asyncio.sleep(1)
        router.leave(running)
        router.leave(router.call("sleep", 100.0, model_id="b"))
        assert sorted((r.model_id, r.ok) for r in await watcher.told()) == [("a", False), ("b", False)]


@in_virtual_time
async def test_a_request_whose_load_is_not_over_knows_no_size() -> None:
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica), RawRouter(replica)
        await router.reply(router.call("__call__", "a", model_id="a"))  # from now on a size is expected of any model
        loading = router.call("__call__", "b", model_id="b")
        await asyncio.sleep(LOAD_S / 2)
        router.leave(loading)
        assert [(r.model_id, r.size_bytes) for r in await watcher.told()] == [("a", 100), ("b", None)]


@in_virtual_time
async def test_models_that_are_waited_for_side_by_side_leave_no_time_below_0() -> None:
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica), RawRouter(replica)
        await router.reply(router.call("both", "a", "b", model_id="a"))
        [told] = await watcher.told()
        assert told.service_s >= 0


@in_virtual_time
async def test_a_stream_is_told_when_its_last_part_has_gone() -> None:
    async def stream() -> AsyncIterator[str]:
        for part in ("one", "two"):
            await asyncio.sleep(100)
            yield part

    async with replica_of(stream) as replica:
        watcher, router = Watcher(replica), RawRouter(replica)
        streaming = router.http()
        await router.first_of(messages.Answer, streaming)
        assert await watcher.told() == []
        await router.reply(streaming)
        assert [r.ok for r in await watcher.told()] == [True]


@in_virtual_time
async def test_a_request_is_told_with_the_time_of_its_arrival_at_the_router_and_what_it_has_waited_since() -> None:
    arrived_at = time.time() - 1000.0
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica), RawRouter(replica)
        router.say(Begin(1, "r", "app", "/", "__call__", "", False, arrived_at=arrived_at), payload.dumps(((), {})))
        await router.reply(1)
        [told] = await watcher.told()
        assert told.arrived_at == arrived_at
        assert 1000.0 <= told.queue_s < 2000.0
        assert 0 <= told.service_s < 1000.0


@in_virtual_time
async def test_a_router_says_when_a_request_has_arrived_not_when_it_is_sent() -> None:
    replica = ScriptedReplica(slots=1)
    async with router_to(replica) as requests:
        before = time.time()
        await requests.many(2)
        after = time.time()
        while time.time() == after:
            pass
        replica.answer(replica.streams[0])
        await soon()
        first, second = replica.all_of(Begin)
        assert before <= first.arrived_at <= second.arrived_at <= after


@in_virtual_time
async def test_a_request_costs_nothing_more_when_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    async with replica_of(Host) as replica:
        router, watcher = RawRouter(replica), Watcher(replica)
        await watcher.first_of(Watching)
        watcher.link.close()
        await watcher.until_lost()
        await turns(2)
        monkeypatch.setattr(serving, "_record", lambda *args, **kwargs: pytest.fail("nobody wants it"))
        await router.reply(router.call())


@in_virtual_time
async def test_routers_and_watchers_are_told_their_own_alone() -> None:
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica), RawRouter(replica)
        await router.reply(router.call("__call__", "a", model_id="a"))
        await watcher.told()
        assert {type(message) for message, _ in watcher.heard} == {Watching, Records}
        assert not router.all_of(Records)
        assert not router.all_of(Watching)
        watcher.call()  # it has not said hello
        await watcher.until_lost()


@in_virtual_time
async def test_a_watcher_that_takes_goes_on_and_one_that_leaves_gets_the_rest() -> None:
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica, takes=False), RawRouter(replica)
        for _ in range(2):
            await router.reply(router.call())
            await watcher.told()
            watcher.say(Taken())
        await router.reply(router.call())
        await turns(5)
        assert len(watcher.records) == 2
        watcher.say(messages.Unwatch())
        await watcher.until_lost()
        assert len(watcher.records) == 3


@in_virtual_time
async def test_a_replica_that_stops_tells_the_rest_even_of_what_it_ends_itself() -> None:
    async with replica_of(Host) as replica:
        watcher, router = Watcher(replica, takes=False), RawRouter(replica)
        await router.reply(router.call())
        await watcher.told()
        router.call("sleep", 1000.0)
        await turns(5)
        await replica.stop(1.0)
        await watcher.until_lost()
        assert [r.ok for r in watcher.records] == [True, False]
