"""Calls of gRPC in a replica: bytes to messages, methods of the user's object, and messages to bytes.

What clients send is read by the deserializers of the user's own services, which the replica imports; never by pickle.
"""

import contextlib
import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelplex import context, errors
from modelplex.config import GRPC_INFERENCE, load
from modelplex.grpc_context import CallEndedError, GRPCContext, status_number
from modelplex.runtime import inference_calls
from modelplex.runtime.asgi import Answering
from modelplex.runtime.doors import Doors
from modelplex.runtime.servable import Servable
from modelplex.wire import grpc_body
from modelplex.wire.framing import PartReader
from modelplex.wire.grpc_body import GRPCHead, Status

log = logging.getLogger(__name__)

_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service.

    Attributes:
        name: of the method that answers it.
        takes_stream, answers_stream: whether there may be several messages.
        decode, encode: bytes to a message, and back.
    """

    name: str
    takes_stream: bool
    answers_stream: bool
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


class Host(Protocol):
    """The replica, as far as a call needs it."""

    servable: Servable
    doors: Doors

    @property
    def scope(self) -> context.ReplicaScope: ...


async def answer(call: Answering, host: Host, head: GRPCHead, model_id: str) -> None:
    """Answer a call by the method of the user's object that has its name. Raises what that raises.

    Args:
        model_id: that it names, checked.
    """
    if head.path.startswith(inference_calls.SERVICE):
        await _infer(call, host, head.path.removeprefix(inference_calls.SERVICE), model_id)
        return
    servable = host.servable
    method = find(head.path, tuple(head.servicers))
    if method is None or not hasattr(servable.instance, method.name):
        why = f"The deployment has no method for {head.path}."
        await _end(call, Status(grpc_body.UNIMPLEMENTED, why))
        return
    told = GRPCContext(grpc_body.unpacked(head.metadata), head.peer)
    try:
        await _answer(call, servable, method, told)
    except Exception as error:
        if told.code() is None or not status_number(told.code()):
            raise
        if not isinstance(error, CallEndedError):
            log.error("A call of %s failed: %r", head.path, error, exc_info=error)
        await _end(call, _status(told))


async def _infer(call: Answering, host: Host, method: str, model_id: str) -> None:
    """A call of the Open Inference Protocol."""
    inference = host.doors.inference
    message = call.body if call.incoming is None else await call.incoming.read_all()
    [part] = PartReader().feed(message)
    del message
    answer = await load(GRPC_INFERENCE)(inference, host.servable, method, model_id, part)
    call.end()
    await call.answer(200, [], grpc_body.message(answer) + grpc_body.status(Status()))


async def _answer(call: Answering, servable: Servable, method: Method, told: GRPCContext) -> None:
    async with contextlib.aclosing(_requests(call, method)) as requests:
        argument = requests if method.takes_stream else await anext(requests, _NOTHING)
        if argument is _NOTHING:
            raise _invalid(method, "There is no message")
        more = {"grpc_context": told} if _wants_context(_function(servable.method(method.name))) else {}
        value = await servable.call(method.name, argument, **more)
        is_generator = inspect.isgenerator(value) or inspect.isasyncgen(value)
        if is_generator != method.answers_stream:
            raise TypeError(f"{method.name} has to {'yield its' if method.answers_stream else 'return one'} message.")
        if method.answers_stream:
            await _stream(call, servable, method, value, told)
            return
    status = _status(told)
    data = b"" if status.code else grpc_body.message(_encoded(method, value))
    call.end()
    await call.answer(200, [], data + grpc_body.status(status))


async def _requests(call: Answering, method: Method) -> AsyncGenerator[Any, None]:
    """The messages of the client. Raises `InvalidRequestError` for what is none."""
    reader, incoming = PartReader(), call.incoming
    while True:
        data = call.body if incoming is None else await incoming.read()
        for part in reader.feed(data):
            yield _decoded(method, part)
        if incoming is None or incoming.exhausted:
            return


def _decoded(method: Method, data: bytes) -> Any:
    try:
        return method.decode(data)
    except Exception as error:
        raise _invalid(method, "It cannot be read") from error


def _encoded(method: Method, value: Any) -> bytes:
    data = method.encode(value)
    if not isinstance(data, bytes):
        raise TypeError(f"{method.name} has to answer with the message of its service, got {type(value).__name__}.")
    return data


def _invalid(method: Method, why: str) -> errors.ModelplexError:
    return errors.InvalidRequestError(f"{why}: the message that {method.name} takes.")


async def _stream(call: Answering, servable: Servable, method: Method, value: Any, told: GRPCContext) -> None:
    async with contextlib.aclosing(servable.parts(value)) as parts:
        # What fails before the first message is told without one.
        first = await anext(parts, _NOTHING)
        if first is not _NOTHING:
            await call.answer(200, [], grpc_body.message(_encoded(method, first)), more=True)
            async for part in parts:
                await call.write(grpc_body.message(_encoded(method, part)))
    await _end(call, _status(told))


async def _end(call: Answering, status: Status) -> None:
    """Say how the call has ended, with or without messages."""
    data = grpc_body.status(status)
    call.end(answered=not call.answered)  # the last chunk of an answer does not tell
    if call.answered:
        await call.write(data, last=True)
    else:
        await call.answer(200, [], data)


def _status(told: GRPCContext) -> Status:
    code = 0 if told.code() is None else status_number(told.code())
    return Status(code, told.details(), grpc_body.packed(told.trailing_metadata()))


def _function(method: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(method, "__func__", method)


@functools.lru_cache(maxsize=256)
def _wants_context(function: Callable[..., Any]) -> bool:
    return "grpc_context" in inspect.signature(function).parameters


# What methods there are


def find(path: str, servicers: Sequence[str]) -> Method | None:
    """The method of a path (`/package.Service/Method`) that one of these functions knows."""
    for servicer in servicers:
        if (found := _services(servicer).find(path)) is not None:
            return found
    return None


class _Services:
    """What a function `add_…Servicer_to_server` gives to a server; it takes this for one, and for a servicer."""

    def __init__(self) -> None:
        self._handlers: list[Any] = []
        self._found: dict[str, Method] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self._handlers += handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """The same once more, for servers that find methods faster so."""

    def find(self, path: str) -> Method | None:
        if (known := self._found.get(path)) is not None:
            return known
        for handler in self._handlers:
            if (made := handler.service(_Path(path))) is not None:
                name = path.rpartition("/")[2]
                decode, encode = made.request_deserializer or bytes, made.response_serializer or bytes
                method = Method(name, made.request_streaming, made.response_streaming, decode, encode)
                self._found[path] = method  # as many as there are, not as are asked for
                return method
        return None


class _Servicer:
    """Has any method."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _never_called


def _never_called(*_: Any) -> None:
    raise NotImplementedError("Methods of the deployment answer.")


@dataclass(frozen=True, slots=True)
class _Path:
    """`grpc.HandlerCallDetails`, as far as handlers of generated modules read it."""

    method: str
    invocation_metadata: tuple[()] = ()


@functools.lru_cache(maxsize=256)
def _services(servicer: str) -> _Services:
    """Of an import path; none if that cannot be imported, which is logged once."""
    services = _Services()
    try:
        load(servicer)(_Servicer(), services)
    except Exception as error:
        log.error("%s of grpc_servicer_functions cannot be used: %r", servicer, error, exc_info=error)
    return services
