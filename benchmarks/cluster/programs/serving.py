"""Serve `models.app` until the input ends: serving.py ENGINE PORT PROXIES, where the engine is local, ray or rayserve.

It prints the URLs that serve HTTP, the head's first, as JSON: of one proxy there, or of one on each of so many nodes.
Only Ray Serve takes the port: the others choose theirs.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

PROXIES_TIMEOUT_S = 60.0


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what else is printed is for the log
    engine, port, count = sys.argv[1:]
    location = "HeadOnly" if count == "1" else "EveryNode"
    address = os.environ["BENCH_ADDRESS"]
    if address:
        import ray

        own = {name: value for name, value in os.environ.items() if name.startswith(("BENCH_", "RAY_SERVE_"))}
        console = bool(os.environ["BENCH_CONSOLE"])
        ray.init(address=address, namespace="benchmark", runtime_env={"env_vars": own}, log_to_driver=console)
    models = importlib.import_module("models")
    serve: Any = models.serve

    if engine == "rayserve":
        serve.start(http_options={"host": "127.0.0.1", "port": int(port), "location": location})
    else:
        serve.start({"port": 0, "location": location}, engine=engine)
    serve.run(models.app)
    urls = [f"http://127.0.0.1:{port}"] if engine == "rayserve" else proxies(serve, int(count))
    print(json.dumps({"urls": urls}), file=answers, flush=True)
    sys.stdin.read()
    serve.shutdown()


def proxies(serve: Any, count: int) -> list[str]:
    until = time.monotonic() + PROXIES_TIMEOUT_S
    while len(found := list(serve.status().proxy_addresses.values())) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"of {count} proxies there are {len(found)}")
        time.sleep(0.05)
    return found


if __name__ == "__main__":
    main()
