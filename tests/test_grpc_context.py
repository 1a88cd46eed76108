from typing import Any

import grpc
import pytest

from modelplex.grpc_context import CallEndedError, GRPCContext, status_number
from modelplex.serve.grpc_util import RayServegRPCContext


def test_it_has_what_the_client_sent_and_what_the_method_says() -> None:
    context = RayServegRPCContext([("name", "value")], "ipv4:127.0.0.1:1")
    assert (context.invocation_metadata(), context.peer()) == ((("name", "value"),), "ipv4:127.0.0.1:1")
    assert (context.code(), context.details(), context.trailing_metadata()) == (None, "", [])
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("none")
    context.set_trailing_metadata([("a", "b"), ("c-bin", b"\xff")])
    assert (context.code(), context.details()) == (grpc.StatusCode.NOT_FOUND, "none")
    assert context.trailing_metadata() == [("a", "b"), ("c-bin", b"\xff")]


def test_an_abort_ends_the_method() -> None:
    context = GRPCContext([], "")
    with pytest.raises(CallEndedError, match="not now"):
        context.abort(grpc.StatusCode.ABORTED, "not now", [("a", "b")])
    assert (status_number(context.code()), context.trailing_metadata()) == (10, [("a", "b")])


@pytest.mark.parametrize("code", [-1, 17, "NOT_FOUND", None])
def test_a_status_that_is_none_is_refused(code: Any) -> None:
    with pytest.raises(ValueError, match="a number from 0 to 16"):
        GRPCContext([], "").set_code(code)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Name", "x"),
        ("a b", "x"),
        ("", "x"),
        ("grpc-status", "0"),
        ("a", b"x"),
        ("a-bin", "x"),
        ("a", "x\n"),
        ("a", "ä"),
    ],
)
def test_metadata_that_cannot_be_sent_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="Metadata have"):
        GRPCContext([], "").set_trailing_metadata([(name, value)])
