"""What a method of a deployment learns and says of the call of gRPC that it answers."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

Metadata = Sequence[tuple[str, str | bytes]]

_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]{1,256}")


class CallEndedError(Exception):
    """What `GRPCContext.abort` raises."""


class GRPCContext:
    """Given to a method that has a parameter named `grpc_context`. It has the names that Ray Serve's has.

    Args:
        metadata: what the client has sent.
        peer: the client's address, as gRPC writes it.
    """

    def __init__(self, metadata: Metadata, peer: str) -> None:
        self._metadata = tuple(metadata)
        self._peer = peer
        self._code: Any = None
        self._details = ""
        self._trailing: list[tuple[str, str | bytes]] = []

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    def code(self) -> Any:
        """The status that was set, a `grpc.StatusCode` or its number; None if none was."""
        return self._code

    def set_code(self, code: Any) -> None:
        """End the call with this `grpc.StatusCode` or number, also if the method raises something."""
        status_number(code)
        self._code = code

    def details(self) -> str:
        return self._details

    def set_details(self, details: str) -> None:
        """What the client is told beside the status."""
        self._details = str(details)

    def trailing_metadata(self) -> list[tuple[str, str | bytes]]:
        return list(self._trailing)

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """What the client gets after the answer: names in lower case with text, or `…-bin` with bytes."""
        given = [(key, value) for key, value in trailing_metadata]
        for key, value in given:
            if _NAME.fullmatch(key) is None or not isinstance(value, bytes if key.endswith("-bin") else str):
                raise ValueError(f"Metadata have names in lower case with text, or '…-bin' with bytes; got {key!r}.")
            if isinstance(value, str) and not (value.isascii() and value.isprintable()):
                raise ValueError(f"Metadata have ASCII text; other text goes as bytes into '{key}-bin'.")
        self._trailing = given

    def abort(self, code: Any, details: str = "", trailing_metadata: Metadata = ()) -> None:
        """End the call at once with a status, by an exception."""
        self.set_code(code)
        self.set_details(details)
        self.set_trailing_metadata(trailing_metadata or self._trailing)
        raise CallEndedError(details)


def status_number(code: Any) -> int:
    """Of a `grpc.StatusCode`, or of its number. Raises ValueError for what is neither."""
    number = getattr(code, "value", code)
    number = number[0] if isinstance(number, tuple) else number
    if not isinstance(number, int) or not 0 <= number <= 16:
        raise ValueError(f"A status of gRPC is a grpc.StatusCode, or a number from 0 to 16; got {code!r}.")
    return number
