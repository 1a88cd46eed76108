"""The Open Inference Protocol over gRPC, by the clients of Triton and of KServe."""

import asyncio
import queue
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import triton_grpc
from grpc_shop_client import grpc_address
from served import Served, serving
from triton_grpc import InferenceServerException, service_pb2

pytestmark = [pytest.mark.system, pytest.mark.doors]

TIMEOUT_S = 30.0
SERVICE = "/inference.GRPCInferenceService"

# The names of data types, and an array of each.
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "BOOL": np.array([[True, False]]),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15)], np.int16),
    "INT32": np.array([[1], [2]], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([2**16 - 1], np.uint16),
    "UINT32": np.array([2**32 - 1], np.uint32),
    "UINT64": np.array([2**64 - 1], np.uint64),
    "FP16": np.array([1.5, -0.25], np.float16),
    "FP32": np.array([[1.5, np.inf]], np.float32),
    "FP64": np.array([1e300]),
    "BYTES": np.array([b"", b"\x00\xff", "ä".encode()], dtype=object),
}


@dataclass(frozen=True)
class Numbers:
    """A program that serves models named `times-N`.

    Attributes:
        served: the program.
        address: where gRPC is.
        triton: a client.
    """

    served: Served
    address: str
    triton: Any


@pytest.fixture(scope="module")
def numbers() -> Iterator[Numbers]:
    with serving("grpc_tensors:app", arguments=["--grpc-port", "0"]) as served:
        address = grpc_address(served)
        with triton_grpc.Client(address) as triton:
            yield Numbers(served, address, triton)


def given(kind: Any, name: str = "x", data: Any = (1, 2, 3), datatype: str = "FP32") -> Any:
    array = data if isinstance(data, np.ndarray) else np.array(data, np.float32)
    made = kind(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def triton_input(name: str = "x", data: Any = (1, 2, 3), datatype: str = "FP32") -> Any:
    return given(triton_grpc.InferInput, name, data, datatype)


def test_triton_learns_what_the_server_and_its_models_are(numbers: Numbers) -> None:
    triton = numbers.triton
    assert triton.is_server_live()
    assert triton.is_server_ready()
    metadata = triton.get_server_metadata(as_json=True)
    assert metadata["name"] == "modelplex"
    assert "model_repository" in metadata["extensions"]
    triton.load_model("times-5")
    assert triton.get_model_metadata("times-5", as_json=True) == {
        "name": "times-5",
        "platform": "numbers",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1"]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": ["-1"]}],
    }


def test_triton_infers_by_any_model_and_version_which_is_loaded_once(numbers: Numbers) -> None:
    for _ in range(2):
        answer = numbers.triton.infer("times-2", [triton_input()], request_id="mine", client_timeout=TIMEOUT_S)
        assert answer.as_numpy("y").tolist() == [2.0, 4.0, 6.0]
        assert (answer.get_response().id, answer.get_response().model_name) == ("mine", "times-2")
    versioned = numbers.triton.infer("times-3", [triton_input()], model_version="7").get_response()
    assert (versioned.model_name, versioned.model_version) == ("times-3", "7")
    assert [numbers.served.events.count(f"load {model_id}") for model_id in ("times-2", "times-3@7")] == [1, 1]


def test_outputs_that_are_asked_for_and_parameters(numbers: Numbers) -> None:
    asked = [triton_grpc.InferRequestedOutput("parameters")]
    told = {"flag": True, "count": 3, "word": "w"}
    answer = numbers.triton.infer("times-2", [triton_input()], outputs=asked, parameters=told)
    assert answer.as_numpy("parameters").tolist() == [b"count=3", b"flag=True", b"word=w"]
    assert answer.as_numpy("y") is None


@pytest.mark.parametrize("datatype", ARRAYS)
def test_every_datatype_there_and_back(numbers: Numbers, datatype: str) -> None:
    array = ARRAYS[datatype]
    answer = numbers.triton.infer("times-2", [triton_input("same", array, datatype)])
    assert answer.get_output("same").datatype == datatype
    back = answer.as_numpy("same")
    assert (back.tolist(), back.shape) == (array.tolist(), array.shape)


