"""Bytes of a connection to the heads and bodies of its requests, by llhttp; nothing is lenient."""

import logging
from typing import Protocol

import httptools

from modelplex.runtime.answers import Headers

log = logging.getLogger(__name__)

# Of the request line and the headers together; also of what frames a body's parts, and of trailers.
HEAD_BYTES_MAX = 64 * 2**10
HEADERS_MAX = 128  # apache has 100
TARGET_BYTES_MAX = 16 * 2**10

# A status, and the text that goes with it.
Refusal = tuple[int, bytes]
MALFORMED: Refusal = 400, b"Invalid HTTP request received."
HEAD_TOO_LARGE: Refusal = 431, b"The request's headers are too large."
TARGET_TOO_LONG: Refusal = 414, b"The request's URL is too long."

_FRAMING = (b"content-length", b"transfer-encoding", b"connection")


class Receiver(Protocol):
    """Whoever is told what comes."""

    def request_begun(self, method: str, target: bytes, version: str, headers: Headers, keep_alive: bool) -> None: ...

    def body_received(self, data: bytes) -> None: ...

    def request_complete(self) -> None: ...


class RequestParser:
    """Turns what a client sends into requests. One that asks for an upgrade is like any other; trailers are dropped.

    Args:
        receiver: told of each request's head, then of the parts of its body, then of its end.

    Attributes:
        unframed_bytes: that came since the last part of a body, or end of a head or request; an upper bound.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Headers = []
        self._framing: Headers | None = None  # of a request that asks for an upgrade
        self._too_large: Refusal | None = None
        self.unframed_bytes = 0

    def feed(self, data: bytes) -> Refusal | None:
        """Take more bytes. After a refusal, which says what they are to be answered with, no more can be taken."""
        self.unframed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = memoryview(data)[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            return self._refusal(error)
        else:
            return HEAD_TOO_LARGE if self.unframed_bytes > HEAD_BYTES_MAX else None
        return self._feed_without_upgrade(rest)

    def _feed_without_upgrade(self, rest: memoryview) -> Refusal | None:
        """What follows such a head is its body, which llhttp leaves to another protocol: have a parser begin with
        another head, that frames the same body."""
        while self._framing is not None:
            lines = [b"%b: %b\r\n" % header for header in self._framing]
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *lines, b"\r\n"]))
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                return self._refusal(error)
        return HEAD_TOO_LARGE if self.unframed_bytes > HEAD_BYTES_MAX else None

    def _refusal(self, error: httptools.HttpParserError) -> Refusal:
        if not isinstance(error.__context__, httptools.HttpParserError | None):
            log.error("A request could not be parsed.", exc_info=error)  # by a fault of ours
        return self._too_large or MALFORMED

    # Called by llhttp

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > TARGET_BYTES_MAX:
            self._too_large = TARGET_TOO_LONG
            raise httptools.HttpParserError

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        headers.append((name.lower(), value))
        if len(headers) > HEADERS_MAX:
            self._too_large = HEAD_TOO_LARGE
            raise httptools.HttpParserError

    def on_headers_complete(self) -> None:
        headers, target = self._headers, self._target
        self._headers, self._target = [], b""
        if self._framing is not None:
            self._framing = None
            return
        if self.unframed_bytes > HEAD_BYTES_MAX:
            # As much came at once: perhaps of the requests before, or of the body.
            size_bytes = len(target) + sum(len(name) + len(value) + 4 for name, value in headers)
            self._too_large = HEAD_TOO_LARGE if size_bytes > HEAD_BYTES_MAX else None
        self.unframed_bytes = 0
        parser = self._parser
        method = parser.get_method().decode()
        version = parser.get_http_version()
        if self._too_large or method == "CONNECT" or not target.isascii():
            raise httptools.HttpParserError
        if version != "1.1" and (version != "1.0" or any(name == b"transfer-encoding" for name, _ in headers)):
            raise httptools.HttpParserError  # HTTP/1.0 has no chunks
        host: bytes | None = None
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    raise httptools.HttpParserError  # a server in front may have read the other one
                host = value
        if host is not None and not target.startswith(b"/") and not _is_for(host, target):
            raise httptools.HttpParserError  # likewise
        if parser.should_upgrade():
            self._framing = [header for header in headers if header[0] in _FRAMING]
        self._receiver.request_begun(method, target, version, headers, parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        self.unframed_bytes = 0
        self._receiver.body_received(data)

    def on_message_complete(self) -> None:
        if self._framing is not None:
            return
        self.unframed_bytes = 0
        if self._headers:
            self._headers = []  # trailers
        self._receiver.request_complete()


def _is_for(host: bytes, target: bytes) -> bool:
    """Whether a target that is a whole URL, or "*", is the host's that the header names."""
    _, separator, rest = target.partition(b"://")
    return not separator or rest[: len(host) + 1].lower() in (host.lower() + end for end in (b"", b"/", b"?", b"#"))
