"""The example with FastAPI, run as its docstring says."""

from collections.abc import Iterator

import httpx
import pytest
from served import example_client

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with example_client("fastapi_app:entry") as client:
        yield client


def test_each_language_has_its_words(client: httpx.Client) -> None:
    for language, word in {"de": "Wasser", "fr": "eau", "es": "agua", "it": "acqua"}.items():
        answer = client.get("/words/water", headers={"serve-multiplexed-model-id": language})
        assert (answer.json(), answer.headers["x-modelplex-model"]) == (word, "cold")


def test_texts_are_checked_and_translated(client: httpx.Client) -> None:
    headers = {"serve-multiplexed-model-id": "fr"}
    assert client.post("/texts", json={"words": ["bread", "tea"]}, headers=headers).json() == ["pain", "tea"]
    assert client.post("/texts", json={"words": []}, headers=headers).status_code == 422


def test_what_is_missing_is_said(client: httpx.Client) -> None:
    assert client.get("/words/water").status_code == 400
    assert client.get("/words/stone", headers={"serve-multiplexed-model-id": "fr"}).status_code == 404
    assert client.get("/words/water", headers={"serve-multiplexed-model-id": "xx"}).status_code == 404
