"""A deployment that is configured while it runs, and that says itself when it is not well.

    modelplex run user_config:entry --app-dir examples
    curl "http://127.0.0.1:8000/?text=a+plain+day"

`user_config` may be in a configuration file as well; `modelplex deploy` of a file in which only that has changed starts
no replica anew. `python examples/user_config.py` shows another one in use, and a replica that is replaced.
"""

import os
import time
from typing import Any

from starlette.requests import Request

from modelplex import serve


@serve.deployment(user_config={"forbidden": ["plain"], "replacement": "-"}, health_check_period_s=0.2)
class Filter:
    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        self.replacement = ""
        self.is_connected = True  # to a database, say

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Called before the first request, and whenever `user_config` is another one. Raises what is wrong with it."""
        if len(config["replacement"]) > 10:
            raise ValueError("The replacement is too long.")
        self.forbidden, self.replacement = set(config["forbidden"]), config["replacement"]

    def check_health(self) -> None:
        """Called every `health_check_period_s`. A replica that raises three times in a row is replaced."""
        if not self.is_connected:
            raise ConnectionError("The database has gone.")

    def filter(self, text: str) -> str:
        return " ".join(self.replacement if word in self.forbidden else word for word in text.split())

    def disconnect(self) -> int:
        self.is_connected = False
        return os.getpid()

    def pid(self) -> int:
        return os.getpid()

    async def __call__(self, request: Request) -> str:
        return self.filter(request.query_params["text"])


entry = Filter.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return


def main() -> None:
    serve.start(http_options={"port": 0})  # any port, since only a handle calls
    handle = serve.run(entry, route_prefix=None)
    print("first:", handle.filter.remote("a plain day").result())

    other = Filter.options(user_config={"forbidden": ["day"], "replacement": "night"})  # type: ignore[attr-defined]
    serve.run(other.bind(), route_prefix=None)
    print("then:", handle.filter.remote("a plain day").result())

    try:
        wrong = {"forbidden": [], "replacement": "much too long"}
        serve.run(other.options(user_config=wrong, max_constructor_retry_count=0).bind(), route_prefix=None)
    except RuntimeError as error:
        print("refused:", "The replacement is too long." in str(error))
    print("still:", handle.filter.remote("a plain day").result())

    ill = handle.disconnect.remote().result()
    deadline = time.monotonic() + 60
    while handle.pid.remote().result() == ill:
        assert time.monotonic() < deadline, "it was not replaced"
        time.sleep(0.05)
    print("replaced:", handle.filter.remote("a plain day").result())
    serve.shutdown()


if __name__ == "__main__":
    main()
