"""The server that speaks as much of S3 as its clients need."""

import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stores import servers

pytestmark = [pytest.mark.system, pytest.mark.stores]

BODY = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "models" / "a").mkdir(parents=True)
    (folder / "models" / "a" / "b.bin").write_bytes(BODY)
    (folder / "models" / "c.bin").write_bytes(b"")
    with servers.fast(folder) as environment:
        yield int(environment["AWS_ENDPOINT_URL"].rpartition(":")[2])


def ask(port: int, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_an_object_is_told_of_and_sent(port: int) -> None:
    head, nothing = ask(port, "HEAD", "/models/a/b.bin")
    assert (head.status, head.headers["content-length"], nothing) == (200, str(len(BODY)), b"")
    answer, body = ask(port, "GET", "/models/a/b.bin")
    assert (answer.status, body, answer.headers["etag"]) == (200, BODY, head.headers["etag"])
    assert ask(port, "GET", "/models/c.bin")[1] == b""


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-9", 0, 10), ("1000-1999", 1000, 2000), ("102000-", 102000, 102400), ("5-999999", 5, 102400)],
)
def test_a_part_of_it(port: int, asked: str, start: int, end: int) -> None:
    answer, body = ask(port, "GET", "/models/a/b.bin", range=f"bytes={asked}")
    assert (answer.status, body) == (206, BODY[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(BODY)}"


def test_another_version_no_such_part_and_no_such_object_are_refused(port: int) -> None:
    etag = ask(port, "HEAD", "/models/a/b.bin")[0].headers["etag"]
    assert ask(port, "GET", "/models/a/b.bin", if_match=etag)[0].status == 200
    assert ask(port, "GET", "/models/a/b.bin", if_match='"other"')[0].status == 412
    assert ask(port, "GET", "/models/a/b.bin", range="bytes=102400-")[0].status == 416
    assert ask(port, "GET", "/models/nothing")[0].status == 404


def test_objects_are_listed(port: int) -> None:
    body = ask(port, "GET", "/models?list-type=2&prefix=a/")[1].decode()
    assert "<Key>a/b.bin</Key>" in body
    assert "c.bin" not in body


def test_a_connection_stays_open_after_an_answer_and_after_a_refusal(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()
    for path, status in [("/models/a/b.bin", 200), ("/models/nothing", 404), ("/models/c.bin", 200)]:
        before = connection.sock
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert connection.sock is before is not None
    connection.close()


def test_a_connection_brings_no_more_than_the_limit(tmp_path: Path) -> None:
    """By how long the next answer on the same connection takes to begin: what is on its way counts as sent."""
    limit_bytes_per_s = 1e6
    (tmp_path / "c.bin").write_bytes(BODY)
    with servers.fast(tmp_path, limit_bytes_per_s) as environment:
        connection = http.client.HTTPConnection("127.0.0.1", int(environment["AWS_ENDPOINT_URL"].rpartition(":")[2]))
        began = time.monotonic()
        for method in ("GET", "HEAD"):
            connection.request(method, "/c.bin")
            connection.getresponse().read()
        rate_bytes_per_s = len(BODY) / (time.monotonic() - began)
        connection.close()
    assert rate_bytes_per_s < 1.01 * limit_bytes_per_s
