"""Messages of WebSockets as parts of a body."""

import pytest

from modelplex.wire import websocket


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4999, "genug für heute")])
def test_a_close_comes_back_as_it_went(code: int, reason: str) -> None:
    message = websocket.close(code, reason)
    assert message[:1] == websocket.CLOSE
    assert websocket.close_of(message) == (code, reason)


@pytest.mark.parametrize("code", [0, 999, 5000, 70_000])
def test_what_is_no_code_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match="is not a close code"):
        websocket.close(code)
