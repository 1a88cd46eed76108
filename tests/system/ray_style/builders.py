"""Functions that build applications of arguments, a dict or a pydantic model."""

import requests
from pydantic import BaseModel
from starlette.requests import Request

from modelplex import serve
from modelplex.serve import Application


@serve.deployment
class Say:
    def __init__(self, word: str):
        self.word = word

    def __call__(self, request: Request) -> str:
        return self.word


def plain_builder(args: dict[str, str]) -> Application:
    return Say.bind(args["word"])


class SayArgs(BaseModel):
    word: str
    times: int = 2


def checked_builder(args: SayArgs) -> Application:
    return Say.bind(args.word * args.times)


if __name__ == "__main__":
    serve.run(plain_builder({"word": "stream"}))
    assert requests.get("http://localhost:8000").text == "stream"
    serve.run(checked_builder(SayArgs(word="pond")))
    assert requests.get("http://localhost:8000").text == "pondpond"
