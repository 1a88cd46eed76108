"""What `modelplex status` shows of proxies; the commands themselves are run in tests/system."""

from typing import Any

import pytest
from typer.testing import CliRunner

from modelplex import cli_system
from modelplex.cli import cli


class Answers:
    def __init__(self, **found: Any) -> None:
        self.found = {"proxies": {}, "applications": {}, "address": "", "log_dir": "/logs", **found}

    def status(self) -> dict[str, Any]:
        return {"proxy_addresses": {}, "proxy_failures": {}} | self.found


def shown(monkeypatch: pytest.MonkeyPatch, **found: Any) -> list[str]:
    monkeypatch.setattr(cli_system, "client", lambda home, system: Answers(**found))
    return CliRunner().invoke(cli, ["status"]).stdout.splitlines()


def test_proxies_of_several_machines_are_shown_with_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {"proxy#a": "http://10.0.0.1:8000", "proxy#b": "http://10.0.0.2:8000"}
    proxies = dict.fromkeys(urls, "HEALTHY")
    assert shown(monkeypatch, proxies=proxies, address="http://10.0.0.1:8000", proxy_addresses=urls) == [
        "http://10.0.0.1:8000  proxies: 2  logs: /logs",
        "  proxy#a: http://10.0.0.1:8000",
        "  proxy#b: http://10.0.0.2:8000",
        "no applications",
    ]


def test_proxies_that_share_an_address_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = dict.fromkeys(["proxy#a", "proxy#b"], "http://127.0.0.1:8000")
    proxies = dict.fromkeys(urls, "HEALTHY")
    assert shown(monkeypatch, proxies=proxies, address="http://127.0.0.1:8000", proxy_addresses=urls) == [
        "http://127.0.0.1:8000  proxies: 2  logs: /logs",
        "no applications",
    ]


def test_a_system_without_http_is_not_said_to_be_anywhere() -> None:
    assert cli_system.served("http://127.0.0.1:8000") == "Served at http://127.0.0.1:8000"
    assert cli_system.served("") == "Served without HTTP"


def test_where_no_proxy_could_start_is_shown_with_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = {"one": "Traceback\nthe port is taken", "": "no certificate"}
    assert shown(monkeypatch, proxy_failures=failures) == [
        "no HTTP  proxies: 0  logs: /logs",
        "  no proxy on one  - the port is taken",
        "  no proxy  - no certificate",
        "no applications",
    ]
