"""Requests of one process to one deployment: sent, sent again, refused, cancelled, drained."""

import asyncio
import gc
import weakref
from typing import Any

import pytest
from router_alone import SOON_S, Requests, body_of, router_to, soon, timers_left
from scripted_replica import ScriptedReplica
from virtual_time import in_virtual_time

from modelplex import config, errors
from modelplex.core.routing import LOSSES_MAX
from modelplex.runtime.link import Link
from modelplex.runtime.router import Exchange
from modelplex.runtime.streams import REPLAY_BYTES_MAX, WINDOW_BYTES, Upload
from modelplex.wire import messages
from modelplex.wire.framing import CHUNK_BYTES
from modelplex.wire.messages import Begin, Cancel, Credit

# Requests and answers


@in_virtual_time
async def test_a_request_goes_to_the_replica_and_its_answer_comes_back() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        exchange = requests.send("a")
        await soon()
        [begin] = replica.all_of(Begin)
        assert (begin.model_id, begin.more, replica.body(begin.stream)) == ("a", False, b"body")
        replica.answer(begin.stream, b"answer")
        assert await body_of(exchange) == b"answer"
        assert exchange.replica_id == "r"


@in_virtual_time
async def test_an_answer_may_come_in_parts_and_is_paid_for_as_it_is_read() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        [stream] = replica.streams
        replica.answer(stream, b"x" * CHUNK_BYTES, more=True)
        for _ in range(3):
            replica.say(messages.Chunk(stream, True), b"x" * CHUNK_BYTES)
        await soon()
        assert replica.all_of(Credit) == []
        reading = asyncio.create_task(body_of(exchange))
        await soon()
        assert sum(credit.size_bytes for credit in replica.all_of(Credit)) == WINDOW_BYTES
        replica.say(messages.Chunk(stream, False), b"end")
        assert await reading == b"x" * WINDOW_BYTES + b"end"


@in_virtual_time
async def test_a_failure_is_raised_as_the_error_that_it_names() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        replica.say(messages.Fail(replica.streams[0], "ModelUnavailableError", "later", 3.0, 0), b"pickled")
        with pytest.raises(errors.ModelUnavailableError, match="later") as caught:
            await exchange.answer
        assert (caught.value.retry_after_s, exchange.failure_body) == (3.0, b"pickled")


@in_virtual_time
async def test_a_failure_in_the_middle_of_an_answer_reaches_its_reader_after_what_has_come() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        replica.answer(replica.streams[0], b"one", more=True)
        replica.fail(replica.streams[0])
        await exchange.answer
        assert exchange.body is not None
        assert await exchange.body.read() == b"one"
        with pytest.raises(errors.UserCodeError):
            await exchange.body.read()


@in_virtual_time
async def test_who_asked_to_be_called_back_is_so_once_when_the_answer_is_there() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        seen: list[tuple[bytes, bool]] = []

        def on_answer(exchange: Exchange) -> None:
            assert exchange.body is not None
            assert exchange.head is not None
            seen.append((exchange.body.read_nowait(), exchange.body.exhausted))
            requests.router.cancel(exchange)  # as one does who has what it wants

        for _ in range(2):
            requests.send(on_answer=on_answer)
        await soon()
        replica.answer(replica.streams[0], b"whole")
        replica.answer(replica.streams[1], b"part", more=True)
        await soon()
        assert seen == [(b"whole", True), (b"part", False)]
        assert len(replica.all_of(Cancel)) == 1


@pytest.mark.parametrize("how", ["at once", "later"])
@in_virtual_time
async def test_who_asked_to_be_called_back_is_told_of_an_error_but_never_before_the_exchange_is_known(how: str) -> None:
    async with router_to() as requests:
        if how == "at once":
            await requests.router.close()
        seen: list[errors.ModelplexError | None] = []
        exchange = requests.send(timeout_s=1.0, on_answer=lambda exchange: seen.append(exchange.error))
        assert seen == []
        await asyncio.sleep(2.0)
        assert seen == [exchange.error]
        expected = errors.DeploymentUnavailableError if how == "at once" else errors.RequestTimeoutError
        assert type(exchange.error) is expected
        with pytest.raises(expected):
            await exchange.answer


@in_virtual_time
async def test_an_exchange_that_is_over_is_freed_without_the_garbage_collector() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:

        class Caller:
            def __init__(self) -> None:
                self.exchange = requests.send(on_answer=self.answered)

            def answered(self, exchange: Exchange) -> None:
                assert exchange is self.exchange

        caller = weakref.ref(Caller())
        await soon()
        gc.disable()
        try:
            replica.answer(replica.streams[0], b"")
            await soon()
            assert caller() is None
        finally:
            gc.enable()


