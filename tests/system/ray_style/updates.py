"""Updates in place: another user config, other numbers of replicas, new code while a client calls, code that fails."""

import os
import threading

import requests

from modelplex import serve
from modelplex.serve.schema import ApplicationStatus


@serve.deployment(user_config={"greeting": "hej"})
class Doorman:
    def __init__(self):
        self.greeting = None
        self.times = 0

    async def reconfigure(self, config: dict):
        self.greeting = config["greeting"]
        self.times += 1

    def __call__(self, request):
        return {"greeting": self.greeting, "pid": os.getpid(), "times": self.times}


def ask() -> dict:
    return requests.get("http://localhost:8000/").json()


serve.run(Doorman.bind())
before = ask()
assert (before["greeting"], before["times"]) == ("hej", 1)
serve.run(Doorman.options(user_config={"greeting": "moi"}).bind())
assert ask()["greeting"] == "moi"

serve.run(Doorman.options(user_config={"greeting": "moi"}, num_replicas=3).bind())
deployment = serve.status().applications["default"].deployments["Doorman"]
assert deployment.replica_states["RUNNING"] == 3
assert deployment.status == "HEALTHY"
serve.run(Doorman.options(user_config={"greeting": "moi"}, num_replicas=1).bind())
assert serve.status().applications["default"].deployments["Doorman"].replica_states["RUNNING"] == 1


@serve.deployment(num_replicas=2)
class Version:
    def __init__(self, number: int):
        self.number = number

    def __call__(self, request) -> int:
        return self.number


serve.run(Version.bind(1))
answers, stop = [], threading.Event()


def client():
    while not stop.is_set():
        response = requests.get("http://localhost:8000/")
        answers.append((response.status_code, response.json()))


caller = threading.Thread(target=client)
caller.start()
serve.run(Version.bind(2))
stop.set()
caller.join()
assert {status for status, _ in answers} == {200}
assert {number for _, number in answers} <= {1, 2}
assert ask() == 2
assert serve.status().applications["default"].status == ApplicationStatus.RUNNING


@serve.deployment(name="Version", num_replicas=1, max_constructor_retry_count=1)
class Broken:
    def __init__(self):
        raise RuntimeError("no weights")


try:
    serve.run(Broken.bind())
    raise AssertionError("it has started")
except RuntimeError as error:
    assert "no weights" in str(error)
assert ask() == 2  # what ran before goes on
