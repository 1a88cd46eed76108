"""Streams over HTTP: generators behind FastAPI and Starlette, a thread that feeds one, batches, a chat by WebSocket."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Queue

import requests
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from starlette.requests import Request
from starlette.responses import StreamingResponse
from websockets.sync.client import connect

from modelplex import serve

logger = logging.getLogger("ray.serve")


@serve.deployment
class Ticks:
    def count(self, until: int):
        for number in range(until):
            yield f"{number};"

    async def count_slowly(self, until: int):
        for number in range(until):
            yield f"{number};"
            await asyncio.sleep(0.05)

    def __call__(self, request: Request) -> StreamingResponse:
        until = int(request.query_params.get("until", 5))
        numbers = self.count(until) if "quick" in request.query_params else self.count_slowly(until)
        return StreamingResponse(numbers, status_code=200, media_type="text/plain")


def parts_of(response: requests.Response) -> list[str]:
    response.raise_for_status()
    return list(response.iter_content(chunk_size=None, decode_unicode=True))


serve.run(Ticks.bind())
assert parts_of(requests.get("http://localhost:8000/?until=4", stream=True)) == ["0;", "1;", "2;", "3;"]
assert "".join(parts_of(requests.get("http://localhost:8000/?quick=1", stream=True))) == "0;1;2;3;4;"

chat = FastAPI()


class Mouthpiece:
    """Gives what a thread says to whoever iterates over it."""

    def __init__(self):
        self.words = Queue()

    def put(self, word):
        self.words.put(word)

    def __iter__(self):
        return self

    def __next__(self):
        word = self.words.get(timeout=0.01)
        if word is None:
            raise StopIteration
        return word


async def spoken(words: Mouthpiece):
    while True:
        try:
            for word in words:
                yield word
            return
        except Empty:
            await asyncio.sleep(0.001)


@serve.deployment
@serve.ingress(chat)
class Parrot:
    def __init__(self, shout: bool):
        self.loop = asyncio.get_running_loop()
        self.shout = shout

    @chat.post("/")
    def repeat(self, prompt: str) -> StreamingResponse:
        logger.info("Got a prompt.")
        words = Mouthpiece()
        self.loop.run_in_executor(None, self.speak, prompt, words)
        return StreamingResponse(spoken(words), media_type="text/plain")

    def speak(self, prompt: str, words: Mouthpiece):
        for word in prompt.split():
            words.put(word.upper() if self.shout else word)
        words.put(None)

    @chat.websocket("/ws")
    async def talk(self, socket: WebSocket):
        await socket.accept()
        try:
            while True:
                words = Mouthpiece()
                self.loop.run_in_executor(None, self.speak, await socket.receive_text(), words)
                async for word in spoken(words):
                    await socket.send_text(word)
                await socket.send_text("<end>")
        except WebSocketDisconnect:
            logger.info("Gone.")


serve.run(Parrot.bind(shout=True))
assert "".join(parts_of(requests.post("http://localhost:8000/?prompt=who is there", stream=True))) == "WHOISTHERE"
with connect("ws://localhost:8000/ws") as socket:
    for _ in range(2):
        socket.send("good day")
        assert [socket.recv() for _ in range(3)] == ["GOOD", "DAY", "<end>"]

together = FastAPI()


@serve.deployment(max_ongoing_requests=10)
@serve.ingress(together)
class Choir:
    def __init__(self):
        self.sizes = []

    @together.post("/")
    async def sing(self, prompt: str) -> StreamingResponse:
        return StreamingResponse(self.verses(prompt), media_type="text/plain")

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=15)
    async def verses(self, prompts: list[str]):
        self.sizes.append(len(prompts))
        lines = [prompt.split() for prompt in prompts]
        for number in range(max(map(len, lines))):
            yield [line[number] if number < len(line) else StopIteration for line in lines]
            await asyncio.sleep(0.01)

    @together.get("/sizes")
    def seen(self):
        return self.sizes


serve.run(Choir.bind())


def sing(prompt: str) -> list[str]:
    return parts_of(requests.post(f"http://localhost:8000/?prompt={prompt}", stream=True))


with ThreadPoolExecutor() as pool:
    assert list(pool.map(sing, ["la la", "do re mi"])) == [["la", "la"], ["do", "re", "mi"]]
assert requests.get("http://localhost:8000/sizes").json() == [2]
