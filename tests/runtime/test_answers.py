"""What user code returned, as an HTTP answer."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplex.runtime.answers import encode


def content_type(value: Any) -> bytes:
    [(name, value)] = encode(value)[0]
    assert name == b"content-type"
    assert isinstance(value, bytes)
    return value


def body(value: Any) -> bytes:
    return encode(value)[1]


def test_none_is_an_empty_text() -> None:
    assert encode(None) == ([(b"content-type", b"text/plain")], b"")


@pytest.mark.parametrize("text", ["", "hello", "żółw 模型"])
def test_text_is_itself(text: str) -> None:
    assert content_type(text) == b"text/plain; charset=utf-8"
    assert body(text).decode() == text


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_bytes_are_themselves(make: type) -> None:
    assert content_type(make(b"\x00\xff")) == b"text/plain"
    assert body(make(b"\x00\xff")) == b"\x00\xff"
    assert type(body(make(b"\x00\xff"))) is bytes


@dataclass
class Result:
    label: str
    score: float


class Checked(pydantic.BaseModel):
    label: str
    page: pydantic.HttpUrl  # which nobody but pydantic knows how to write


CHECKED = Checked(label="cat", page=pydantic.HttpUrl("http://cats.example/1"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (1.5, "1.5"),
        (True, "true"),
        ([1, "a", None], '[1,"a",null]'),
        ((1, 2), "[1,2]"),
        ({"a": {"b": [1]}}, '{"a":{"b":[1]}}'),
        ({1: "one"}, '{"1":"one"}'),
        ({}, "{}"),
        (["ü"], '["ü"]'),
        (2**70, str(2**70)),
        (Result("cat", 0.5), '{"label":"cat","score":0.5}'),
        ([Result("cat", 0.5)], '[{"label":"cat","score":0.5}]'),
        (CHECKED, '{"label":"cat","page":"http://cats.example/1"}'),
        ({"best": CHECKED}, '{"best":{"label":"cat","page":"http://cats.example/1"}}'),
        (np.array([[1, 2], [3, 4]]), "[[1,2],[3,4]]"),
        (np.array(5), "5"),
        (np.array([]), "[]"),
        (np.float32(0.5), "0.5"),
        (np.float64(0.5), "0.5"),
        (np.int64(7), "7"),
        (np.bool_(True), "true"),
        ({"scores": np.array([0.5]), "best": np.int8(1)}, '{"scores":[0.5],"best":1}'),
    ],
    ids=repr,
)
def test_the_rest_is_json(value: Any, expected: str) -> None:
    assert (content_type(value), body(value).decode()) == (b"application/json", expected)


@given(
    st.recursive(
        st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner | st.text() | st.none()) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_reads_back_as_it_was(value: Any) -> None:
    assert json.loads(body(value)) == value


class Unknown:
    pass


@pytest.mark.parametrize("value", [Unknown(), [Unknown()], {"a": {"b": Unknown()}}], ids=["alone", "list", "dict"])
def test_what_cannot_be_answered_is_refused_by_the_name_of_its_type(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"cannot answer HTTP with {Unknown.__module__}\.Unknown: return str, bytes"):
        encode(value)
