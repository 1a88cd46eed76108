"""A handle that was pickled in one program and is used in another."""

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import wait_until
from started import Started, home_in

from modelplex import errors, follower
from modelplex.serve import DeploymentHandle

pytestmark = pytest.mark.system

# Much less than what an unknown system, or a deployment without replicas, is waited for.
AT_ONCE_S = 5.0

CALLS = """
import pickle
from modelplex import serve

@serve.deployment(num_replicas=2)
class Calls:
    @serve.multiplexed
    async def get_model(self, model_id):
        return model_id.upper()

    async def __call__(self, x):
        if not isinstance(x, int):
            return pickle.dumps(serve.get_app_handle("calls"))
        return x * {factor}

    async def model(self):
        return await self.get_model(serve.get_multiplexed_model_id())

    def count(self, to):
        yield from range(to)

    def where(self):
        return serve.get_replica_context().replica_tag

    async def fails(self, why):
        raise LookupError(why)

app = Calls.bind()
"""

SCRIPT = """
import pickle, sys
from modelplex import serve
from calls import app

serve.start({"port": 0})
print(pickle.dumps(serve.run(app, name="calls")).hex(), flush=True)
sys.stdin.read()
"""

ASKS = """
import pickle, sys
handle = pickle.loads(bytes.fromhex(sys.argv[1]))
print(handle.remote(21).result(timeout_s=30))
"""


def nobody_is_followed() -> None:
    for each in follower._followed.values():
        each.end()
    follower._followed.clear()


@pytest.fixture(autouse=True)
def nobody_is_followed_afterwards() -> Iterator[None]:
    yield
    nobody_is_followed()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Started]:
    with home_in(tmp_path) as started:
        started.write("calls.py", CALLS.format(factor=2))
        started.start(started.config({"name": "calls", "import_path": "calls:app"}))
        yield started


def fetched(system: Started) -> DeploymentHandle:
    """The handle that a replica has of itself."""
    status, body = system.get()
    assert status == 200
    handle = pickle.loads(body)
    assert isinstance(handle, DeploymentHandle)
    return handle


def check(handle: DeploymentHandle) -> None:
    assert handle.remote(21).result(timeout_s=30) == 42
    assert handle.model.options(multiplexed_model_id="a").remote().result(timeout_s=30) == "A"
    assert list(handle.count.options(stream=True).remote(5)) == list(range(5))
    assert len(set(handle.broadcast("where").result(timeout_s=30))) == 2
    with pytest.raises(LookupError, match="no luck"):
        handle.fails.remote("no luck").result(timeout_s=30)


def test_a_handle_from_a_system_calls_it_whatever_becomes_of_the_controller(system: Started) -> None:
    handle = fetched(system)
    check(handle)
    again = pickle.loads(pickle.dumps(handle.options(method_name="model", multiplexed_model_id="b")))
    assert again.remote().result(timeout_s=30) == "B"

    system.kill_controller()
    check(handle)
    system.command("start")
    check(handle)
    system.write("calls.py", CALLS.format(factor=3))
    system.command("deploy", "serve.yaml")
    wait_until(lambda: bool(handle.remote(21).result(timeout_s=30) == 63), "the new version is called")

    system.command("shutdown")
    began = time.monotonic()
    with pytest.raises(errors.DeploymentUnavailableError, match="no deployment Calls in application calls"):
        handle.remote(21).result(timeout_s=30)
    # A program that comes to it only now.
    nobody_is_followed()
    with pytest.raises(errors.ModelplexError, match="does it run"):
        handle.remote(21)
    assert time.monotonic() - began < AT_ONCE_S


def test_a_program_that_comes_while_there_is_no_controller_waits_for_the_next_one(system: Started) -> None:
    handle = fetched(system)
    system.kill_controller()
    caller = subprocess.Popen(
        [sys.executable, "-c", ASKS, pickle.dumps(handle).hex()], stdout=subprocess.PIPE, text=True
    )
    system.command("start")
    printed, _ = caller.communicate(timeout=60)
    assert (caller.returncode, printed) == (0, "42\n")


def test_a_system_whose_controller_never_comes_back_is_not_waited_for_without_end(
    system: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = fetched(system)
    system.kill_controller()
    monkeypatch.setattr(follower, "TABLE_TIMEOUT_S", 0.3)
    with pytest.raises(errors.ModelplexError, match="does not answer; does it run"):
        handle.remote(21)
    assert follower._followed == {}
    system.command("start")
    monkeypatch.undo()
    check(handle)


def test_a_handle_from_a_script_is_used_by_another_program(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(CALLS.format(factor=2))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        data = bytes.fromhex(program.stdout.readline())
        handle = pickle.loads(data)
        check(handle)
        done = subprocess.run(
            [sys.executable, "-c", ASKS, data.hex()], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
        program.communicate("", timeout=60)
    with pytest.raises(errors.DeploymentUnavailableError):
        handle.remote(21).result(timeout_s=30)
    done = subprocess.run(
        [sys.executable, "-c", ASKS, data.hex()], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "ModelplexError: The system at" in done.stderr
