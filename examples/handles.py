"""A program that calls its deployment itself, without HTTP: results, streams, full queues, a word to all replicas.

python examples/handles.py
"""

from collections.abc import AsyncIterator

from modelplex import serve
from modelplex.errors import BackPressureError

WORDS = {"de": {"one": "eins", "two": "zwei"}, "fr": {"one": "un", "two": "deux"}}


@serve.deployment(num_replicas=2, max_ongoing_requests=1, max_queued_requests=2)
class Translator:
    def __init__(self) -> None:
        self.answered = 0

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, language: str) -> dict[str, str]:
        return WORDS[language]

    async def __call__(self, word: str) -> str:
        self.answered += 1
        model: dict[str, str] = await self.get_model(serve.get_multiplexed_model_id())
        return model[word]

    async def letters(self, word: str) -> AsyncIterator[str]:
        for letter in (await self.get_model(serve.get_multiplexed_model_id()))[word]:
            yield letter

    async def count(self) -> int:
        return self.answered


def main() -> None:
    handle = serve.run(Translator.bind(), route_prefix=None)  # type: ignore[attr-defined] # of a class decorator
    german = handle.options(multiplexed_model_id="de", timeout_s=10.0)
    print("one result:", german.remote("one").result())
    print("a stream:", *german.options(stream=True).letters.remote("two"))

    responses = [german.remote("two") for _ in range(50)]  # two may run, and two may wait
    refused = 0
    for response in responses:
        try:
            response.result()
        except BackPressureError:
            refused += 1
    print("of fifty at a time, some were refused:", 0 < refused < 50)
    print("all replicas have answered what was not:", sum(handle.broadcast("count").result()) == 51 - refused)
    serve.shutdown()


if __name__ == "__main__":
    main()
