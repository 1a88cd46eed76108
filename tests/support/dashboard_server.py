"""The admin interface as the dashboard sees it, round a scene: the page's files, events each second, actions."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from dashboard_scene import Scene

import modelplex

FILES = Path(modelplex.__file__).parent / "dashboard"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


class DashboardServer:
    """Serves until it is closed.

    Args:
        scene: what runs.
        period_s: between two events; each is a second of the scene.
        past: so many seconds of the scene are told at once to who connects first.
    """

    def __init__(self, scene: Scene, *, period_s: float = 1.0, past: int = 0) -> None:
        self.scene = scene
        self.period_s = period_s
        self.past = past
        self.refuses = False  # tokens
        self.refuses_all = False  # nothing is answered
        self.stands_still = False  # events come, but nothing happens, besides that time passes
        self.fails: dict[str, tuple[int, str]] = {}  # path -> status and message of the next answer
        self.requests: list[dict[str, Any]] = []  # those that change something, and those for decisions
        self.streams = 0  # that have been opened
        self._generation = 0  # a stream of an earlier one ends
        self._closed = threading.Event()
        self._paused = threading.Event()
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/"

    def drop(self) -> None:
        """End all streams of events."""
        self._generation += 1

    def pause(self, paused: bool = True) -> None:
        """No event comes any more, on connections that stay."""
        (self._paused.set if paused else self._paused.clear)()

    def close(self) -> None:
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def events(self) -> Iterator[bytes]:
        self.streams += 1
        generation, past = self._generation, self.past
        self.past = 0
        while not self._closed.is_set() and generation == self._generation:
            if not self._paused.is_set():
                if self.stands_still:
                    self.scene.now += self.period_s
                else:
                    self.scene.step()
                yield b"event: state\ndata: " + json.dumps(self.scene.state()).encode() + b"\n\n"
            past -= 1
            if past < 0:
                self._closed.wait(self.period_s)

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any, body: Any) -> tuple[int, Any]:
        if self.refuses:
            return 401, {"error": "A token is needed."}
        if path == "/v1/decisions":
            self.requests.append({"method": method, "path": path, "query": query})
            wanted = {name: value for name, value in query.items() if name != "limit"}
            return 200, {"decisions": self.scene.told(**wanted)[: int(query["limit"])]}
        if method == "POST":
            self.requests.append({"method": method, "path": path, "headers": dict(headers.items()), "body": body})
            return self._act(path, headers)
        return 404, {"error": f"There is no {path}."}

    def _act(self, path: str, headers: Any) -> tuple[int, Any]:
        if headers.get("x-modelplex-admin") != "1":
            return 403, {"error": "x-modelplex-admin is missing."}
        if path in self.fails:
            status, message = self.fails.pop(path)
            return status, {"error": message}
        match path.split("/"):
            case ["", "v1", "models", model_id, verb]:
                if not self.scene.steer(unquote(model_id), verb):
                    return 404, {"error": f"No replica holds {unquote(model_id)}."}
                return 200, {"replicas": 1} if verb in {"pin", "unpin", "unload"} else {}
            case ["", "v1", "replicas", replica_id, "drain"]:
                for replica in self.scene.replicas:
                    replica.retiring |= replica.id == unquote(replica_id)
                return 202, {}
        return 404, {"error": f"There is no {path}."}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: DashboardServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.server_of.refuses_all:
            self._json(503, {"error": "Not now."})
        elif url.path == "/v1/events" and not self.server_of.refuses:
            self._events()
        elif url.path.startswith("/v1/"):
            self._json(*self.server_of.answer("GET", url.path, dict(parse_qsl(url.query)), self.headers, None))
        else:
            self._file(url.path.lstrip("/") or "index.html")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        told = json.loads(body) if body else None
        self._json(*self.server_of.answer("POST", urlsplit(self.path).path, {}, self.headers, told))

    def _head(self, status: int, content_type: str, length: int | None) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("content-type", content_type)
        if length is None:
            self.send_header("connection", "close")
        else:
            self.send_header("content-length", str(length))
        self.end_headers()

    def _file(self, name: str) -> None:
        file = FILES / name
        if file.parent != FILES or not file.is_file():
            self._json(404, {"error": "There is no such file."})
            return
        content = file.read_bytes()
        self._head(200, TYPES[file.suffix], len(content))
        self.wfile.write(content)

    def _json(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self._head(status, "application/json", len(content))
        self.wfile.write(content)

    def _events(self) -> None:
        self._head(200, "text/event-stream", None)
        self.close_connection = True
        try:
            for event in self.server_of.events():
                self.wfile.write(event)
        except OSError:
            return  # the page has gone

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Nothing."""


@contextmanager
def served(scene: Scene, *, period_s: float = 1.0, past: int = 0) -> Iterator[DashboardServer]:
    server = DashboardServer(scene, period_s=period_s, past=past)
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":  # look at it: python tests/support/dashboard_server.py [replicas models]
    import sys

    sizes = [int(text) for text in sys.argv[1:]] or [12, 40]
    with served(Scene(*sizes), past=300) as running:
        print(running.url, flush=True)
        while True:
            time.sleep(3600)
