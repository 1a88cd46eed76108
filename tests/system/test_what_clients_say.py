"""What clients send, and where it may not come to: paths, lines of logs, pickle."""

import os
import pickle
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import Served, serving, wait_until

from modelplex.config import check_model_id
from modelplex.errors import InvalidModelIdError

pytestmark = [pytest.mark.system, pytest.mark.doors]

PROGRAM = """
import os
from pathlib import Path

from modelplex import serve
from modelplex.errors import ModelNotFoundError

ROOT = Path(os.environ["EVENTS"]).parent / "models"


@serve.deployment
class Files:
    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id):
        file = ROOT / model_id
        if not file.is_file():
            raise ModelNotFoundError(f"There is no model {model_id!r}.")
        return file.read_text()

    async def __call__(self, request):
        if request.method == "POST":
            return {"type": type(await request.body()).__name__}
        if request.url.path.startswith("/fail"):
            raise ValueError(f"no such page: {request.url.path}")
        return await self.get_model(serve.get_multiplexed_model_id())


app = Files.bind()
"""

HOSTILE_IDS = [
    "..",
    "../secret",
    "a/../../secret",
    "/etc/passwd",
    "a//b",
    "a/",
    "..\\secret",
    "a\0b",
    "%2e%2e/secret",
    "a b",
    "~root",
    "$(id)",
    "`id`",
    "{0.__class__}",
    "%s%n",
    "a\tb",
    "\x1b[2J",
    "é",
    "x" * 257,
]


@pytest.mark.parametrize("model_id", HOSTILE_IDS)
def test_an_id_that_could_be_something_else_is_none(model_id: str) -> None:
    with pytest.raises(InvalidModelIdError) as caught:
        check_model_id(model_id)
    assert str(caught.value).isprintable()


def raw(port: int, *lines: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", b"Connection: close", *lines, b"", b""]))
        heard = b""
        while part := client.recv(65536):
            heard += part
        return heard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files.py").write_text(PROGRAM)
    return tmp_path


def models_of(served: Served) -> Path:
    folder = served._events.parent / "models"
    folder.mkdir(exist_ok=True)
    (folder / "good").write_text("good")
    (folder.parent / "secret").write_text("the secret")
    return folder


def test_ids_that_clients_send_never_become_paths(folder: Path) -> None:
    with serving("files:app", folder) as served:
        models_of(served)
        assert served.call("good").body == b"good"
        for model_id in HOSTILE_IDS:
            heard = raw(served.port, b"serve_multiplexed_model_id: " + model_id.encode())
            assert heard.startswith(b"HTTP/1.1 400 "), model_id
            assert b"the secret" not in heard
            assert model_id.encode() not in heard.replace(b"x" * 64, b"") or model_id.isprintable()


def test_what_a_client_sends_never_begins_a_line_of_the_log(folder: Path) -> None:
    forged = "%0d%0aERROR 2026-01-01 00:00:00,000 forged%1b[2J%00%e2%80%a8"
    with serving("files:app", folder) as served:
        models_of(served)
        with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", trust_env=False) as client:
            assert client.get(f"/fail/{forged}".replace(" ", "%20")).status_code == 500
            assert client.get(f"/nothing/{forged}".replace(" ", "%20")).status_code in (400, 404, 500)
            assert client.get("/", headers=[(b"x-request-id", b"\x1b[2J")]).status_code == 400
            for value in ("a b", "é", "x" * 129, ""):
                given = client.get("/", headers=[(b"x-request-id", value.encode())]).headers["x-request-id"]
                assert re.fullmatch(r"[\w-]{5,40}", given, re.ASCII)
                assert given != value
        raw(
            served.port,
            b"x-request-id: a\x1b[2J",
            b"serve_multiplexed_model_id: \x1b[2J",
            b"x-request-timeout-seconds: \x1b[2J",
        )
        wait_until(lambda: "no such page" in served.log, "the log is written")
        log = served.log
    assert "no such page" in log
    assert not [line for line in log.splitlines() if line.startswith("ERROR 2026-01-01")]
    assert "\x1b" not in log
    assert "\0" not in log


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def test_a_pickle_in_a_request_is_bytes(folder: Path) -> None:
    file = folder / "exploded"
    bomb = pickle.dumps(Bomb(file))
    with serving("files:app", folder) as served:
        models_of(served)
        with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", trust_env=False) as client:
            for content_type in ("application/octet-stream", "application/python-pickle", "application/json", ""):
                answer = client.post("/", content=bomb, headers={"content-type": content_type})
                assert answer.json() == {"type": "bytes"}
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client_socket:
            client_socket.sendall(bomb)
            assert client_socket.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert not file.exists()
    os.system(f"touch {file}")  # as it would have
    assert file.exists()
