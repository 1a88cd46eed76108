"""Answers that come part by part: a generator of one deployment, passed on by another to HTTP and to handles.

modelplex run streaming:entry --app-dir examples
curl -N -H "serve-multiplexed-model-id: sea" "http://127.0.0.1:8000/?words=6"
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse

from modelplex import serve
from modelplex.serve.handle import DeploymentHandle

POEMS = {"sea": "the sea is wide and", "snow": "the snow falls softly and"}


@serve.deployment(num_replicas=2)
class Poet:
    """One model for each theme; it stays loaded until its last stream has ended."""

    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, theme: str) -> list[str]:
        if theme not in POEMS:
            raise FileNotFoundError(theme)  # which is a 404
        return POEMS[theme].split()

    async def words(self, count: int) -> AsyncIterator[str]:
        model = await self.get_model(serve.get_multiplexed_model_id())
        for number in range(count):
            yield model[number % len(model)]
            await asyncio.sleep(0.05)


@serve.deployment(max_ongoing_requests=100)
class Recital:
    def __init__(self, poet: DeploymentHandle) -> None:
        self.poet = poet.options(stream=True)

    async def recite(self, theme: str, count: int) -> AsyncIterator[str]:
        """For handles. Whoever stops listening also stops the poet."""
        async for word in self.poet.options(multiplexed_model_id=theme).words.remote(count):
            yield f"{word} "

    async def __call__(self, request: Request) -> StreamingResponse:
        words = self.recite(serve.get_multiplexed_model_id(), int(request.query_params.get("words", 10)))
        # The first word is waited for here, so that a theme that does not exist is a 404 and no broken stream.
        first = await anext(words)
        return StreamingResponse(_with_first(first, words), media_type="text/plain")


async def _with_first(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for part in rest:
        yield part


entry = Recital.bind(Poet.bind())  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return


def main() -> None:
    serve.start(http_options={"port": 0})  # any port, since only a handle calls
    handle = serve.run(entry, route_prefix=None)
    print(*handle.options(stream=True).recite.remote("snow", 5), sep="")
    endless = handle.options(stream=True).recite.remote("sea", 1_000_000)
    print(next(endless), next(endless), sep="")
    endless.cancel()
    serve.shutdown()


if __name__ == "__main__":
    main()
