"""The example of composition, run as its docstring says."""

from collections.abc import Iterator

import httpx
import pytest
from served import example_client

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with example_client("composition:entry") as client:
        yield client


def test_what_several_deployments_have_found_is_sorted_by_the_model_of_the_customer(client: httpx.Client) -> None:
    answer = client.get("/", params={"customer": "hat", "words": "red shoes"})
    assert answer.json() == {"things": ["red hat", "blue shoes", "red shoes"], "sorted": True}


def test_a_model_that_is_too_slow_is_done_without(client: httpx.Client) -> None:
    answer = client.get("/", params={"customer": "slow", "words": "red"})
    assert answer.json() == {"things": ["red shoes", "red hat"], "sorted": False}


def test_a_request_may_have_less_time_than_its_calls(client: httpx.Client) -> None:
    params = {"customer": "slow", "words": "red"}
    assert client.get("/", params=params, headers={"x-request-timeout-seconds": "0.2"}).status_code == 504
