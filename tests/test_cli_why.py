"""What `modelplex why` prints; tests/system/test_why.py runs it against a system."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelplex import cli_system
from modelplex.cli import cli
from modelplex.cli_why import story


def record(
    at: float, text: str, kind: str = "route", model_id: str = "m", process: str = "proxy#1", request_id: str = ""
) -> dict[str, Any]:
    told = {"kind": kind, "model_id": model_id, "process": process, "text": text, "request_id": request_id}
    return {"at": at, **told}


class Client:
    """Answers with what it was made with, and remembers what it was asked."""

    def __init__(self, *found: dict[str, Any]) -> None:
        self.found = list(found)
        self.asked: list[tuple[str, str, int]] = []

    def get(self, path: str, request_id: str = "", model_id: str = "", limit: int = 100) -> dict[str, Any]:
        assert path == "/v1/decisions"
        self.asked.append((request_id, model_id, limit))
        return {"decisions": list(self.found)}


def why(monkeypatch: pytest.MonkeyPatch, client: Client, *words: str) -> Result:
    monkeypatch.setattr(cli_system, "client", lambda home, system: client)
    return CliRunner().invoke(cli, ["why", *words])


def test_a_story_is_told_in_the_order_of_time_with_the_process_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(record(12.5, "ended", "end", process="app_D#ab"), record(10.25, "sent"))
    head, *lines = why(monkeypatch, client, "r1").stdout.splitlines()
    assert head.startswith("request r1 for model m, 1970-01-0")
    assert head.endswith(":10.250")
    assert lines == ["    +0.000 s  proxy#1   sent", "    +2.250 s  app_D#ab  ended"]
    assert client.asked == [("r1", "", 100)]


def test_a_story_of_more_than_one_model_names_none_at_its_head() -> None:
    assert "for model" not in story("request r", [record(1.0, "a"), record(2.0, "b", model_id="n")])
    assert "for model" not in story("model m", [record(1.0, "a")])
    assert "for model m" in story("request r", [record(1.0, "a"), record(2.0, "b", "evict", model_id="n")])


def test_the_story_of_a_model_names_each_request_once() -> None:
    found = [record(1.0, "sent", request_id="r1"), record(2.0, "loaded for request r1", request_id="r1")]
    assert [line.partition("proxy#1  ")[2] for line in story("model m", found).splitlines()[1:]] == [
        "sent (request r1)",
        "loaded for request r1",
    ]
    assert "(request" not in story("request r1", found)


def test_what_goes_on_for_hours_is_told_in_minutes() -> None:
    assert story("model m", [record(1.0, "a"), record(7201.0, "b")]).endswith("+120 min  proxy#1  b")


def test_a_model_is_asked_for_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(record(1.0, "sent"))
    assert why(monkeypatch, client, "model", "shops/17", "--limit", "7").exit_code == 0
    assert client.asked == [("", "shops/17", 7)]


def test_an_id_may_begin_with_a_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(record(1.0, "sent"))
    assert why(monkeypatch, client, "-jsonHhl_x", "--json").exit_code == 0
    assert client.asked == [("-jsonHhl_x", "", 100)]


def test_json_has_the_records_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    newest_first = [record(2.0, "ended"), record(1.0, "sent")]
    assert json.loads(why(monkeypatch, Client(*newest_first), "r1", "--json").stdout) == newest_first[::-1]
    assert json.loads(why(monkeypatch, Client(), "r1", "--json").stdout) == []


def test_of_what_nothing_is_known_it_is_said_so_and_safely(monkeypatch: pytest.MonkeyPatch) -> None:
    done = why(monkeypatch, Client(), "r\x1b[31m")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Nothing is known of request r\\x1b[31m: there was none, or it was too long ago.\n"


@pytest.mark.parametrize("words", [(), ("model",), ("r1", "m"), ("r1", "--limit", "0")])
def test_what_cannot_be_meant_is_an_error(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    client = Client()
    assert why(monkeypatch, client, *words).exit_code == 2
    assert client.asked == []
