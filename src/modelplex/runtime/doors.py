"""Requests of protocols of other systems, on their way past the user's own code to what answers them in its place.

That is `modelplex.protocols`, whose modules are imported when they are needed.
"""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from modelplex import config, context, errors
from modelplex.runtime.answers import Headers
from modelplex.runtime.model_hosts import ModelHosts
from modelplex.runtime.naming import INFER
from modelplex.runtime.servable import Servable
from modelplex.runtime.spoken import V2, protocols_of
from modelplex.wire.messages import HTTPHead

# Status, headers and body.
Answered = tuple[int, Headers, bytes]

JSON: Headers = [(b"content-type", b"application/json")]


def as_json(value: Any, status: int = 200) -> Answered:
    return status, JSON, msgspec.json.encode(value)


@dataclass(frozen=True, slots=True)
class DoorRequest:
    """One request.

    Attributes:
        head: of HTTP.
        model_id: that it names; empty if it names none.
        read: reads its body.
    """

    head: HTTPHead
    model_id: str
    read: Callable[[], Awaitable[bytes]]

    def header(self, name: bytes) -> str | None:
        """The first of the headers of this name."""
        return next((value.decode("latin-1") for key, value in self.head.headers if key == name), None)


class Door(Protocol):
    """Answers the requests of one protocol for one replica."""

    async def answer(self, request: DoorRequest) -> Answered | None:
        """The answer; None for what the user's own code is to answer. Raises what `Serving` tells clients of."""


class Doors:
    """Those of one replica, each made when the first of its requests comes.

    Args:
        servable: the replica's object.
        models: its models.
        replica: who it is.
    """

    def __init__(self, servable: Servable, models: ModelHosts, replica: context.ReplicaContext) -> None:
        self._of = servable, models, replica
        # Of V2 at once, so that not the first request waits for its imports.
        self._made: dict[str, Door] = {INFER: self._make(INFER)} if V2 in protocols_of(type(servable.instance)) else {}

    async def answer(self, name: str, request: DoorRequest) -> Answered | None:
        """What the door of that name answers (`naming.INFER` and others)."""
        if (door := self._made.get(name)) is None:
            door = self._made[name] = self._make(name)
        return await door.answer(request)

    @functools.cached_property
    def inference(self) -> Any:
        """What answers V2 over gRPC. Raises `InvalidRequestError` for a deployment that does not speak it."""
        if V2 not in protocols_of(type(self._of[0].instance)):
            raise errors.InvalidRequestError("The deployment does not speak the Open Inference Protocol.")
        return config.load(config.INFERENCE)(*self._of)

    def _make(self, name: str) -> Door:
        door: Door = config.load(config.DOORS[name])(*self._of)
        return door
