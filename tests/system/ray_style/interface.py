"""A web interface mounted below a prefix, as Gradio's is: a lifespan, static files, a queue of events, WebSockets."""

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path

import requests
from fastapi import FastAPI, WebSocket
from starlette.requests import Request
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.staticfiles import StaticFiles
from websockets.sync.client import connect

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle

assets = Path(tempfile.mkdtemp())
(assets / "theme.css").write_text("body { color: teal }")
(assets / "ended").write_text("no")


def build_interface(answer) -> FastAPI:
    """What a library of interfaces makes of a function: an app with a life of its own."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        app.state.jobs, app.state.worker = asyncio.Queue(), None

        async def work():
            while True:
                text, answered = await app.state.jobs.get()
                answered.set_result(await answer(text))

        app.state.worker = asyncio.create_task(work())
        yield {"greeting": "from the lifespan"}
        app.state.worker.cancel()
        (assets / "ended").write_text("yes")

    app = FastAPI(lifespan=lifespan)
    app.mount("/assets", StaticFiles(directory=assets))

    async def ask(text: str) -> str:
        answered = asyncio.get_running_loop().create_future()
        await app.state.jobs.put((text, answered))
        return await answered

    @app.get("/", response_class=HTMLResponse)
    def page(request: Request):
        return f'<link href="{request.scope["root_path"]}/assets/theme.css">'

    @app.get("/queue/data")
    async def events(text: str):
        async def stream():
            yield f"data: {json.dumps({'msg': 'process_starts'})}\n\n"
            yield f"data: {json.dumps({'msg': 'process_completed', 'output': await ask(text)})}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.websocket("/queue/join")
    async def join(socket: WebSocket):
        await socket.accept()
        await socket.send_json({"output": await ask(await socket.receive_text())})
        await socket.close()

    return app


@serve.deployment
class Model:
    def __call__(self, text: str) -> str:
        return text[::-1]


def build():
    async def answer(text: str) -> str:
        return await serve.get_replica_context().servable_object.model.remote(text)

    interface = build_interface(answer)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with interface.router.lifespan_context(interface):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/api")
    def api():
        return "beside it"

    app.mount("/ui", interface)
    return app


@serve.deployment
@serve.ingress(build)
class Page:
    def __init__(self, model: DeploymentHandle):
        self.model = model


def check(address: str, path: str) -> None:
    page = requests.get(f"http://{address}{path}/")
    assert page.headers["content-type"].startswith("text/html")
    link = page.text.split('"')[1]
    assert link == f"{path}/assets/theme.css", link
    assert requests.get(f"http://{address}{link}").text == "body { color: teal }"
    assert requests.get(f"http://{address}{path}/assets/none.css").status_code == 404
    events = requests.get(f"http://{address}{path}/queue/data?text=abc", stream=True)
    assert events.headers["content-type"].startswith("text/event-stream")
    assert [json.loads(line[5:])["msg"] for line in events.iter_lines(decode_unicode=True) if line] == [
        "process_starts",
        "process_completed",
    ]
    with connect(f"ws://{address}{path}/queue/join") as socket:
        socket.send("drawer")
        assert json.loads(socket.recv()) == {"output": "reward"}


serve.run(Page.bind(Model.bind()))
check("localhost:8000", "/ui")
assert requests.get("http://localhost:8000/api").json() == "beside it"
serve.delete("default")
assert (assets / "ended").read_text() == "yes"

serve.run(Page.bind(Model.bind()), route_prefix="/demo")
check("localhost:8000", "/demo/ui")
