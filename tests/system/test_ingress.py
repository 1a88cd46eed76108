"""ASGI apps and WebSockets before real clients."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from served import Served, serving, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytestmark = pytest.mark.system

MODEL = {"serve-multiplexed-model-id": "a"}


@pytest.fixture(scope="module")
def views() -> Iterator[Served]:
    with serving("ingresses:views") as served:
        yield served


def client_of(served: Served) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=20.0, trust_env=False)


@pytest.fixture
def client(views: Served) -> Iterator[httpx.Client]:
    with client_of(views) as client:
        yield client


@contextlib.contextmanager
def socket_of(served: Served, path: str = "/echo", **options: Any) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{served.port}{path}", additional_headers=MODEL, proxy=None, **options) as socket:
        yield socket


# FastAPI


def test_methods_are_endpoints_whose_self_is_the_replicas_object(client: httpx.Client) -> None:
    assert client.get("/items/4", params={"plus": 2}).json() == 42
    assert client.get("/items/four").status_code == 422
    assert client.get("/inner/route").json() == 10


def test_a_pydantic_model_comes_and_goes_and_a_background_task_runs(client: httpx.Client, views: Served) -> None:
    assert client.post("/points", json={"x": 3}).json() == {"x": 30, "y": 2}
    wait_until(lambda: "background 3" in views.events, "the background task has run")


def test_a_dependency_is_a_method_and_leases_the_model(client: httpx.Client) -> None:
    answer = client.get("/predict", headers=MODEL)
    assert answer.json() == {"model": "A", "replica": "Views"}
    assert answer.headers["x-modelplex-model"] in ("cold", "warm")
    assert client.get("/predict", headers={**MODEL, "x-key": "mine"}).status_code == 401


def test_middleware_and_functions_of_the_module_see_the_model_and_the_lifespans_state(client: httpx.Client) -> None:
    answer = client.get("/of-the-module", headers=MODEL)
    assert answer.json() == {"model": "a", "greeting": "hello"}
    assert answer.headers["x-seen"] == "a"


def test_the_docs_know_their_endpoints_and_nothing_of_self(client: httpx.Client) -> None:
    assert "'/openapi.json'" in client.get("/docs").text
    paths = client.get("/openapi.json").json()["paths"]
    assert [p["name"] for p in paths["/items/{number}"]["get"]["parameters"]] == ["number", "plus"]
    assert "/inner/route" in paths


def test_an_exception_is_a_500_that_tells_nothing(client: httpx.Client) -> None:
    answer = client.get("/fail")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


def test_events_stream_until_the_client_leaves(client: httpx.Client, views: Served) -> None:
    with client.stream("GET", "/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in itertools.islice(answer.iter_lines(), 6) if line]
    assert lines == ["data: 0", "data: 1", "data: 2"]
    wait_until(lambda: "events over" in views.events, "the generator is closed")


def test_an_upload_is_read_while_it_arrives(client: httpx.Client) -> None:
    size = 3 * 2**20
    answer = client.put("/upload", content=(b"x" * 2**16 for _ in range(size // 2**16)))
    assert sum(map(int, answer.text.split())) == size


# WebSockets


def test_messages_go_both_ways_with_the_model_that_the_header_names(views: Served) -> None:
    with socket_of(views, subprotocols=["news", "chat"]) as socket:
        assert socket.subprotocol == "chat"
        for text in ("one", "ü" * 300_000, ""):
            socket.send(text)
            assert socket.recv(10) == f"A: {text}"
    wait_until(lambda: "echo over" in views.events, "the endpoint has ended")


def test_the_app_closes_with_its_code_and_reason(views: Served) -> None:
    with socket_of(views) as socket:
        socket.send("leave")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")  # type: ignore[union-attr]


@pytest.mark.parametrize(("text", "code"), [("fail", 1011), ("x" * (17 * 2**20), 1009)])
def test_what_goes_wrong_is_told_by_a_code(views: Served, text: str, code: int) -> None:
    with socket_of(views, compression=None) as socket:
        with contextlib.suppress(ConnectionClosed):
            socket.send(text)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code


def test_a_socket_that_is_not_accepted_is_refused(views: Served) -> None:
    with pytest.raises(InvalidStatus) as refused, socket_of(views, "/nowhere"):
        pass
    assert refused.value.response.status_code == 403


def test_a_replica_that_dies_takes_its_sockets_along_and_is_replaced(views: Served) -> None:
    with socket_of(views) as socket:
        socket.send("die")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    with socket_of(views, open_timeout=30) as socket:
        socket.send("again")
        assert socket.recv(10) == "A: again"


def test_a_server_that_stops_says_goodbye_and_the_lifespan_ends() -> None:
    with serving("ingresses:views") as served:
        with socket_of(served) as socket:
            assert served.stop() == 0
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert [e for e in served.events if e in ("startup", "shutdown")] == ["startup", "shutdown"]


# Other apps


def test_a_starlette_app() -> None:
    with serving("ingresses:starlette") as served:
        with client_of(served) as client:
            assert client.get("/", headers=MODEL).text == "GET / a"
            assert client.post("/").status_code == 405
        with socket_of(served, "/reverse") as socket:
            assert socket.response is not None
            assert socket.response.headers["x-own"] == "yes"
            socket.send(b"\x00\x01\xff")
            assert socket.recv(10) == b"\xff\x01\x00"
            socket.close(4002, "enough")
        wait_until(lambda: "websocket.disconnect 4002 enough" in served.events, "the app is told why")
        with socket_of(served, "/reverse") as socket:
            socket.send(b"a")
            socket.recv(10)
            socket.socket.close()
        wait_until(lambda: "websocket.disconnect 1006 " in served.events, "the app is told that nobody is there")


def test_a_bare_asgi_callable() -> None:
    with serving("ingresses:bare") as served, client_of(served) as client:
        answer = client.get("/")
        assert (answer.status_code, answer.text) == (201, "bare")
        assert client.get("/silent").status_code == 500
        wait_until(lambda: served.events == ["got http.request", "got http.disconnect"], "the app is told of the end")
        with pytest.raises(httpx.ReadTimeout):
            client.get("/wait", timeout=0.5)
        wait_until(lambda: len(served.events) == 4, "the app is told that its client has left")
        assert served.events[2:] == ["got http.request", "got http.disconnect"]


def test_an_app_that_a_function_builds() -> None:
    with serving("ingresses:built") as served:
        assert served.call(path="/").body == b'"Built"'


def test_a_deployment_without_an_app_takes_no_sockets() -> None:
    with serving("ingresses:plain") as served:
        assert served.call().body == b"plain"
        with pytest.raises(InvalidStatus) as refused, socket_of(served, "/"):
            pass
        assert refused.value.response.status_code == 400
        assert b"it has no ASGI app" in refused.value.response.body
