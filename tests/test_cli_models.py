"""The commands about models and replicas, with a system that answers what a test says."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelplex import cli_models, errors
from modelplex.cli import cli


class System:
    """Notes what it is asked, and answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        self.asked.append(("GET", path, {k: v for k, v in query.items() if v not in ("", None)}))
        found = self.answers[path]
        answer: dict[str, Any] = found.pop(0) if isinstance(found, list) else found
        return answer

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        return self._do("POST", path, body)

    def put(self, path: str, body: Any) -> dict[str, Any]:
        return self._do("PUT", path, body)

    def _do(self, method: str, path: str, body: Any) -> dict[str, Any]:
        self.asked.append((method, path, None if body is None else {k: v for k, v in body.items() if v}))
        if path in self.answers:
            raise self.answers[path]
        return {"replicas": 2}

    def status(self) -> dict[str, Any]:
        return {"admin_address": self.answers.get("address", "")}


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    found = System()
    monkeypatch.setattr(cli_models, "client", lambda home, system: found)
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def model(model_id: str, *replicas: str, **more: Any) -> dict[str, Any]:
    there = {"state": "resident", "size_bytes": 2048, "age_s": 90, "load_s": 0.25, "uses": 3, "leases": 0}
    there |= {"pinned": False, **more}
    return {
        "id": model_id,
        "deployment": "Shop",
        "pinned": more.get("pinned", False),
        "replicas": [{"replica": replica, **there} for replica in replicas],
    }


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("load", "Loaded: eu/a"),
        ("prefetch", "Loading: eu/a"),
        ("unload", "Unloaded: eu/a (on 2 replicas)"),
        ("pin", "Pinned: eu/a (on 2 replicas)"),
        ("unpin", "Unpinned: eu/a (on 2 replicas)"),
    ],
)
def test_what_is_to_be_done_to_a_model_is_asked_for(system: System, verb: str, said: str) -> None:
    assert run(verb, "eu/a").stdout == f"{said}\n"
    assert run(verb, "a", "--application", "x", "--deployment", "D", "--loader", "l").exit_code == 0
    assert system.asked == [
        ("POST", f"/v1/models/eu%2Fa/{verb}", {}),
        ("POST", f"/v1/models/a/{verb}", {"application": "x", "deployment": "D", "loader": "l"}),
    ]


def test_what_cannot_be_done_is_told(system: System) -> None:
    system.answers["/v1/models/a/unload"] = errors.ModelplexError("it is pinned")
    done = run("unload", "a")
    assert isinstance(done.exception, errors.ModelplexError)  # which `cli.main` makes exit code 1 of


def test_models_are_a_table_a_row_for_each_replica(system: System) -> None:
    found = [model("a", "default_Shop#x", "default_Shop#y"), model("b", "other_Shop#z", pinned=True, leases=1)]
    system.answers["/v1/models"] = {"models": found, "next": None, "total": 3}
    lines = run("models").stdout.splitlines()
    assert lines[0].split() == ["MODEL", "DEPLOYMENT", "REPLICA", "STATE", "SIZE", "AGE", "LOAD", "USES"]
    assert [line.split()[:4] for line in lines[1:3]] == [["a", "Shop", f"Shop#{r}", "resident"] for r in "xy"]
    assert lines[3].split() == ["b", "Shop", "other_Shop#z", "in", "use", "2.0KiB", "2m", "250ms", "3", "pinned"]
    assert json.loads(run("models", "--json").stdout) == found


def test_models_are_asked_for_page_by_page_and_that_there_are_more_is_said(system: System) -> None:
    pages = [
        {"models": [model(f"m{n}", "r") for n in range(1000)], "next": "m999"},
        {"models": [model("x", "r")], "next": "x"},
    ]
    system.answers["/v1/models"] = pages
    done = run("models", "--limit", "1001", "--model", "*", "--application", "a")
    assert system.asked == [
        ("GET", "/v1/models", {"limit": 1000, "application": "a", "model": "*"}),
        ("GET", "/v1/models", {"limit": 1, "after": "m999", "application": "a", "model": "*"}),
    ]
    assert len(done.stdout.splitlines()) == 1002
    assert "more than 1001" in done.stderr
    system.answers["/v1/models"] = {"models": [], "next": None}
    assert run("models").stdout == "no models\n"


def test_replicas_are_a_table(system: System) -> None:
    loader = {"name": "get_model", "models_max": 4, "bytes_max": -1, "size_bytes": 0, "total": 2, "models": []}
    found = {"replica": "default_Shop#x", "ongoing": 1, "max_ongoing": 5, "retiring": True, "loaders": [loader]}
    system.answers["/v1/replicas"] = {"replicas": [found, {**found, "loaders": [], "retiring": False}]}
    lines = run("replicas").stdout.splitlines()
    assert lines[1].split() == ["default_Shop#x", "1/5", "get_model", "2/4", "0B", "retiring"]
    assert lines[2].split() == ["default_Shop#x", "1/5"]
    assert len(json.loads(run("replicas", "--json").stdout)) == 2


def test_a_drain_and_an_alias_are_asked_for(system: System) -> None:
    assert "Draining: a_b#c" in run("drain", "a_b#c").stdout
    assert "shop@stable is shop@3" in run("alias", "shop@stable", "shop@3").stdout
    assert system.asked == [
        ("POST", "/v1/replicas/a_b%23c/drain", None),
        ("PUT", "/v1/models/shop%40stable/alias", {"version": "shop@3"}),
    ]


def test_the_dashboard_has_an_address_with_the_token(system: System, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("se+cret\n")
    words = "dashboard", "--admin-token-file", str(tmp_path / "token")
    assert isinstance(run(*words).exception, errors.ModelplexError)
    system.answers["address"] = "http://127.0.0.1:9900"
    assert run(*words).stdout == "http://127.0.0.1:9900/?token=se%2Bcret\n"
    assert run("dashboard", "--admin-token-file", str(tmp_path / "none")).exit_code == 2


def test_top_without_rich_says_what_to_install(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rich", None)
    done = run("top", "--once")
    assert (done.exit_code, "modelplex[top]" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [["--admin-port", "1"], ["--admin-host", "0.0.0.0"]])
@pytest.mark.parametrize("command", [["start"], ["run", "a:b"]])
def test_nothing_is_open_over_tcp_without_a_token(command: list[str], words: list[str]) -> None:
    done = run(*command, *words)
    assert (done.exit_code, "--admin-token-file" in done.stderr) == (2, True)
