"""Programs as users write them: scripts that serve, call, compose and end."""

from pathlib import Path

import pytest
from served import run_script

pytestmark = pytest.mark.system


def test_the_composition_of_the_documentation(tmp_path: Path) -> None:
    printed = run_script(
        tmp_path,
        """
import urllib.request
from modelplex import serve
import starlette
from modelplex.serve.handle import DeploymentHandle

serve.start({"port": 0})

@serve.deployment
class Downstream:
    def __call__(self):
        return serve.get_multiplexed_model_id()

@serve.deployment
class Upstream:
    def __init__(self, downstream: DeploymentHandle):
        self._h = downstream

    async def __call__(self, request: starlette.requests.Request):
        below = await self._h.options(multiplexed_model_id="bar").remote()
        return below + " " + serve.get_multiplexed_model_id()

serve.run(Upstream.bind(Downstream.bind()))
from modelplex import driver
request = urllib.request.Request(driver.current().address, headers={"serve_multiplexed_model_id": "foo"})
print(urllib.request.urlopen(request).read().decode())
""",
    )
    assert printed == "bar foo\n"


def test_handles_from_a_script_from_a_loop_and_from_a_thread(tmp_path: Path) -> None:
    printed = run_script(
        tmp_path,
        """
import asyncio
from modelplex import serve

serve.start({"port": 0})

@serve.multiplexed(max_num_models_per_replica=2)
def load(model_id):
    return lambda x: f"{model_id}({x})"

@serve.deployment(num_replicas=2)
async def function(x):
    model = await load(serve.get_multiplexed_model_id())
    return model(x)

@serve.deployment
class Calls:
    def __init__(self, below):
        self.below = below["handle"]

    def in_thread(self, x):
        return self.below.options(multiplexed_model_id="t").remote(x).result(timeout_s=30)

    async def replica(self):
        return serve.get_replica_context().deployment

handle = serve.run(Calls.bind({"handle": function.bind()}), name="calls", route_prefix=None)
print(handle.in_thread.remote(1).result(timeout_s=30))
print(handle.options(method_name="replica").remote().result(timeout_s=30))

async def main():
    below = serve.get_deployment_handle("function", "calls")
    models = [below.options(multiplexed_model_id=m) for m in "abc"]
    return await asyncio.gather(*(m.remote(n) for n, m in enumerate(models)))

print(asyncio.run(main()))
print(serve.get_app_handle("calls").replica.remote().result(timeout_s=30))
try:
    handle.nothing.remote().result(timeout_s=30)
except AttributeError as error:
    print("in_thread" in str(error))
print(sorted(serve.status().applications["calls"].deployments))
serve.delete("calls")
print(serve.status().applications)
serve.shutdown()
serve.shutdown()
print(serve.status())
""",
    )
    assert printed.splitlines() == [
        "t(1)",
        "Calls",
        "['a(0)', 'b(1)', 'c(2)']",
        "Calls",
        "True",
        "['Calls', 'function']",
        "{}",
        "ServeStatus(proxies={}, applications={}, address='', log_dir='', proxy_addresses={}, proxy_failures={}, "
        "admin_address='', grpc_address='')",
    ]


def test_what_user_code_raises_is_raised_at_the_caller_with_its_origin(tmp_path: Path) -> None:
    printed = run_script(
        tmp_path,
        """
from modelplex import serve
serve.start({"port": 0})

class OfMyOwn(Exception):
    pass

@serve.deployment
def fails(x):
    raise OfMyOwn(f"no {x}")

handle = serve.run(fails.bind())
try:
    handle.remote(7).result(timeout_s=30)
except OfMyOwn as error:
    print(error, "in fails" in str(error.__cause__))
""",
    )
    assert printed == "no 7 True\n"


def test_a_script_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
from modelplex import serve
serve.start({"port": 0})
serve.run(serve.deployment(name="one")(lambda: 1).bind())
raise SystemExit(3)
""",
        code=3,
    )


def test_a_deployment_that_cannot_start_says_why(tmp_path: Path) -> None:
    printed = run_script(
        tmp_path,
        """
from modelplex import serve
serve.start({"port": 0})

@serve.deployment(max_constructor_retry_count=1)
class Broken:
    def __init__(self):
        raise RuntimeError("the weights are missing")

try:
    serve.run(Broken.bind())
except RuntimeError as error:
    print(type(error).__name__, "the weights are missing" in str(error), "in __init__" in str(error))
""",
    )
    assert printed == "DeploymentFailedError True True\n"


def test_everything_in_one_process(tmp_path: Path) -> None:
    printed = run_script(
        tmp_path,
        """
import os
from modelplex import serve

@serve.deployment
class Local:
    @serve.multiplexed
    async def get_model(self, model_id):
        return model_id.upper()

    async def __call__(self):
        return await self.get_model(serve.get_multiplexed_model_id()), os.getpid()

handle = serve.run(Local.bind(), _local_testing_mode=True)
print(handle.options(multiplexed_model_id="a").remote().result(timeout_s=30) == ("A", os.getpid()))
""",
    )
    assert printed == "True\n"
