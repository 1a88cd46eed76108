"""Who is let in by a key, for which models, how often; and what of the key goes on."""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from proxy_client import client_of
from starlette.requests import Request

from modelplex import errors, serve
from modelplex.config import HTTPOptions
from modelplex.config.access import AccessConfig, AccessKey
from modelplex.runtime import access
from modelplex.runtime.access import Gate, Keys, gate_of, key_of, new_key
from modelplex.runtime.router import DeploymentRouter
from modelplex.testing import InlineCluster, run_virtual

NOW = 1_000_000.0


def made(name: str = "shop", **more: Any) -> tuple[bytes, AccessKey]:
    """A key, and how it is kept."""
    secret, key_id, sha256 = new_key()
    return secret.encode(), AccessKey(name=name, id=key_id, sha256=sha256, **{"models": ["*"], **more})


def keys_of(*keys: AccessKey) -> Keys:
    return Keys(AccessConfig(keys=keys))


def write(file: Path, *keys: AccessKey) -> None:
    fields = ("name", "id", "sha256", "models", "applications", "rate", "burst", "tenant")
    listed = [{f: v for f in fields if (v := getattr(key, f)) not in (None, "")} for key in keys]
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"keys": listed}))
    new.chmod(0o600)
    os.replace(new, file)


# The decision


def test_a_key_is_admitted_with_its_tenant() -> None:
    secret, key = made(tenant="acme")
    assert keys_of(key).admit(secret, "default", "m", NOW) == "acme"


def test_none_unknown_wrong_and_expired_keys_are_all_401() -> None:
    secret, key = made()
    other, _ = made()
    _, expired = made("old", expires_at="1970-01-02")
    gate = keys_of(key, expired)
    wrong: list[bytes | None] = [
        None,
        b"",
        b"mpx_",
        b"mpx_a_b",
        other,
        secret[:-1],
        secret + b"0",
        secret.upper(),
        b"\xff" * 9,
    ]
    wrong += [b"_".join(secret.split(b"_")[:2]), secret.replace(b"mpx_", b""), secret + b"0" * 10_000]
    for given in wrong:
        with pytest.raises(errors.UnauthenticatedError):
            gate.admit(given, "default", "m", NOW)
    old_secret, old = made("old", expires_at="1970-01-02")
    assert keys_of(old).admit(old_secret, "a", "m", 86_399.0) == ""
    with pytest.raises(errors.UnauthenticatedError):
        keys_of(old).admit(old_secret, "a", "m", 86_400.0)


