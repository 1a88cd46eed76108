"""Who gets into the admin interface over TCP."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from asked_admin import Asked, asked

from modelplex.runtime.admin_door import Door
from modelplex.testing import run_virtual

TOKEN = "a-token-of-enough-letters"
BEARER = f"Bearer {TOKEN}"


def in_world(check: Callable[[Asked], Coroutine[Any, Any, None]], host: str = "127.0.0.1", **options: Any) -> None:
    async def main() -> None:
        async with asked() as world, asyncio.timeout(1000):
            world.application = Door(world.admin, TOKEN, host, 9900, **{"is_tls": False, **options})
            await check(world)

    run_virtual(main())


async def cookie_of(world: Asked) -> str:
    status, head, body = await world.send("GET", f"/?token={TOKEN}")
    assert (status, body) == (303, b"")
    assert b"location: /\r\n" in head
    assert TOKEN.encode() not in head
    found = re.search(rb"set-cookie: ([^;]+);([^\r]*)", head)
    assert found is not None
    assert found[2].decode().split("; ")[0:] == [" HttpOnly", "SameSite=Strict", "Path=/"]
    return found[1].decode()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"cookie": "modelplex-admin-9900=x"},
        {"cookie": f"modelplex-admin-9900={TOKEN}"},
        {"cookie": "modelplex-admin-9900"},
        {"cookie": '"\\,;=modelplex-admin-9900='},
        {"x_modelplex_admin": "1"},
    ],
)
def test_without_the_token_nobody_gets_in(headers: dict[str, str]) -> None:
    async def check(world: Asked) -> None:
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/shutdown"), ("GET", "/"), ("GET", "/v1/events")):
            status, head, body = await world.send(method, path, None, **headers)
            assert status == 401
            assert b"www-authenticate: Bearer" in head
            assert b"token" in body
            assert TOKEN.encode() not in body
        assert world.shutdowns == 0

    in_world(check)


def test_with_the_token_everything_goes() -> None:
    async def check(world: Asked) -> None:
        assert (await world.send("GET", "/v1/status", authorization=BEARER))[0] == 200
        assert (await world.send("GET", "/v1/status", authorization=f"bearer  {TOKEN}"))[0] == 200
        assert (await world.send("POST", "/v1/shutdown", authorization=BEARER))[0] == 202
        assert world.shutdowns == 1

    in_world(check)


def test_a_browser_shows_the_token_once_and_changes_things_only_from_the_page_itself() -> None:
    async def check(world: Asked) -> None:
        cookie = await cookie_of(world)
        assert TOKEN not in cookie
        assert (await world.send("GET", "/v1/status", cookie=f"other=1; {cookie}"))[0] == 200
        status, _, body = await world.send("POST", "/v1/shutdown", cookie=cookie)
        assert (status, b"x-modelplex-admin" in body) == (403, True)
        assert world.shutdowns == 0
        assert (await world.send("POST", "/v1/shutdown", cookie=cookie, x_modelplex_admin="1"))[0] == 202
        assert world.shutdowns == 1

    in_world(check)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/?token=wrong"),
        ("GET", f"/?token={TOKEN}&token={TOKEN}"),
        ("GET", f"/v1/status?token={TOKEN}"),
        ("POST", f"/?token={TOKEN}"),
        ("GET", "/?" + "&".join(f"a{n}=1" for n in range(20))),
    ],
)
def test_the_token_is_taken_nowhere_else(method: str, path: str) -> None:
    async def check(world: Asked) -> None:
        status, head, _ = await world.send(method, path)
        assert status == 401
        assert b"set-cookie" not in head

    in_world(check)


def test_a_cookie_of_another_process_is_none_of_this_one() -> None:
    async def check(world: Asked) -> None:
        cookie = await cookie_of(world)
        world.application = Door(world.admin, TOKEN, "127.0.0.1", 9900, is_tls=False)
        assert (await world.send("GET", "/v1/status", cookie=cookie))[0] == 401

    in_world(check)


@pytest.mark.parametrize(
    ("host", "lets_in"),
    [
        ("localhost", True),
        ("localhost:9900", True),
        ("LOCALHOST:1234", True),
        ("127.0.0.1:9900", True),
        ("[::1]:9900", True),
        ("evil.example", False),
        ("evil.example:9900", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_on_the_loopback_address_other_names_are_refused(host: str, lets_in: bool) -> None:
    async def check(world: Asked) -> None:
        status, _, _ = await world.send("GET", "/v1/status", host=host, authorization=BEARER)
        assert status == (200 if lets_in else 403)
        status, _, _ = await world.send("GET", "/v1/status", host=host)
        assert status == (401 if lets_in else 403)

    in_world(check)


def test_elsewhere_any_name_is_right_and_over_tls_the_cookie_is_for_that_alone() -> None:
    async def check(world: Asked) -> None:
        assert (await world.send("GET", "/v1/status", host="gateway.example", authorization=BEARER))[0] == 200
        _, head, _ = await world.send("GET", f"/?token={TOKEN}", host="gateway.example")
        assert b"; Secure" in head

    in_world(check, host="0.0.0.0", is_tls=True)
