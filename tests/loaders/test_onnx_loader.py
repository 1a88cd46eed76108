"""ONNX: sessions with few threads, exact sizes, and data that stays in its folder."""

from pathlib import Path
from typing import Any

import model_files
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.loaders.onnx import load
from modelplex.loaders.onnx_file import tensors_of


def run(session: Any, size: int = 3) -> Any:
    return session.run(None, {"x": np.ones((1, size), np.float32)})[0]


def test_a_session_answers_with_one_thread_and_keeps_no_memory_of_runs(tmp_path: Path) -> None:
    answer = load(model_files.onnx(tmp_path / "m.onnx", size=4))
    np.testing.assert_array_equal(run(answer.model, 4), [[4, 4, 4, 4]])
    assert answer.size_bytes == 64
    options = answer.model.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert not options.enable_cpu_mem_arena


def test_options_are_passed_on(tmp_path: Path) -> None:
    entries = {"session.disable_prepacking": "1"}
    answer = load(model_files.onnx(tmp_path / "m.onnx"), threads=2, arena=True, session_config=entries)
    options = answer.model.get_session_options()
    assert (options.intra_op_num_threads, options.enable_cpu_mem_arena) == (2, True)
    assert options.get_session_config_entry("session.disable_prepacking") == "1"


def test_data_beside_the_model_counts(tmp_path: Path) -> None:
    answer = load(model_files.onnx(tmp_path / "model.onnx", size=8, beside="weights.bin").parent)
    assert answer.size_bytes == 256
    np.testing.assert_array_equal(run(answer.model, 8), np.full((1, 8), 8.0))


@pytest.mark.parametrize("location", ["../out.bin", "/etc/passwd", "sub/../../out.bin", "link.bin", ""])
def test_data_outside_of_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "out.bin").write_bytes(bytes(100))
    (folder / "link.bin").symlink_to(tmp_path / "out.bin")
    path = model_files.onnx(folder / "model.onnx", beside="weights.bin")
    _replace_location(path, location)
    with pytest.raises(UnsafeModelFileError, match="which is not in the model's folder"):
        load(path)


@pytest.mark.parametrize("location", ["missing.bin", "*/_ORT_MEM_ADDR_/*"])
def test_data_that_is_no_file_is_told(location: str, tmp_path: Path) -> None:
    """The second one is what onnxruntime itself takes for an address in its own memory."""
    path = model_files.onnx(tmp_path / "model.onnx", beside="weights.bin")
    _replace_location(path, location)
    with pytest.raises(InvalidModelFileError, match="which is not there"):
        load(path)


def test_a_model_that_onnxruntime_cannot_run_is_told(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("NoSuchOperator", [], ["y"])], "g", [], [])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(InvalidModelFileError, match="not an ONNX file that this onnxruntime can run"):
        load(tmp_path / "m.onnx")


def _replace_location(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


# What is read of the file


def serialized(*nodes: Any, initializers: Any = (), sparse: Any = ()) -> memoryview:
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers), sparse_initializer=list(sparse))
    return memoryview(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"],
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4, 5)])
def test_tensors_count_by_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    assert tensors_of(serialized(initializers=[numpy_helper.from_array(array)])).size_bytes == array.nbytes


def test_every_type_of_onnx_is_known() -> None:
    types = [number for name, number in TensorProto.DataType.items() if name not in ("UNDEFINED", "STRING")]
    for number in types:
        tensor = TensorProto(data_type=number, dims=[1000])
        expected = helper.tensor_dtype_to_np_dtype(number).itemsize * 1000
        size_bytes = tensors_of(serialized(initializers=[tensor])).size_bytes
        # Those of less than a byte are packed in the file, and have a byte each in numpy.
        assert size_bytes == expected or (expected == 1000 and size_bytes in (750, 500, 250)), number


def test_text_counts_as_it_is() -> None:
    tensor = TensorProto(data_type=TensorProto.STRING, dims=[2], string_data=[b"abc", b"de"])
    assert tensors_of(serialized(initializers=[tensor])).size_bytes == 5


def test_constants_count_wherever_they_are() -> None:
    tensor = numpy_helper.from_array(np.zeros(10, np.float32))
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    branch = helper.make_graph([constant], "b", [], [], [tensor])
    conditional = helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch)
    indices = numpy_helper.from_array(np.zeros(10, np.int64))
    sparse = helper.make_sparse_tensor(tensor, indices, [100])
    assert tensors_of(serialized(constant, conditional, sparse=[sparse])).size_bytes == 40 + 4 * 40 + 120


def test_functions_count() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(10, np.float32)))
    function = helper.make_function("d", "f", [], ["c"], [constant], [helper.make_opsetid("", 17)])
    model = helper.make_model(helper.make_graph([], "g", [], []), functions=[function])
    assert tensors_of(memoryview(model.SerializeToString())).size_bytes == 40


@pytest.mark.parametrize("content", [b"\xff" * 20, b"\x3a\x05\x00", b"\x3b", b"\x38\x01", b"\x3a\x02\x2a\x00\x01"])
def test_what_is_no_protobuf_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        tensors_of(memoryview(content))


def test_a_graph_in_a_graph_has_an_end() -> None:
    def message(number: int, inner: bytes) -> bytes:
        length = len(inner)
        size = b""
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + inner

    graph = b""
    for _ in range(100):
        graph = message(1, message(5, message(6, graph)))  # a node with an attribute that is a graph
    with pytest.raises(ValueError, match="nested too deeply"):
        tensors_of(memoryview(message(7, graph)))
