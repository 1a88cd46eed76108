"""Clients of other systems, unchanged, and a fuzzer, against one real server."""

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kserve
import ml_dtypes
import numpy as np
import openai
import pytest
import tritonclient.http
import tritonclient.http.aio
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from served import APPS, Served, serving
from tritonclient.utils import InferenceServerException

pytestmark = [pytest.mark.system, pytest.mark.doors]

FUZZ_TIMEOUT_S = 120

ARRAYS = {
    "BOOL": np.array([[True], [False]]),
    "UINT8": np.array([[1], [2]], np.uint8),
    "INT64": np.array([[-1], [2**40]], np.int64),
    "FP16": np.array([[0.5], [-2]], np.float16),
    "FP32": np.array([[0.1], [np.nan]], np.float32),
    "FP64": np.array([[0.1], [1e300]], np.float64),
    "BYTES": np.array([[b"a\xff"], [b""]], dtype=object),
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(str(APPS / "v2.yaml")) as found:
        yield found


@pytest.fixture
def triton(served: Served) -> Iterator[Any]:
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.port}")
    yield client
    client.close()


def triton_input(name: str, array: Any, datatype: str, *, binary: bool = True) -> Any:
    return tritonclient.http.InferInput(name, list(array.shape), datatype).set_data_from_numpy(
        array, binary_data=binary
    )


