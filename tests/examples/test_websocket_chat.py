"""The chat, run as its docstring says."""

from pathlib import Path

import pytest
from served import serving
from websockets.sync.client import connect

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_bot_answers_by_path_and_by_header() -> None:
    with serving("websocket_chat:entry", EXAMPLES) as served:
        address = f"ws://127.0.0.1:{served.port}/chat"
        with connect(f"{address}/parrot", proxy=None) as socket:
            assert socket.recv(10) == "parrot is here."
            socket.send("hello")
            assert socket.recv(10) == "HELLO"
        named = {"serve-multiplexed-model-id": "eliza"}
        with connect(f"{address}/anybody", additional_headers=named, proxy=None) as socket:
            assert socket.recv(10) == "eliza is here."
            socket.send("tea")
            assert socket.recv(10) == "eliza says: tell me more about 'tea'."
