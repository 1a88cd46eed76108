"""The files of the dashboard."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from asked_admin import Asked, asked

from modelplex.runtime import admin_pages
from modelplex.testing import run_virtual


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the package's own."""
    place = tmp_path / "dashboard"
    place.mkdir()
    (tmp_path / "secret.html").write_text("secret")
    for name in ("index.html", "page.js", "page.css", "notes.txt"):
        (place / name).write_text(name)
    (place / "inner").mkdir()
    (place / "inner" / "x.html").write_text("x")
    monkeypatch.setattr(admin_pages, "folder", lambda: place)
    return place


def in_world(check: Callable[[Asked], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asked() as world, asyncio.timeout(1000):
            await check(world)

    run_virtual(main())


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/", b"text/html; charset=utf-8", b"index.html"),
        ("/index.html", b"text/html; charset=utf-8", b"index.html"),
        ("/page.js", b"text/javascript; charset=utf-8", b"page.js"),
        ("/static/index.html", b"text/html; charset=utf-8", b"index.html"),
        ("/static/page.js", b"text/javascript; charset=utf-8", b"page.js"),
        ("/static/page.css", b"text/css; charset=utf-8", b"page.css"),
    ],
)
def test_each_file_has_its_type_and_may_do_nothing_beyond_its_own(
    folder: Path, path: str, kind: bytes, text: bytes
) -> None:
    async def check(world: Asked) -> None:
        status, head, body = await world.send("GET", path)
        assert (status, body) == (200, text)
        for header in (
            b"content-type: " + kind,
            b"x-content-type-options: nosniff",
            b"cache-control: no-store",
            b"content-security-policy: default-src 'self';",
        ):
            assert header in head

    in_world(check)


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/none.html",
        "/static/notes.txt",
        "/static/../secret.html",
        "/static/..%2fsecret.html",
        "/static/%2e%2e/secret.html",
        "/static/inner/x.html",
        "/static/inner",
        "/static//page.js",
        "/secret.html",
        "/%2e%2e%2fsecret.html",
    ],
)
def test_nothing_else_is_served(folder: Path, path: str) -> None:
    async def check(world: Asked) -> None:
        status, _, body = await world.send("GET", path)
        assert (status, b'"error"' in body) == (404, True)

    in_world(check)


def test_an_installation_without_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_pages, "folder", lambda: tmp_path / "none")

    async def check(world: Asked) -> None:
        assert await world.ask("GET", "/") == (404, {"error": "This installation has no dashboard."})

    in_world(check)