@in_virtual_time
async def test_a_request_waits_for_a_slot() -> None:
    replica = ScriptedReplica(slots=1)
    async with router_to(replica) as requests:
        first, second = await requests.many(2)
        assert len(replica.streams) == 1
        replica.answer(replica.streams[0])
        await first.answer
        await soon()
        replica.answer(replica.streams[1])
        await second.answer


@pytest.mark.parametrize("how", ["answer", "last chunk", "failure", "cancellation"])
@in_virtual_time
async def test_a_request_that_is_over_makes_place_for_the_next_however_it_ended(how: str) -> None:
    replica = ScriptedReplica(slots=1)
    async with router_to(replica) as requests:
        first, _ = await requests.many(2)
        stream = replica.streams[0]
        match how:
            case "answer":
                replica.answer(stream)
            case "last chunk":
                replica.answer(stream, more=True)
                await soon()
                assert len(replica.streams) == 1
                replica.say(messages.Chunk(stream, False))
            case "failure":
                replica.fail(stream)
            case "cancellation":
                requests.router.cancel(first)
        await soon()
        assert len(replica.streams) == 2


@in_virtual_time
async def test_what_a_replica_says_of_requests_that_are_over_is_passed_over() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        [stream] = replica.streams
        replica.answer(stream)
        await exchange.answer
        replica.answer(stream)
        replica.fail(stream)
        replica.refuse(stream, 1)
        replica.say(messages.Chunk(stream, False))
        replica.say(Credit(stream, 1))
        await soon()
        assert replica.links_lost == 0


@in_virtual_time
async def test_a_message_that_no_replica_sends_closes_the_link() -> None:
    replica = ScriptedReplica()
    async with router_to(replica):
        replica.say(Cancel(1))
        await soon()
        assert replica.links_lost == 1


@pytest.mark.parametrize("holder", ["one", "other"])
@in_virtual_time
async def test_a_model_that_a_replica_loads_or_holds_brings_it_its_requests(holder: str) -> None:
    async with router_to(ScriptedReplica("one"), ScriptedReplica("other")) as requests:
        replica = requests.network.replicas[holder]
        replica.say(messages.ModelLoading("a", None))
        replica.say(messages.ModelLoading("b", None))
        replica.say(messages.ModelLoaded("b", None, 1.0))
        await soon()
        assert [requests.send(model_id).replica_id for model_id in "ab"] == [holder] * 2


@in_virtual_time
async def test_a_model_that_is_gone_brings_its_replica_no_requests() -> None:
    """Without a holder, the model's own order of the replicas decides, whoever held it."""
    chosen = set()
    for holder in ("one", "other"):
        async with router_to(ScriptedReplica("one"), ScriptedReplica("other")) as requests:
            replica = requests.network.replicas[holder]
            replica.say(messages.ModelLoaded("a", None, 1.0))
            replica.say(messages.ModelGone("a", None))
            await soon()
            chosen.add(requests.send("a").replica_id)
    assert len(chosen) == 1


# Replicas that are full


@in_virtual_time
async def test_a_refused_request_goes_elsewhere() -> None:
    replicas = ScriptedReplica("one"), ScriptedReplica("other")
    async with router_to(*replicas) as requests:
        exchange = requests.send()
        await soon()
        full, free = sorted(replicas, key=lambda replica: not replica.streams)
        full.refuse(full.streams[0], ongoing=2)
        await soon()
        free.answer(free.streams[0], b"answer")
        assert await body_of(exchange) == b"answer"


@in_virtual_time
async def test_a_refused_request_waits_until_the_replica_says_that_it_has_a_slot() -> None:
    replica = ScriptedReplica(slots=2)
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        [stream] = replica.streams
        replica.refuse(stream, ongoing=2)
        await asyncio.sleep(1000)
        assert replica.streams == [stream]
        replica.say(messages.Ongoing(1))
        await soon()
        assert replica.streams == [stream, stream]
        replica.answer(stream, b"answer")
        assert await body_of(exchange) == b"answer"


@in_virtual_time
async def test_a_refused_request_sends_its_body_anew() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        upload = Upload(b"one ", more=True)
        exchange = requests.send(upload=upload)
        await upload.write(b"two ", more=True)
        await soon()
        [stream] = replica.streams
        replica.refuse(stream, ongoing=2)
        replica.say(messages.Ongoing(1))
        await upload.write(b"three", more=False)
        await soon()
        assert (replica.streams, replica.body(stream)) == ([stream, stream], b"one two three")
        requests.router.cancel(exchange)


