"""A user's own servicer: the methods of `asked.proto`, which the test compiles."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from asked_pb2 import Question, Reply  # type: ignore[import-not-found]

from modelplex import context, errors, serve


def note(line: str) -> None:
    with open(os.environ["EVENTS"], "a") as events:
        events.write(line + "\n")


@serve.deployment(max_ongoing_requests=2, max_queued_requests=2)
class Shop:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        note(f"load {model_id}")
        if model_id.startswith("absent"):
            raise errors.ModelNotFoundError(f"There is no {model_id}.")
        return f"model {model_id}"

    def Answer(self, question: Any) -> Any:  # noqa: N802 - the service's name
        current = context.request()
        assert current is not None
        assert isinstance(question, Question)
        return Reply(
            text=question.text.upper(),
            model_id=serve.get_multiplexed_model_id(),
            request_id=current.request_id,
        )

    async def Model(self, question: Any) -> Any:  # noqa: N802
        model_id = serve.get_multiplexed_model_id()
        return Reply(text=question.text, model_id=model_id, model=await self.get_model(model_id))

    def Count(self, question: Any) -> Iterator[Any]:  # noqa: N802
        for number in range(int(question.text)):
            yield Reply(text=str(number))

    async def Join(self, questions: AsyncIterator[Any]) -> Any:  # noqa: N802
        return Reply(text=" ".join([question.text async for question in questions]))

    async def Chat(self, questions: AsyncIterator[Any]) -> AsyncIterator[Any]:  # noqa: N802
        async for question in questions:
            yield Reply(text=question.text.upper())

    async def Wait(self, question: Any) -> Any:  # noqa: N802
        note("begun")
        try:
            await asyncio.sleep(question.wait_s)
        except asyncio.CancelledError:
            note("cancelled")
            raise
        return Reply(text="waited")

    async def Fail(self, question: Any) -> Any:  # noqa: N802
        raise ValueError(f"secret {question.text}")

    async def FailLate(self, question: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield Reply(text="first")
        raise ValueError(f"secret {question.text}")

    async def Context(self, question: Any, grpc_context: Any) -> Any:  # noqa: N802
        told = dict(grpc_context.invocation_metadata())
        grpc_context.set_trailing_metadata([("told", told.get("tell", "")), ("raw-bin", b"\x00\xff")])
        if question.text == "abort":
            grpc_context.abort(9, "not now")
        if question.text == "code":
            grpc_context.set_code(6)
            grpc_context.set_details("there already")
        if question.text == "raise":
            grpc_context.set_code(10)
            raise ValueError("secret")
        return Reply(text=grpc_context.peer())

    async def WrongType(self, question: Any) -> Any:  # noqa: N802
        return "no message"


app = Shop.bind()  # type: ignore[attr-defined]
