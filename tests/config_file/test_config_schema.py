"""The JSON Schema of the configuration file: that it says what the reader does."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from modelplex.config import AdminOptions, DeploymentConfig
from modelplex.config_file import hints, read_text
from modelplex.config_file.document import Value
from modelplex.config_file.places import Place
from modelplex.config_file.schema import LIMITS, descriptions, schema
from modelplex.config_file.settings import ApplicationConfig, RuntimeEnv
from modelplex.errors import ConfigFileError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "config"

# Their rules are the reader's, and are held to the schema's by `WRONG`.
OWN = (ApplicationConfig, RuntimeEnv)

VALIDATOR = jsonschema.Draft202012Validator(schema())


def places(text: str) -> set[str]:
    """The paths of what the schema finds wrong."""
    found = set()
    for error in VALIDATOR.iter_errors(yaml.safe_load(text)):
        found |= {_path(leaf) for leaf in _leaves(error)}
    return found


def _leaves(error: Any) -> list[Any]:
    return [leaf for inner in error.context for leaf in _leaves(inner)] or [error]


def _path(error: Any) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.absolute_path).removeprefix(".")


def test_the_file_in_the_docs_is_up_to_date() -> None:
    written = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    assert written == schema(), "python -m modelplex.config_file.schema > docs/config.schema.json"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.[yj]*")), ids=lambda file: file.name)
def test_the_examples_are_as_it_says(file: Path) -> None:
    assert places(file.read_text()) == set()


def test_every_option_is_described() -> None:
    for kind in LIMITS:
        options = [field.name for field in dataclasses.fields(kind) if field.name != "place"]
        assert set(options) <= set(descriptions(kind)), kind
        properties = schema()["$defs"][kind.__name__]["properties"]
        assert all(properties[option]["description"] for option in options)


def test_types_and_defaults_are_those_of_the_classes() -> None:
    properties = schema()["$defs"]["DeploymentConfig"]["properties"]
    assert properties["max_ongoing_requests"] == {
        "type": "integer",
        "minimum": 1,
        "default": 5,
        "description": descriptions(DeploymentConfig)["max_ongoing_requests"],
    }
    assert properties["num_replicas"]["anyOf"] == [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": "^auto$"},
    ]
    assert properties["multiplexing_config"]["anyOf"] == [{"$ref": "#/$defs/MultiplexingConfig"}, {"type": "null"}]


WRONG = """\
proxy: 1
proxy_location: Everywhere
http_options: {prot: 80, port: 70000, request_timeout_s: "30", host: ""}
logging_config: {log_level: LOUD}
applications:
  - name: ""
    import_path: nocolon
    route_prefix: shop/
    args: [1]
    host: 0.0.0.0
    runtime_env: {env_vars: {THREADS: 1}}
    deployments:
      - name: A#1
        num_replica: 2
        num_replicas: 0
        max_leaked_bytes: 2 GB
        multiplexing_config: {max_bytes_per_replica: "8 GB ", eviction: fifo, pinned: [good, 5, "not good"]}
        autoscaling_config: {min_replicas: -1, max_replicas: 0, aggregation_function: sum, max_reload_fraction: 2}
        backpressure_config: {status_code: 500}
        request_router_config: {}
"""


def test_it_finds_the_mistakes_that_a_schema_can_find() -> None:
    with pytest.raises(ConfigFileError) as caught:
        read_text(WRONG, check_modules=False)
    # The schema speaks of the mapping in which a key is not known, or missing.
    known = {re.sub(r"\.?(prot|proxy|num_replica|host)$", "", problem.path) for problem in caught.value.problems}
    assert known - places(WRONG) == set()
    assert len(known) >= 20


def outside_and_inside(limits: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Values just beyond what the schema allows, and just within."""
    least, above, most = limits.get("minimum"), limits.get("exclusiveMinimum"), limits.get("maximum")
    outside = [least - 1] if least is not None else []
    inside = [least] if least is not None else []
    outside += [above] if above is not None else []
    inside += [above + 1] if above is not None else []
    outside += [most + 1] if most is not None else []
    inside += [most] if most is not None else []
    outside += ["nothing of the kind"] if "enum" in limits else []
    inside += limits.get("enum", [])
    outside += [limits["not"]["const"]] if "not" in limits else []
    outside += [""] if "minLength" in limits else []
    return outside, inside


@pytest.mark.parametrize(
    ("kind", "option"),
    [(kind, option) for kind, options in LIMITS.items() if kind not in OWN for option in options],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_its_limits_are_those_of_the_classes(kind: type[Any], option: str) -> None:
    """Each rule of the schema is one of the class, so that the two cannot drift apart."""
    beside: dict[str, Any] = {"name": "D"} if kind is DeploymentConfig and option != "name" else {}
    if option == "initial_replicas":
        beside = {"min_replicas": 0}
    if option.startswith("ssl_"):
        beside = {"ssl_certfile": "file"}
    if kind is AdminOptions:
        beside |= {"token_file": "file"}
    limits = LIMITS[kind][option]
    outside, inside = outside_and_inside(limits)
    if "pattern" in limits:
        outside += ["not # good"]
    if "items" in limits:
        outside += [["not good"]]
        inside += [limits["items"].get("enum", ["very.good"])]
    assert outside
    for value in outside:
        with pytest.raises((ValueError, TypeError)):
            kind(**{**beside, option: value})
    for value in inside:
        kind(**{**beside, option: value})


def test_every_option_with_a_rule_has_one_in_the_schema() -> None:
    """A number that may not be -2, or a text that may not be anything, has to have its limits there."""
    for kind, limits in LIMITS.items():
        if kind in OWN:
            continue
        beside: dict[str, Any] = {"name": "D"} if kind is DeploymentConfig else {}
        beside |= {"token_file": "file"} if kind is AdminOptions else {}
        for option, hint in hints.of(kind).items():
            wrong: Any = -2 if {int, float} & set(hints.parts(hint)) else "nothing of the kind #"
            if option in limits or hints.misfits(_value(wrong), hint):
                continue
            kind(**{**beside, option: wrong})


def _value(data: Any) -> Value:
    return Value(Place(), Place(), data)
