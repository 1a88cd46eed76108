"""What an answer says of how it came about."""

import asyncio

import pytest

from modelplex.runtime.exchange import Exchange
from modelplex.runtime.heads import header_lines, headers_in
from modelplex.runtime.streams import Upload
from modelplex.wire.messages import Answer, Begin


@pytest.mark.parametrize("start", ["", "warm"])
async def test_lines_are_headers(start: str) -> None:
    begin = Begin(1, "r-1", "app", "/", "__call__", "m", False)
    exchange = Exchange(begin, Upload(b"", more=False), asyncio.get_running_loop())
    exchange.replica_id, exchange.queued_s = "app_Model#1", 0.0012
    answer = Answer(1, 200, [], start, 0.25, 0.003, False, 0)
    headers = headers_in(header_lines(exchange, answer, "r-1"))
    assert headers == [
        (b"x-request-id", b"r-1"),
        (b"x-modelplex-replica", b"app_Model#1"),
        (b"server-timing", b"queue;dur=1.20, load;dur=250.00, run;dur=3.00"),
        *([(b"x-modelplex-model", b"warm")] if start else []),
    ]
