"""The proxy that the tests of stores stand on: each fault really happens, and what it counts is what was sent."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator

import faulty_proxy as faults
import pytest
import requests
from faulty_proxy import Fault, FaultyProxy, RandomPlan, Rule, faulty_proxy
from object_servers import ObjectServer, moto, range_server
from s3_server import aws_environment

pytestmark = [pytest.mark.system, pytest.mark.stores]

BODY = bytes(range(256)) * 1000
KEY = "some model/weights.bin"
RANGE = {"Range": "bytes=1000-200999"}
ASKED = BODY[1000:201000]
# For sockets of this machine.
TIMEOUT_S = 10.0
SHORT_S = 0.3


@pytest.fixture(scope="module", params=[moto, range_server])
def server(request: pytest.FixtureRequest) -> Iterator[ObjectServer]:
    running: contextlib.AbstractContextManager[ObjectServer] = request.param()
    with running as server:
        server.put(KEY, BODY)
        yield server


@pytest.fixture
def proxy(server: ObjectServer) -> Iterator[FaultyProxy]:
    with faulty_proxy(server.url) as proxy:
        yield proxy


def get(
    proxy: FaultyProxy, headers: dict[str, str] | None = None, *, timeout_s: float = TIMEOUT_S, method: str = "GET"
) -> requests.Response:
    headers = {"Accept-Encoding": "identity", **(headers or {})}
    return requests.request(method, f"{proxy.url}/bucket/{KEY}", headers=headers, timeout=timeout_s)


def failing(proxy: FaultyProxy, fault: Fault, method: str = "GET") -> None:
    proxy.fails(Rule(fault, method))


def test_without_faults_it_is_not_there(proxy: FaultyProxy) -> None:
    whole, part = get(proxy), get(proxy, RANGE)
    assert (whole.status_code, whole.content) == (200, BODY)
    assert (part.status_code, part.content) == (206, ASKED)
    assert part.headers["Content-Range"] == f"bytes 1000-200999/{len(BODY)}"
    head = get(proxy, method="HEAD")
    assert head.headers["Content-Length"] == str(len(BODY))
    assert head.headers["ETag"] == whole.headers["ETag"] == part.headers["ETag"]
    assert get(proxy, {"If-Match": head.headers["ETag"], **RANGE}).content == ASKED
    assert get(proxy, {"If-Match": '"another"', **RANGE}).status_code == 412
    assert requests.get(f"{proxy.url}/bucket/none", timeout=TIMEOUT_S).status_code == 404


def test_it_counts_what_it_sends(proxy: FaultyProxy) -> None:
    for _ in range(3):
        get(proxy, RANGE)
    get(proxy, method="HEAD")
    assert proxy.sent_by_key() == {f"bucket/{KEY}": 3 * len(ASKED)}
    assert proxy.sent_bytes("weights") == 3 * len(ASKED)
    assert len(proxy.requests("HEAD")) == 1
    assert proxy.requests()[0].request.span == (1000, 201000)


def test_requests_of_one_connection_are_served_one_by_one(proxy: FaultyProxy) -> None:
    with requests.Session() as session:
        assert all(session.get(f"{proxy.url}/bucket/{KEY}", timeout=TIMEOUT_S).content == BODY for _ in range(5))
    assert proxy.sent_bytes() == 5 * len(BODY)


def test_slow_answers(proxy: FaultyProxy) -> None:
    for fault in (faults.late(SHORT_S), faults.dripping(SHORT_S)):
        failing(proxy, fault)
        began = time.monotonic()
        assert get(proxy, RANGE).content == ASKED
        assert time.monotonic() - began >= SHORT_S
        assert proxy.faults() == {fault.name: 1}


@pytest.mark.parametrize(
    "fault",
    [faults.reset_before_head, faults.closed_before_head, faults.reset_in_body, faults.closed_in_body],
    ids=lambda fault: fault.__name__,
)
def test_connections_that_break(proxy: FaultyProxy, fault: Callable[[], Fault]) -> None:
    failing(proxy, fault())
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)) as caught:
        get(proxy, RANGE)
    assert ("reset" in str(caught.value)) == ("reset" in fault().name)
    assert proxy.sent_bytes() == (len(ASKED) // 2 if "body" in fault().name else 0)
    assert get(proxy, RANGE).content == ASKED  # the next one is all right


def test_other_statuses(proxy: FaultyProxy) -> None:
    for fault in (faults.status(500), faults.status(429), faults.status(403)):
        failing(proxy, fault)
        assert get(proxy, RANGE).status_code == int(fault.name)
    failing(proxy, faults.slow_down())
    answer = get(proxy, RANGE)
    assert (answer.status_code, b"<Code>SlowDown</Code>" in answer.content) == (503, True)
    assert proxy.sent_bytes() == 0


def test_bodies_of_another_length(proxy: FaultyProxy) -> None:
    wrong = {
        faults.longer_than_asked(): ASKED + b"?",
        faults.shorter_than_asked(): ASKED[:-1],
        faults.longer_than_said(): ASKED[:-1],
        faults.whole_body(): BODY,
    }
    for fault, body in wrong.items():
        failing(proxy, fault)
        assert get(proxy, RANGE).content == body
    assert get(proxy, RANGE).content == ASKED


def test_heads_that_lie(proxy: FaultyProxy) -> None:
    failing(proxy, faults.other_range())
    assert get(proxy, RANGE).headers["Content-Range"] == f"bytes 1001-201000/{len(BODY)}"
    failing(proxy, faults.other_etag('"x"'))
    assert get(proxy, RANGE).headers["ETag"] == '"x"'
    failing(proxy, faults.no_etag())
    assert "ETag" not in get(proxy, RANGE).headers
    failing(proxy, faults.other_length(-5), "HEAD")
    assert get(proxy, method="HEAD").headers["Content-Length"] == str(len(BODY) - 5)


def test_an_object_that_changes_between_two_requests(server: ObjectServer, proxy: FaultyProxy) -> None:
    other = hashlib.sha256(BODY).digest() * 8000
    proxy.fails(Rule(faults.replaced(lambda: server.put(KEY, other)), skip=1))
    before = get(proxy, RANGE)
    after = get(proxy, RANGE)
    server.put(KEY, BODY)
    assert (before.content, after.content) == (ASKED, other[1000:201000])
    assert before.headers["ETag"] != after.headers["ETag"]


def test_a_connection_that_never_answers(proxy: FaultyProxy) -> None:
    failing(proxy, faults.black_hole())
    with pytest.raises(requests.ReadTimeout):
        get(proxy, RANGE, timeout_s=SHORT_S)
    assert get(proxy, RANGE).content == ASKED


def test_an_answer_is_held_until_the_test_lets_it_go(proxy: FaultyProxy) -> None:
    may_go = threading.Event()
    failing(proxy, faults.held(may_go))
    answers: list[bytes] = []
    client = threading.Thread(target=lambda: answers.append(get(proxy, RANGE).content))
    client.start()
    proxy.until_seen(1)
    assert not answers
    may_go.set()
    client.join(TIMEOUT_S)
    assert answers == [ASKED]


def test_rules_choose_their_requests(proxy: FaultyProxy) -> None:
    proxy.fails(
        Rule(faults.status(500), start=1000, skip=1, times=2),
        Rule(faults.status(403), key="other"),
        Rule(faults.status(404), method="HEAD", times=None),
    )
    assert [get(proxy, RANGE).status_code for _ in range(4)] == [206, 500, 500, 206]
    assert get(proxy).status_code == 200
    assert [get(proxy, method="HEAD").status_code for _ in range(3)] == [404] * 3


def test_random_plans_are_those_of_their_seed(proxy: FaultyProxy) -> None:
    def statuses(seed: int) -> list[int]:
        proxy.fails(RandomPlan(seed, [faults.status(500), faults.slow_down()], chance=0.5, times=4))
        return [get(proxy, RANGE).status_code for _ in range(12)]

    first = statuses(1)
    assert first == statuses(1) != statuses(2)
    assert sum(status != 206 for status in first) == 4


def test_an_s3_client_finds_objects_through_it(proxy: FaultyProxy, server: ObjectServer) -> None:
    if server.scheme != "s3":
        pytest.skip("no S3 server")
    import boto3

    server.put_in_parts("large", BODY * 25)  # type: ignore[attr-defined] # Moto's
    with aws_environment(proxy.url):
        client = boto3.client("s3")
        listed = {entry["Key"]: entry["ETag"] for entry in client.list_objects_v2(Bucket="bucket")["Contents"]}
        assert client.get_object(Bucket="bucket", Key="large")["Body"].read() == BODY * 25
    assert listed["large"].endswith('-2"')
    assert KEY in listed
    assert proxy.sent_by_key() == {"bucket/large": len(BODY) * 25}
