"""A chat with one of many bots over a WebSocket; a bot stays loaded for as long as somebody talks to it.

It needs `pip install modelplex[fastapi]`.

    modelplex run websocket_chat:entry --app-dir examples
    python -m websockets ws://127.0.0.1:8000/chat/parrot
"""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from modelplex import serve

app = FastAPI()


class Bot:
    def __init__(self, name: str) -> None:
        self.name = name

    def answer(self, text: str) -> str:
        return text.upper() if self.name == "parrot" else f"{self.name} says: tell me more about {text!r}."


@serve.deployment(max_ongoing_requests=100)
@serve.ingress(app)
class Chat:
    @serve.multiplexed(max_num_models_per_replica=10)
    async def get_bot(self, model_id: str) -> Bot:
        return Bot(model_id)

    # Clients that can send headers name the bot in `serve-multiplexed-model-id`, and reach a replica that has it.
    # Browsers cannot: the path names it, and whichever replica has a slot loads it.
    @app.websocket("/chat/{name}")
    async def chat(self, socket: WebSocket, name: str) -> None:
        bot = await self.get_bot(serve.get_multiplexed_model_id() or name)
        await socket.accept()
        await socket.send_text(f"{bot.name} is here.")
        try:
            while True:
                await socket.send_text(bot.answer(await socket.receive_text()))
        except WebSocketDisconnect:
            pass  # both the lease and the slot end with this function


entry = Chat.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return
