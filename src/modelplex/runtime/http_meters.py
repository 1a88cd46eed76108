"""What a proxy counts of its HTTP requests."""

import time
from bisect import bisect_left

from modelplex.runtime.http_connection import HTTPExchange
from modelplex.runtime.meters import OTHER, REQUEST_BOUNDS_S, Buckets, Counts

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})


class HTTPMeters:
    """HTTP requests of a proxy.

    Attributes:
        requests: by application, method and status. The status is 0 of those whose client left, or whose answer was
            broken off.
        seconds: from the request's head to the end of its answer, by application, WebSockets left out.
        running: requests that are not answered yet.
    """

    __slots__ = ("_on_ended", "requests", "running", "seconds")

    def __init__(self) -> None:
        self.requests = Counts()
        self.seconds: dict[str, Buckets] = {}
        self.running = 0
        self._on_ended = self._ended

    def begun(self, http: HTTPExchange) -> None:
        """A request has come. It is counted when its answer ends, for the application that it has by then."""
        self.running += 1
        http.began = time.perf_counter()
        http.on_ended = self._on_ended

    def _ended(self, http: HTTPExchange) -> None:
        self.running -= 1
        app_name, status = http.app_name, http.outcome
        try:
            self.requests[app_name, http.method, status] += 1
            buckets = self.seconds[app_name]
        except KeyError:
            self.requests.add((app_name, http.method if http.method in _METHODS else OTHER, status))
            buckets = self.seconds.setdefault(app_name, Buckets(REQUEST_BOUNDS_S))
        if status != 101:
            elapsed_s = time.perf_counter() - http.began
            buckets.total += elapsed_s
            buckets.counts[bisect_left(REQUEST_BOUNDS_S, elapsed_s)] += 1
