"""A user's own services over gRPC, by the client that protoc makes."""

import contextlib
import importlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import make_certificate
from grpc_shop_client import SERVICER, Shop, compile_shop, grpc_address, serving_shop
from served import children_of, serving, wait_until
from started import home_in

from modelplex import serve
from modelplex.serve.config import gRPCOptions

pytestmark = [pytest.mark.system, pytest.mark.doors]

TIMEOUT_S = 30.0
GRPC = {"port": 0, "grpc_servicer_functions": [SERVICER]}
MODEL = "multiplexed_model_id"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shop")
    compile_shop(made)
    return made


@pytest.fixture(scope="module")
def shop(folder: Path) -> Iterator[Shop]:
    with serving_shop(folder, proxies=2) as served:
        yield served


def question(text: str = "", wait_s: float = 0.0) -> Any:
    return importlib.import_module("asked_pb2").Question(text=text, wait_s=wait_s)


def call(method: Any, text: str = "", wait_s: float = 0.0, timeout_s: float = TIMEOUT_S, **metadata: str) -> Any:
    """The reply, with the metadata that came before and after it."""
    told = list(metadata.items())
    reply, about = method.with_call(question(text, wait_s), timeout=timeout_s, metadata=told)
    return reply, dict(about.initial_metadata()), dict(about.trailing_metadata())


def failure(method: Any, text: str = "", wait_s: float = 0.0, timeout_s: float = TIMEOUT_S, **metadata: str) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(method, text, wait_s, timeout_s, **metadata)
    return caught.value


def test_a_method_of_the_deployment_gets_the_message_and_returns_one(shop: Shop) -> None:
    reply, before, after = call(shop.stub.Answer, "hello", request_id="mine-1", multiplexed_model_id="m@1")
    assert (reply.text, reply.model_id, reply.request_id) == ("HELLO", "m@1", "mine-1")
    assert before["request_id"] == after["request_id"] == "mine-1"
    assert after["x-modelplex-replica"].startswith("default_Shop#")


def test_a_request_id_that_is_not_given_or_not_sound_is_made(shop: Shop) -> None:
    both: list[dict[str, Any]] = [{}, {"request_id": "two words"}]
    for given in both:
        reply, _, after = call(shop.stub.Answer, "x", **given)
        assert reply.request_id == after["request_id"]
        assert after["request_id"].isprintable()
        assert " " not in after["request_id"]


@pytest.mark.parametrize("name", [MODEL, "multiplexed-model-id", "serve_multiplexed_model_id"])
def test_the_model_is_named_by_the_metadata_and_loaded_once(shop: Shop, name: str) -> None:
    model_id = f"by-{name}"
    named: dict[str, Any] = {name: model_id}
    first, _, cold = call(shop.stub.Model, "x", **named)
    _, _, warm = call(shop.stub.Model, "x", **named)
    assert first.model == f"model {model_id}"
    assert (cold["x-modelplex-model"], warm["x-modelplex-model"]) == ("cold", "warm")
    assert shop.served.events.count(f"load {model_id}") == 1


def test_two_names_for_the_model_are_refused(shop: Shop) -> None:
    error = failure(shop.stub.Answer, "x", multiplexed_model_id="a", serve_multiplexed_model_id="b")
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "names two models, 'a' and 'b'" in error.details()