def test_triton_asks_about_the_server_and_its_models(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["name"] == "modelplex"
    assert triton.is_model_ready("m1")
    assert not triton.is_model_ready("unknown")
    said = triton.get_model_metadata("m1", "2")
    assert (said["name"], said["versions"], said["platform"]) == ("m1", ["2"], "numpy")
    with pytest.raises(InferenceServerException, match="no model 'unknown'") as caught:
        triton.get_model_metadata("unknown")
    assert caught.value.status() == "404"


@pytest.mark.parametrize("datatype", ARRAYS)
def test_triton_sends_each_datatype_as_raw_bytes(triton: Any, datatype: str) -> None:
    array = ARRAYS[datatype]
    result = triton.infer("m1", [triton_input("x", array, datatype)], request_id="7")
    found = result.as_numpy("x")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert result.get_response()["id"] == "7"
    assert result.get_output("x")["parameters"]["binary_data_size"] > 0


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP32", "FP64", "BYTES"])
def test_triton_sends_each_datatype_as_json(triton: Any, datatype: str) -> None:
    array = np.array(["a", "é"], dtype=object) if datatype == "BYTES" else np.nan_to_num(ARRAYS[datatype])
    outputs = [tritonclient.http.InferRequestedOutput("x", binary_data=False)]
    result = triton.infer("m1", [triton_input("x", array, datatype, binary=False)], outputs=outputs)
    found = result.as_numpy("x")
    assert found.tolist() == array.tolist()
    assert "data" in result.get_output("x")


def test_triton_gets_nan_as_null_and_bf16_as_float32(triton: Any) -> None:
    outputs = [tritonclient.http.InferRequestedOutput("x", binary_data=False)]
    result = triton.infer("m1", [triton_input("x", ARRAYS["FP32"], "FP32")], outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("x"), ARRAYS["FP32"])
    half = np.array([1.5, -2], dtype=ml_dtypes.bfloat16)
    found = triton.infer("m3", [triton_input("x", half, "BF16")]).as_numpy("x")
    assert (str(found.dtype), found.tolist()) == ("float32", [4.5, -6])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_triton_compresses(triton: Any, coding: str) -> None:
    array = np.arange(20_000, dtype=np.int32)
    result = triton.infer(
        "m3",
        [triton_input("x", array, "INT32")],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("x"), array * 3)


def test_triton_is_told_what_is_wrong(triton: Any) -> None:
    array = np.zeros(1, np.int32)
    cases = [
        ("unknown", [triton_input("x", array, "INT32")], None, "404", "no model 'unknown'"),
        ("mbroken", [triton_input("x", array, "INT32")], None, "500", "damaged|failed"),
        ("m1", [triton_input("raise", array, "INT32")], None, "500", "Internal Server Error"),
        ("m1", [triton_input("x", array, "INT32")], "nothing", "400", "no output 'nothing'"),
        ("m 1", [triton_input("x", array, "INT32")], None, "400", "malformed"),
    ]
    for model, inputs, output, status, words in cases:
        outputs = None if output is None else [tritonclient.http.InferRequestedOutput(output)]
        with pytest.raises(InferenceServerException, match=words) as caught:
            triton.infer(model, inputs, outputs=outputs)
        assert caught.value.status() == status
        assert "secret" not in str(caught.value)


def test_triton_loads_and_unloads(triton: Any) -> None:
    def ready() -> set[tuple[str, str]]:
        index = triton.get_model_repository_index()
        return {(entry["name"], entry["version"]) for entry in index if entry["state"] == "READY"}

    triton.load_model("m2")
    triton.load_model("eu/m7@4")
    assert {("m2", ""), ("eu/m7", "4")} <= ready()
    result = triton.infer("eu/m7", [triton_input("x", np.zeros(1, np.int32), "INT32")], model_version="4")
    assert (result.get_response()["model_name"], result.get_response()["model_version"]) == ("eu/m7", "4")
    triton.unload_model("m2")
    triton.unload_model("eu/m7@4")
    assert not {("m2", ""), ("eu/m7", "4")} & ready()
    with pytest.raises(InferenceServerException, match="'config' is not taken"):
        triton.load_model("m2", config="{}")
    with pytest.raises(InferenceServerException, match="no model 'unknown'"):
        triton.load_model("unknown")


async def test_triton_asks_many_at_a_time(served: Served) -> None:
    async with tritonclient.http.aio.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        inputs = [triton_input("x", np.ones(3, np.int32), "INT32")]
        results = await asyncio.gather(*(client.infer(f"m{n % 5}", inputs) for n in range(50)))
        assert [result.as_numpy("x")[0] for result in results] == [n % 5 for n in range(50)]


@pytest.mark.parametrize("binary", [True, False])
async def test_kserve(served: Served, binary: bool) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", transport=httpx.AsyncHTTPTransport()))
    base = f"http://127.0.0.1:{served.port}"
    assert await client.is_server_live(base) is True
    assert await client.is_server_ready(base)
    assert await client.is_model_ready(base, "m1") is True
    assert await client.is_model_ready(base, "unknown") is False
    array = np.array([[1.5, 2]], np.float32)
    tensor = kserve.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    outputs = [RequestedOutput("x", {"binary_data": binary})] if binary else None
    asked = kserve.InferRequest("m3", [tensor], request_id="7", request_outputs=outputs)
    answer = await client.infer(base, asked, model_name="m3")
    np.testing.assert_array_equal(answer.outputs[0].as_numpy(), array * 3)
    assert (answer.id, answer.model_name) == ("7", "m3")
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await client.infer(base, asked, model_name="unknown")
    await client.close()


def test_openai(served: Served) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/chats/v1", api_key="none", max_retries=0) as client:
        said = client.chat.completions.create(model="shop-17", messages=[{"role": "user", "content": "hello"}])
        assert said.choices[0].message.content == "shop-17: hello"
        assert "shop-17" in [model.id for model in client.models.list()]
        assert client.models.retrieve("shop-17").owned_by == "modelplex"
        with pytest.raises(openai.BadRequestError, match="malformed"):
            client.chat.completions.create(model="../shop", messages=[])


def request(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, None if body is None else json.dumps(body), named)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(data) if data else None


def test_every_way_to_name_a_model_leads_to_the_same(served: Served) -> None:
    x = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [2]}], "outputs": [{"name": "x"}]}
    for path, headers in [
        ("/v2/models/m3/infer", {}),
        ("/invocations", {"serve_multiplexed_model_id": "m3"}),
        ("/invocations", {"mm_model_id": "m3"}),
        ("/invocations", {"mm_vmodel_id": "m3"}),
        ("/invocations", {"X_Amzn_SageMaker_Target_Model": "m3"}),
        ("/models/m3/invoke", {}),
    ]:
        status, _, answer = request(served.port, "POST", path, x, **headers)
        assert (status, answer["model_name"], answer["outputs"][0]["data"]) == (200, "m3", [6]), path
        status, _, answer = request(served.port, "POST", path, x, **{**headers, "mm_model_id": "m4"})
        if headers != {"mm_model_id": "m3"}:
            assert (status, answer) == (400, {"error": answer["error"]})
            assert "names two models" in answer["error"]
    assert request(served.port, "GET", "/ping")[0] == 200
    assert {"modelName": "m3", "modelUrl": ""} in request(served.port, "GET", "/models")[2]["models"]


def test_a_fuzzer_finds_no_500_and_nothing_that_is_not_as_described(served: Served, tmp_path: Path) -> None:
    """That a valid body is accepted is left out: which data a shape takes is beyond what a schema can say."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", "--seed", "1", "--max-examples", "8"]
    command += ["--workers", "1", "--exclude-checks", "positive_data_acceptance", "--generation-database", "none"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{served.port}/v2/openapi.json"],
        capture_output=True,
        text=True,
        timeout=FUZZ_TIMEOUT_S,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 selected / 12 total" in done.stdout
    assert "UserCodeError" not in served.log
