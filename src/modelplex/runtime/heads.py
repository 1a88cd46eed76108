"""What the proxy reads of the heads of requests, and what it says in those of answers."""

import json
import math
from urllib.parse import quote

from modelplex import errors
from modelplex.runtime.answers import Headers
from modelplex.runtime.exchange import Exchange
from modelplex.runtime.http_exchange import HTTPExchange
from modelplex.runtime.naming import CALL, OPENAI
from modelplex.wire.messages import Answer, AppInfo, HTTPHead

REQUEST_ID_HEADER = b"x-request-id"

JSON: Headers = [(b"content-type", b"application/json")]
TEXT: Headers = [(b"content-type", b"text/plain; charset=utf-8")]


def header_lines(exchange: Exchange, answer: Answer, request_id: str) -> bytes:
    """What is to be known of how an answer came about, as header lines."""
    queue_ms, load_ms, run_ms = exchange.queued_s * 1e3, answer.load_s * 1e3, answer.run_s * 1e3
    text = (
        f"x-request-id: {request_id}\r\nx-modelplex-replica: {exchange.replica_id}\r\n"
        f"server-timing: queue;dur={queue_ms:.2f}, load;dur={load_ms:.2f}, run;dur={run_ms:.2f}\r\n"
    )
    return (f"{text}x-modelplex-model: {answer.start}\r\n" if answer.start else text).encode()


def headers_in(lines: bytes) -> Headers:
    """Such lines as pairs."""
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.splitlines())]


def told_failure(error: errors.ModelplexError, door: str, exchange: Exchange | None) -> tuple[Headers, bytes]:
    """What a client is told of a failure, in the form that it knows."""
    # What user code raised is in the replica's log, and is no business of whoever may send requests.
    text = "Internal Server Error" if type(error) is errors.UserCodeError else str(error)
    headers: Headers = [*(TEXT if door == CALL else JSON)]
    if isinstance(error, errors.UnauthenticatedError):
        headers.append((b"www-authenticate", b'Bearer realm="modelplex"'))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if exchange is not None and exchange.replica_id:
        headers.append((b"x-modelplex-replica", exchange.replica_id.encode()))
    if isinstance(error, errors.BodyTooLargeError | errors.BodyTooSlowError):
        headers.append((b"connection", b"close"))
    if door == CALL:
        return headers, text.encode()
    return headers, json.dumps({"error": {"message": text} if door == OPENAI else text}).encode()


def seconds(header: bytes, told: dict[bytes, bytes], *, above_0: bool = False) -> float | None:
    """The seconds that a header says; None if it is not there. Raises `InvalidHeaderError`."""
    value = told.get(header)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf or (above_0 and not seconds):
        name, given = header.decode(), value[:64].decode("latin-1")
        least = "above" if above_0 else "of at least"
        raise errors.InvalidHeaderError(f"{name} takes a number of seconds {least} 0, got {given!r}.")
    return seconds


def http_head(http: HTTPExchange, app: AppInfo, root_path: str, *, is_websocket: bool) -> HTTPHead:
    """What an application is told; what a server in front has taken off of the path (`root_path`) is put back."""
    prefix = "" if app.route_prefix in (None, "/") else str(app.route_prefix)
    path, raw_path, scheme = http.path, http.raw_path, http.scheme
    if root_path:  # ASGI's path has it, although a server in front has taken it off
        path, raw_path = root_path + path, quote(root_path).encode() + raw_path
    return HTTPHead(
        method=http.method,
        path=path,
        raw_path=raw_path,
        query_string=http.query_string,
        root_path=root_path + prefix,
        scheme=scheme.replace("http", "ws") if is_websocket else scheme,
        http_version=http.http_version,
        headers=http.headers,
        client=http.client,
        server=http.server,
    )