def test_a_large_tensor_travels_in_pieces(numbers: Numbers) -> None:
    array = np.arange(2_000_000, dtype=np.float32).reshape(1000, 2000)
    answer = numbers.triton.infer("times-2", [triton_input("same", array)], client_timeout=TIMEOUT_S)
    assert np.array_equal(answer.as_numpy("same"), array)


def test_typed_contents_of_a_client_that_does_not_send_raw_bytes(numbers: Numbers) -> None:
    request = service_pb2.ModelInferRequest(model_name="times-2")
    for name, datatype, field, values in (
        ("same", "INT8", "int_contents", [-5, 5]),
        ("text", "BYTES", "bytes_contents", [b"ab", b"c"]),
    ):
        del request.inputs[:]
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[2])
        getattr(tensor.contents, field).extend(values)
        answer = ask(numbers, "ModelInfer", request, service_pb2.ModelInferResponse)
        wanted = b"\xfb\x05" if name == "same" else b"\x04\0\0\0abab\x02\0\0\0cc"
        assert list(answer.raw_output_contents) == [wanted]


def ask(numbers: Numbers, method: str, request: Any, kind: Any, **metadata: str) -> Any:
    """Call it without a client that would check what is asked."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    with grpc.insecure_channel(numbers.address) as channel:
        answer = channel.unary_unary(f"{SERVICE}/{method}")(data, timeout=TIMEOUT_S, metadata=[*metadata.items()])
    return kind.FromString(answer)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_name": ""}, "names no model"),
        ({"model_name": "../x"}, "malformed"),
        ({"raw_input_contents": [b"12345678", b"1"]}, "has 2 entries, and there are 1 inputs"),
        ({"raw_input_contents": [b"123"]}, "takes 8 bytes; it has 3"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}]}, "lengths, integers of at least 0"),
        ({"inputs": [{"name": "x", "datatype": "FP33", "shape": [2]}]}, "has datatype 'FP33'"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2]}] * 2, "raw_input_contents": [b""] * 2}, None),
        ({"inputs": [{"name": "x", "datatype": "FP16", "shape": [2]}], "raw_input_contents": []}, "raw_input_contents"),
        ({"outputs": [{"name": "z"}]}, "There is no output 'z'"),
        (
            {"outputs": [{"name": "y", "parameters": {"classification": {"int64_param": 2}}}]},
            "there is no classification",
        ),
    ],
)
def test_requests_that_are_not_right_are_told_why(numbers: Numbers, change: dict[str, Any], says: str | None) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2]}
    right: dict[str, Any] = {"model_name": "times-2", "inputs": [tensor], "raw_input_contents": [b"12345678"]}
    with pytest.raises(grpc.RpcError) as caught:
        ask(numbers, "ModelInfer", service_pb2.ModelInferRequest(**{**right, **change}), service_pb2.ModelInferResponse)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (says or "") in error.details()


def test_bytes_that_are_no_message_load_nothing(numbers: Numbers) -> None:
    before = numbers.served.events
    for data in (b"", b"\xff" * 50, b"\x0a\x7ftimes-9", b"\x0a\x02\xff\xfe", b"\x08\x01" * 5_000):
        with pytest.raises(grpc.RpcError) as caught:
            ask(numbers, "ModelInfer", data, service_pb2.ModelInferResponse)
        error: Any = caught.value
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert numbers.served.events == before


def test_errors_have_the_codes_that_clients_know(numbers: Numbers) -> None:
    with pytest.raises(InferenceServerException, match="There is no model 'none'") as absent:
        numbers.triton.infer("none", [triton_input()])
    assert absent.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="Internal Server Error") as failed:
        numbers.triton.infer("times-2", [triton_input("fail")])
    assert failed.value.status() == "StatusCode.INTERNAL"
    with pytest.raises(InferenceServerException) as unknown:
        numbers.triton.get_model_config("times-2")
    assert unknown.value.status() == "StatusCode.UNIMPLEMENTED"
    with pytest.raises(InferenceServerException, match="names two models, 'times-2' and 'times-3'") as two:
        numbers.triton.infer("times-2", [triton_input()], headers={"multiplexed_model_id": "times-3"})
    assert two.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_repository_lists_loads_and_unloads(numbers: Numbers) -> None:
    triton = numbers.triton
    assert not triton.is_model_ready("times-8")
    triton.load_model("times-8")
    assert triton.is_model_ready("times-8")
    models = triton.get_model_repository_index(as_json=True)["models"]
    assert {"name": "times-8", "state": "READY"} in models
    triton.unload_model("times-8")
    assert not triton.is_model_ready("times-8")
    with pytest.raises(InferenceServerException, match="'config' is not taken"):
        triton.load_model("times-8", config='{"max_batch_size": 1}')
    with pytest.raises(InferenceServerException, match="There is no model 'none'"):
        triton.load_model("none")


def test_a_stream_answers_each_message_in_turn_errors_too(numbers: Numbers) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.Client(numbers.address) as triton:
        triton.start_stream(lambda result, error: heard.put((result, error)))
        for model_id in ("times-2", "none", "times-3"):
            triton.async_stream_infer(model_id, [triton_input()])
        answers = [heard.get(timeout=TIMEOUT_S) for _ in range(3)]
        triton.stop_stream()
    assert [None if result is None else result.as_numpy("y").tolist() for result, _ in answers] == [
        [2.0, 4.0, 6.0],
        None,
        [3.0, 6.0, 9.0],
    ]
    assert "There is no model 'none'" in str(answers[1][1])


async def test_tritons_asynchronous_client_asks_many_at_a_time(numbers: Numbers) -> None:
    async with triton_grpc.AsyncClient(numbers.address) as triton:
        assert await triton.is_server_live()
        asked = [triton.infer(f"times-{number}", [triton_input()]) for number in (2, 3, 4) * 5]
        answers = await asyncio.gather(*asked)
        assert [answer.as_numpy("y")[0] for answer in answers] == [2.0, 3.0, 4.0] * 5


KSERVE = """
import asyncio, sys
import kserve
import numpy as np

