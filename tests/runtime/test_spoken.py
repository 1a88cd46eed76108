"""Which deployments speak V2."""

from typing import Any

import pytest
from starlette.applications import Starlette

from modelplex import serve
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.spoken import protocols_of


class Loads:
    @serve.multiplexed
    async def get_model(self, model_id: str) -> str:
        return model_id


class Speaks(Loads):
    async def infer(self, model: str, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs


class Called(Speaks):
    async def __call__(self) -> None: ...


class Two(Speaks):
    @serve.multiplexed
    async def get_adapter(self, model_id: str) -> str:
        return model_id


class NoModels:
    async def infer(self, model: str, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs


@serve.ingress(Starlette())
class Routed(Speaks):
    pass


async def infer(model: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return inputs


@pytest.mark.parametrize(
    ("func_or_class", "spoken"),
    [(Speaks, ["v2"]), (Loads, []), (Called, []), (Two, []), (NoModels, []), (Routed, []), (infer, [])],
)
def test_it_takes_infer_and_one_loader_and_nothing_else_that_answers(func_or_class: Any, spoken: list[str]) -> None:
    assert protocols_of(func_or_class) == spoken


def test_an_application_speaks_what_its_ingress_speaks() -> None:
    @serve.deployment
    class Front:
        def __init__(self, inner: Any) -> None: ...

    inner = serve.deployment(Speaks).bind()
    assert AppSpec.of_application("a", inner, "/", pickled=True).protocols == ["v2"]
    assert AppSpec.of_application("b", Front.bind(inner), "/", pickled=False).protocols == []  # type: ignore[attr-defined]
