"""SageMaker's container contract, by the byte."""

import json

import httpx
import numpy as np
from v2_app import ask, with_v2

from modelplex.config.http import MODEL_ID_WAYS
from modelplex.protocols.sagemaker import BINARY

TARGET = "X-Amzn-SageMaker-Target-Model"


def test_the_container_is_pinged_and_invoked() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/ping")).status_code == 200
        answer = await client.post("/invocations", json=ask(1, 2), headers={TARGET: "m3"})
        assert answer.json()["outputs"][0]["data"] == [3, 6]
        refused = await client.post("/invocations", json=ask(1))
        assert (refused.status_code, "names no model" in refused.json()["error"]) == (400, True)
        assert (await client.get("/invocations")).status_code == 405
        assert (await client.get("/ping/more")).status_code == 404
        assert (await client.post("/v2/models/m3/infer", json=ask(1))).status_code == 200, "beside V2"

    with_v2(check, model_id_from=["header", "v2", "sagemaker"])


def test_raw_bytes_have_the_content_type_of_tritons_container() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        tensor = {"name": "x", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}}
        head = json.dumps(
            {"inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
        ).encode()
        body = head + np.array([1, 2], "<i4").tobytes()
        headers = {TARGET: "m3", "content-type": f"{BINARY}{len(head)}"}
        answer = await client.post("/invocations", content=body, headers=headers)
        size = int(answer.headers["content-type"].removeprefix(BINARY))
        assert np.frombuffer(answer.content[size:], "<i4").tolist() == [3, 6]

    with_v2(check, model_id_from=MODEL_ID_WAYS)


def test_models_are_loaded_listed_invoked_and_unloaded() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/models")).json() == {"models": []}
        assert (await client.get("/models/m3")).status_code == 404
        said = {"model_name": "m3", "url": "/opt/ml/models/m3/model"}
        assert (await client.post("/models", json=said)).status_code == 200
        assert (await client.post("/models", json=said)).status_code == 409
        assert (await client.get("/models")).json() == {"models": [{"modelName": "m3", "modelUrl": ""}]}
        assert (await client.get("/models/m3")).status_code == 200
        # The platform says in the header what the model was made of.
        answer = await client.post("/models/m3/invoke", json=ask(1), headers={TARGET: "three.tar.gz"})
        assert answer.headers["x-modelplex-model"] == "warm"
        assert (await client.delete("/models/m3")).status_code == 200
        assert (await client.delete("/models/m3")).status_code == 404
        assert (await client.post("/models", json={"model_name": "unknown"})).status_code == 404
        for wrong in (b"", b"{}", b"no", b'{"model_name": 5}', b'{"model_name": "a b"}'):
            assert (await client.post("/models", content=wrong)).status_code == 400, wrong

    with_v2(check, model_id_from=["sagemaker"])


def test_without_the_option_there_is_none_of_it() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for path in ("/ping", "/models"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/invocations", json=ask(1), headers={TARGET: "m3"})).status_code == 404

    with_v2(check)
