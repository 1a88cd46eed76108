"""Tensors, there and back, and what is said of those that are none."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplex.errors import InvalidTensorError
from modelplex.protocols.tensors import BF16, BYTES, DTYPES, Array, datatype_of, from_raw, to_array, to_list, to_raw

shapes = st.lists(st.integers(0, 4), max_size=4)

_FLOATS = {"FP16": 16, "FP32": 32, "FP64": 64}


def elements(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BOOL":
        return st.booleans()
    if datatype == BYTES:
        return st.binary(max_size=8)
    if datatype in _FLOATS:
        return st.floats(width=_FLOATS[datatype], allow_infinity=True)  # type: ignore[arg-type]
    limits = np.iinfo(DTYPES[datatype])
    return st.integers(int(limits.min), int(limits.max))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    datatype = draw(st.sampled_from([name for name in DTYPES if name != BF16]))
    shape = draw(shapes)
    size = int(np.prod(shape))
    found = np.empty(size, dtype=DTYPES[datatype])
    found[:] = draw(st.lists(elements(datatype), min_size=size, max_size=size))
    return found.reshape(shape)


def assert_same(found: Array, array: Array) -> None:
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    if array.dtype.kind == "O":
        assert found.tolist() == array.tolist()
    else:
        np.testing.assert_array_equal(found, array)  # for which a NaN is a NaN


@given(arrays())
def test_raw_bytes_there_and_back(array: Array) -> None:
    found = from_raw("x", datatype_of(array), array.shape, to_raw(array))
    assert_same(found, array)
    assert found.flags.writeable


@given(arrays())
def test_listed_values_there_and_back(array: Array) -> None:
    try:
        listed = to_list("x", array)
    except InvalidTensorError:
        values = array.ravel().tolist()
        assert any(_is_beyond_json(value) for value in values)
        return
    found = to_array("x", datatype_of(array), array.shape, listed)
    assert_same(found, array)
    assert found.flags.writeable


def _is_beyond_json(value: Any) -> bool:
    if isinstance(value, float):
        return value in (float("inf"), -float("inf"))
    try:
        value.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_nested_and_flat_data_are_the_same() -> None:
    nested, flat = [[1, 2, 3], [4, 5, 6]], [1, 2, 3, 4, 5, 6]
    assert to_array("x", "INT32", [2, 3], nested).tolist() == to_array("x", "INT32", [2, 3], flat).tolist() == nested
    assert to_array("x", "FP32", [], [5]).shape == ()
    assert to_array("x", "INT8", [0, 2], []).shape == (0, 2)


def test_null_is_nan_both_ways() -> None:
    array = to_array("x", "FP32", [2], [1.5, None])
    assert array[0] == 1.5
    assert np.isnan(array[1])
    assert to_list("x", array) == [1.5, None]


def test_bf16_is_float32_here_and_comes_out_of_arrays_of_its_type() -> None:
    import ml_dtypes

    values = np.array([1.0, -2.5, 0.15625], dtype=ml_dtypes.bfloat16)
    found = from_raw("x", "BF16", [3], values.tobytes())
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, -2.5, 0.15625]
    assert datatype_of(values) == "BF16"
    assert to_raw(values) == values.tobytes()
    assert to_list("x", values) == [1.0, -2.5, 0.15625]


def test_text_of_numpy_is_bytes() -> None:
    for array in (np.array(["a", "é"]), np.array(["a", "é"], dtype=object)):
        assert datatype_of(array) == BYTES
        assert to_raw(array) == b"\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xa9"
        assert to_list("x", array) == ["a", "é"]


def test_big_endian_and_other_layouts_are_sent_by_rows_in_little_endian() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert to_raw(array) == struct.pack("<6i", 0, 3, 1, 4, 2, 5)


@pytest.mark.parametrize(
    "array", [np.zeros(1, complex), np.zeros(1, "M8[s]"), np.array([object()]), np.array([1, None])]
)
def test_an_array_that_has_no_datatype_is_the_deployments_fault(array: Array) -> None:
    with pytest.raises(TypeError, match=r"datatype|BYTES"):
        to_raw(array)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP33", [1], [1], "there are BOOL"),
        ("UINT8", [1], [256], "UINT8 cannot hold"),
        ("UINT8", [1], [-1], "UINT8 cannot hold"),
        ("INT64", [1], [2**63], "INT64 cannot hold"),
        ("INT32", [1], [1.5], "list of integers"),
        ("INT32", [1], [True], "list of integers"),
        ("INT32", [1], ["1"], "list of integers"),
        ("INT32", [1], [None], "list of integers"),
        ("FP16", [1], [1e6], "FP16 cannot hold"),
        ("FP32", [1], [1e39], "FP32 cannot hold"),
        ("FP64", [1], [10**400], "FP64 cannot hold"),
        ("FP32", [1], ["1.5"], "list of numbers"),
        ("FP32", [1], [{}], "list of numbers"),
        ("FP32", [2], [1], "do not fit"),
        ("FP32", [4], [[1, 2], [3, 4]], "do not fit"),
        ("FP32", [2, 2], [[1, 2], [3]], "nested as its shape"),
        ("FP32", [1], 1, "list of numbers"),
        ("FP32", [1], None, "list of numbers"),
        ("FP32", [1], "1", "list of numbers"),
        ("BOOL", [1], [1], "true and false"),
        ("BYTES", [1], [1], "list of text"),
        ("BYTES", [1], ["\ud800"], "no Unicode"),
        ("FP32", [-1], [1], "at least 0"),
        ("FP32", [True], [1], "at least 0"),
        ("FP32", [2**64], [1], "64 bits"),
        ("FP32", [1] * 65, [1], "at most 64"),
        ("FP32", [0, 2**62], [], "too large"),
    ],
)
def test_data_that_is_no_tensor_is_the_clients_fault(datatype: str, shape: list[int], data: Any, said: str) -> None:
    with pytest.raises(InvalidTensorError, match=said) as caught:
        to_array("x", datatype, shape, data)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "said"),
    [
        ("FP32", [2], b"1234567", "takes 8 bytes; it has 7"),
        ("BF16", [2], b"12345678", "takes 4 bytes; it has 8"),
        ("FP32", [10**15], b"", "takes 4000000000000000 bytes"),
        ("BYTES", [1], b"\x02\x00\x00\x00a", "ends after"),
        ("BYTES", [1], b"\x02\x00", "ends after"),
        ("BYTES", [2], b"\x00\x00\x00\x00", "has not the 2 elements"),
        ("BYTES", [1], b"\x00\x00\x00\x00\x00\x00\x00\x00", "has not the 1 elements"),
        ("BYTES", [10**15], b"", "has not the"),
        ("TEXT", [1], b"", "there are BOOL"),
    ],
)
def test_raw_bytes_that_are_no_tensor_are_the_clients_fault(
    datatype: str, shape: list[int], raw: bytes, said: str
) -> None:
    with pytest.raises(InvalidTensorError, match=said):
        from_raw("x", datatype, shape, raw)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(-1, 2**70), max_size=3), st.binary(max_size=40))
def test_no_raw_bytes_do_any_harm(datatype: str, shape: list[int], raw: bytes) -> None:
    try:
        found = from_raw("x", datatype, shape, raw)
    except InvalidTensorError:
        return
    assert found.shape == tuple(shape)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=1), inner, max_size=2),
)


@given(st.sampled_from(sorted(DTYPES)), shapes, json_values)
def test_no_listed_values_do_any_harm(datatype: str, shape: list[int], data: Any) -> None:
    try:
        found = to_array("x", datatype, shape, data)
    except InvalidTensorError:
        return
    assert found.shape == tuple(shape)


def test_one_long_text_among_many_numbers_takes_no_room_for_each() -> None:
    """An array of text has the length of the longest for each element: this would be 10 GB."""
    with pytest.raises(InvalidTensorError):
        to_array("x", "FP32", [1001], [1.0] * 1000 + ["x" * 2_500_000])
