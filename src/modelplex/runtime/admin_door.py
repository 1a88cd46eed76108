"""Who gets into the admin interface over TCP: whoever shows the token."""

import hashlib
import hmac
import ipaddress
import json
import secrets
from http import cookies
from urllib.parse import parse_qs

from modelplex.runtime.http_connection import Application
from modelplex.runtime.http_exchange import HTTPExchange

# A header that forms and links of other sites cannot send, which requests need that change something by a cookie.
CONFIRM = b"x-modelplex-admin"

_READS = ("GET", "HEAD", "OPTIONS")
_JSON = (b"content-type", b"application/json")


class Door:
    """Lets requests through to an application (`http_connection.Application`).

    A request shows the token as `authorization: Bearer`. A browser shows it once, as the query of its first visit, and
    gets a cookie for it that is good as long as this process lives.

    Args:
        application: answers those that are let in.
        token: what they have to show.
        host: where it is listened. On the loopback address other names in the header `host` are refused: those that a
            page from elsewhere has had resolved to here.
        port: the same; part of the cookie's name, since cookies are one host's, whatever its port.
        is_tls: whether browsers come by HTTPS.
    """

    def __init__(self, application: Application, token: str, host: str, port: int, *, is_tls: bool) -> None:
        self._application = application
        self._token = _digest(token.encode())
        session = secrets.token_urlsafe(32)
        self._session = _digest(session.encode())
        self._cookie_name = f"modelplex-admin-{port}"
        secure = "; Secure" if is_tls else ""
        cookie = f"{self._cookie_name}={session}; HttpOnly; SameSite=Strict; Path=/{secure}"
        self._set_cookie = (b"set-cookie", cookie.encode())
        self._names = {"localhost", "127.0.0.1", "[::1]", host, f"[{host}]"} if _is_loopback(host) else None

    def __call__(self, exchange: HTTPExchange) -> None:
        hosts = [value for name, value in exchange.headers if name == b"host"]
        if self._names is not None and (len(hosts) != 1 or _name(hosts[0]) not in self._names):
            _refuse(exchange, 403, "This address is called by another name: use localhost or 127.0.0.1.")
        elif self._has_token(exchange):
            self._application(exchange)
        elif self._has_cookie(exchange):
            if exchange.method in _READS or any(name == CONFIRM for name, _ in exchange.headers):
                self._application(exchange)
            else:
                _refuse(exchange, 403, f"By a cookie, this needs the header {CONFIRM.decode()}: 1.")
        elif self._is_first_visit(exchange):
            headers = [self._set_cookie, (b"location", b"/"), (b"cache-control", b"no-store")]
            exchange.respond(303, [*headers, (b"referrer-policy", b"no-referrer")])
        else:
            text = (
                "This needs the token of the admin interface, as authorization: Bearer TOKEN, or once as /?token=TOKEN."
            )
            _refuse(exchange, 401, text, (b"www-authenticate", b'Bearer realm="modelplex admin"'))

    def _has_token(self, exchange: HTTPExchange) -> bool:
        shown = [value for name, value in exchange.headers if name == b"authorization"]
        scheme, _, token = shown[0].partition(b" ") if len(shown) == 1 else (b"", b"", b"")
        return scheme.lower() == b"bearer" and self._same(token.strip(), self._token)

    def _has_cookie(self, exchange: HTTPExchange) -> bool:
        shown = b"; ".join(value for name, value in exchange.headers if name == b"cookie").decode("latin-1")
        if self._cookie_name not in shown:
            return False
        jar = cookies.SimpleCookie()
        try:
            jar.load(shown)
        except cookies.CookieError:
            return False
        found = jar.get(self._cookie_name)
        return found is not None and self._same(found.value.encode("latin-1", "replace"), self._session)

    def _is_first_visit(self, exchange: HTTPExchange) -> bool:
        if exchange.method != "GET" or exchange.raw_path != b"/":
            return False
        try:
            tokens = parse_qs(exchange.query_string, max_num_fields=10).get(b"token", [])
        except ValueError:
            return False
        return len(tokens) == 1 and self._same(tokens[0], self._token)

    def _same(self, shown: bytes, digest: bytes) -> bool:
        """In constant time, also if the lengths differ."""
        return hmac.compare_digest(_digest(shown), digest)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _name(host: bytes) -> str:
    """The name in the header `host`, without a port."""
    text = host.decode("latin-1").strip().lower()
    name, colon, port = text.rpartition(":")
    return name if colon and port.isdigit() else text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse(exchange: HTTPExchange, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    exchange.respond(status, [_JSON, (b"cache-control", b"no-store"), *headers], json.dumps({"error": text}).encode())
