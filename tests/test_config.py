"""Options, their defaults, and model ids, which are hostile input."""

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelplex import config
from modelplex.config import CacheOptions, DeploymentConfig, GRPCOptions, HTTPOptions, TenantConfig, check_model_id
from modelplex.config.tenants import limits
from modelplex.errors import InvalidModelIdError
from modelplex.serve.config import ProxyLocation

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


@pytest.mark.parametrize("name", ["", "a#b", "#", None, 5, "a\r\nset-cookie: b", "\x1b[2J"])
def test_a_deployment_has_a_name_that_can_stand_in_a_header(name: Any) -> None:
    with pytest.raises(ValueError, match="name must be a non-empty string of printable"):
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


@pytest.mark.parametrize("value", ["Everywhere", "everynode", "", None, 5, ["HeadOnly"]])
def test_another_place_for_proxies_is_refused(value: Any) -> None:
    right = "Disabled, HeadOnly, EveryNode or AllNodes"
    with pytest.raises(ValueError, match=rf"^location must be {right}, got {re.escape(repr(value))}\.$"):
        HTTPOptions(location=value)
    with pytest.raises(ValueError, match=rf"^proxy_location must be {right}, got {re.escape(repr(value))}\.$"):
        HTTPOptions(location="HeadOnly").at(value)


def test_an_enumeration_of_places_becomes_text_which_can_be_written_and_sent() -> None:
    assert type(HTTPOptions(location=ProxyLocation.AllNodes).location) is str
    assert type(HTTPOptions().at(ProxyLocation.HeadOnly).location) is str


def test_a_location_of_the_options_goes_before_proxy_location() -> None:
    assert HTTPOptions(port=1).at("HeadOnly") == HTTPOptions(port=1, location="HeadOnly")
    assert HTTPOptions(location="Disabled").at("HeadOnly").location == "Disabled"


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


# Tenants


def test_what_a_tenant_may_take_is_read_from_text_and_numbers() -> None:
    made = DeploymentConfig(name="D", tenants={"a": {"reserved_bytes": "2KiB", "burst_bytes": 4096}})
    assert made.tenants is not None
    assert made.tenants["a"] == TenantConfig(reserved_bytes=2048, burst_bytes=4096)
    assert DeploymentConfig(name="D", tenants={}).tenants is None


@pytest.mark.parametrize(
    ("tenants", "said"),
    [
        ({"a": {"reserved_bytes": "much"}}, "reserved_bytes must be a number of bytes"),
        ({"a": {"reserved_models": 0}}, "reserved_models must be an integer of at least 1"),
        ({"a": {"load_share": 0}}, "load_share must be a number above 0"),
        ({"a": {"request_share": 1.5}}, "request_share must be a number above 0 and at most 1"),
        ({"a": {"max_queued_requests": -2}}, "max_queued_requests must be an integer of at least 0"),
        ({"a": {"reserved_models": 3, "burst_models": 2}}, "burst_models=2 must be at least reserved_models=3"),
        ({"a": {"share": 1}}, "Unknown key of tenants: share"),
        ({"a": None}, "must say what 'a' may take"),
        ({"": {}}, "tenants must be a dict of names"),
        (["a"], "tenants must be a dict of names"),
    ],
)
def test_what_no_tenant_may_be(tenants: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        DeploymentConfig(name="D", tenants=tenants)


def test_more_than_there_is_cannot_be_reserved() -> None:
    budget = {"max_bytes_per_replica": "1KiB"}
    with pytest.raises(ValueError, match="reserved_bytes are 2048 together, more than max_bytes_per_replica=1024"):
        DeploymentConfig(name="D", tenants={"a": {"reserved_bytes": "2KiB"}}, multiplexing_config=budget)
    tenants = {"a": TenantConfig(reserved_models=2), "*": TenantConfig(burst_models=2)}
    with pytest.raises(ValueError, match="beside 2 that are pinned"):
        CacheOptions(models_max=3, tenants={"a": TenantConfig(reserved_models=2)}, pinned=("x", "y"))
    with pytest.raises(ValueError, match="2 models are pinned, which leaves no room for others with burst_models=2"):
        CacheOptions(models_max=9, tenants=tenants, pinned=("x", "y"))


def test_not_all_models_can_be_reserved_while_somebody_has_none() -> None:
    with pytest.raises(ValueError, match=r"All 3 models .* leaves no room for \*"):
        CacheOptions(models_max=3, tenants={"a": TenantConfig(reserved_models=3)})
    CacheOptions(models_max=3, tenants={"a": TenantConfig(reserved_models=2), "*": TenantConfig(reserved_models=1)})


def test_what_is_not_reserved_follows_from_what_is_where_both_are_limited() -> None:
    both = limits({"a": TenantConfig(reserved_bytes=50)}, 10, 100, 4, 0)["a"]
    assert (both.reserved_models, both.reserved_bytes) == (5, 50)
    both = limits({"a": TenantConfig(reserved_models=3)}, 10, 100, 4, 0)["a"]
    assert (both.reserved_models, both.reserved_bytes) == (3, 30)
    counted = limits({"a": TenantConfig(reserved_bytes=50)}, 10, -1, 4, 0)["a"]
    assert (counted.reserved_models, counted.reserved_bytes) == (0, -1)


def test_a_share_of_loads_is_of_32_where_they_have_no_limit() -> None:
    tenants = {"a": TenantConfig(load_share=0.25), "b": TenantConfig(load_share=0.01)}
    assert [limits(tenants, 10, -1, -1, 0)[name].loads_max for name in "ab"] == [8, 1]
    assert [limits(tenants, 10, -1, 8, 0)[name].loads_max for name in "ab"] == [2, 1]


# gRPC


def a_servicer_function() -> None: ...


def test_functions_of_services_become_import_paths() -> None:
    options = GRPCOptions(grpc_servicer_functions=["a.b.c", a_servicer_function])
    assert options.servicers == ["a.b.c", f"{__name__}:a_servicer_function"]
    assert HTTPOptions(grpc={"port": 1}).grpc == GRPCOptions(port=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"port": -1}, "port must be an integer of at least 0 and at most 65535"),
        ({"grpc_servicer_functions": "a.b"}, "must be a list of functions or import paths"),
        ({"grpc_servicer_functions": ["no path"]}, "must be an import path"),
        ({"grpc_servicer_functions": [lambda: None]}, "in a module that replicas can import"),
        ({"request_timeout_s": 0}, "request_timeout_s must be a number of seconds above 0"),
        ({"enable_reflection": True}, "there is no reflection"),
    ],
)
def test_options_of_grpc_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GRPCOptions(**options)


def test_grpc_and_http_have_a_port_each() -> None:
    with pytest.raises(ValueError, match="a port other than that of HTTP"):
        HTTPOptions(port=9000, grpc=GRPCOptions())
    assert HTTPOptions(port=0, grpc=GRPCOptions(port=0)).grpc is not None
