"""Options, their defaults, and model ids, which are hostile input."""

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelplex import config
from modelplex.config import DeploymentConfig, HTTPOptions, check_model_id
from modelplex.errors import InvalidModelIdError

# Model ids


@pytest.mark.parametrize(
    "model_id",
    ["1", "a", "Model_1", "org/model@v1.2:int8", "a-b", ".", "...", "a/./b", "a..b", "..a", "-", "@", ":", "x" * 256],
)
def test_a_good_id_is_answered_as_it_is(model_id: str) -> None:
    assert check_model_id(model_id) == model_id


def test_the_id_may_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"^The model ID cannot be empty\.$"):
        check_model_id("")


@pytest.mark.parametrize("model_id", ["..", "../etc/passwd", "a/../b", "a/..", "/", "/etc/passwd", "a/", "a//b", "//"])
def test_no_segment_may_lead_out_of_a_folder(model_id: str) -> None:
    with pytest.raises(InvalidModelIdError, match="no segment may be empty"):
        check_model_id(model_id)


@pytest.mark.parametrize(
    "model_id",
    [
        *(" ", "a b", "a\t", "\r\n", "a\nINFO forged line", "a\n", "\na", "a\x00", "\x1b[31mred", "\x7f"),
        *("%2e%2e", "..\\..", "C:\\x", "a?b", "a#b", "a&b", "a;rm -rf", "$(id)", "`id`", "{0}", "<b>", "a'b", 'a"b'),
        *("~", "*", "a,b", "a=b", "a+b", "a|b", "[a]", "(a)", "!", "^"),
        *(
            "é",
            "モデル",
            "\u202egnp.exe",
            "\uff0e\uff0e",
            "\u2215",
            "\u0661",
            "\U0001d7d9",
            "\u212a",
            "\udcff",
            "\ufeffa",
        ),
        *("x" * 257, "x" * 1_000_000),
    ],
    ids=lambda model_id: ascii(model_id[:20]),
)
def test_no_other_characters_and_no_longer_ids(model_id: str) -> None:
    with pytest.raises(InvalidModelIdError, match="it takes 1 to 256 characters"):
        check_model_id(model_id)


def test_a_long_id_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidModelIdError) as caught:
        check_model_id("x" * 1_000_000)
    assert len(str(caught.value)) < 200


def test_an_id_cannot_forge_a_line_in_the_log_by_way_of_its_error() -> None:
    with pytest.raises(InvalidModelIdError) as caught:
        check_model_id("a\nERROR forged\x1b[31m")
    assert str(caught.value).isprintable()


@given(st.text(max_size=300) | st.text("ab./@:-_ %\n\\", max_size=12))
@example("a/../b")
def test_whatever_is_accepted_keeps_every_rule(text: str) -> None:
    try:
        accepted = check_model_id(text)
    except InvalidModelIdError:
        return
    assert accepted == text
    assert 1 <= len(text) <= 256
    assert not set(text) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@/-")
    assert not {"", ".."} & set(text.split("/"))


# Deployments


def test_a_deployment_has_the_defaults_that_users_know() -> None:
    options = DeploymentConfig(name="Model")
    assert (options.num_replicas, options.max_ongoing_requests, options.max_queued_requests) == (1, 5, -1)
    assert (options.graceful_shutdown_timeout_s, options.max_constructor_retry_count) == (20.0, 20)
    assert options.max_leaked_bytes is None
    assert config.MAX_NUM_MODELS_PER_REPLICA == 3


@pytest.mark.parametrize("name", ["", "a#b", "#", None, 5])
def test_a_deployment_has_a_name_without_a_hash(name: Any) -> None:
    with pytest.raises(ValueError, match="name must be a non-empty string without '#'"):
        DeploymentConfig(name=name)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("num_replicas", value) for value in (0, -1, None, "2", 1.5, True)),
        *(("max_ongoing_requests", value) for value in (0, -1, None, "5", 2.0, True)),
        *(("max_queued_requests", value) for value in (-2, None, "5", 2.0, True)),
        *(("max_constructor_retry_count", value) for value in (-1, None, "5", 2.0)),
        *(("graceful_shutdown_timeout_s", value) for value in (-1, -0.1, None, "20")),
        *(("max_leaked_bytes", value) for value in (0, -1, 1.5, True, "2 GiB", "lots")),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{option} must be .* got {re.escape(repr(value))}\.$"):
        DeploymentConfig(name="Model", **{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_replicas", 100),
        ("max_ongoing_requests", 1),
        ("max_queued_requests", 0),
        ("max_queued_requests", -1),
        ("graceful_shutdown_timeout_s", 0),
        ("max_constructor_retry_count", 0),
    ],
)
def test_options_may_be_as_small_as_this(option: str, value: int) -> None:
    options: dict[str, Any] = {option: value}
    assert getattr(DeploymentConfig(name="Model", **options), option) == value


def test_a_size_may_be_text_and_is_a_number_from_then_on() -> None:
    options = DeploymentConfig(name="Model", max_leaked_bytes="2GiB")
    assert options.max_leaked_bytes == 2**31
    assert dataclasses.replace(options, num_replicas=2).max_leaked_bytes == 2**31
    assert dataclasses.replace(options, max_leaked_bytes=None).max_leaked_bytes is None


def test_a_deployment_knows_the_names_of_its_options() -> None:
    assert DeploymentConfig.option_names()[:2] == ["name", "num_replicas"]


# HTTP


def test_http_has_the_defaults_that_users_know() -> None:
    options = HTTPOptions()
    assert (options.host, options.port, options.keep_alive_timeout_s) == ("127.0.0.1", 8000, 90)
    assert options.request_timeout_s is None
    assert options.num_proxies == 1


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, True])
def test_there_is_at_least_one_proxy(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"num_proxies must be an integer .* 1, got {re.escape(repr(value))}\.$"):
        HTTPOptions(num_proxies=value)


@pytest.mark.parametrize("value", [0, 1, 0.5, 1e300])
def test_a_number_of_seconds_passes(value: float) -> None:
    config.check_seconds("wait_s", value)


@pytest.mark.parametrize(("value", "above_0"), [(-1, False), (None, False), ("1", False), (math.nan, False), (0, True)])
def test_what_is_no_number_of_seconds_is_refused_by_name(value: Any, above_0: bool) -> None:
    with pytest.raises(ValueError, match=rf"^wait_s must be a number of seconds .* 0, got {re.escape(repr(value))}\.$"):
        config.check_seconds("wait_s", value, above_0=above_0)


def test_none_is_any_time_where_0_makes_no_sense() -> None:
    config.check_seconds("timeout_s", None, above_0=True)


@pytest.mark.parametrize("prefix", [None, "/", "/shop", "/shop/v1", "/ü"])
def test_a_good_route_prefix_passes(prefix: str | None) -> None:
    config.check_route_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "shop", "shop/", "/shop/", "//", "/{shop}", "/shop}", "/{shop"])
def test_a_route_prefix_begins_with_a_slash_and_has_no_other_end_and_no_braces(prefix: str) -> None:
    with pytest.raises(ValueError, match=rf"A route_prefix begins with .*; got {re.escape(repr(prefix))}\.$"):
        config.check_route_prefix(prefix)


# Replaceable parts


def test_an_import_path_leads_to_its_object() -> None:
    assert config.load("modelplex.config:check_model_id") is check_model_id


@pytest.mark.parametrize("name", config.ENGINES)
def test_each_engine_can_be_found(name: str) -> None:
    assert isinstance(config.load(config.ENGINES[name]), type)
