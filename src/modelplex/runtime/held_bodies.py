"""Bodies of requests that are kept until they are whole, so that slow clients take no slots of replicas."""

import asyncio

from modelplex import errors
from modelplex.runtime.http_exchange import HTTPExchange

# Of one body, before the request goes on without the rest; as much as a connection keeps.
HELD_BYTES_MAX = 256 * 2**10

# Of all bodies of a proxy together. Those that come with their heads do not count.
ALL_HELD_BYTES_MAX = 256 * 2**20


class HeldBodies:
    """Those of one proxy.

    Attributes:
        size_bytes: that are held now.
    """

    def __init__(self, bytes_max: int = ALL_HELD_BYTES_MAX) -> None:
        self.size_bytes = 0
        self._bytes_max = bytes_max

    async def hold(self, http: HTTPExchange, timeout_s: float | None, size_bytes: int = HELD_BYTES_MAX) -> float | None:
        """Return when all of a request's body is in `http.body`, or so much of it, with what is left of its time.

        Raises `RequestTimeoutError`, `BackPressureError` if too much is held, and as `HTTPExchange.read` does.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        body = bytearray(http.body)  # of parts that may be a byte each
        held_bytes = 0
        try:
            async with asyncio.timeout(timeout_s):
                while http.more and len(body) < size_bytes:
                    data, _ = await http.read()
                    body += data
                    held_bytes += len(data)
                    self.size_bytes += len(data)
                    if self.size_bytes > self._bytes_max:
                        raise errors.BackPressureError("Too many requests are being sent at once.", retry_after_s=1.0)
        except TimeoutError:
            raise errors.RequestTimeoutError from None
        finally:
            self.size_bytes -= held_bytes
        http.body = bytes(body)
        return None if timeout_s is None else max(0.0, timeout_s - (loop.time() - began))
