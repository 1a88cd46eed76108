"""`serve.ingress`: what it takes, what it refuses, and how it travels."""

import subprocess
import sys
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from modelplex import serve
from modelplex.ingress import Ingress, ingress_of
from modelplex.runtime import payload


async def app(scope: Any, receive: Any, send: Any) -> None: ...


def test_the_class_stays_itself() -> None:
    class Own:
        pass

    assert serve.ingress(app)(Own) is Own
    assert ingress_of(Own) == Ingress(app)
    assert ingress_of(int) is None


@pytest.mark.parametrize(
    ("made", "is_builder"), [(app, False), (FastAPI(), False), (FastAPI, None), (lambda: app, True), ("app", None)]
)
def test_it_takes_apps_and_functions_that_build_them(made: Any, is_builder: bool | None) -> None:
    if is_builder is None:
        with pytest.raises(TypeError, match="takes an ASGI app, or a function that builds one"):
            serve.ingress(made)
    else:
        assert Ingress(made).is_builder == is_builder


def test_it_decorates_classes_below_the_deployment() -> None:
    with pytest.raises(ValueError, match="decorates a class"):
        serve.ingress(app)(app)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"stands below @serve\.deployment"):
        serve.ingress(app)(serve.deployment(type("D", (), {})))  # type: ignore[call-overload]


def test_a_class_with_a_call_of_its_own_is_refused_inherited_or_not() -> None:
    class Called:
        def __call__(self) -> None: ...

    for cls in (Called, type("Heir", (Called,), {})):
        with pytest.raises(ValueError, match="defines __call__"):
            serve.ingress(app)(cls)


def test_an_app_with_included_routers_travels_by_value() -> None:
    made = FastAPI()
    router = APIRouter()

    @router.get("/inner")
    def inner() -> int:
        return 1

    made.include_router(router)
    made.openapi()  # which fills in what is kept of included routers
    serve.ingress(made)
    arrived = payload.loads(payload.dumps(made))
    assert arrived.openapi()["paths"].keys() == {"/inner"}


def test_nothing_of_fastapi_is_imported_for_other_apps() -> None:
    code = (
        "import sys; from modelplex import serve; from modelplex.runtime import replica\n"
        "serve.ingress(lambda: None)\n"
        "assert not {'fastapi', 'websockets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