async def main():
    client = kserve.InferenceGRPCClient(sys.argv[1])
    assert await client.is_server_live()
    assert await client.is_server_ready()
    for data in ([1.0, 2.0, 3.0], np.array([1, 2, 3], np.float32)):
        tensor = kserve.InferInput("x", [3], "FP32")
        tensor.set_data_from_numpy(np.array(data, np.float32), binary_data=isinstance(data, np.ndarray))
        answer = await client.infer(kserve.InferRequest("times-6", [tensor]), timeout=30.0)
        print(answer.model_name, answer.outputs[0].as_numpy().tolist())
    print(await client.is_model_ready("times-6"))
    await client.close()

asyncio.run(main())
"""


def test_kserves_client(numbers: Numbers) -> None:
    """In a process of its own: its messages and those of Triton's client have the same names in one pool."""
    command = [sys.executable, "-c", KSERVE, numbers.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*["times-6 [6.0, 12.0, 18.0]"] * 2, "True"]


def test_kserves_form_of_a_load(numbers: Numbers) -> None:
    kept = service_pb2.RepositoryModelLoadRequest(repository_name="times-7")  # whose field 1 is kserve's model name
    ask(numbers, "RepositoryModelLoad", kept, service_pb2.RepositoryModelLoadResponse)
    assert numbers.triton.is_model_ready("times-7")


def test_of_several_applications_the_metadata_say_which(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(
        "grpc_options: {port: 0}\n"
        "applications:\n"
        "- {name: one, route_prefix: /one, import_path: 'grpc_tensors:app'}\n"
        "- {name: two, route_prefix: /two, import_path: 'grpc_tensors:other'}\n"
        "- {name: plain, route_prefix: /plain, import_path: 'many:one'}\n"
    )
    words = ["--port", "0"]
    with (
        serving(str(file), arguments=words) as served,
        triton_grpc.Client(grpc_address(served)) as triton,
    ):
        for name in ("one", "two"):
            answer = triton.infer("times-2", [triton_input()], headers={"application": name})
            assert answer.as_numpy("y").tolist() == [2.0, 4.0, 6.0]
        for headers in (None, {"application": "plain"}):
            with pytest.raises(InferenceServerException, match="one, two") as caught:
                triton.infer("times-2", [triton_input()], headers=headers)
            assert caught.value.status() == "StatusCode.NOT_FOUND"
