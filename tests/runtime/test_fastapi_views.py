"""Methods as endpoints of FastAPI apps, on the test's own event loop."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from held_call import HeldCall
from inline_app import app_of
from proxy_client import client_of
from raw_router import RawRouter, leases_held, replica_of
from virtual_time import in_virtual_time, turns

from modelplex import errors, serve
from modelplex.testing import InlineCluster
from modelplex.wire import messages


async def get(application: Any, *paths: str, prefix: str = "/", root_path: str = "") -> list[Any]:
    """What the paths answer, as JSON where it is."""
    async with InlineCluster() as cluster:
        await cluster.run(application, route_prefix=prefix)
        async with client_of(cluster.directory, root_path=root_path) as client:
            answers = [await client.get(path) for path in paths]
    return [a.json() if "json" in a.headers.get("content-type", "") else a.text for a in answers]


def counter() -> tuple[FastAPI, type]:
    """An app and a class with all kinds of endpoints; the class has the number that it is made with."""
    app = FastAPI()
    router = APIRouter(prefix="/router")

    @serve.ingress(app)
    class Counter:
        def __init__(self, number: int) -> None:
            self.number = number

        async def own(self) -> int:
            return self.number

        async def twice(self, own: Annotated[int, Depends(own)]) -> int:
            return 2 * own

        @app.get("/number")
        async def get_number(self) -> int:
            return self.number

        @app.get("/twice")
        async def get_twice(self, twice: int = Depends(twice)) -> dict[str, int]:
            return {"twice": twice, "number": self.number}

        @app.get("/stream")
        async def stream(self) -> StreamingResponse:
            async def parts() -> AsyncIterator[str]:
                yield str(self.number)

            return StreamingResponse(parts())

        @router.get("/number")
        async def router_number(self, plus: int = 0) -> int:
            return self.number + plus

        @staticmethod
        @app.get("/static")
        async def static() -> str:
            return "static"

    @app.get("/module")
    async def module() -> str:
        return "module"

    app.include_router(router, prefix="/v1")
    return app, Counter


@in_virtual_time
async def test_all_kinds_of_endpoints_have_the_replicas_object() -> None:
    _, cls = counter()
    paths = ["/number", "/twice", "/stream", "/v1/router/number?plus=1", "/static", "/module"]
    assert await get(app_of(cls, 7), *paths) == [7, {"twice": 14, "number": 7}, "7", 8, "static", "module"]


@in_virtual_time
async def test_an_app_serves_one_replica_after_the_other_and_two_at_a_time() -> None:
    app, cls = counter()
    before = len(app.routes)
    assert await get(app_of(cls, 1), "/number") == [1]
    assert await get(app_of(cls, 2), "/number", "/v1/router/number", "/twice") == [2, 2, {"twice": 4, "number": 2}]
    async with replica_of(cls, 3) as one, replica_of(cls, 4) as other:
        answers = [await router.reply(router.http(path="/number")) for router in (RawRouter(one), RawRouter(other))]
        assert [a.body for a in answers] == [b"3", b"4"]
    assert len(app.routes) == before


@in_virtual_time
async def test_routers_that_were_looked_at_before_are_bound_as_well() -> None:
    app, cls = counter()
    assert "/v1/router/number" in app.openapi()["paths"]
    [schema, number] = await get(app_of(cls, 5), "/openapi.json", "/v1/router/number")
    assert number == 5
    parameters = schema["paths"]["/v1/router/number"]["get"]["parameters"]
    assert [p["name"] for p in parameters] == ["plus"]


@in_virtual_time
async def test_an_heir_has_the_endpoints_of_its_class_and_its_own_methods() -> None:
    _, cls = counter()

    class Heir(cls):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(11)

    assert await get(app_of(Heir), "/number") == [11]


@in_virtual_time
async def test_an_app_inside_of_middleware_is_found() -> None:
    inner = FastAPI()

    class Middleware:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    @serve.ingress(Middleware(inner))
    class Number:
        @inner.get("/")
        async def number(self) -> str:
            return type(self).__name__

    assert await get(app_of(Number), "/") == ["Number"]


@pytest.mark.parametrize(
    ("prefix", "root_path", "outside"), [("/", "", ""), ("/pre", "", "/pre"), ("/pre", "/api/v 1", "/api/v 1/pre")]
)
@in_virtual_time
async def test_the_docs_find_their_schema_below_a_prefix_and_behind_other_servers(
    prefix: str, root_path: str, outside: str
) -> None:
    _, cls = counter()
    inside = "" if prefix == "/" else prefix
    paths = [f"{inside}/docs", f"{inside}/openapi.json", f"{inside}/number"]
    docs, schema, number = await get(app_of(cls, 7), *paths, prefix=prefix, root_path=root_path)
    assert f"'{outside}/openapi.json'" in docs
    assert schema.get("servers", []) == ([{"url": outside}] if outside else [])
    assert number == 7


@in_virtual_time
async def test_methods_can_be_called_by_handles_and_the_app_cannot() -> None:
    _, cls = counter()
    async with InlineCluster() as cluster:
        handle = await cluster.run(app_of(cls, 7))
        assert await handle.get_number.remote() == 7
        with pytest.raises(AttributeError, match=r"as handle\.name\.remote\(\)"):
            await handle.remote()


@in_virtual_time
async def test_our_errors_have_their_status_in_an_app_and_in_one_that_is_mounted() -> None:
    app, inner = FastAPI(), FastAPI()

    @serve.ingress(app)
    class Refuses:
        @app.get("/outer")
        async def outer(self) -> None:
            raise errors.BackPressureError("later", retry_after_s=1.5)

        @inner.get("/own")
        async def own(self) -> None:
            raise errors.ModelNotFoundError("There is no model 'x'.")

        @app.websocket("/socket")
        async def socket(self, socket: WebSocket) -> None:
            raise errors.ModelNotFoundError("There is no model 'x'.")

    app.mount("/inner", inner)
    async with replica_of(Refuses) as replica:
        router = RawRouter(replica)
        outer = await router.reply(router.http(path="/outer"))
        assert (outer.head.status, outer.header(b"retry-after"), outer.body) == (503, b"2", b"later")
        own = await router.reply(router.http(path="/inner/own"))
        assert (own.head.status, own.body) == (404, b"There is no model 'x'.")
        fail, _ = await router.failure(router.http(path="/socket", scheme="ws", more=True))
        assert fail.error == "ModelNotFoundError"


async def test_a_plain_endpoint_keeps_its_model_until_its_thread_has_ended() -> None:
    app = FastAPI()
    held = HeldCall()

    @serve.multiplexed
    async def get_model(model_id: str) -> str:
        return model_id

    @serve.ingress(app)
    class Predicts:
        async def model(self) -> str:
            return str(await get_model(serve.get_multiplexed_model_id()))

        @app.get("/")
        def predict(self, model: str = Depends(model)) -> str:
            return held()

    async with replica_of(Predicts) as replica:
        router = RawRouter(replica)
        stream = router.http(model_id="a")
        await held.until_begun()
        router.leave(stream)
        await turns(20)
        assert (replica.ongoing, leases_held(replica)) == (1, 1)
        held.end()
        await router.first_of(messages.Ongoing)
        await turns(5)
        assert leases_held(replica) == 0
