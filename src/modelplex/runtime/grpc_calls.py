"""Calls of gRPC in a proxy: to which application and model they go, and how messages and answers travel."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator
from typing import Protocol

from modelplex import errors, tracing
from modelplex.config import HTTPOptions, check_model_id
from modelplex.handle import new_request_id
from modelplex.runtime import inference_calls, spans
from modelplex.runtime.answers import Headers
from modelplex.runtime.directory import Directory
from modelplex.runtime.exchange import Exchange
from modelplex.runtime.grpc_status import status_of
from modelplex.runtime.heads import seconds
from modelplex.runtime.naming import HEADERS
from modelplex.runtime.spoken import V2
from modelplex.runtime.streams import Upload
from modelplex.wire import framing, grpc_body, protobuf
from modelplex.wire.framing import PartReader
from modelplex.wire.grpc_body import GRPCHead, Packed, Status
from modelplex.wire.messages import AppInfo, Begin

log = logging.getLogger(__name__)

APPLICATION = b"application"
REQUEST_ID = b"request_id"
MAX_COLD_WAIT = b"x-modelplex-max-cold-wait"

# A client that neither sends nor takes anything has so much more than its call's time.
CLIENT_GRACE_S = 1.0

# By way (`HTTPOptions.model_id_from`), the names of metadata that say which model is asked for.
MODEL_ID_NAMES = {
    "header": [b"multiplexed%bmodel%bid" % (joint, joint) for joint in (b"_", b"-")] + [*HEADERS["header"]],
    "modelmesh": [*HEADERS["modelmesh"]],
}

# The only message of a call comes with its end, all but always in one piece; if not, the rest is waited for elsewhere.
END_WAIT_S = 0.01

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_METHOD = re.compile(r"\w{1,128}", re.ASCII)

HEALTH = "/grpc.health.v1.Health/Check"

_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse(status=SERVING)


class Client(Protocol):
    """Who makes a call.

    Attributes:
        metadata: what it has sent.
        peer: its address, as gRPC writes it.
        rest_s: what is left of its time; None for any time.
    """

    metadata: Packed
    peer: str
    rest_s: float | None

    async def read(self) -> bytes | None:
        """Its next message; None if no more come."""

    async def write(self, message: bytes) -> None:
        """Send it a message, as fast as it takes them."""

    async def begin(self, metadata: Packed) -> None:
        """Send it metadata before the first message."""


class Gate(Protocol):
    """Decides which requests are taken; metadata are headers to it."""

    def check_http(self, headers: Headers) -> None:
        """Raises `ModelplexError` for a client that may not know of anything here."""

    def admit_http(self, headers: Headers, application: str, model_id: str) -> str:
        """On whose behalf a request is. Takes from the headers what user code is not to see. Raises as `check_http`."""


class Calls:
    """What becomes of calls.

    Args:
        directory: where the applications and the routers are.
        options: `grpc`, and how models may be named.
        gate: decides which calls are taken; all are without one.
    """

    def __init__(self, directory: Directory, options: HTTPOptions, gate: Gate | None) -> None:
        assert options.grpc is not None
        self.directory = directory
        self.gate = gate
        self.request_timeout_s = options.grpc.request_timeout_s
        self.servicers = options.grpc.servicers
        ways = options.model_id_from
        self.speaks_v2 = V2 in ways
        self.model_id_names = frozenset(name for way in ways for name in MODEL_ID_NAMES.get(way, ()))

    async def serve(self, path: str, client: Client) -> Status:
        """Answer a call of any method; how it has ended is the answer."""
        call = Call(self, path, client)
        try:
            if self.gate is not None and path != HEALTH:
                self.gate.check_http([*client.metadata])
            # The router's own time-out goes first, and says more.
            at = None if call.deadline is None else call.deadline + CLIENT_GRACE_S
            async with asyncio.timeout_at(at):
                status = await self._serve(call, path, client)
        except errors.ModelplexError as error:
            status = status_of(error)
        except TimeoutError:  # its client neither spoke nor listened
            status = status_of(errors.RequestTimeoutError("The call has not ended within the request's time."))
        return Status(status.code, status.details, [*status.metadata, (REQUEST_ID, call.request_id)])

    async def _serve(self, call: "Call", path: str, client: Client) -> Status:
        if (own := self._own(path)) is not None:
            await client.write(own)
            return Status()
        if path.startswith(inference_calls.SERVICE):
            return await inference_calls.serve(call, path.removeprefix(inference_calls.SERVICE))
        if not self.servicers:
            return Status(grpc_body.UNIMPLEMENTED, "No grpc_servicer_functions say what this server answers.")
        app = call.application(self.directory.apps)
        await client.begin([(REQUEST_ID, call.request_id)])
        return await call.pass_on(app)

    def _own(self, path: str) -> bytes | None:
        """The answer of the proxy itself."""
        match path:
            case "/grpc.health.v1.Health/Check":  # HEALTH
                return _SERVING
            case "/ray.serve.RayServeAPIService/Healthz":
                return protobuf.field(1, b"success")
            case "/ray.serve.RayServeAPIService/ListApplications":
                return b"".join(protobuf.field(1, app.name.encode()) for app in self.directory.apps)
        return None


class Call:
    """One call.

    Args:
        calls: what it is one of.
        path: `/package.Service/Method`.
        client: who makes it.

    Attributes:
        request_id: the client's own if it can stand in metadata and a log line as it is.
    """

    def __init__(self, calls: Calls, path: str, client: Client) -> None:
        self._calls = calls
        self._path = path
        self.client = client
        self._told: dict[bytes, bytes] = {}  # of several of one name, the first
        for name, value in client.metadata:
            self._told.setdefault(name, value)
        given = self._told.get(REQUEST_ID, b"")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else new_request_id().encode()
        loop = calls.directory.loop
        rest_s = min((s for s in (client.rest_s, calls.request_timeout_s) if s is not None), default=None)
        self.deadline = None if rest_s is None else loop.time() + rest_s

    @property
    def inference_apps(self) -> list[AppInfo]:
        """Those that speak the Open Inference Protocol; none if messages may not name models."""
        apps = self._calls.directory.apps if self._calls.speaks_v2 else []
        return [app for app in apps if V2 in app.protocols]

    def application(self, apps: list[AppInfo]) -> AppInfo:
        """Which of these the metadata name, or the only one. Raises `RouteNotFoundError`."""
        name = self._told[APPLICATION].decode(errors="replace") if APPLICATION in self._told else None
        if name is None and len(apps) == 1:
            return apps[0]
        if (found := next((app for app in apps if app.name == name), None)) is not None:
            return found
        names = ", ".join(sorted(app.name for app in apps)) or "none"
        what = f"there is no {name[:64]!r}" if name is not None else "it is not there"
        text = f"The metadata `{APPLICATION.decode()}` say which application, and {what}: {names}."
        raise errors.RouteNotFoundError(text)

    def model_id(self, named: str = "") -> str:
        """The model that is asked for, checked; empty if none is. Raises `InvalidModelIdError`.

        Args:
            named: what the message says. Raises `InvalidRequestError` if the metadata say something else.
        """
        metadata, names = self.client.metadata, self._calls.model_id_names
        found = {value.decode("latin-1") for name, value in metadata if name in names and value}
        found |= {named} if named else set()
        if len(found) > 1:
            one, other = sorted(found)[:2]
            raise errors.InvalidRequestError(f"The request names two models, {one[:64]!r} and {other[:64]!r}.")
        return check_model_id(*found) if found else ""

    async def pass_on(self, app: AppInfo) -> Status:
        """Pass all messages on, both ways. Raises `ModelplexError`."""
        begin, client = self._begin(app, self.model_id(), self._path), self.client
        first = await client.read()
        if first is None:
            return await self._pass_back(begin, b"", None)
        reading = asyncio.ensure_future(client.read())
        try:
            done, _ = await asyncio.wait([reading], timeout=END_WAIT_S)
            more = reading if not done or reading.result() is not None else None
            return await self._pass_back(begin, framing.part(first), more)
        finally:
            reading.cancel()

    async def _pass_back(self, begin: Begin, data: bytes, reading: "asyncio.Future[bytes | None] | None") -> Status:
        async with self._sent(begin, Upload(data, more=reading is not None)) as exchange:
            uploading = None if reading is None else asyncio.ensure_future(self._upload(exchange, reading))
            if uploading is not None:
                uploading.add_done_callback(_heard)
            try:
                async with contextlib.aclosing(_answer(exchange)) as answer:
                    async for told in answer:
                        if isinstance(told, Status):
                            return Status(told.code, told.details, [*told.metadata, *_about(exchange)])
                        await self.client.write(told)
            finally:
                if uploading is not None:
                    uploading.cancel()
        raise errors.ProtocolError("The answer of a replica has ended without a status.")

    async def _upload(self, exchange: Exchange, reading: "asyncio.Future[bytes | None]") -> None:
        """Pass on the messages after the first one."""
        message = await reading
        while message is not None:
            await exchange.upload.write(framing.part(message), more=True)
            message = await self.client.read()
        await exchange.upload.write(b"", more=False)

    async def ask(self, app: AppInfo, path: str, model_id: str, message: bytes) -> tuple[bytes, Packed]:
        """Pass one message on, of a method that has one of each: the other one, and what is said of it after it.

        Raises `ModelplexError`.
        """
        begin = self._begin(app, model_id, path)
        async with self._sent(begin, Upload(framing.part(message), more=False)) as exchange:
            parts = [part async for part in _answer(exchange)]
            if len(parts) == 2 and isinstance(parts[0], bytes):
                return parts[0], _about(exchange)
        raise errors.ProtocolError("The answer of a replica is not one message and a status.")

    def _begin(self, app: AppInfo, model_id: str, path: str) -> Begin:
        calls, metadata, name = self._calls, [*self.client.metadata], path.rpartition("/")[2]
        trace = "" if tracing.active is None else spans.given(metadata)
        tenant = "" if calls.gate is None else calls.gate.admit_http(metadata, app.name, model_id)
        return Begin(
            stream=0,
            request_id=self.request_id.decode(),
            app_name=app.name,
            route=app.route_prefix or "",
            method_name=name if _METHOD.fullmatch(name) else "grpc",
            model_id=model_id,
            more=False,
            max_cold_wait_s=seconds(MAX_COLD_WAIT, self._told),
            tenant=tenant,
            trace=trace,
            grpc=GRPCHead(path, metadata, self.client.peer, calls.servicers),
        )

    @contextlib.asynccontextmanager
    async def _sent(self, begin: Begin, upload: Upload) -> AsyncGenerator[Exchange, None]:
        """The request on its way to a replica; it is cancelled at the end of the block."""
        directory = self._calls.directory
        router = directory.router(begin.app_name, directory.ingress(begin.app_name) or "")
        if not router.has_met:
            await router.met()
        rest_s = None if self.deadline is None else max(0.0, self.deadline - directory.loop.time())
        exchange = router.begin(begin, upload, rest_s)
        try:
            yield exchange
        finally:
            router.cancel(exchange)


def _heard(uploading: "asyncio.Future[None]") -> None:
    """What breaks off a client's messages is that it leaves, which ends the whole call."""
    if not uploading.cancelled() and (error := uploading.exception()) is not None:
        log.debug("A client's messages have broken off: %r", error)


async def _answer(exchange: Exchange) -> AsyncGenerator[bytes | Status, None]:
    """The messages of an answer, and its status. Raises the error that it has in their place."""
    await exchange.answer
    body, reader = exchange.body, PartReader()
    assert body is not None
    while not body.exhausted:
        for part in reader.feed(await body.read()):
            yield grpc_body.read(part)


def _about(exchange: Exchange) -> Packed:
    """What else the client is told after the answer."""
    assert exchange.head is not None
    start = [(b"x-modelplex-model", exchange.head.start.encode())] if exchange.head.start else []
    return [(b"x-modelplex-replica", exchange.replica_id.encode()), *start]
