"""The Open Inference Protocol over HTTP, by the byte: every page, and what clients are told of failures."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from v2_app import LOAD_S, Factors, ask, with_v2

from modelplex import serve
from modelplex.errors import BodyTooLargeError
from modelplex.protocols import bodies


def test_the_server_says_what_it_is() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        said = (await client.get("/v2")).json()
        assert (said["name"], said["extensions"]) == ("modelplex", ["binary_tensor_data", "model_repository"])
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        assert (await client.get("/v2/openapi.json")).json()["openapi"] == "3.1.0"

    with_v2(check)


def test_a_model_answers_in_json() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v2/models/m3/versions/2/infer", json=ask(1, 2, id="mine", outputs=[{"name": "y"}]))
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-modelplex-model"] == "cold"
        y = {"name": "y", "datatype": "INT32", "shape": [2], "data": [3, 6]}
        assert answer.json() == {"model_name": "m3", "model_version": "2", "id": "mine", "outputs": [y]}
        warm = await client.post("/v2/models/m3%402/infer", json=ask(1))
        assert warm.headers["x-modelplex-model"] == "warm"
        assert [output["name"] for output in warm.json()["outputs"]] == ["y", "parameters"]

    with_v2(check)


def test_raw_bytes_in_and_out() -> None:
    x, b = np.array([[1.5, -2.0]], dtype="<f4"), b"\x01\x00\x00\x00a\x00\x00\x00\x00"
    said = {
        "inputs": [
            {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "n", "shape": [1], "datatype": "INT8", "data": [7]},
            {"name": "b", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 9}},
        ],
        "outputs": [{"name": "b", "parameters": {"binary_data": True}}, {"name": "n"}, {"name": "x"}],
        "parameters": {"return": "all", "binary_data_output": True},
    }
    said["outputs"][1]["parameters"] = {"binary_data": False}  # type: ignore[index]

    async def check(client: httpx.AsyncClient) -> None:
        head = json.dumps(said).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = await client.post("/v2/models/m3/infer", content=head + x.tobytes() + b, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/octet-stream"
        size = int(answer.headers["inference-header-content-length"])
        outputs = json.loads(answer.content[:size])["outputs"]
        assert [output["name"] for output in outputs] == ["b", "n", "x"]
        sizes = [output.get("parameters", {}).get("binary_data_size") for output in outputs]
        assert sizes == [9, None, 8]
        assert outputs[1]["data"] == [7]
        assert answer.content[size:] == b + x.tobytes()

    with_v2(check)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_bodies(coding: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        body = json.dumps(ask(*range(2000))).encode()
        packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
        headers = {"content-encoding": coding, "accept-encoding": coding}
        answer = await client.post("/v2/models/m2/infer", content=packed, headers=headers)
        assert answer.headers["content-encoding"] == coding
        assert answer.json()["outputs"][0]["data"][-1] == 3998
        # One that can do with either, as most clients are by default, is not worth the work.
        plain = await client.post("/v2/models/m2/infer", content=body, headers={"accept-encoding": "gzip, deflate"})
        assert "content-encoding" not in plain.headers

    with_v2(check)


def test_a_small_body_that_becomes_a_large_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DECOMPRESSED_BYTES_MAX", 10_000)

    async def check(client: httpx.AsyncClient) -> None:
        for size, status in ((10_000, 400), (10_001, 413), (10_000_000, 413)):
            answer = await client.post(
                "/v2/models/m2/infer", content=gzip.compress(b" " * size), headers={"content-encoding": "gzip"}
            )
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]

    with_v2(check)


def test_what_becomes_too_large_is_not_made_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DECOMPRESSED_BYTES_MAX", 10_000)
    bomb = gzip.compress(bytes(20_000_000))
    tracemalloc.start()
    with pytest.raises(BodyTooLargeError):
        bodies.decompressed(bomb, "gzip")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


def changed(**fields: Any) -> dict[str, Any]:
    """A request whose input is other than it should be; a field of None is left out."""
    tensor = {"name": "x", "shape": [1], "datatype": "INT32", "data": [1], **fields}
    return {"inputs": [{name: value for name, value in tensor.items() if value is not None}]}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "missing required field `inputs`"),
        ([], "Expected `object`"),
        (changed(datatype="INT33"), "there are BOOL"),
        (changed(data=[1.5]), "list of integers"),
        (changed(data=[2**31]), "INT32 cannot hold"),
        (changed(shape=[2]), "do not fit"),
        (changed(shape="1"), "Expected `array`"),
        (changed(data=None), "neither data nor"),
        (changed(parameters={"binary_data_size": 0}), "both data and"),
        (changed(data=None, parameters={"binary_data_size": 4}), "0 are left, got 4"),
        (changed(data=None, parameters={"binary_data_size": "4"}), "a number of bytes"),
        (changed(parameters={"shared_memory_region": "r"}), "shared_memory_region"),
        ({"inputs": changed()["inputs"] * 2}, "two inputs 'x'"),
        ({"inputs": []}, "no input 'x'; there are: none"),
        (changed(name="z"), "no input 'x'; there are: z"),
        (ask(1, outputs=[{"name": "z"}]), "no output 'z'; there are: y, parameters"),
        (ask(1, outputs=[{"name": "y", "parameters": {"classification": 2}}]), "classification"),
        (ask(1, outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), "binary_data is true or false"),
        (ask(1, parameters={"return": "infinity"}), "infinite values"),
    ],
)
def test_what_a_client_got_wrong_is_a_400_that_says_so(said: Any, why: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v2/models/m3/infer", json=said)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
        assert list(answer.json()) == ["error"]
        assert why in answer.json()["error"]

    with_v2(check)


@pytest.mark.parametrize(
    ("content", "headers", "why"),
    [
        (b"", {}, "cannot be read"),
        (b"{", {}, "cannot be read"),
        (b'{"inputs": [NaN]}', {}, "NaN is null there"),
        (b"\xff", {}, "cannot be read"),
        (b'{"inputs":' + b"[" * 100_000, {}, "cannot be read"),
        (b'{"parameters":{"a":' + b"[" * 100_000, {}, "nested too deeply"),
        (b'{"inputs":[]}x', {"inference-header-content-length": "13"}, "goes on for 1 bytes"),
        (b'{"inputs":[]}', {"inference-header-content-length": "14"}, "has 13 bytes"),
        (b"{}", {"inference-header-content-length": "-1"}, "is a number of bytes"),
        (b"{}", {"inference-header-content-length": "9" * 5000}, "is a number of bytes"),
        (b"{}", {"content-encoding": "br"}, "can be gzip or deflate"),
        (b"{}", {"content-encoding": "gzip"}, "not what its content-encoding says"),
        (gzip.compress(b"{}", mtime=0)[:-1], {"content-encoding": "gzip"}, "does not end where"),
        (gzip.compress(b"{}", mtime=0) + b"x", {"content-encoding": "gzip"}, "does not end where"),
    ],
)
def test_a_body_that_cannot_be_read_is_a_400_that_says_so(content: bytes, headers: dict[str, str], why: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v2/models/m3/infer", content=content, headers=headers)
        assert answer.status_code == 400, answer.text
        assert why in answer.json()["error"]

    with_v2(check)


@pytest.mark.parametrize("kind", ["failure", "list", "complex"])
def test_faults_of_the_deployment_are_a_500_without_details(kind: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v2/models/m3/infer", json=ask(1, parameters={"return": kind}))
        assert (answer.status_code, answer.json()) == (500, {"error": "Internal Server Error"})

    with_v2(check)


def test_failures_of_the_server_itself_are_json_too() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answers = [
            (404, await client.post("/v2/models/unknown/infer", json=ask(1))),
            (404, await client.get("/v2/models/m1/config")),
            (404, await client.get("/elsewhere")),
            (405, await client.get("/v2/models/m1/infer")),
            (405, await client.post("/v2/models/m1")),
            (400, await client.get("/v2/models/m%201")),
            (400, await client.get("/v2/models/m1", headers={"serve_multiplexed_model_id": "m2"})),
            (400, await client.get("/v2", headers=[("serve_multiplexed_model_id", name) for name in ("m1", "m2")])),
            (413, await client.post("/v2/models/m1/infer", content=b" " * 1001)),
            (503, await client.post("/v2/models/m5/infer", json=ask(1), headers={"x-modelplex-max-cold-wait": "0.1"})),
            (504, await client.post("/v2/models/m6/infer", json=ask(1), headers={"x-request-timeout-seconds": "0.1"})),
        ]
        for status, answer in answers:
            assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
        assert answers[3][1].headers["allow"] == "POST"

    with_v2(check, max_body_bytes=1000)


def test_metadata_is_as_little_as_nothing_says_otherwise() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        said = (await client.get("/v2/models/m3/versions/2")).json()
        assert said == {"name": "m3", "versions": ["2"], "platform": "modelplex", "inputs": [], "outputs": []}
        assert (await client.get("/v2/models/unknown")).status_code == 404
        assert (await client.post("/v2/repository/index", json={"ready": True})).json() == [], (
            "nothing was loaded for it"
        )

    with_v2(check)


def test_metadata_can_be_a_dict_by_which_inputs_are_checked() -> None:
    @serve.deployment
    class Declared:
        metadata = {  # noqa: RUF012 - as users write it
            "platform": "numpy",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
        }

        @serve.multiplexed
        async def get_model(self, model_id: str) -> str:
            return model_id

        async def infer(self, model: str, inputs: dict[str, Any]) -> dict[str, Any]:
            return {"y": inputs["x"].sum(axis=1)}

    def tensor(**fields: Any) -> dict[str, Any]:
        return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **fields}

    async def check(client: httpx.AsyncClient) -> None:
        said = (await client.get("/v2/models/any")).json()
        assert (said["platform"], said["inputs"][0]["shape"]) == ("numpy", [-1, 2])
        answer = await client.post("/v2/models/any/infer", json={"inputs": [tensor()]})
        assert answer.json()["outputs"][0]["data"] == [3.0]
        for inputs, why in [
            ([], "'x' is missing"),
            ([tensor(), tensor(name="z")], "no input 'z'"),
            ([tensor(datatype="FP64")], "is of FP32, got FP64"),
            ([tensor(shape=[2])], "has shape [-1, 2], got [2]"),
            ([tensor(shape=[2, 1])], "has shape [-1, 2], got [2, 1]"),
        ]:
            refused = await client.post("/v2/models/other/infer", json={"inputs": inputs})
            assert refused.status_code == 400
            assert why in refused.json()["error"]
        assert [e["name"] for e in (await client.post("/v2/repository/index")).json()] == ["any"]

    with_v2(check, Declared.bind())  # type: ignore[attr-defined]


def test_metadata_can_be_a_method_of_a_model_id() -> None:
    @serve.deployment
    class ById:
        @serve.multiplexed
        async def get_model(self, model_id: str) -> str:
            return model_id

        async def infer(self, model: str, inputs: dict[str, Any]) -> dict[str, Any]:
            return inputs

        async def metadata(self, model_id: str) -> Any:
            return {"platform": await self.get_model(model_id)} if model_id != "wrong" else "wrong"

    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v2/models/any")).json()["platform"] == "any"
        assert (await client.get("/v2/models/wrong")).status_code == 500

    with_v2(check, ById.bind())  # type: ignore[attr-defined]


def test_a_model_is_ready_if_it_is_loaded_or_exists_and_has_not_failed() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v2/models/m3/ready")).json() == {"name": "m3", "ready": True}
        assert (await client.get("/v2/models/unknown/ready")).status_code == 404
        assert (await client.get("/v2/models/m666/ready")).status_code == 200
        failed = await client.post("/v2/models/m666/infer", json=ask(1))
        assert failed.status_code == 500
        assert (await client.get("/v2/models/m666/ready")).status_code == 404
        await asyncio.sleep(60)
        assert (await client.get("/v2/models/m666/ready")).status_code == 200, "it may be tried again"

    with_v2(check)


def test_without_a_hook_a_model_is_ready_when_it_is_loaded() -> None:
    @serve.deployment
    class Unhooked:
        @serve.multiplexed
        async def get_model(self, model_id: str) -> str:
            return model_id

        async def infer(self, model: str, inputs: dict[str, Any]) -> dict[str, Any]:
            return inputs

    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v2/models/a/ready")).status_code == 404
        await client.post("/v2/repository/models/a/load")
        assert (await client.get("/v2/models/a/ready")).status_code == 200

    with_v2(check, Unhooked.options(num_replicas=2).bind())  # type: ignore[attr-defined]


def test_the_repository_is_listed_loaded_and_unloaded() -> None:
    async def index(client: httpx.AsyncClient, **body: Any) -> dict[str, str]:
        found = (await client.post("/v2/repository/index", json=body)).json()
        return {f"{e['name']}@{e['version']}" if e["version"] else e["name"]: e["state"] for e in found}

    async def check(client: httpx.AsyncClient) -> None:
        assert await index(client) == {"m1": "UNAVAILABLE", "m2": "UNAVAILABLE"}
        loading = asyncio.create_task(client.post("/v2/repository/models/m2/load"))
        await asyncio.sleep(LOAD_S / 2)
        assert await index(client) == {"m1": "UNAVAILABLE", "m2": "LOADING"}
        assert (await loading).json() == {"name": "m2", "load": True}
        await client.post("/v2/models/m3%404/infer", json=ask(1))
        assert await index(client, ready=True) == {"m2": "READY", "m3@4": "READY"}
        assert (await client.post("/v2/models/m2/infer", json=ask(1))).headers["x-modelplex-model"] == "warm"
        unloaded = await client.post(
            "/v2/repository/models/m2/unload", json={"parameters": {"unload_dependents": False}}
        )
        assert unloaded.json() == {"name": "m2", "unload": True}
        assert await index(client, ready=True) == {"m3@4": "READY"}
        assert (await client.post("/v2/repository/models/unknown/load")).status_code == 404
        assert (await client.post("/v2/repository/models/m666/load")).status_code == 500
        own = await client.post("/v2/repository/models/m2/load", json={"parameters": {"config": "{}"}})
        assert (own.status_code, own.json()["error"]) == (
            400,
            "A model is loaded as its deployment says: 'config' is not taken.",
        )

    with_v2(check)


def test_a_load_needs_no_second_slot() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v2/repository/models/m2/load")).status_code == 200
        assert (await client.post("/v2/repository/models/m2/unload")).status_code == 200

    with_v2(check, Factors.options(max_ongoing_requests=1).bind())  # type: ignore[attr-defined]


def test_it_is_served_below_a_prefix_and_behind_another_server() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/a%62c/v2/models/x/y/m2/infer", json=ask(1))
        assert answer.status_code == 404, "there is no such model"
        assert "'x/y/m2'" in answer.json()["error"]
        assert (await client.post("/abc/v2/models/m2/infer", json=ask(1))).status_code == 200
        assert (await client.get("/abc/v2/openapi.json")).json()["servers"] == [{"url": "/front/abc"}]

    with_v2(check, prefix="/abc", root_path="/front")


def test_paths_name_models_only_if_that_is_wanted() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        refused = await client.post("/v2/models/m2/infer", json=ask(1))
        assert (refused.status_code, "model_id_from" in refused.json()["error"]) == (400, True)
        other = await client.post("/v2/models/m2/infer", json=ask(1), headers={"serve_multiplexed_model_id": "m3"})
        assert other.status_code == 400
        same = await client.post("/v2/models/m2/infer", json=ask(1), headers={"serve_multiplexed_model_id": "m2"})
        assert same.status_code == 200

    with_v2(check, model_id_from=["header"])


def test_a_client_that_leaves_disturbs_nobody() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        leaving = asyncio.create_task(client.post("/v2/models/m2/infer", json=ask(1)))
        staying = asyncio.create_task(client.post("/v2/models/m2/infer", json=ask(2)))
        await asyncio.sleep(LOAD_S / 2)
        leaving.cancel()
        answer = await staying
        assert answer.json()["outputs"][0]["data"] == [4]

    with_v2(check)


def test_what_is_said_of_a_failure_is_short_however_long_what_a_client_sent() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        x = {"name": "n" * 200_000, "datatype": "FP32", "shape": [2], "data": [1]}
        answer = await client.post("/v2/models/m3/infer", json={"inputs": [x]})
        assert answer.status_code == 400
        assert len(answer.content) < 10_000

    with_v2(check)
