"""`inference.GRPCInferenceService` from a proxy's calls to the user's `infer` and back, without a connection."""

from typing import Any

import numpy as np
import pytest
from inline_app import app_of, serving
from raw_servicer import ScriptedClient, options

from modelplex import errors, serve
from modelplex.protocols import inference_messages as messages
from modelplex.runtime.grpc_calls import Calls
from modelplex.testing import run_virtual
from modelplex.wire import grpc_body, protobuf
from modelplex.wire.grpc_body import Status

Arrays = dict[str, np.ndarray[Any, Any]]

loads: list[str] = []


class Scaled:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> float:
        loads.append(model_id)
        if model_id == "none":
            raise errors.ModelNotFoundError("There is no model 'none'.")
        return float(model_id.partition("@")[0])

    async def infer(self, model: float, inputs: Arrays, parameters: dict[str, Any]) -> Arrays:
        said = np.array([f"{name}={value!r}" for name, value in sorted(parameters.items())], dtype=object)
        return {"y": inputs["x"] * np.float32(model), "said": said}


class Plain:
    async def __call__(self) -> str:
        return "no V2"


def call(method: str, *sent: bytes, app: type = Scaled, **metadata: Any) -> tuple[Status, list[bytes]]:
    async def run() -> tuple[Status, list[bytes]]:
        loads.clear()
        client = ScriptedClient(*sent, **metadata)
        async with serving(app_of(app)) as (cluster, _):
            calls = Calls(cluster.directory, options(), None)
            return await calls.serve(f"/inference.GRPCInferenceService/{method}", client), client.heard

    return run_virtual(run())


def asked(model: str = "2", version: str = "", **more: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2]}
    raw = [np.array([1, 2], np.float32).tobytes()]
    right: dict[str, Any] = {"inputs": [tensor], "raw_input_contents": raw, **more}
    data: bytes = messages.ModelInferRequest(model_name=model, model_version=version, **right).SerializeToString()
    return data


def test_tensors_there_and_back() -> None:
    parameters = {"a": {"int64_param": 1}, "b": {"string_param": "x"}, "c": {"bool_param": True}, "d": {}}
    status, [data] = call("ModelInfer", asked("2", "7", id="mine", parameters=parameters))
    answer = messages.ModelInferResponse.FromString(data)
    assert status.code == 0
    assert dict(status.metadata)[b"x-modelplex-model"] == b"cold"
    assert (answer.model_name, answer.model_version, answer.id) == ("2", "7", "mine")
    assert [(o.name, o.datatype, [*o.shape]) for o in answer.outputs] == [("y", "FP32", [2]), ("said", "BYTES", [4])]
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2.0, 4.0]
    assert answer.raw_output_contents[1] == b"\3\0\0\0a=1\5\0\0\0b='x'\6\0\0\0c=True\6\0\0\0d=None"
    assert loads == ["2@7"]


def test_elements_that_are_typed() -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1.0, 2.0]}}
    _, [data] = call("ModelInfer", asked(inputs=[tensor], raw_input_contents=[], outputs=[{"name": "y"}]))
    answer = messages.ModelInferResponse.FromString(data)
    assert [np.frombuffer(raw, np.float32).tolist() for raw in answer.raw_output_contents] == [[2.0, 4.0]]


X = {"name": "x", "datatype": "FP32", "shape": [2]}


@pytest.mark.parametrize(
    ("message", "details"),
    [
        (b"", "names no model"),
        (b"\x0a", "inside of a number"),
        (asked() + b"\x2a\x01\xff", "is no ModelInferRequest"),
        (asked(""), "names no model"),
        (asked("a", "b c"), "malformed"),
        (asked(inputs=[X, X], raw_input_contents=[b"12345678"] * 2), "two inputs 'x'"),
        (asked(raw_input_contents=[b"12345678"] * 2), "2 entries, and there are 1 inputs"),
        (asked(inputs=[{**X, "contents": {"fp32_contents": [1, 2]}}]), "raw_input_contents as well"),
        (asked(inputs=[{**X, "contents": {"fp64_contents": [1, 2]}}], raw_input_contents=[]), "contents.fp32_contents"),
        (asked(inputs=[{**X, "datatype": "BF16"}], raw_input_contents=[]), "has to be in raw_input_contents"),
        (asked(inputs=[{**X, "datatype": "INT3"}], raw_input_contents=[]), "has datatype 'INT3'"),
        (asked(inputs=[{**X, "parameters": {"shared_memory_region": {}}}]), "there is no shared memory"),
        (asked(outputs=[{"name": "z"}]), "no output 'z'"),
    ],
)
def test_what_is_not_right_is_told(message: bytes, details: str) -> None:
    status, heard = call("ModelInfer", message)
    assert (status.code, heard) == (grpc_body.INVALID_ARGUMENT, [])
    assert details in status.details


def test_a_model_by_metadata_has_to_be_that_of_the_message() -> None:
    assert call("ModelInfer", asked("2"), multiplexed_model_id="2")[0].code == 0
    status, _ = call("ModelInfer", asked("2"), multiplexed_model_id="3")
    assert (status.code, loads) == (grpc_body.INVALID_ARGUMENT, [])


@pytest.mark.parametrize("field", [1, 2])
def test_models_are_loaded_by_either_form_of_the_message(field: int) -> None:
    status, [answer] = call("RepositoryModelLoad", protobuf.field(field, b"5"))
    assert (status.code, loads) == (0, ["5"])
    assert messages.RepositoryModelResponse.FromString(answer).is_done
    assert call("RepositoryModelUnload", protobuf.field(field, b"5"))[0].code == 0


def test_a_repository_beside_the_model_is_passed_over() -> None:
    assert call("RepositoryModelLoad", protobuf.field(1, b"repository") + protobuf.field(2, b"5"))[0].code == 0
    assert loads == ["5"]


def test_a_stream_has_answers_and_errors_in_turn() -> None:
    status, heard = call("ModelStreamInfer", asked("2"), asked("none"), b"\xff", asked("3"))
    assert (status.code, [data[0] >> 3 for data in heard]) == (0, [2, 1, 1, 2])
    assert protobuf.texts(heard[1], (1,)) == ["There is no model 'none'."]


def test_the_server_says_what_it_is() -> None:
    assert call("ServerLive", b"")[1] == [b"\x08\x01"]
    _, [ready] = call("ServerReady", b"")
    assert messages.Ready.FromString(ready).ready
    _, [metadata] = call("ServerMetadata", b"")
    assert messages.ServerMetadataResponse.FromString(metadata).name == "modelplex"
    _, [index] = call("RepositoryIndex", b"")
    assert not messages.RepositoryIndexResponse.FromString(index).models


def test_what_is_not_there_is_not_implemented() -> None:
    assert call("ModelConfig", b"")[0].code == grpc_body.UNIMPLEMENTED
    for method in ("ServerLive", "ModelInfer", "ModelStreamInfer"):
        assert call(method, b"", app=Plain)[0].code == grpc_body.UNIMPLEMENTED
