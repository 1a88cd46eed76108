"""Every way of naming a model: what is named, what calls it, and what is refused."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from modelplex.config import HTTPOptions
from modelplex.config.http import MODEL_ID_WAYS
from modelplex.errors import InvalidModelIdError, InvalidRequestError
from modelplex.runtime.naming import CALL, INFER, MODELS, OPENAI, SAGEMAKER, SECOND, Named, Naming
from modelplex.wire.messages import AppInfo

OWN = AppInfo("own", "/", "D")
V2 = AppInfo("v2", "/", "D", ["v2"])
BELOW = AppInfo("below", "/a/b", "D", ["v2"])

TARGET = "x-amzn-sagemaker-target-model"


class Request(NamedTuple):
    method: str
    raw_path: bytes
    headers: list[tuple[bytes, bytes]]


def named(
    path: str = "/",
    *,
    app: AppInfo = OWN,
    ways: Sequence[str] = MODEL_ID_WAYS,
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
) -> Named:
    """What the proxy makes of it."""
    naming, told = Naming(ways, {}), dict[bytes, bytes]()
    pairs = [(name.encode(), value.encode()) for name, value in headers or []]
    for name, value in pairs:
        known = naming.headers.get(name)
        if known is not None and told.setdefault(known, value) != value and known in MODELS:
            told[SECOND] = value
    return naming.of(Request(method, path.encode(), pairs), told, app)


@pytest.mark.parametrize("joints", ["___", "---", "_-_"])
def test_the_header_with_any_joints(joints: str) -> None:
    name = "serve{}multiplexed{}model{}id".format(*joints)
    assert named(headers=[(name, "shop")]) == Named("shop")
    assert named(headers=[(name, "shop")], ways=("header",)) == Named("shop")
    assert named(headers=[(name, "shop")], ways=("v2",)) == Named("")
    assert named(headers=[(name, "")]) == Named("")


@pytest.mark.parametrize("name", ["mm-model-id", "mm-vmodel-id"])
def test_modelmesh(name: str) -> None:
    assert named(headers=[(name, "shop")]).model_id == "shop"
    assert named(headers=[(name, "shop")], ways=HTTPOptions().model_id_from).model_id == ""


@pytest.mark.parametrize(
    ("path", "page", "model_id"),
    [
        ("/v2", "", ""),
        ("/v2/", "", ""),
        ("/v2/health/live", "health/live", ""),
        ("/v2/health/ready", "health/ready", ""),
        ("/v2/openapi.json", "openapi.json", ""),
        ("/v2/models/shop", "metadata", "shop"),
        ("/v2/models/shop/ready", "ready", "shop"),
        ("/v2/models/shop/infer", "infer", "shop"),
        ("/v2/models/shop/versions/3", "metadata", "shop@3"),
        ("/v2/models/shop/versions/3/ready", "ready", "shop@3"),
        ("/v2/models/shop/versions/3/infer", "infer", "shop@3"),
        ("/v2/models/shop%403/infer", "infer", "shop@3"),
        ("/v2/models/eu/shop/17/infer", "infer", "eu/shop/17"),
        ("/v2/models/eu%2Fshop/versions/3/infer", "infer", "eu/shop@3"),
        ("/v2/models/infer", "metadata", "infer"),
        ("/v2/models/infer/infer", "infer", "infer"),
        ("/v2/models/a%2Finfer", "metadata", "a/infer"),
        ("/v2/models/versions/3", "metadata", "versions/3"),
        ("/v2/repository/index", "index", ""),
        ("/v2/repository/models/eu/shop/load", "load", "eu/shop"),
        ("/v2/repository/models/shop/unload", "unload", "shop"),
        ("/v2/models", "?", ""),
        ("/v2/models/shop/config", "?", ""),
        ("/v2/models/shop/trace/setting", "?", ""),
        ("/v2/what", "?", ""),
        ("/", "?", ""),
    ],
)
def test_v2_paths(path: str, page: str, model_id: str) -> None:
    assert named(path, app=V2, ways=("header", "v2")) == Named(model_id, INFER, "", page)
    assert named("/a/b" + path, app=BELOW, ways=("header", "v2")) == Named(model_id, INFER, "", page)
    assert named("/%61/b" + path, app=BELOW).page == page, "the prefix may be encoded, too"
    assert named(path, app=V2, ways=("header",)) == Named("", INFER, "", page), "paths name nothing then"
    assert named(path, app=OWN) == Named(""), "paths of other applications are their own"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/../infer",
        "/v2/models/a%00b/infer",
        "/v2/models/%ff/infer",
        "/v2/models/a b".replace(" ", "%20"),
        "/v2/models/shop/versions//infer",
        "/v2/repository/models/load",
        "/v2/models/" + "a" * 257,
        "/models/",
        "/models//invoke",
        "/v1/models/a%0Ab",
    ],
)
def test_ids_in_paths_are_checked(path: str) -> None:
    with pytest.raises(InvalidModelIdError):
        named(path, app=V2)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/ping", Named("", SAGEMAKER, "", "ping")),
        ("POST", "/invocations", Named("", SAGEMAKER, "", "invocations")),
        ("GET", "/models", Named("", SAGEMAKER, "", "models")),
        ("POST", "/models", Named("", SAGEMAKER, "model_name", "models")),
        ("DELETE", "/models/shop", Named("shop", SAGEMAKER, "", "model")),
        ("POST", "/models/eu/shop/invoke", Named("eu/shop", SAGEMAKER, "", "invoke")),
        ("GET", "/ping/more", Named("", SAGEMAKER, "", "?")),
    ],
)
def test_sagemaker(method: str, path: str, expected: Named) -> None:
    assert named(path, app=V2, method=method) == expected
    assert named(path, app=V2, method=method, ways=("header", "v2")) == Named("", INFER, "", "?")
    own = Named(expected.model_id, CALL, "", "invoke") if expected.page == "invoke" else Named("")
    assert named(path, app=OWN, method=method) == own


def test_sagemakers_header_names_a_model_but_where_the_path_does() -> None:
    assert named("/invocations", app=V2, headers=[(TARGET, "shop")]).model_id == "shop"
    assert named("/own", headers=[(TARGET, "shop")]).model_id == "shop"
    # The platform tells there what the model was made of, beside a name that it has made itself.
    assert named("/models/0a1b/invoke", app=V2, headers=[(TARGET, "shop.tar.gz")]).model_id == "0a1b"


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("POST", "/v1/chat/completions", [], Named("", CALL, "model")),
        ("POST", "/v1/embeddings", [("content-type", "application/json")], Named("", CALL, "model")),
        ("POST", "/v1/audio", [("content-type", "multipart/form-data; boundary=x")], Named("")),
        ("GET", "/v1/files", [], Named("")),
        ("GET", "/v1/models", [], Named("", OPENAI, "", "models")),
        ("GET", "/v1/models/eu/shop", [], Named("eu/shop", OPENAI, "", "model")),
        ("POST", "/v10", [], Named("")),
    ],
)
def test_openai(method: str, path: str, headers: list[tuple[str, str]], expected: Named) -> None:
    assert named(path, method=method, headers=headers) == expected
    assert named(path, method=method, headers=headers, ways=("header", "v2", "sagemaker")) == Named("")


@pytest.mark.parametrize(
    ("body", "model_id"),
    [(b'{"model": "shop", "n": [1]}', "shop"), (b"{}", ""), (b'{"model": null}', ""), (b"", "")],
)
def test_a_body_names_its_model(body: bytes, model_id: str) -> None:
    assert Naming(MODEL_ID_WAYS, {}).with_body(Named("", CALL, "model"), body).model_id == model_id


@pytest.mark.parametrize(
    "body",
    [b"no", b"[]", b'{"model": 5}', b'{"model": "a"', b'{"model": "a"} more', b"\xff", b"[" * 100_000, b"1" * 9999],
)
def test_a_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="'model' names the model"):
        Naming(MODEL_ID_WAYS, {}).with_body(Named("", CALL, "model"), body)


def test_a_body_cannot_name_what_is_no_id() -> None:
    for body in (b'{"model": ""}', b'{"model": "a b"}', b'{"model": "../x"}'):
        with pytest.raises(InvalidModelIdError):
            Naming(MODEL_ID_WAYS, {}).with_body(Named("", CALL, "model"), body)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", [("serve_multiplexed_model_id", "a"), ("serve-multiplexed-model-id", "b")]),
        ("/", [("serve_multiplexed_model_id", "a"), ("serve_multiplexed_model_id", "b")]),
        ("/", [("serve_multiplexed_model_id", "a"), ("mm-model-id", "b")]),
        ("/", [("mm-vmodel-id", "a"), ("mm-model-id", "b")]),
        ("/", [(TARGET, "a"), ("mm-model-id", "b")]),
        ("/", [(TARGET, "a"), (TARGET, "b")]),
        ("/v2/models/a/infer", [("serve_multiplexed_model_id", "b")]),
        ("/v2/models/a/versions/2/infer", [("serve_multiplexed_model_id", "a")]),
        ("/v2/models/a", [(TARGET, "b")]),
        ("/models/a/invoke", [("mm-model-id", "b")]),
    ],
)
def test_two_names_are_refused(path: str, headers: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidRequestError, match=r"names two models, 'a(@2)?' and '[ab]'"):
        named(path, app=V2, headers=headers)
    same = [(name, "a") for name, _ in headers]
    if "versions" not in path:
        assert named(path, app=V2, headers=same).model_id == "a"


def test_a_body_and_a_header_name_the_same_model_or_are_refused() -> None:
    by_header = Named("a", CALL, "model")
    naming = Naming(MODEL_ID_WAYS, {})
    assert naming.with_body(by_header, b'{"model": "a"}').model_id == "a"
    assert naming.with_body(by_header, b"{}").model_id == "a"
    with pytest.raises(InvalidRequestError, match="'a' and 'b'"):
        naming.with_body(by_header, b'{"model": "b"}')


@pytest.mark.parametrize("ways", ["header", ["headers"], 5, [5]])
def test_ways_that_there_are_not(ways: object) -> None:
    with pytest.raises(ValueError, match="model_id_from must be a list of header, v2"):
        HTTPOptions(model_id_from=ways)  # type: ignore[arg-type]
