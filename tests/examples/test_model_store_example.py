"""The example, run as its docstring says, with models that come from an S3 server."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import boto3
import httpx
import numpy as np
import pytest
from s3_server import s3_server
from safetensors.numpy import save
from served import serving, wait_until

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    versions = {
        f"shop-1/{version}/model.safetensors": save({"weights": np.full(2, version, np.float32)}) for version in (1, 2)
    }
    cache = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    with (
        mock.patch.dict(os.environ, cache),
        s3_server("my_bucket", versions | {"shop-1/aliases.json": b'{"stable": "1"}'}),
        serving("model_store:entry", EXAMPLES) as served,
        httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30.0, trust_env=False) as client,
    ):
        yield client


def ask(client: httpx.Client, model_id: str) -> httpx.Response:
    return client.post("/", headers={"serve_multiplexed_model_id": model_id}, json=[[1, 2]])


@pytest.mark.parametrize(
    ("model_id", "answer"), [("shop-1@1", [3.0]), ("shop-1@2", [6.0]), ("shop-1", [6.0]), ("shop-1@latest", [6.0])]
)
def test_versions_answer_as_themselves(client: httpx.Client, model_id: str, answer: list[float]) -> None:
    assert ask(client, model_id).raise_for_status().json() == answer


@pytest.mark.parametrize("model_id", ["shop-2", "shop-1@3", "shop-1@canary", "shop-1/1"])
def test_what_is_not_there_is_a_404(client: httpx.Client, model_id: str) -> None:
    assert ask(client, model_id).status_code == 404


def test_requests_for_an_alias_go_over_to_its_new_version(client: httpx.Client) -> None:
    assert ask(client, "shop-1@stable").raise_for_status().json() == [3.0]
    boto3.client("s3").put_object(Bucket="my_bucket", Key="shop-1/aliases.json", Body=b'{"stable": "2"}')
    wait_until(lambda: ask(client, "shop-1@stable").raise_for_status().json() == [6.0], "the alias has moved")
