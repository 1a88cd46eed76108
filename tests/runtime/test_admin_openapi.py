"""The description of the admin interface."""

import asyncio
from typing import Any

import jsonschema
from asked_admin import asked
from inline_app import app_of
from openapi_spec_validator import OpenAPIV31SpecValidator

from modelplex import serve
from modelplex.runtime.admin_openapi import describe
from modelplex.runtime.admin_routes import TABLE
from modelplex.testing import run_virtual


class Shops:
    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id: str) -> str:
        return model_id


def test_it_is_what_descriptions_have_to_be_and_has_every_route() -> None:
    description = describe(TABLE)
    OpenAPIV31SpecValidator(description).validate()
    described = {(method.upper(), path) for path, methods in description["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in TABLE.routes} | {("GET", "/v1/events")}
    names = [operation["operationId"] for methods in description["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    assert all(operation["summary"] for methods in description["paths"].values() for operation in methods.values())


def test_answers_are_as_it_says() -> None:
    async def run() -> None:
        async with asked() as world, asyncio.timeout(100):
            _, description = await world.ask("GET", "/openapi.json")
            await world.cluster.run(app_of(Shops))
            await world.post("/v1/models/a/load")
            answered: dict[str, Any] = {}
            for path, methods in description["paths"].items():
                if "get" in methods and path not in ("/metrics", "/v1/events"):
                    schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
                    answered[path] = (await world.ask("GET", path))[1]
                    jsonschema.validate(answered[path], schema | {"components": description["components"]})
            assert answered["/v1/models"]["models"]
            assert answered["/v1/replicas"]["replicas"]

    run_virtual(run())
