"""Answers, read from bytes."""

import pytest

from benchmarks.dataplane.client import parse_head, unchunked

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_head_has_a_status_and_headers_in_small_letters() -> None:
    status, headers = parse_head(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nX-At: a:b\r\n\r\n")
    assert status == 503
    assert headers == {"retry-after": "1", "x-at": "a:b"}


def test_chunks_are_joined_wherever_their_borders_are() -> None:
    """A proxy may make other chunks of a stream; what looks like a border inside of one is none."""
    assert unchunked(HEAD + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n") == b"abc0123456789"
    assert unchunked(HEAD + b"7\r\na\r\n0\r\n\r\n0\r\n\r\n") == b"a\r\n0\r\n\r"
    assert unchunked(HEAD + b"0\r\n\r\n") == b""


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"3\r\nabc\r\n",
        HEAD,
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b"nothing 0\r\n\r\n",
    ],
)
def test_what_is_not_whole_is_an_error(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"chunks|subsection|invalid literal"):
        unchunked(answer)