def test_what_is_wrong_with_a_call_is_its_status(shop: Shop) -> None:
    wrong = failure(shop.stub.Model, multiplexed_model_id="../x")
    assert (wrong.code(), "malformed" in wrong.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    absent = failure(shop.stub.Model, multiplexed_model_id="absent-1")
    assert (absent.code(), absent.details()) == (grpc.StatusCode.NOT_FOUND, "There is no model 'absent-1'.")
    nowhere = failure(shop.stub.Answer, application="other")
    assert nowhere.code() == grpc.StatusCode.NOT_FOUND
    assert "there is no 'other': default" in nowhere.details()
    missing = failure(shop.stub.NotThere)
    assert missing.code() == grpc.StatusCode.UNIMPLEMENTED


def test_what_user_code_raises_is_nobody_elses_business(shop: Shop) -> None:
    for method in (shop.stub.Fail, shop.stub.WrongType):
        error = failure(method, "word")
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Internal Server Error")
    wait_until(lambda: "secret word" in shop.served.log, "the log has it")


def test_the_context_says_more_than_the_message(shop: Shop) -> None:
    reply, _, after = call(shop.stub.Context, tell="me")
    assert reply.text.startswith("ipv4:127.0.0.1:")
    assert (after["told"], after["raw-bin"]) == ("me", b"\x00\xff")
    code = failure(shop.stub.Context, "code", tell="me")
    assert (code.code(), code.details()) == (grpc.StatusCode.ALREADY_EXISTS, "there already")
    assert dict(code.trailing_metadata())["told"] == "me"
    aborted = failure(shop.stub.Context, "abort")
    assert (aborted.code(), aborted.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")
    raised = failure(shop.stub.Context, "raise")
    assert (raised.code(), raised.details()) == (grpc.StatusCode.ABORTED, "")


def test_streams_of_answers_and_of_questions(shop: Shop) -> None:
    count = shop.stub.Count(question("300"), timeout=TIMEOUT_S)
    assert [reply.text for reply in count] == [str(number) for number in range(300)]
    assert "x-modelplex-replica" in dict(count.trailing_metadata())
    assert [reply.text for reply in shop.stub.Count(question("0"), timeout=TIMEOUT_S)] == []
    words = [question(word) for word in "abc"]
    assert shop.stub.Join(iter(words), timeout=TIMEOUT_S).text == "a b c"
    assert shop.stub.Join(iter([]), timeout=TIMEOUT_S).text == ""


def test_a_chat_goes_back_and_forth(shop: Shop) -> None:
    said = threading.Semaphore(0)

    def questions() -> Iterator[Any]:
        for word in ("one", "two", "three"):
            yield question(word)
            assert said.acquire(timeout=TIMEOUT_S), "no answer to the question before"

    heard = []
    for reply in shop.stub.Chat(questions(), timeout=TIMEOUT_S):
        heard.append(reply.text)
        said.release()
    assert heard == ["ONE", "TWO", "THREE"]


def test_a_stream_that_fails_has_what_came_before(shop: Shop) -> None:
    stream = shop.stub.FailLate(question("word"), timeout=TIMEOUT_S)
    assert next(stream).text == "first"
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    error: Any = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "Internal Server Error")


def test_messages_of_any_size_up_to_the_limit(folder: Path) -> None:
    file = folder / "limited.yaml"
    file.write_text(
        "http_options: {max_body_bytes: 2_000_000}\n"
        f"grpc_options: {{port: 0, grpc_servicer_functions: ['{SERVICER}'], request_timeout_s: 0.5}}\n"
        "applications: [{import_path: 'grpc_shop:app'}]\n"
    )
    with serving(str(file), folder) as served, grpc.insecure_channel(grpc_address(served)) as channel:
        stub = importlib.import_module("asked_pb2_grpc").ShopStub(channel)
        assert call(stub.Answer, "a" * 1_900_000, timeout_s=TIMEOUT_S)[0].text == "A" * 1_900_000
        large = failure(stub.Answer, "a" * 2_100_000)
        assert large.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:  # small on its way, and large when it is read
            stub.Answer(question("a" * 5_000_000), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
        bomb: Any = caught.value
        assert bomb.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        late = failure(stub.Wait, wait_s=20.0)
        assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def ended(shop: Shop) -> int:
    return shop.served.events.count("cancelled")


def test_the_clients_deadline_cancels_the_request(shop: Shop) -> None:
    before = ended(shop)
    error = failure(shop.stub.Wait, wait_s=60.0, timeout_s=0.3)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: ended(shop) == before + 1, "the request was cancelled")


def test_a_client_that_cancels_cancels_the_request(shop: Shop) -> None:
    before, begun = ended(shop), shop.served.events.count("begun")
    future = shop.stub.Wait.future(question(wait_s=60.0), timeout=TIMEOUT_S)
    wait_until(lambda: shop.served.events.count("begun") == begun + 1, "it runs")
    future.cancel()
    wait_until(lambda: ended(shop) == before + 1, "the request was cancelled")
    assert call(shop.stub.Answer, "x")[0].text == "X"


def test_a_client_that_leaves_a_chat_leaves_nothing_behind(shop: Shop) -> None:
    over = threading.Event()

    def questions() -> Iterator[Any]:
        yield question("one")
        over.wait(TIMEOUT_S)

    for _ in range(3):  # of two slots
        chat = shop.stub.Chat(questions(), timeout=TIMEOUT_S)
        assert next(chat).text == "ONE"
        chat.cancel()
        over.set()
        over.clear()
    wait_until(lambda: _answers(shop), "the slots are free again")
    assert "never retrieved" not in shop.served.log


def test_a_full_queue_is_told_with_when_to_try_again(shop: Shop) -> None:
    begun = shop.served.events.count("begun")
    waiting = [shop.stub.Wait.future(question(wait_s=60.0), timeout=TIMEOUT_S) for _ in range(2)]
    wait_until(lambda: shop.served.events.count("begun") == begun + 2, "all slots are taken")
    queued = [shop.stub.Answer.future(question("x"), timeout=TIMEOUT_S) for _ in range(12)]
    try:
        wait_until(lambda: any(each.done() for each in queued), "some are refused")
        [error, *_] = [each.exception() for each in queued if each.done()]
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        told = dict(error.trailing_metadata())
        assert int(told["retry-after"]) >= 1
        assert int(told["grpc-retry-pushback-ms"]) > 0
    finally:
        for each in (*waiting, *queued):
            each.cancel()
    wait_until(lambda: _answers(shop), "the slots are free again")


def _answers(shop: Shop) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return bool(call(shop.stub.Answer, "x"))
    return False


def test_services_of_the_servers_own(shop: Shop) -> None:
    with grpc.insecure_channel(shop.address) as channel:

        def ask(path: str) -> bytes:
            answer: bytes = channel.unary_unary(path)(b"", timeout=TIMEOUT_S)
            return answer

        assert ask("/grpc.health.v1.Health/Check") == b"\x08\x01"
        assert ask("/ray.serve.RayServeAPIService/Healthz") == b"\x0a\x07success"
        assert ask("/ray.serve.RayServeAPIService/ListApplications") == b"\x0a\x07default"
        for path in ("/asked.Shop/None", "/None/None", "/inference.GRPCInferenceService/ServerLive"):
            with pytest.raises(grpc.RpcError) as caught:
                ask(path)
            error: Any = caught.value
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message_are_refused(shop: Shop) -> None:
    with grpc.insecure_channel(shop.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/asked.Shop/Answer")(b"\xff\xff\xff", timeout=TIMEOUT_S)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "the message that Answer takes" in error.details()


def test_a_port_that_is_taken_is_why_nothing_is_served(folder: Path) -> None:
    with serving_shop(folder) as shop:
        port = shop.address.rpartition(":")[2]
        taken = f"Cannot listen for gRPC on 127.0.0.1:{port}: Address already in use"
        arguments = ["--grpc-port", port]
        with pytest.raises(AssertionError, match=taken), serving("grpc_shop:app", folder, arguments=arguments):
            pass


def test_a_proxy_that_dies_is_replaced_at_the_same_port(folder: Path) -> None:
    with serving_shop(folder) as shop:
        before = set(children_of(shop.served.process.pid))
        [proxy] = [pid for pid in before if "proxy" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(proxy, signal.SIGKILL)
        deadline = time.monotonic() + TIMEOUT_S
        while not _answers(shop):
            assert time.monotonic() < deadline
        assert set(children_of(shop.served.process.pid)) != before


def test_calls_that_run_may_end_when_the_program_does(folder: Path) -> None:
    with serving_shop(folder) as shop:
        waits = shop.stub.Wait.future(question(wait_s=1.0), timeout=TIMEOUT_S)
        wait_until(lambda: "begun" in shop.served.events, "it runs")
        assert shop.served.stop() == 0
        assert waits.result(timeout=TIMEOUT_S).text == "waited"


def test_the_files_of_https_serve_grpc_and_clients_have_to_show_certificates(folder: Path, tmp_path: Path) -> None:
    own, clients = make_certificate(tmp_path, "server"), make_certificate(tmp_path, "client")
    root = Path(own.cert).read_bytes()
    stubs = importlib.import_module("asked_pb2_grpc")
    http = {"port": 0, "ssl_certfile": own.cert, "ssl_keyfile": own.key, "ssl_ca_certs": clients.cert}
    options = gRPCOptions(port=0, grpc_servicer_functions=[stubs.add_ShopServicer_to_server])
    serve.start(http, grpc_options=options)
    try:
        serve.run(importlib.import_module("grpc_shop").app)
        address = serve.status().grpc_address
        shown = grpc.ssl_channel_credentials(root, Path(clients.key).read_bytes(), Path(clients.cert).read_bytes())
        with grpc.secure_channel(address, shown) as channel:
            assert call(stubs.ShopStub(channel).Answer, "x")[0].text == "X"
        silent = grpc.secure_channel(address, grpc.ssl_channel_credentials(root))
        for stranger in (silent, grpc.insecure_channel(address)):
            with stranger as channel:
                assert failure(stubs.ShopStub(channel).Answer, "x").code() == grpc.StatusCode.UNAVAILABLE
    finally:
        serve.shutdown()


def test_a_system_on_its_own_serves_on_at_the_same_port_when_its_controller_has_died(folder: Path) -> None:
    with home_in(folder) as system:
        file = system.config({"import_path": "grpc_shop:app"}, grpc_options=dict(GRPC))
        system.start(file, "--app-dir", str(folder), EVENTS=str(folder / "events"))
        address = system.status["grpc_address"]
        with grpc.insecure_channel(address) as channel:
            stub = importlib.import_module("asked_pb2_grpc").ShopStub(channel)
            assert call(stub.Answer, "x")[0].text == "X"
            system.kill_controller()
            assert call(stub.Answer, "y")[0].text == "Y"
            system.start()
            assert system.status["grpc_address"] == address
            assert call(stub.Answer, "z")[0].text == "Z"
            [proxy] = system.proxies()
            os.kill(proxy, signal.SIGKILL)
            wait_until(lambda: system.proxies() not in ([], [proxy]), "there is another proxy")
            deadline = time.monotonic() + TIMEOUT_S
            while not _answers(Shop(None, address, stub)):  # type: ignore[arg-type]
                assert time.monotonic() < deadline
