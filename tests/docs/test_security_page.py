"""What docs/security.md says is tested is tested."""

import re

from pages import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()


def rows() -> list[str]:
    """Those of tables whose last column has tests."""
    found: list[str] = []
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *body = table.splitlines()
        if head.rstrip("| ").endswith("test"):
            found += body
    return found


def test_every_line_of_the_threat_model_names_a_test() -> None:
    assert len(rows()) > 15
    for row in rows():
        assert re.search(r"`test_\w+`[^|]*\|$", row), row


def test_every_test_that_is_named_is_there() -> None:
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named <= there, named - there


def test_limits_are_those_of_the_code() -> None:
    from modelplex.config import HTTPOptions
    from modelplex.runtime import held_bodies, http_connection, http_parser, http_patience, http_websocket

    options = HTTPOptions()
    told = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.partition("## Limits")[2], re.MULTILINE))
    kib = http_parser.HEAD_BYTES_MAX // 1024, http_parser.TARGET_BYTES_MAX // 1024
    assert told["request line and headers together; headers; URL"] == (
        f"{kib[0]} KiB; {http_parser.HEADERS_MAX}; {kib[1]} KiB"
    )
    assert told["from a head's first byte to its last"] == f"{http_patience.HEAD_TIMEOUT_S:.0f} s"
    assert told["1 KiB of a body"] == f"`body_timeout_s`, {options.body_timeout_s} s"
    assert told["between two requests"] == f"`keep_alive_timeout_s`, {options.keep_alive_timeout_s} s"
    assert told["a WebSocket's message"] == f"{http_websocket.MESSAGE_BYTES_MAX // 2**20} MiB"
    assert held_bodies.HELD_BYTES_MAX == http_connection.UNREAD_BYTES_MAX == 256 * 1024
    assert told["bytes of bodies that are held before their requests go on, of all connections of a proxy"] == (
        f"{held_bodies.ALL_HELD_BYTES_MAX // 2**20} MiB; then 503"
    )
    assert f"one runs, {http_connection.PIPELINED_MAX} wait" in told["requests on one connection"]
    assert f"{options.max_connections:,}" in told["requests that wait in one proxy"]
