import pytest

from modelplex.errors import InvalidModelIdError
from modelplex.stores.pattern import Pattern


@pytest.mark.parametrize(
    ("text", "model_id", "key"),
    [
        ("{model_id}", "a", "a"),
        ("{model_id}/model.pt", "shop-17", "shop-17/model.pt"),
        ("all/{model_id}.safetensors", "a.b:c@d", "all/a.b:c@d.safetensors"),
        ("{model_id}/", "a", "a/"),
        ("{model_id}/{model_id}.pt", "a", "a/a.pt"),
        ("{model_id:path}/model.pt", "eu/shop-17", "eu/shop-17/model.pt"),
    ],
)
def test_an_id_leads_to_a_key_and_a_key_to_its_id(text: str, model_id: str, key: str) -> None:
    pattern = Pattern(text)
    assert pattern.key(model_id) == key
    assert pattern.model_id(key + "file" if key.endswith("/") else key) == model_id


@pytest.mark.parametrize(
    ("text", "model_id", "reason"),
    [
        ("{model_id}/model.pt", "a/b", "is a path"),
        ("{model_id}/model.pt", "../b", "no segment may be empty or '..'"),
        ("{model_id}/model.pt", "..", "no segment may be empty or '..'"),
        ("{model_id}/model.pt", ".", "lead to another folder"),
        ("{model_id}/model.pt", "/etc/passwd", "no segment may be empty"),
        ("{model_id}/model.pt", "a\\b", "malformed"),
        ("{model_id}/model.pt", "a%2fb", "malformed"),
        ("{model_id}/model.pt", "", "cannot be empty"),
        ("{model_id:path}/model.pt", "a/./b", "lead to another folder"),
        ("{model_id:path}/model.pt", "a/../b", "no segment may be empty or '..'"),
    ],
)
def test_an_id_that_would_lead_elsewhere_is_refused_with_the_reason(text: str, model_id: str, reason: str) -> None:
    with pytest.raises(InvalidModelIdError, match=reason):
        Pattern(text).key(model_id)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{model_id}/model.pt", "a/other.pt"),
        ("{model_id}/model.pt", "a/b/model.pt"),
        ("{model_id}/model.pt", "a b/model.pt"),
        ("{model_id}/{model_id}.pt", "a/b.pt"),
    ],
)
def test_a_key_that_is_no_models_has_no_id(text: str, key: str) -> None:
    assert Pattern(text).model_id(key) is None


@pytest.mark.parametrize(
    "text",
    ["model.pt", "", "{id}", "{name}/model.pt", "/{model_id}", "../{model_id}", "a//{model_id}", "{model_id!r}", "{"],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - some are refused by Python's own parser
        Pattern(text)