def test_an_unknown_key_is_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time does not tell which ids there are."""
    compared: list[tuple[str, str]] = []

    def compare(one: str, two: str) -> bool:
        compared.append((one, two))
        return one == two

    monkeypatch.setattr("hmac.compare_digest", compare)
    _, key = made()
    for given in (b"mpx_nobody_x", f"mpx_{key.id}_x".encode(), b"garbage"):
        with pytest.raises(errors.UnauthenticatedError):
            keys_of(key).admit(given, "a", "m", NOW)
    assert [(len(one), len(two)) for one, two in compared] == [(64, 64)] * 3


def test_models_and_applications() -> None:
    secret, key = made(models=["shop-*", "base"], applications=["default"])
    gate = keys_of(key)
    for model_id in ("shop-1", "shop-2@stable", "base"):
        assert gate.admit(secret, "default", model_id, NOW) == ""
    said = []
    for application, model_id in (("default", "other"), ("default", ""), ("other", "base")):
        with pytest.raises(errors.PermissionDeniedError) as caught:
            gate.admit(secret, application, model_id, NOW)
        said.append(str(caught.value))
    assert "does not allow the model 'other'" in said[0]
    assert "requests that name no model" in said[1]
    assert "does not allow this application" in said[2]


def test_a_rate_is_told_with_the_time_and_refused_requests_count() -> None:
    secret, key = made(rate="60/m", burst=2, models=["a"])
    gate = keys_of(key)
    gate.admit(secret, "d", "a", NOW)
    with pytest.raises(errors.PermissionDeniedError):
        gate.admit(secret, "d", "b", NOW)
    with pytest.raises(errors.RateLimitError) as caught:
        gate.admit(secret, "d", "a", NOW)
    assert caught.value.retry_after_s == 1
    gate.admit(secret, "d", "a", NOW + 1)


def test_a_changed_file_keeps_what_was_counted() -> None:
    secret, key = made(rate="1/h")
    gate = keys_of(key)
    gate.admit(secret, "d", "a", NOW)
    gate.change(AccessConfig(keys=(key,)))
    with pytest.raises(errors.RateLimitError):
        gate.admit(secret, "d", "a", NOW)


# Headers


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"x-api-key", b"mpx_a_b")], b"mpx_a_b"),
        ([(b"authorization", b"Bearer mpx_a_b")], b"mpx_a_b"),
        ([(b"authorization", b"bearer  mpx_a_b ")], b"mpx_a_b"),
        ([(b"authorization", b"Bearer theirs"), (b"x-api-key", b"mpx_a_b")], b"mpx_a_b"),
        ([(b"authorization", b"Basic mpx_a_b")], None),
        ([(b"x-api-key", b"theirs")], None),
        ([(b"cookie", b"mpx_a_b")], None),
    ],
)
def test_where_a_key_may_stand(headers: list[tuple[bytes, bytes]], key: bytes | None) -> None:
    assert key_of(headers) == key


def test_only_our_key_is_taken_from_the_headers(tmp_path: Path) -> None:
    secret, key = made()
    write(tmp_path / "keys.json", key)
    headers = [(b"x-api-key", secret), (b"authorization", b"Bearer theirs"), (b"authorization", b"Bearer mpx_x_y")]
    Gate(str(tmp_path / "keys.json")).admit_http(headers, "d", "")
    assert headers == [(b"authorization", b"Bearer theirs")]


def test_a_tenant_by_header_and_that_of_the_key_before_it(tmp_path: Path) -> None:
    gate = Gate(None, "X-Tenant")
    headers = [(b"x-api-key", b"mpx_kept"), (b"x-tenant", b"acme")]
    assert gate.admit_http(headers, "d", "") == "acme"
    assert len(headers) == 2
    assert gate.admit_http([], "d", "") == ""
    for bad in (b"a b", b"\x1b[31m", b"a" * 129, b"\xff"):
        with pytest.raises(errors.InvalidHeaderError, match="x-tenant takes 1 to 128 characters"):
            gate.admit_http([(b"x-tenant", bad)], "d", "")
    (secret, key), (plain, without) = made(tenant="mine"), made("other")
    write(tmp_path / "keys.json", key, without)
    gate = Gate(str(tmp_path / "keys.json"), "x-tenant")
    assert gate.admit_http([(b"x-api-key", secret), (b"x-tenant", b"acme")], "d", "") == "mine"
    assert gate.admit_http([(b"x-api-key", plain), (b"x-tenant", b"acme")], "d", "") == "acme"


def test_without_options_there_is_no_gate() -> None:
    assert gate_of(HTTPOptions()) is None


def test_nothing_is_served_with_a_file_that_is_not_right(tmp_path: Path) -> None:
    with pytest.raises(errors.DeploymentFailedError, match=r"access_file='.*none' is not right: .*No such file"):
        gate_of(HTTPOptions(access_file=str(tmp_path / "none")))


# The file changes


def test_a_key_that_is_removed_ends_to_be_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    (secret, key), (later, other) = made(), made("other")
    write(file, key)
    gate = Gate(str(file))

    async def main() -> None:
        following = asyncio.create_task(gate.follow())
        gate.check(secret, NOW)
        write(file, other)
        for _ in range(100):
            await asyncio.sleep(0.05)
            try:
                gate.check(later, NOW)
                break
            except errors.UnauthenticatedError:
                pass
        with pytest.raises(errors.UnauthenticatedError):
            gate.check(secret, NOW)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    caplog.set_level(logging.INFO)
    access_poll, access.POLL_S = access.POLL_S, 0.05
    try:
        asyncio.run(main())
    finally:
        access.POLL_S = access_poll
    assert "keys in it: 1." in caplog.text


def test_a_file_that_is_spoilt_or_gone_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    secret, key = made()
    write(file, key)
    gate = Gate(str(file))
    file.write_text("keys: 5")
    asyncio.run(gate.look(str(file)))
    asyncio.run(gate.look(str(file)))
    assert len(caplog.records) == 1
    assert "the keys of before are good" in caplog.text
    file.unlink()
    asyncio.run(gate.look(str(file)))
    assert "No such file" in caplog.text
    gate.check(secret, NOW)
    write(file)
    asyncio.run(gate.look(str(file)))
    with pytest.raises(errors.UnauthenticatedError):
        gate.check(secret, NOW)


# Through the proxy


@serve.deployment
class Shop:
    """Loads models by their ids, of which only those that begin with shop- exist."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    @serve.multiplexed
    async def get_model(self, model_id: str) -> str:
        if not model_id.startswith("shop-"):
            raise errors.ModelNotFoundError(f"There is no model {model_id!r}.")
        self.loaded.append(model_id)
        return model_id

    async def __call__(self, request: Request) -> Any:
        model_id = serve.get_multiplexed_model_id()
        return {
            "model": await self.get_model(model_id) if model_id else "",
            "headers": [name.lower() for name in request.headers],
            "loaded": list(self.loaded),
        }


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tenants of the requests that went to replicas."""
    tenants: list[str] = []
    real = DeploymentRouter.begin

    def begin(self: DeploymentRouter, request: Any, *more: Any) -> Any:
        tenants.append(request.tenant)
        return real(self, request, *more)

    monkeypatch.setattr(DeploymentRouter, "begin", begin)
    return tenants


def with_keys(
    tmp_path: Path, *keys: AccessKey, check: Callable[[httpx.AsyncClient], Awaitable[None]], **more: Any
) -> None:
    write(tmp_path / "keys.json", *keys)

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Shop.bind(), route_prefix="/shop")  # type: ignore[attr-defined]
            async with client_of(cluster.directory, access_file=str(tmp_path / "keys.json")) as client:
                await check(client)

    run_virtual(main())


def test_requests_over_http(tmp_path: Path, begun: list[str]) -> None:
    secret, key = made(models=["shop-1", "none-*"], tenant="acme")

    async def check(client: httpx.AsyncClient) -> None:
        good = {"x-api-key": secret.decode()}
        for path in ("/shop", "/nowhere", "/-/routes", "/-/nothing"):
            for headers in ({}, {"x-api-key": "mpx_a_b"}, {"authorization": "Basic x"}):
                answer = await client.get(path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="modelplex"')
                assert "/shop" not in answer.text
        wrong = {"serve_multiplexed_model_id": "../etc"}
        assert (await client.get("/shop", headers=wrong)).status_code == 401  # who has no key hears of nothing else
        assert (await client.get("/shop", headers={**wrong, **good})).status_code == 400
        assert (await client.get("/-/healthz")).status_code == 200
        assert (await client.get("/-/routes", headers=good)).json() == {"/shop": "default"}
        assert (await client.get("/nowhere", headers=good)).status_code == 404
        for authorization in ({"authorization": f"Bearer {secret.decode()}"}, good):
            answer = await client.get("/shop", headers={**authorization, "serve_multiplexed_model_id": "shop-1"})
            assert answer.json()["model"] == "shop-1"
            assert not {"x-api-key", "authorization"} & set(answer.json()["headers"])
        denied = [
            await client.get("/shop", headers={**good, "serve_multiplexed_model_id": m}) for m in ("shop-2", "base-2")
        ]
        assert [a.status_code for a in denied] == [403, 403]
        assert denied[0].text.replace("shop-2", "base-2") == denied[1].text  # there is one, and there is none
        assert (await client.get("/shop", headers={**good, "serve_multiplexed_model_id": "none-1"})).status_code == 404
        assert (await client.get("/shop", headers=good)).status_code == 403
        answer = await client.get("/shop", headers={**good, "serve_multiplexed_model_id": "shop-1"})
        assert answer.json()["loaded"] == ["shop-1"]

    with_keys(tmp_path, key, check=check)
    assert begun == ["acme"] * 4


def test_a_rate_over_http(tmp_path: Path) -> None:
    secret, key = made(rate="60/h", burst=1)

    async def check(client: httpx.AsyncClient) -> None:
        answers = [await client.get("/shop", headers={"x-api-key": secret.decode()}) for _ in range(2)]
        assert [a.status_code for a in answers] == [200, 429]
        assert answers[1].headers["retry-after"] in ("59", "60")

    with_keys(tmp_path, key, check=check)


def test_a_websocket_needs_a_key_too(tmp_path: Path) -> None:
    _, key = made()
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}

    async def check(client: httpx.AsyncClient) -> None:
        headers = {**upgrade, "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
        assert (await client.get("/shop", headers=headers)).status_code == 401

    with_keys(tmp_path, key, check=check)


def test_without_a_file_headers_of_that_name_are_user_codes_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Shop.bind())  # type: ignore[attr-defined]
            async with client_of(cluster.directory) as client:
                answer = await client.get("/", headers={"x-api-key": "mpx_a_b"})
                assert "x-api-key" in answer.json()["headers"]

    run_virtual(main())
