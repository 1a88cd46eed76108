"""Code, arguments, results and exceptions between processes."""

import importlib
import pickle
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from modelplex.deployment import Deployment, deployment
from modelplex.errors import ModelLoadError
from modelplex.handle import DeploymentHandle
from modelplex.runtime import payload
from modelplex.runtime.app_spec import Definition
from modelplex.runtime.payload import RemoteTraceback

SOURCE = """
from modelplex import serve

WEIGHTS = "weights in a global"

@serve.deployment
class Model:
    def __call__(self):
        return WEIGHTS

@serve.deployment(name="other")
def function(request):
    return WEIGHTS

class Plain:
    pass
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A user's module, which can be imported."""
    (tmp_path / "users_app.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_app", raising=False)
    module = importlib.import_module("users_app")
    monkeypatch.setitem(sys.modules, "users_app", module)  # so that it is forgotten after the test
    return module


# Values


@pytest.mark.parametrize("value", [None, 5, "text", b"bytes", [1, {"a": (2, 3)}], DeploymentHandle], ids=repr)
def test_values_arrive_as_they_were(value: Any) -> None:
    assert payload.loads(payload.dumps(value)) == value


def test_functions_that_no_import_leads_to_arrive_too() -> None:
    factor = 3
    assert payload.loads(payload.dumps(lambda x: factor * x))(5) == 15


def test_what_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(TypeError, match="pickle"):
        payload.dumps(threading.Lock())


# Code behind a deployment


@pytest.mark.parametrize("name", ["Model", "function"])
def test_decorated_code_travels_by_its_name(app: types.ModuleType, name: str) -> None:
    code = getattr(app, name).func_or_class
    data = payload.dumps(code)
    assert payload.loads(data) is code
    assert f"users_app:{name}".encode() in data
    assert b"WEIGHTS" not in data


def test_a_deployment_that_is_an_argument_leads_to_the_same_code(app: types.ModuleType) -> None:
    arrived = payload.loads(payload.dumps([app.Model.options(num_replicas=3)]))[0]
    assert isinstance(arrived, Deployment)
    assert arrived.func_or_class is app.Model.func_or_class
    assert arrived.config.num_replicas == 3


def test_an_instance_of_a_decorated_class_arrives_as_one(app: types.ModuleType) -> None:
    cls = app.Model.func_or_class
    assert type(payload.loads(payload.dumps(cls()))) is cls


def test_undecorated_code_travels_by_its_name_as_ever(app: types.ModuleType) -> None:
    assert payload.loads(payload.dumps(app.Plain)) is app.Plain


def test_a_definition_arrives_in_a_process_that_has_not_imported_its_module(app: types.ModuleType) -> None:
    data = payload.dumps(Definition(app.Model.func_or_class, (1,), {"x": 2}))
    del sys.modules["users_app"]
    arrived = payload.loads(data)
    assert arrived.func_or_class is sys.modules["users_app"].Model.func_or_class
    assert arrived.func_or_class is not app.Model.func_or_class
    assert (arrived.args, arrived.kwargs) == ((1,), {"x": 2})


def test_another_object_of_the_same_name_travels_by_value(
    app: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name leads to a deployment of other code."""
    code = app.Model.func_or_class
    monkeypatch.setattr(app, "Model", deployment(app.Plain))
    data = payload.dumps(code)
    assert b"users_app:Model" not in data
    assert b"WEIGHTS" in data


def test_code_of_the_main_program_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main program of another process is another one."""

    def serve() -> str:
        return "made in the main program"

    serve.__module__, serve.__qualname__ = "__main__", "serve"
    monkeypatch.setattr(sys.modules["__main__"], "serve", deployment(serve), raising=False)
    data = payload.dumps(serve)
    monkeypatch.delattr(sys.modules["__main__"], "serve")
    arrived = payload.loads(data)
    assert arrived is not serve
    assert arrived() == "made in the main program"


def test_code_of_a_module_that_has_gone_travels_by_value(app: types.ModuleType) -> None:
    code = app.Model.func_or_class
    del sys.modules["users_app"]
    assert b"WEIGHTS" in payload.dumps(code)


# Exceptions


def raised(error: Exception) -> Exception:
    """With a traceback, as user code leaves it."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_an_exception_arrives_as_its_own_class_with_its_traceback_as_text() -> None:
    arrived = payload.loads_exception(payload.dumps_exception(raised(KeyError("m1"))))
    assert type(arrived) is KeyError
    assert arrived.args == ("m1",)
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert "in raised" in arrived.__cause__.text
    assert str(arrived.__cause__).startswith('\n"""\nTraceback (most recent call last)')


def test_the_causes_of_an_exception_are_in_the_text() -> None:
    try:
        raise RuntimeError("outer") from ValueError("inner")
    except RuntimeError as error:
        data = payload.dumps_exception(error)
    assert "inner" in str(payload.loads_exception(data).__cause__)


def test_our_own_errors_keep_when_to_try_again() -> None:
    arrived = payload.loads_exception(payload.dumps_exception(ModelLoadError("broken", retry_after_s=2.0)))
    assert isinstance(arrived, ModelLoadError)
    assert (str(arrived), arrived.retry_after_s) == ("broken", 2.0)


def test_an_exception_of_the_main_programs_arrives_as_one_that_can_be_caught() -> None:
    class OwnError(Exception):
        pass

    with pytest.raises(OwnError, match="own"):
        raise payload.loads_exception(payload.dumps_exception(OwnError("own")))


class TakesTwoError(Exception):
    """Pickles, and then fails to be made again from its one argument."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")


class HoldsALockError(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class NeverPicklesError(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


class NeverUnpicklesError(Exception):
    def __setstate__(self, state: Any) -> None:
        raise RuntimeError("no")

    def __reduce__(self) -> Any:
        return NeverUnpicklesError, (), {"a": 1}


@pytest.mark.parametrize(
    "error", [TakesTwoError(7, "no"), HoldsALockError(), NeverPicklesError(), NeverUnpicklesError()], ids=repr
)
def test_an_exception_that_does_not_survive_the_way_is_nothing(error: Exception) -> None:
    assert payload.dumps_exception(raised(error)) == b""


def test_pickling_an_exception_does_not_change_it() -> None:
    error = raised(ValueError("m1"))
    payload.dumps_exception(error)
    assert error.__cause__ is None


def test_a_pickled_exception_is_plain_pickle() -> None:
    error, text = pickle.loads(payload.dumps_exception(raised(ValueError("m1"))))
    assert isinstance(error, ValueError)
    assert text.endswith("ValueError: m1\n")
