"""What a request to the admin interface is, what may be asked, and how an answer is found: the table that routes.

The description of the interface (`admin_openapi`) is made of the same table.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from modelplex import errors

JSON = b"application/json"

# Parameters of a query; a client that sends more is up to no good.
QUERY_FIELDS_MAX = 20


class RefusedError(errors.ModelplexError):
    """A request that is none of this interface's, with the status and the headers that say so."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]  # of this one, not of its class
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered.

    Attributes:
        value: what becomes JSON, or bytes that stay what they are.
        status: the HTTP status.
        content_type: of the bytes.
        headers: more of them.
    """

    value: Any
    status: int = 200
    content_type: bytes = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()

    @property
    def body(self) -> bytes:
        return self.value if isinstance(self.value, bytes) else msgspec.json.encode(self.value)


@dataclass(slots=True)
class Request:
    """A request that has been read.

    Attributes:
        method, path: as on the request line; the path as it was sent.
        query: what follows the "?".
        content_type: of the body; empty if the client does not say.
        body: all of it.
        parts: what the placeholders of the route stand for.
        options: the query, as its route's type.
        given: the body, as its route's type.
    """

    method: str
    path: str
    query: bytes = b""
    content_type: bytes = b""
    body: bytes = b""
    parts: dict[str, str] = field(default_factory=dict)
    options: Any = None
    given: Any = None


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that may be asked.

    Attributes:
        method: such as "GET".
        path: with `{name}` in place of a segment that is part of the request.
        summary: one sentence.
        handler: what answers; its first argument is whatever the table is for.
        answers: by status, the type of what becomes JSON, or the content type of other bytes.
        query: the type of its parameters; None for none.
        body: the type of its body; None for none.
        body_bytes_max: a larger one is a 413.
    """

    method: str
    path: str
    summary: str
    handler: Callable[[Any, Request], Awaitable[Any]]
    answers: Mapping[int, Any]
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    body_bytes_max: int = 64 * 2**10

    def read(self, request: Request) -> None:
        """Fill in `options` and `given`. Raises `RefusedError`."""
        request.options = _query(self.query, request.query)
        if self.body is not None:
            request.given = _body(self.body, request)


class Table:
    """Finds the route of a request.

    Args:
        routes: no two of them with the same method and path.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._paths: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in self.routes:
            self._paths.setdefault(tuple(route.path[1:].split("/")), {})[route.method] = route

    def find(self, request: Request) -> Route:
        """The route, with `parts` filled in. Raises `RefusedError`: 404 for a path that is none, else 405."""
        segments = [unquote(segment) for segment in request.path[1:].split("/")]
        for path, methods in self._paths.items():
            parts = _parts(path, segments)
            if parts is None:
                continue
            if (route := methods.get(request.method)) is None:
                allowed = ", ".join(sorted(methods))
                text = f"{request.method} means nothing at {request.path}: there is {allowed}."
                raise RefusedError(405, text, (b"allow", allowed.encode()))
            request.parts = parts
            return route
        raise RefusedError(404, f"There is no {request.method} {request.path} in the admin interface.")


def _parts(path: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    """What the placeholders stand for, of which none is empty; None if it is another path."""
    if len(path) != len(segments):
        return None
    parts = {}
    for wanted, segment in zip(path, segments, strict=True):
        if wanted.startswith("{") and segment:
            parts[wanted[1:-1]] = segment
        elif wanted != segment:
            return None
    return parts


def _query(kind: type[msgspec.Struct] | None, query: bytes) -> Any:
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS_MAX
        )
        given = dict(pairs)
        if len(given) < len(pairs):
            raise ValueError("a parameter is given twice")
        if kind is None:
            if given:
                raise ValueError(f"it takes no parameters, got {', '.join(given)[:64]!r}")
            return None
        return msgspec.convert(given, kind, strict=False)
    except ValueError as error:  # msgspec.ValidationError is one
        raise RefusedError(400, f"The query is wrong: {error}.") from error


def _body(kind: type[msgspec.Struct], request: Request) -> Any:
    if request.content_type.partition(b";")[0].strip().lower() != JSON:
        raise RefusedError(415, "The body must be JSON, and the header content-type: application/json has to say so.")
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError is a ValueError
        names = " and ".join(each.name for each in msgspec.structs.fields(kind) if each.required)
        raise RefusedError(400, f"The body must be an object{f' with {names}' if names else ''}: {error}") from error
