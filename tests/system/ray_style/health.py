"""Health checks of one's own, for a replica that is replaced when it is not well; a constructor that is awaited."""

import os
import time

import requests

from modelplex import serve


@serve.deployment(health_check_period_s=0.1, health_check_timeout_s=5)
class Connected:
    async def __init__(self, address: str):
        self.address = address
        self.connected = True

    def __call__(self, request):
        if request.url.path == "/cut":
            self.connected = False
        return os.getpid()

    def check_health(self):
        if not self.connected:
            raise RuntimeError(f"the connection to {self.address} is cut")


serve.run(Connected.bind("database"))
first = requests.get("http://localhost:8000/").json()
time.sleep(0.5)
assert requests.get("http://localhost:8000/").json() == first
assert requests.get("http://localhost:8000/cut").json() == first
deadline = time.time() + 60
while requests.get("http://localhost:8000/").json() == first:
    assert time.time() < deadline
    time.sleep(0.05)
assert requests.get("http://localhost:8000/-/healthz").text == "success"
