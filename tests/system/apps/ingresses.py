"""Classes behind ASGI apps: FastAPI with views, Starlette, a bare callable, one that a function builds, and none."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from modelplex import serve


def event(text: str) -> None:
    with open(os.environ["EVENTS"], "a") as file:
        file.write(f"{text}\n")


class Point(BaseModel):
    x: int
    y: int = 2


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
    event("startup")
    yield {"greeting": "hello"}
    event("shutdown")


app = FastAPI(lifespan=lifespan)
router = APIRouter(prefix="/inner")


@app.middleware("http")
async def say_model(request: Request, call_next: Any) -> Any:
    answer = await call_next(request)
    answer.headers["x-seen"] = serve.get_multiplexed_model_id() or "none"
    return answer


@app.get("/of-the-module")
def of_the_module(request: Request) -> dict[str, str]:
    return {"model": serve.get_multiplexed_model_id(), "greeting": request.state.greeting}


@serve.deployment(max_ongoing_requests=20)
@serve.ingress(app)
class Views:
    def __init__(self) -> None:
        self.factor = 10

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        event(f"load {model_id}")
        return model_id.upper()

    async def model(self, x_key: str = Header("open")) -> str:
        if x_key != "open":
            raise HTTPException(401, "wrong key")
        model: str = await self.get_model(serve.get_multiplexed_model_id())
        return model

    @app.get("/items/{number}")
    def item(self, number: int, plus: int = 0) -> int:
        return number * self.factor + plus

    @app.post("/points")
    async def point(self, point: Point, tasks: BackgroundTasks) -> Point:
        tasks.add_task(event, f"background {point.x}")
        return Point(x=point.x * self.factor, y=point.y)

    @app.get("/predict")
    def predict(self, model: str = Depends(model)) -> dict[str, str]:
        return {"model": model, "replica": serve.get_replica_context().deployment}

    @app.get("/events")
    async def events(self) -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            try:
                number = 0
                while True:
                    yield f"data: {number}\n\n"
                    number += 1
                    await asyncio.sleep(0.01)
            finally:
                event("events over")

        return StreamingResponse(parts(), media_type="text/event-stream")

    @app.put("/upload")
    async def upload(self, request: Request) -> StreamingResponse:
        async def sizes() -> AsyncIterator[str]:
            async for part in request.stream():
                yield f"{len(part)}\n"

        return StreamingResponse(sizes())

    @app.get("/fail")
    async def fail(self) -> None:
        raise KeyError("secret")

    @router.get("/route")
    async def route(self) -> int:
        return self.factor

    @app.websocket("/echo")
    async def echo(self, socket: WebSocket, model: str = Depends(model)) -> None:
        await socket.accept(subprotocol="chat" if "chat" in socket.scope["subprotocols"] else None)
        async for text in socket.iter_text():
            if text == "leave":
                await socket.close(4001, "as you wish")
                return
            if text == "fail":
                raise KeyError("secret")
            if text == "die":
                os._exit(1)
            await socket.send_text(f"{model}: {text}")
        event("echo over")

    def double(self, number: int) -> int:
        return number * 2


app.include_router(router)
views = Views.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return


async def homepage(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.method} {request.url.path} {serve.get_multiplexed_model_id()}")


async def reverse(socket: WebSocket) -> None:
    await socket.accept(headers=[(b"x-own", b"yes")])
    data = await socket.receive_bytes()
    await socket.send_bytes(data[::-1])
    message = await socket.receive()
    event(f"{message['type']} {message['code']} {message['reason']}")


@serve.deployment
@serve.ingress(Starlette(routes=[Route("/", homepage), WebSocketRoute("/reverse", reverse)]))
class WithStarlette:
    pass


starlette = WithStarlette.bind()  # type: ignore[attr-defined]


async def bare_app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    if scope["path"] == "/silent":
        return
    event(f"got {(await receive())['type']}")
    if scope["path"] == "/wait":
        event(f"got {(await receive())['type']}")
        return
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-root", scope["root_path"].encode())]})
    await send({"type": "http.response.body", "body": b"bare"})
    event(f"got {(await receive())['type']}")


@serve.deployment
@serve.ingress(bare_app)
class Bare:
    pass


bare = Bare.bind()  # type: ignore[attr-defined]


def build() -> FastAPI:
    built = FastAPI()

    @built.get("/")
    def where() -> str:
        return serve.get_replica_context().deployment

    return built


@serve.deployment
@serve.ingress(build)
class Built:
    pass


built = Built.bind()  # type: ignore[attr-defined]


@serve.deployment
async def no_app() -> str:
    return "plain"


plain = no_app.bind()