@in_virtual_time
async def test_a_refused_request_that_waits_is_not_harmed_when_its_replica_dies() -> None:
    replica, other = ScriptedReplica("r", slots=1), ScriptedReplica("other", slots=1)
    async with router_to(replica, other) as requests:
        first = requests.send()
        await soon()
        refused_by, refusing = (replica, other) if replica.streams else (other, replica)
        refusing.say(messages.Ongoing(1))
        refused_by.refuse(refused_by.streams[0], ongoing=1)
        await soon()
        refused_by.die()
        await soon()
        refusing.say(messages.Ongoing(0))
        await soon()
        refusing.answer(refusing.streams[0], b"answer")
        assert await body_of(first) == b"answer"


@in_virtual_time
async def test_a_router_that_finds_the_replica_full_waits_for_its_word() -> None:
    replica = ScriptedReplica(slots=1, ongoing=1)
    async with router_to(replica) as requests:
        requests.send()
        await soon()
        assert replica.streams == []
        replica.say(messages.Ongoing(0))
        await soon()
        assert len(replica.streams) == 1


@in_virtual_time
async def test_a_full_queue_turns_requests_away() -> None:
    replica = ScriptedReplica(slots=1)
    async with router_to(replica, queued_max=1) as requests:
        running, waiting = await requests.many(2)
        with pytest.raises(errors.BackPressureError, match=r"app_D .* max_queued_requests") as caught:
            await requests.send().answer
        assert caught.value.retry_after_s
        replica.answer(replica.streams[0])
        await running.answer
        await soon()
        replica.answer(replica.streams[1])
        await waiting.answer


# Time


@in_virtual_time
async def test_requests_that_wait_past_their_time_are_told_so_each_at_its_own() -> None:
    replica = ScriptedReplica(slots=1)
    loop = asyncio.get_running_loop()
    async with router_to(replica) as requests:
        requests.send()
        began = loop.time()
        for wait_s, exchange in [(s, requests.send(timeout_s=s)) for s in (7.0, 9.0)]:
            with pytest.raises(errors.RequestTimeoutError):
                await exchange.answer
            assert loop.time() - began == pytest.approx(wait_s)
        assert len(replica.streams) == 1


@in_virtual_time
async def test_there_is_one_timer_however_many_requests_wait() -> None:
    async with router_to(ScriptedReplica(slots=1)) as requests:
        requests.send()
        timers = timers_left()
        for timeout_s in (9.0, 7.0, 8.0, 6.0):
            requests.send(timeout_s=timeout_s)
        assert timers_left() == timers + 1


@in_virtual_time
async def test_an_error_that_nobody_waits_for_is_no_complaint(caplog: pytest.LogCaptureFixture) -> None:
    async with router_to(ScriptedReplica(slots=1), queued_max=0) as requests:
        requests.send()
        requests.send()
    gc.collect()
    await soon()
    assert caplog.text == ""


@in_virtual_time
async def test_an_exchange_knows_how_long_it_waited() -> None:
    async with router_to(ScriptedReplica(slots=1)) as requests:
        running, waiting = await requests.many(2)
        requests.router.cancel(running)
        assert waiting.queued_s > running.queued_s > 0


@in_virtual_time
async def test_without_a_replica_a_request_waits_for_one() -> None:
    replica = ScriptedReplica()
    async with router_to() as requests:
        exchange = requests.send()
        await asyncio.sleep(config.NO_REPLICA_WAIT_S - 1)
        requests.network.add(replica)
        requests.router.update(requests.network.infos())
        await soon()
        replica.answer(replica.streams[0], b"answer")
        assert await body_of(exchange) == b"answer"


@in_virtual_time
async def test_without_a_replica_a_request_is_turned_away_in_the_end() -> None:
    loop = asyncio.get_running_loop()
    async with router_to() as requests:
        began = loop.time()
        with pytest.raises(errors.DeploymentUnavailableError, match="app_D has no replica that runs"):
            await requests.send().answer
        assert loop.time() - began == pytest.approx(config.NO_REPLICA_WAIT_S)


# Replicas that die


@in_virtual_time
async def test_a_request_whose_replica_dies_before_its_answer_is_sent_to_another() -> None:
    one, other = ScriptedReplica("one", loaded=("a",)), ScriptedReplica("other")
    async with router_to(one, other) as requests:
        exchange = requests.send("a")
        await soon()
        one.die()
        await soon()
        assert other.body(other.streams[0]) == b"body"
        other.answer(other.streams[0], b"answer")
        assert await body_of(exchange) == b"answer"
        assert exchange.replica_id == "other"


@in_virtual_time
async def test_a_request_whose_answer_has_begun_is_not_sent_again() -> None:
    one, other = ScriptedReplica("one", loaded=("a",)), ScriptedReplica("other")
    async with router_to(one, other) as requests:
        exchange = requests.send("a")
        await soon()
        one.answer(one.streams[0], b"part", more=True)
        await soon()
        one.die()
        with pytest.raises(errors.ReplicaLostError, match="app_D died"):
            await body_of(exchange)
        assert other.streams == []


