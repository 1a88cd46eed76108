"""The least that answers: ASGI without a framework, with the same paths as multiplexed.py."""

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] != "http":
        return
    if scope["path"].startswith("/stream/"):
        _, _, count, size = scope["path"].split("/")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = b"x" * int(size)
        for _ in range(int(count)):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    body = b"ok"
    if scope["method"] == "POST":
        received = []
        while True:
            message = await receive()
            received.append(message["body"])
            if not message.get("more_body"):
                break
        body = b"".join(received)
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})
