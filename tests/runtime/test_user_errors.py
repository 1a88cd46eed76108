"""What user code raises: it becomes an answer, whatever it is, and travels where it may."""

import asyncio
import sys

import pytest
from one_model import use_model
from raw_router import RawRouter, leases_held, replica_of
from virtual_time import in_virtual_time

from modelplex import errors
from modelplex.runtime import payload
from modelplex.wire.framing import CHUNK_BYTES


class Refusal(Exception):  # noqa: N818 - users name theirs as they like
    """An exception that travels."""


class Sticky(Exception):  # noqa: N818 - see above
    """An exception that cannot be made again from what it was pickled to."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one)


class Unprintable(Exception):  # noqa: N818 - see above
    def __repr__(self) -> str:
        raise ValueError("no words")


async def raises(error: BaseException) -> None:
    await use_model()
    raise error


@in_virtual_time
async def test_an_exception_of_user_code_travels_to_a_handle_with_its_traceback() -> None:
    async def handler() -> None:
        await raises(Refusal("not today"))

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, body = await router.failure(router.call())
        assert (fail.error, fail.message, fail.ongoing) == ("UserCodeError", "Refusal('not today')", 0)
        error = payload.loads_exception(body)
        assert (type(error), str(error)) == (Refusal, "not today")
        assert "in raises" in str(error.__cause__)


@in_virtual_time
async def test_an_exception_of_user_code_is_kept_from_http_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler() -> None:
        await raises(Refusal("not today"))

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, body = await router.failure(router.http())
        assert (fail.error, body) == ("UserCodeError", b"")
    assert "in raises" in caplog.text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Sticky("a", "b"), "Sticky('a')"),
        (Refusal("x" * 2 * CHUNK_BYTES), "Refusal('xxx"),
        (asyncio.CancelledError("by itself"), "CancelledError('by itself')"),
        (SystemExit(3), "SystemExit(3)"),
        (KeyboardInterrupt(), "KeyboardInterrupt()"),
        (pytest.fail.Exception("by a test's own code"), "by a test's own code"),
        (KeyError("a"), "KeyError('a')"),
        (StopIteration(1), "RuntimeError('coroutine raised StopIteration')"),
        (Unprintable(), "Unprintable"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("kind", ["call", "http"])
@in_virtual_time
async def test_whatever_user_code_raises_becomes_an_answer(kind: str, error: BaseException, text: str) -> None:
    async def handler() -> None:
        await raises(error)

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, _ = await router.failure(router.call() if kind == "call" else router.http())
        assert fail.error == "UserCodeError"
        assert fail.message.startswith(text)
        assert (replica.ongoing, leases_held(replica)) == (0, 0)


@pytest.mark.parametrize("error", [Sticky("a", "b"), Refusal("x" * 2 * CHUNK_BYTES)])
@in_virtual_time
async def test_an_exception_that_cannot_travel_stays_and_its_words_go(error: Exception) -> None:
    async def handler() -> None:
        await raises(error)

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, body = await router.failure(router.call())
        assert body == b""
        assert fail.message


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()])
@in_virtual_time
async def test_what_would_end_or_cancel_its_caller_does_not_travel(error: BaseException) -> None:
    async def handler() -> None:
        await raises(error)

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, body = await router.failure(router.call())
        assert (fail.error, fail.message, body) == ("UserCodeError", repr(error), b"")


async def test_a_thread_that_exits_does_not_end_the_replica() -> None:
    def handler() -> None:
        sys.exit(3)

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, _ = await router.failure(router.call())
        assert fail.message == "SystemExit(3)"


@pytest.mark.parametrize("kind", ["call", "http"])
@in_virtual_time
async def test_our_own_errors_keep_their_name_and_when_to_retry(kind: str) -> None:
    async def handler() -> None:
        await raises(errors.BackPressureError("come back", retry_after_s=7.0))

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, body = await router.failure(router.call() if kind == "call" else router.http())
        assert (fail.error, fail.message, fail.retry_after_s) == ("BackPressureError", "come back", 7.0)
        assert bool(body) == (kind == "call")


@in_virtual_time
async def test_a_missing_method_is_the_callers_mistake_and_said() -> None:
    async with replica_of(raises) as replica:
        router = RawRouter(replica)
        fail, _ = await router.failure(router.call("predict"))
        assert "no method 'predict'" in fail.message


@in_virtual_time
async def test_a_timeout_of_user_codes_own_is_an_error_like_any_other() -> None:
    async def handler() -> None:
        async with asyncio.timeout(1):
            await asyncio.Event().wait()

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, _ = await router.failure(router.call())
        assert fail.message == "TimeoutError()"
        assert (await router.failure(router.http()))[0].message == "TimeoutError()"


@in_virtual_time
async def test_code_that_raises_something_else_when_it_is_cancelled_ends_no_less() -> None:
    begun = asyncio.Event()

    async def handler() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            pytest.fail("on its way out")

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.call()
        await begun.wait()
        router.leave(stream)
        fail, _ = await router.failure(stream)
        assert "on its way out" in fail.message
        assert replica.ongoing == 0