@in_virtual_time
async def test_an_upload_that_still_comes_is_sent_again_from_its_start() -> None:
    one, other = ScriptedReplica("one", loaded=("a",)), ScriptedReplica("other")
    async with router_to(one, other) as requests:
        upload = Upload(b"one ", more=True)
        requests.send("a", upload=upload)
        await upload.write(b"two ", more=True)
        await soon()
        assert one.body(one.streams[0]) == b"one two "
        one.die()
        await soon()
        await upload.write(b"three", more=False)
        await soon()
        assert other.body(other.streams[0]) == b"one two three"


@in_virtual_time
async def test_an_upload_that_was_too_large_to_keep_is_not_sent_again() -> None:
    one, other = ScriptedReplica("one", loaded=("a",)), ScriptedReplica("other")
    async with router_to(one, other) as requests:
        upload = Upload(b"", more=True)
        exchange = requests.send("a", upload=upload)
        await soon()
        for _ in range(REPLAY_BYTES_MAX // CHUNK_BYTES + 2):
            one.say(Credit(one.streams[0], CHUNK_BYTES))
            await upload.write(b"x" * CHUNK_BYTES, more=True)
        await soon()
        one.die()
        with pytest.raises(errors.ReplicaLostError):
            await exchange.answer
        assert other.streams == []


@in_virtual_time
async def test_a_request_that_kills_its_replicas_is_given_up() -> None:
    replicas = [ScriptedReplica(f"r{n}") for n in range(LOSSES_MAX + 1)]
    async with router_to(*replicas) as requests:
        exchange = requests.send("a")
        for _ in range(LOSSES_MAX):
            await soon()
            requests.network.replicas[exchange.replica_id].die()
        with pytest.raises(errors.ReplicaLostError):
            await exchange.answer
        assert sum(len(replica.streams) for replica in replicas) == LOSSES_MAX


@in_virtual_time
async def test_a_retiring_replica_gets_no_more_requests_and_ends_those_it_has() -> None:
    retiring, other = ScriptedReplica("retiring", loaded=("a",)), ScriptedReplica("other")
    async with router_to(retiring, other) as requests:
        first = requests.send("a")
        await soon()
        retiring.say(messages.Retiring())
        await soon()
        requests.send("a")
        await soon()
        assert (len(retiring.streams), len(other.streams)) == (1, 1)
        retiring.answer(retiring.streams[0], b"answer")
        assert await body_of(first) == b"answer"


# Callers that leave


@in_virtual_time
async def test_a_request_that_is_cancelled_while_it_waits_is_never_sent() -> None:
    replica = ScriptedReplica(slots=1)
    async with router_to(replica) as requests:
        running, waiting = await requests.many(2)
        requests.router.cancel(waiting)
        replica.answer(replica.streams[0])
        await running.answer
        await soon()
        assert (len(replica.streams), replica.all_of(Cancel)) == (1, [])
        with pytest.raises(errors.RequestCancelledError):
            await waiting.answer


@in_virtual_time
async def test_a_request_that_is_cancelled_while_it_runs_is_cancelled_there() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        requests.router.cancel(exchange)
        await soon()
        assert replica.all_of(Cancel) == [Cancel(replica.streams[0])]
        with pytest.raises(errors.RequestCancelledError):
            await exchange.answer


@in_virtual_time
async def test_a_request_that_is_cancelled_while_its_answer_comes_wakes_its_reader() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        replica.answer(replica.streams[0], b"part", more=True)
        reading = asyncio.create_task(body_of(exchange))
        await soon()
        requests.router.cancel(exchange)
        with pytest.raises(errors.RequestCancelledError):
            await reading
        await soon()
        assert replica.all_of(Cancel) == [Cancel(replica.streams[0])]


@in_virtual_time
async def test_a_request_that_is_cancelled_while_its_body_comes_sends_no_more_of_it() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        upload = Upload(b"one ", more=True)
        exchange = requests.send(upload=upload)
        await soon()
        requests.router.cancel(exchange)
        await upload.write(b"two", more=False)
        await soon()
        assert replica.body(replica.streams[0]) == b"one "


@in_virtual_time
async def test_a_body_that_still_comes_when_its_request_is_answered_is_not_sent_on() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        upload = Upload(b"one ", more=True)
        exchange = requests.send(upload=upload)
        await soon()
        replica.answer(replica.streams[0])
        await exchange.answer
        await upload.write(b"two", more=False)
        await soon()
        assert replica.body(replica.streams[0]) == b"one "


@in_virtual_time
async def test_cancelling_what_is_over_does_nothing() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        replica.answer(replica.streams[0], b"answer")
        await soon()
        requests.router.cancel(exchange)
        requests.router.cancel(exchange)
        await soon()
        assert replica.all_of(Cancel) == []
        assert await body_of(exchange) == b"answer"


@in_virtual_time
async def test_a_whole_answer_that_meets_a_caller_who_has_just_left_disturbs_nobody() -> None:
    """The caller's task was cancelled, and with it the future that it waited on, but has not run yet."""
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        leaving, other = await requests.many(2)
        leaving.answer.cancel()
        replica.answer(leaving.begin.stream, b"one", more=True)
        replica.say(messages.Chunk(leaving.begin.stream, False), b"two")
        replica.answer(other.begin.stream, b"answer")
        assert await body_of(other) == b"answer"
        requests.router.cancel(leaving)
        assert replica.links_lost == 0


# The end


@in_virtual_time
async def test_closing_ends_requests_links_and_timers() -> None:
    replica = ScriptedReplica(slots=1)
    timers = timers_left()
    async with router_to(replica) as requests:
        running, waiting = await requests.many(2)
        replica.answer(replica.streams[0], b"part", more=True)
        await soon()
        reading = asyncio.create_task(body_of(running))
        await soon()
        await requests.router.close()
        for ending in (reading, waiting.answer):
            with pytest.raises(errors.DeploymentUnavailableError):
                await ending
        await soon()
        assert replica.link is None
    assert timers_left() == timers


@in_virtual_time
async def test_draining_tells_who_waits_and_lets_end_what_runs() -> None:
    replica = ScriptedReplica(slots=1)
    timers = timers_left()
    async with router_to(replica) as requests:
        [ended] = await requests.many(1)
        replica.answer(replica.streams[-1])
        await ended.answer
        running, waiting = await requests.many(2)
        draining = asyncio.create_task(requests.router.drain())
        with pytest.raises(errors.DeploymentUnavailableError):
            await asyncio.wait_for(waiting.answer, SOON_S)
        with pytest.raises(errors.DeploymentUnavailableError):
            await asyncio.wait_for(requests.send().answer, SOON_S)
        replica.answer(replica.streams[-1], b"part ", more=True)
        await asyncio.sleep(1)
        assert not draining.done()
        replica.say(messages.Chunk(replica.streams[-1], False), b"end")
        assert await body_of(running) == b"part end"
        await draining
        await soon()
        assert (replica.link, replica.all_of(Cancel)) == (None, [])
    assert timers_left() == timers


@in_virtual_time
async def test_a_router_without_requests_has_nothing_to_drain_whatever_became_of_them() -> None:
    replica = ScriptedReplica(slots=1)
    async with router_to(replica, queued_max=1) as requests:
        answered, cancelled, rejected = await requests.many(3)
        replica.answer(replica.streams[0])
        await answered.answer
        requests.router.cancel(cancelled)
        assert rejected.answer.done()
        await asyncio.wait_for(requests.router.drain(), SOON_S)


@pytest.mark.parametrize("how", ["dies", "refuses"])
@in_virtual_time
async def test_a_request_that_has_to_wait_while_its_router_drains_is_told_so(how: str) -> None:
    """It has nothing to wait for."""
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        [exchange] = await requests.many(1)
        draining = asyncio.create_task(requests.router.drain())
        await soon()
        if how == "dies":
            replica.die()
        else:
            replica.refuse(replica.streams[0], 2)
        with pytest.raises(errors.DeploymentUnavailableError):
            await asyncio.wait_for(exchange.answer, SOON_S)
        await draining


@in_virtual_time
async def test_a_router_that_drains_opens_no_link_again() -> None:
    replicas = ScriptedReplica("one"), ScriptedReplica("other")
    async with router_to(*replicas) as requests:
        await requests.many(1)
        draining = asyncio.create_task(requests.router.drain())
        busy, idle = sorted(replicas, key=lambda replica: not replica.streams)
        idle.break_link()
        await asyncio.sleep(10)
        assert len(idle.connected_at) == 1
        busy.answer(busy.streams[0])
        await draining


@in_virtual_time
async def test_closing_a_router_that_drains_ends_both() -> None:
    async with router_to(ScriptedReplica()) as requests:
        [exchange] = await requests.many(1)
        draining = asyncio.create_task(requests.router.drain())
        await soon()
        await requests.router.close()
        with pytest.raises(errors.DeploymentUnavailableError):
            await exchange.answer
        await asyncio.wait_for(draining, SOON_S)


@in_virtual_time
async def test_who_waits_to_meet_replicas_is_let_go_when_the_router_closes() -> None:
    async with router_to(ScriptedReplica(welcomes=False)) as requests:
        meeting = asyncio.create_task(requests.router.met())
        await soon()
        await requests.router.close()
        await asyncio.wait_for(meeting, SOON_S)


@in_virtual_time
async def test_a_closed_router_takes_no_requests() -> None:
    timers = timers_left()
    async with router_to(ScriptedReplica()) as requests:
        await requests.router.close()
        with pytest.raises(errors.DeploymentUnavailableError):
            await asyncio.wait_for(requests.send().answer, SOON_S)
    assert timers_left() == timers


# What replicas say of room, models and harm


def two_full() -> tuple[ScriptedReplica, ScriptedReplica]:
    """Two replicas that must evict for a cold model, the cheap one and the dear one."""
    return ScriptedReplica("cheap", room=0, harm_s=1.0, loaded=("held",)), ScriptedReplica("dear", room=0, harm_s=2.0)


@pytest.mark.parametrize("model_id", ["a", "b", "c", "d", "e"])
@in_virtual_time
async def test_a_cold_model_goes_where_its_eviction_does_least_harm(model_id: str) -> None:
    async with router_to(*two_full()) as requests:
        assert requests.send(model_id).replica_id == "cheap"


@pytest.mark.parametrize(
    "word",
    [
        messages.ModelLoading("x", 0, 50.0),
        messages.ModelLoaded("x", 0, 0.1, 50.0),
        messages.ModelGone("x", 0, 50.0),
    ],
    ids=lambda word: type(word).__name__,
)
@in_virtual_time
async def test_each_word_of_a_model_says_what_the_next_eviction_would_cost(word: messages.Message) -> None:
    cheap, dear = two_full()
    async with router_to(cheap, dear) as requests:
        cheap.say(word)
        await soon()
        assert requests.send("a").replica_id == "dear"


@in_virtual_time
async def test_an_answer_says_what_the_next_eviction_would_cost() -> None:
    cheap, dear = two_full()
    async with router_to(cheap, dear) as requests:
        requests.send("held")
        await soon()
        cheap.answer(cheap.streams[0], harm_s=50.0)
        await soon()
        assert requests.send("a").replica_id == "dear"


@pytest.mark.parametrize(("room", "model_id", "fits"), [(1, "a", True), (0, "a", False), (0, "held", True)])
@in_virtual_time
async def test_a_request_says_whether_its_model_is_expected_to_need_no_eviction(
    room: int, model_id: str, fits: bool
) -> None:
    replica = ScriptedReplica(room=room, loaded=("held",))
    async with router_to(replica) as requests:
        requests.send(model_id)
        await soon()
        assert [begin.fits for begin in replica.all_of(Begin)] == [fits]


@pytest.mark.parametrize(("model_id", "share"), [("cold", 1.0), ("held", 0.0)])
@in_virtual_time
async def test_a_request_says_how_popular_its_model_is_if_it_is_not_loaded(model_id: str, share: float) -> None:
    replica = ScriptedReplica(room=1, loaded=("held",))
    async with router_to(replica) as requests:
        requests.send(model_id)
        await soon()
        assert [begin.share for begin in replica.all_of(Begin)] == [share]


@in_virtual_time
async def test_a_request_that_is_refused_for_want_of_room_goes_where_there_is_some() -> None:
    replicas = [ScriptedReplica(name, room=1) for name in ("one", "other")]
    async with router_to(*replicas) as requests:
        exchange = requests.send("a")
        await soon()
        refusing, other = sorted(replicas, key=lambda replica: not replica.streams)
        refusing.refuse(refusing.streams[0], ongoing=1, no_room=True)
        await soon()
        assert (exchange.replica_id, [begin.fits for begin in other.all_of(Begin)]) == (other.replica_id, [True])
        # It is remembered: the next cold model goes there as well, though it evicts there.
        assert requests.send("b").replica_id == other.replica_id


@in_virtual_time
async def test_a_request_that_is_refused_everywhere_for_want_of_room_is_sent_to_evict() -> None:
    replicas = [ScriptedReplica(name, room=1) for name in ("one", "other")]
    async with router_to(*replicas) as requests:
        exchange = requests.send("a")
        for _ in replicas:
            await soon()
            refusing = requests.network.replicas[exchange.replica_id]
            refusing.refuse(refusing.streams[-1], ongoing=0, no_room=True)
        await soon()
        begins = sorted((begin for replica in replicas for begin in replica.all_of(Begin)), key=lambda b: not b.fits)
        assert [begin.fits for begin in begins] == [True, True, False]
        evicting = requests.network.replicas[exchange.replica_id]
        evicting.answer(evicting.streams[-1], b"answer")
        assert await body_of(exchange) == b"answer"


@pytest.mark.parametrize("holds", [True, False])
@in_virtual_time
async def test_who_is_refused_by_the_holder_of_its_model_waits_for_it_there(holds: bool) -> None:
    replicas = [ScriptedReplica(name, slots=1) for name in ("one", "other")]
    async with router_to(*replicas) as requests:
        exchange = requests.send("a")
        await soon()
        refusing, other = sorted(replicas, key=lambda replica: not replica.streams)
        refusing.refuse(refusing.streams[0], ongoing=1, holds=holds)
        await soon()
        assert (exchange.replica_id, len(other.streams)) == (("", 0) if holds else (other.replica_id, 1))


@pytest.mark.parametrize("holds", [True, False])
@in_virtual_time
async def test_an_answer_says_that_its_replica_holds_the_model(holds: bool) -> None:
    replicas = [ScriptedReplica(name, slots=1) for name in ("one", "other")]
    async with router_to(*replicas) as requests:
        requests.send("a")
        await soon()
        answering, other = sorted(replicas, key=lambda replica: not replica.streams)
        answering.answer(answering.streams[0], holds=holds, ongoing=1)
        await soon()
        assert requests.send("a").replica_id == ("" if holds else other.replica_id)


# The deployment's options


@pytest.mark.parametrize(
    ("options", "error", "retry_after_s"),
    [
        ({}, errors.BackPressureError, 1.0),
        ({"backpressure_retry_after_s": 7.5}, errors.BackPressureError, 7.5),
        ({"backpressure_status": 429, "backpressure_retry_after_s": 2.0}, errors.TooManyRequestsError, 2.0),
    ],
)
@in_virtual_time
async def test_a_full_queue_is_told_as_the_deployment_wants_it(
    options: dict[str, Any], error: type[errors.ModelplexError], retry_after_s: float
) -> None:
    async with router_to(ScriptedReplica(slots=1), queued_max=0, **options) as requests:
        requests.send()
        refused = requests.send()
        with pytest.raises(errors.BackPressureError, match="app_D has as many requests waiting") as caught:
            await refused.answer
        assert type(caught.value) is error
        assert caught.value.retry_after_s == retry_after_s


@in_virtual_time
async def test_where_lost_requests_are_not_retried_their_callers_are_told() -> None:
    first, second = ScriptedReplica("first", slots=1), ScriptedReplica("second", slots=1, ongoing=1)
    async with router_to(first, second, retry_lost_requests=False) as requests:
        lost, waits = requests.send(), requests.send()
        await soon()
        assert (len(first.streams), len(second.streams)) == (1, 0)
        first.die()
        with pytest.raises(errors.ReplicaLostError):
            await lost.answer
        second.say(messages.Ongoing(0))
        await soon()
        assert second.streams == [waits.begin.stream]


@in_virtual_time
async def test_options_that_change_reach_a_router_and_lose_nobody_who_waits() -> None:
    replica = ScriptedReplica(slots=1)
    async with router_to(replica, queued_max=2) as requests:
        first, *waiting = await requests.many(3)
        infos = requests.network.infos()
        requests.router.follow(messages.DeploymentInfo("app", "D", 1, infos, backpressure_status=429))
        with pytest.raises(errors.TooManyRequestsError):
            await requests.send().answer
        requests.router.follow(messages.DeploymentInfo("app", "D", -1, infos, retry_lost_requests=False))
        waiting += await requests.many(2)
        for exchange in (first, *waiting):
            replica.answer(exchange.begin.stream, b"answer")
            assert await body_of(exchange) == b"answer"
        last = requests.send()
        await soon()
        replica.die()
        with pytest.raises(errors.ReplicaLostError):
            await last.answer


# Time


@in_virtual_time
async def test_what_is_left_of_the_time_travels_with_the_request_each_time_it_is_sent() -> None:
    first, second = ScriptedReplica("first", slots=1), ScriptedReplica("second", slots=1, ongoing=1)
    async with router_to(first, second) as requests:
        requests.send(timeout_s=10)
        requests.send()
        await asyncio.sleep(4)
        first.die()
        second.say(messages.Ongoing(0))
        await soon()
        [sent], [again] = first.all_of(Begin), second.all_of(Begin)
        assert sent.timeout_s == 10
        assert again.timeout_s == pytest.approx(6, abs=0.1)


@pytest.mark.parametrize("begun", [False, True])
@in_virtual_time
async def test_at_its_deadline_a_request_is_cancelled_where_it_runs_and_its_reader_told(begun: bool) -> None:
    replica = ScriptedReplica(slots=1)
    async with router_to(replica) as requests:
        exchange = requests.send(timeout_s=3)
        await soon()
        [stream] = replica.streams
        if begun:
            replica.answer(stream, b"part", more=True)
            await soon()
        with pytest.raises(errors.RequestTimeoutError):
            await body_of(exchange)
        await soon()
        assert [cancel.stream for cancel in replica.all_of(Cancel)] == [stream]
        replica.say(messages.Ongoing(0))
        requests.send()
        await soon()
        assert len(replica.streams) == 2


@in_virtual_time
async def test_a_request_that_is_answered_in_time_leaves_no_timer() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        timers = timers_left()
        exchange = requests.send(timeout_s=3)
        await soon()
        assert timers_left() == timers + 1
        replica.answer(replica.streams[0], b"answer")
        assert await body_of(exchange) == b"answer"
        assert timers_left() == timers


# A link that is replaced after the network was cut


async def relink(requests: Requests, replica: ScriptedReplica) -> Link:
    """The link is cut by the network, and another one is opened. Answers the router's end of the one before."""
    peer = requests.router._links._peers[replica.replica_id]
    assert peer.link is not None
    peer.gone.set_result(None)
    await soon()
    assert requests.router._links.get(replica.replica_id) is not peer.link
    return peer.link


@in_virtual_time
async def test_what_was_sent_by_a_link_that_was_cut_is_sent_by_the_next_one() -> None:
    replica = ScriptedReplica(loaded=("m",))
    async with router_to(replica) as requests:
        exchange = requests.send("m")
        await soon()
        [stream] = replica.streams
        before = await relink(requests, replica)
        assert replica.streams == [stream, stream]
        late = messages.Answer(stream, 200, [], "", 0.0, 0.0, False, 0)
        requests.router.received(replica.replica_id, before, late, b"late")
        await soon()
        assert exchange.head is None
        replica.answer(stream, b"answer")
        assert await body_of(exchange) == b"answer"


@in_virtual_time
async def test_who_waits_for_a_replica_whose_link_was_cut_is_served_by_the_next_one() -> None:
    replica = ScriptedReplica(slots=1, loaded=("m",))
    async with router_to(replica) as requests:
        exchanges = [requests.send("m") for _ in range(2)]
        await soon()
        await relink(requests, replica)
        [first] = set(replica.streams)
        replica.answer(first, b"first")
        await soon()
        replica.answer(replica.streams[-1], b"second")
        assert [await body_of(exchange) for exchange in exchanges] == [b"first", b"second"]


@in_virtual_time
async def test_an_answer_that_had_begun_on_a_link_that_was_cut_is_lost() -> None:
    replica = ScriptedReplica(loaded=("m",))
    async with router_to(replica) as requests:
        exchange = requests.send("m")
        await soon()
        replica.answer(replica.streams[0], b"part", more=True)
        await soon()
        await relink(requests, replica)
        with pytest.raises(errors.ReplicaLostError):
            await body_of(exchange)
        assert len(replica.streams) == 1


@in_virtual_time
async def test_an_upload_that_is_too_long_to_keep_is_lost_with_its_link() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        upload = Upload(b"", more=True)
        exchange = requests.send(upload=upload)
        await soon()
        for _ in range(REPLAY_BYTES_MAX // CHUNK_BYTES + 2):
            replica.say(Credit(replica.streams[0], CHUNK_BYTES))
            await upload.write(b"x" * CHUNK_BYTES, more=True)
        await soon()
        await relink(requests, replica)
        with pytest.raises(errors.ReplicaLostError):
            await body_of(exchange)
        assert len(replica.streams) == 1


@in_virtual_time
async def test_a_replica_that_is_wanted_again_by_the_same_link_goes_on() -> None:
    replica = ScriptedReplica(slots=1, loaded=("m",))
    async with router_to(replica) as requests:
        first = requests.send("m")
        await soon()
        requests.router.update(())
        second = requests.send("m")
        requests.router.update(requests.network.infos())
        await soon()
        assert len(replica.streams) == 1
        replica.answer(replica.streams[0], b"first")
        await soon()
        replica.answer(replica.streams[1], b"second")
        assert (await body_of(first), await body_of(second)) == (b"first", b"second")


# Ahead of demand, and nearness


@in_virtual_time
async def test_a_hot_model_of_a_replica_that_dies_is_loaded_by_another_before_it_is_asked_for() -> None:
    one, other = ScriptedReplica("one", loaded=("hot",), slots=9), ScriptedReplica("other", slots=9)
    async with router_to(one, other) as requests:
        for _ in range(20):
            exchange = requests.send("hot")
            await soon()
            one.answer(one.streams[-1])
            await body_of(exchange)
        one.die()
        await soon()
        [asked] = other.all_of(messages.Prefetch)
        assert asked.model_id == "hot"
        assert asked.worth_s is not None
        assert asked.share > 0


@in_virtual_time
async def test_a_router_that_ends_has_nothing_loaded() -> None:
    one, other = ScriptedReplica("one", loaded=("hot",), slots=9), ScriptedReplica("other", slots=9)
    async with router_to(one, other) as requests:
        for _ in range(20):
            exchange = requests.send("hot")
            await soon()
            one.answer(one.streams[-1])
            await body_of(exchange)
    await soon()
    assert other.all_of(messages.Prefetch) == []
