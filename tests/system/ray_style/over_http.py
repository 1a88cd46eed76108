"""HTTP: Starlette requests and responses, FastAPI with methods and routers, an app of one's own, WebSockets."""

import requests
import starlette.requests
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse
from websockets.sync.client import connect

from modelplex import serve


@serve.deployment
class Mirror:
    async def __call__(self, request: starlette.requests.Request):
        if request.method == "GET":
            return dict(request.query_params)
        if request.url.path.endswith("/bytes"):
            return await request.body()
        return JSONResponse({"sent": await request.json()}, status_code=202, headers={"x-side": "left"})


serve.run(Mirror.bind())
assert requests.get("http://localhost:8000/?left=right&up=down").json() == {"left": "right", "up": "down"}
answer = requests.post("http://localhost:8000/", json=[1, None])
assert (answer.status_code, answer.json(), answer.headers["x-side"]) == (202, {"sent": [1, None]}, "left")
assert requests.post("http://localhost:8000/bytes", data=b"\x00\xff").content == b"\x00\xff"
assert (
    requests.get("http://localhost:8000/", headers={"X-Request-ID": "order-66"}).headers["X-Request-ID"] == "order-66"
)

shop = FastAPI(title="Shop")
router = APIRouter(prefix="/orders")
shop.add_middleware(CORSMiddleware, allow_origins=["*"])


class Order(BaseModel):
    fruit: str
    kilos: float = 1.0


def currency(currency: str = "kr"):
    return currency


@serve.deployment(num_replicas=1)
@serve.ingress(shop)
class Shop:
    def __init__(self, prices: dict):
        self.prices = prices

    @shop.get("/")
    def root(self):
        return "open"

    @shop.get("/price/{fruit}")
    async def price(self, fruit: str, currency: str = Depends(currency)):
        if fruit not in self.prices:
            raise HTTPException(status_code=404, detail="sold out")
        return f"{self.prices[fruit]} {currency}"

    @shop.post("/price")
    def orders(self, order: Order) -> dict:
        return {"total": self.prices[order.fruit] * order.kilos}

    @router.get("/last")
    def last(self, request: starlette.requests.Request):
        return PlainTextResponse(f"{request.url.path} of {len(self.prices)}")

    @shop.websocket("/talk")
    async def talk(self, socket: WebSocket):
        await socket.accept()
        try:
            while True:
                await socket.send_text(f"{await socket.receive_text()}?")
        except WebSocketDisconnect:
            pass


shop.include_router(router)
handle = serve.run(Shop.bind({"pear": 12}), route_prefix="/shop")
assert requests.get("http://localhost:8000/shop").json() == "open"
assert requests.get("http://localhost:8000/shop/price/pear?currency=sek").json() == "12 sek"
assert requests.get("http://localhost:8000/shop/price/fig").json() == {"detail": "sold out"}
assert requests.post("http://localhost:8000/shop/price", json={"fruit": "pear", "kilos": 2.5}).json() == {"total": 30.0}
assert requests.post("http://localhost:8000/shop/price", json={"kilos": 2}).status_code == 422
assert requests.get("http://localhost:8000/shop/orders/last").text.endswith("/orders/last of 1")
assert requests.get("http://localhost:8000/shop", headers={"Origin": "http://a.se"}).headers[
    "access-control-allow-origin"
]
assert "/price/{fruit}" in requests.get("http://localhost:8000/shop/openapi.json").json()["paths"]
assert requests.get("http://localhost:8000/nowhere").status_code == 404
assert handle.price.remote("pear", "nok").result() == "12 nok"
with connect("ws://localhost:8000/shop/talk") as socket:
    for word in ("Pears", "Figs"):
        socket.send(word)
        assert socket.recv() == f"{word}?"

own = FastAPI()


@own.get("/")
def at_home():
    return "my own app"


@serve.deployment
@serve.ingress(own)
class Wrapper:
    pass


serve.run(Wrapper.bind())
assert requests.get("http://localhost:8000/").json() == "my own app"


def build_app():
    built = FastAPI()

    @built.get("/")
    def root():
        return {"built": "in the replica"}

    return built


serve.run(serve.deployment(serve.ingress(build_app)()).bind())
assert requests.get("http://localhost:8000/").json() == {"built": "in the replica"}
