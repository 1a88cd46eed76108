"""A whole configuration file: what it says, and everything that is wrong with it, each at its place."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplex.config import GRPCOptions, HTTPOptions, LoggingConfig
from modelplex.config_file import ApplicationConfig, DeploymentOverride, RuntimeEnv, SystemConfig, read_file, read_text
from modelplex.config_file.document import BYTES_MAX
from modelplex.errors import ConfigFileError, Fault

EXAMPLES = Path(__file__).parents[2] / "examples" / "config"


def read(text: str, **options: Any) -> SystemConfig:
    return read_text(text, "f.yaml", **{"check_modules": False, **options})


def mistakes(text: str, **options: Any) -> list[str]:
    """Each as `line:column path: message`."""
    with pytest.raises(ConfigFileError) as caught:
        read(text, **options)
    return [f"{p.line}:{p.column} {p.path}: {p.message}" for p in caught.value.problems]


def in_application(lines: str) -> str:
    return "applications:\n- import_path: a:b\n" + "".join(f"  {line}\n" for line in lines.splitlines())


def in_deployment(lines: str) -> str:
    return in_application("deployments:\n- name: D\n" + "".join(f"  {line}\n" for line in lines.splitlines()))


# What is right


def test_the_least_has_the_defaults_of_code() -> None:
    config = read("applications: [{import_path: 'a:b'}]")
    assert config == SystemConfig(applications=(ApplicationConfig(import_path="a:b"),))
    assert (config.http_options, config.applications[0].name, config.applications[0].route_prefix) == (
        HTTPOptions(host="127.0.0.1", port=8000),
        "default",
        "/",
    )
    assert read("applications: []").applications == ()


def test_an_example_says_all_that_it_says() -> None:
    config = read_file(EXAMPLES / "full.yaml")
    shops, forecast = config.applications
    assert config.http_options == HTTPOptions(host="0.0.0.0", port=8080, num_proxies=2, request_timeout_s=30)
    assert config.logging_config == LoggingConfig(encoding="JSON")
    assert config.warnings == ()
    assert (shops.name, shops.route_prefix, shops.import_path) == ("shops", "/shops", "shops:build")
    assert shops.args == {"greeting": "Hello", "copies": 2}
    assert shops.runtime_env == RuntimeEnv(env_vars={"OMP_NUM_THREADS": "1"}, working_dir=str(EXAMPLES))
    assert shops.logging_config == LoggingConfig(log_level="WARNING")
    assert shops.deployments[1] == DeploymentOverride(
        name="Gateway",
        options={
            "max_ongoing_requests": 100,
            "max_queued_requests": 1000,
            "backpressure_config": {"status_code": 429, "retry_after_s": 2},
        },
    )
    assert shops.deployments[0].options["multiplexing_config"]["pinned"] == ["shop-1", "shop-2"]
    assert (shops.place.line, shops.place.path) == (13, "applications[0]")
    (merged,) = forecast.deployments
    assert merged.options == {
        "autoscaling_config": {"min_replicas": 2, "max_replicas": 3, "max_reload_fraction": 0.2},
    }


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.[yj]*")), ids=lambda file: file.name)
def test_every_example_is_right_and_says_the_same_as_the_dict_that_it_becomes(file: Path) -> None:
    config = read_file(file, app_dir=EXAMPLES)
    written = config.as_dict()
    assert read_text(json.dumps(written), app_dir=EXAMPLES) == config
    assert read_text(yaml.safe_dump(written), app_dir=EXAMPLES) == config


@pytest.mark.parametrize("place", ["grpc_options: %s\n", "http_options: {grpc: %s}\n"])
def test_grpc_has_a_section_of_its_own_or_one_in_that_of_http(place: str) -> None:
    told = place % "{port: 9001, grpc_servicer_functions: [shop_pb2_grpc.add_ShopServicer_to_server]}"
    config = read(told + in_application(""))
    grpc = GRPCOptions(port=9001, grpc_servicer_functions=["shop_pb2_grpc.add_ShopServicer_to_server"])
    assert config.http_options == HTTPOptions(grpc=grpc)
    assert read_text(yaml.safe_dump(config.as_dict()), check_modules=False).http_options == config.http_options


@pytest.mark.parametrize(
    ("told", "path", "message"),
    [
        ("grpc_options: {port: -1}", "grpc_options.port", "port must be an integer of at least 0"),
        ("http_options: {port: 1, grpc: {port: -1}}", "http_options.grpc.port", "port must be an integer"),
        ("grpc_options: {prot: 1}", "grpc_options.prot", "There is no key 'prot'. Did you mean 'port'"),
        ("grpc_options: {port: 8000}", "grpc_options", "a port other than that of HTTP"),
        (
            "grpc_options: {grpc_servicer_functions: [a.b, 'no path']}",
            "grpc_options.grpc_servicer_functions[1]",
            "must be an import path",
        ),
    ],
)
def test_mistakes_in_options_of_grpc_are_told_at_their_place(told: str, path: str, message: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        read(f"{told}\n" + in_application(""))
    [problem] = caught.value.problems
    assert problem.path == path
    assert message in problem.message


def test_what_ray_serve_has_and_means_nothing_here_is_ignored_and_said_to_be() -> None:
    config = read(
        "tracing_config: {}\ntarget_capacity: 50\n"
        + in_application("runtime_env: {pip: [x], env_vars: {A: b}}\nautoscaling_policy: {x: 1}")
    )
    assert [(w.line, w.path) for w in config.warnings] == [
        (1, "tracing_config"),
        (2, "target_capacity"),
        (5, "applications[0].runtime_env.pip"),
        (6, "applications[0].autoscaling_policy"),
    ]
    assert str(config.warnings[0]).startswith(
        "f.yaml:1:1: tracing_config: tracing_config is ignored: MODELPLEX_TRACING in the environment asks for traces"
    )
    assert config.applications[0].runtime_env == RuntimeEnv(env_vars={"A": "b"})


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("proxy_location: HeadOnly\n", "HeadOnly"),
        ("proxy_location: HeadOnly\nhttp_options: {location: AllNodes}\n", "AllNodes"),
        ("http_options: {location: Disabled}\n", "Disabled"),
        ("proxy_location:\n", "EveryNode"),
    ],
)
def test_which_machines_serve_http_may_stand_where_files_for_ray_serve_have_it(text: str, location: str) -> None:
    config = read(text + in_application(""))
    assert config.http_options.location == location
    assert read_text(json.dumps(config.as_dict()), check_modules=False) == config


def test_what_is_no_place_for_proxies_is_told_at_its_place() -> None:
    with pytest.raises(ConfigFileError) as caught:
        read("proxy_location: Everywhere\nhttp_options: {location: Nowhere}\n" + in_application(""))
    assert [(p.line, p.path) for p in caught.value.problems] == [(1, "proxy_location"), (2, "http_options.location")]
    assert "must be Disabled, HeadOnly, EveryNode or AllNodes, got 'Everywhere'." in caught.value.problems[0].message


def test_null_sections_are_as_if_they_were_not_there() -> None:
    text = "http_options:\nlogging_config:\n" + in_application("runtime_env:\ndeployments:\nroute_prefix:")
    assert read(text) == SystemConfig(applications=(ApplicationConfig(import_path="a:b", route_prefix=None),))


def test_options_are_checked_as_they_will_be_over_those_of_the_code() -> None:
    """More than one replica at the least needs no `max_replicas` if the demand says how many there are."""
    read(in_deployment("autoscaling_config: {min_replicas: 5}"))
    read(in_deployment("num_replicas: auto\nautoscaling_config: {min_replicas: 5}"))
    (said,) = mistakes(in_deployment("num_replicas: 1\nautoscaling_config: {min_replicas: 5}"))
    assert said.startswith("6:40 applications[0].deployments[0].autoscaling_config.min_replicas: max_replicas must be")


# What is wrong

MANY = """\
proxy: 1
http_options:
  prot: 80
  port: 70000
  request_timeout_s: "30"
logging_config: {log_level: LOUD}
applications:
  - name: shop
    import_path: no_such_module:app
    route_prefix: shop/
    host: 0.0.0.0
    deployments:
      - name: A
        num_replica: 2
        num_replicas: 0
        multiplexing_config:
          max_bytes_per_replica: "8 GB "
          eviction: fifo
          pinned: [good, 5, "not good", ../up]
      - name: A
        autoscaling_config: {min_replicas: 5, max_replicas: 3, upscale_delay_s: -1}
        request_router_config: {}
  - name: shop
    import_path: nocolon
    route_prefix: /other
    args: [1]
    runtime_env: {env_vars: {THREADS: 1}, working_dir: nowhere}
    name: again
  - route_prefix: /other
  - 5
"""

SAID = [
    (
        "1:1",
        "proxy",
        "There is no key 'proxy'. There are engine, http_options, admin_options, logging_config, applications, "
        "proxy_location, grpc_options.",
    ),
    ("3:3", "http_options.prot", "There is no key 'prot'. Did you mean 'port'?"),
    ("4:9", "http_options.port", "port must be an integer of at least 0 and at most 65535, got 70000."),
    (
        "5:22",
        "http_options.request_timeout_s",
        "request_timeout_s must be a number of seconds above 0, or None, got '30'.",
    ),
    (
        "6:29",
        "logging_config.log_level",
        "log_level must be 'DEBUG' or 'INFO' or 'WARNING' or 'ERROR' or 'CRITICAL', got 'LOUD'.",
    ),
    ("9:18", "applications[0].import_path", "There is no module 'no_such_module' in '.+', or where Python looks."),
    (
        "10:19",
        "applications[0].route_prefix",
        "A route_prefix begins with '/', does not end with one, and has no braces; got 'shop/'.",
    ),
    (
        "11:5",
        "applications[0].host",
        "host is the same for all applications: it belongs to http_options at the top of the file.",
    ),
    (
        "14:9",
        "applications[0].deployments[0].num_replica",
        "There is no key 'num_replica'. Did you mean 'num_replicas'?",
    ),
    (
        "15:23",
        "applications[0].deployments[0].num_replicas",
        "num_replicas must be an integer of at least 1, or 'auto', got 0.",
    ),
    (
        "17:34",
        "applications[0].deployments[0].multiplexing_config.max_bytes_per_replica",
        "max_bytes_per_replica must be a number of bytes above 0, or text such as '512MiB' with .+; got '8 GB '.",
    ),
    (
        "18:21",
        "applications[0].deployments[0].multiplexing_config.eviction",
        "eviction must be 'lru' or 'gdsf', or a policy class, got 'fifo'.",
    ),
    (
        "19:26",
        "applications[0].deployments[0].multiplexing_config.pinned[1]",
        "pinned[1] must be text, got 5. In quotes it is text.",
    ),
    (
        "19:29",
        "applications[0].deployments[0].multiplexing_config.pinned[2]",
        "The model ID 'not good' is malformed: .+",
    ),
    ("19:41", "applications[0].deployments[0].multiplexing_config.pinned[3]", "The model ID '../up' is malformed: .+"),
    ("20:15", "applications[0].deployments[1].name", "The deployment 'A' is there already, on line 13."),
    (
        "21:61",
        "applications[0].deployments[1].autoscaling_config.max_replicas",
        "max_replicas must be an integer of at least 5 and of min_replicas, got 3.",
    ),
    (
        "21:81",
        "applications[0].deployments[1].autoscaling_config.upscale_delay_s",
        "upscale_delay_s must be a number of seconds of at least 0, got -1.",
    ),
    ("22:32", "applications[0].deployments[1].request_router_config", "request_router_class is missing."),
    ("23:11", "applications[1].name", "The name 'shop' is that of the application on line 8, too."),
    (
        "24:18",
        "applications[1].import_path",
        "import_path must be an import path such as 'package.module:name', got 'nocolon'.",
    ),
    ("26:11", "applications[1].args", "args must be a mapping, got [1]."),
    ("27:39", "applications[1].runtime_env.env_vars.THREADS", "THREADS must be text, got 1. In quotes it is text."),
    (
        "27:56",
        "applications[1].runtime_env.working_dir",
        "working_dir must be a folder on this machine; there is no .+.",
    ),
    ("28:5", "applications[1].name", "The key 'name' is there already, on line 23."),
    ("29:5", "applications[2]", "import_path is missing."),
    ("29:19", "applications[2].route_prefix", "The route_prefix '/other' is that of the application on line 23, too."),
    ("30:5", "applications[3]", "This must be a mapping, got 5."),
]


def test_all_mistakes_are_found_in_one_go_each_at_its_place(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(MANY)
    with pytest.raises(ConfigFileError) as caught:
        read_file(file)
    found = caught.value.problems
    assert [(f"{p.line}:{p.column}", p.path) for p in found] == [(place, path) for place, path, _ in SAID]
    for problem, (_, _, message) in zip(found, SAID, strict=True):
        pattern = re.escape(message).replace(r"\.\+", ".+")
        assert re.fullmatch(pattern, problem.message), problem.message
    assert str(caught.value).splitlines() == [f"{file}:{p.line}:{p.column}: {p.path}: {p.message}" for p in found]
    assert (caught.value.fault, caught.value.status) == (Fault.CLIENT, 400)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", ["1:1 : This must be a mapping, got 5."]),
        ("[]", ["1:1 : This must be a mapping, got []."]),
        ("http_options: {}", ["1:1 : applications is missing."]),
        ("applications: {}", ["1:15 applications: applications must be a list, got {}."]),
        ("applications:", ["1:14 applications: applications must be a list, got None."]),
        ("{applications: [], http_options: 5}", ["1:34 http_options: This must be a mapping, got 5."]),
        (in_application("name: ''"), ["3:9 A.name: An application's name must be a non-empty string of printable"]),
        (in_application('name: "a\\r\\nb"'), ["3:9 A.name: An application's name must be a non-empty string of"]),
        (in_application("name: 5"), ["3:9 A.name: name must be text, got 5. In quotes it is text."]),
        (in_application("deployments: 5"), ["3:16 A.deployments: deployments must be a list, got 5."]),
        (in_application("deployments: [{}]"), ["3:17 D: name is missing."]),
        (in_application("args: {5: x}"), ["3:9 A.args: args must be a mapping, got {5: 'x'}. The keys must be text."]),
        (in_application("runtime_env: {working_dir: [x]}"), ["A.runtime_env.working_dir: working_dir must be text or"]),
        (
            in_deployment("max_ongoing_requests: '5'\nmax_replicas_per_node: x\nplacement_group_strategy: 5"),
            [
                "5:27 D.max_ongoing_requests: max_ongoing_requests must be an integer of at least 1, got '5'.",
                "6:28 D.max_replicas_per_node: max_replicas_per_node must be an integer or null, got 'x'.",
                "7:31 D.placement_group_strategy: placement_group_strategy must be text or null, got 5. In quotes",
            ],
        ),
        (
            in_deployment("max_replicas_per_node: '5'"),
            ["must be an integer or null, got '5'. Without quotes it is a number."],
        ),
        (
            in_deployment("placement_group_bundles: [{CPU: 1}, {CPU: x}]"),
            ["5:47 D.placement_group_bundles[1].CPU: CPU must be a number, got 'x'."],
        ),
        (
            in_deployment("ray_actor_options: {num_gpus: 1.5}"),
            ["5:24 D.ray_actor_options: num_gpus must be a whole number, or a part of 1, got 1.5."],
        ),
        (
            in_deployment("num_replicas: 4\nautoscaling_config: {max_replicas: 5}"),
            ["5:19 D.num_replicas: num_replicas=4 says how many replicas there are, and autoscaling_config that"],
        ),
        (
            in_deployment("multiplexing_config: {max_num_models_per_replica: 2, pinned: [a, b]}"),
            ["5:66 D.multiplexing_config.pinned: 2 models are pinned, which leaves no room for others with max_num_"],
        ),
        (
            in_deployment("multiplexing_config: {pinned: a}"),
            ["5:35 D.multiplexing_config.pinned: pinned takes a list of model ids, got the text 'a'."],
        ),
        (
            in_deployment(f"max_leaked_bytes: {'9' * 400}B\nray_actor_options: {{runtime_env: 5}}"),
            ["5:23 D.max_leaked_bytes: ", "6:24 D.ray_actor_options: "],  # what the checks stumble over
        ),
    ],
)
def test_a_mistake_is_told_where_it_is(text: str, says: list[str]) -> None:
    found = [re.sub(r"applications\[0\](\.deployments\[0\])?", _shortly, said) for said in mistakes(text)]
    assert len(found) == len(says)
    for said, expected in zip(found, says, strict=True):
        assert expected in said


def _shortly(path: "re.Match[str]") -> str:
    return "D" if path[1] else "A"


def test_a_value_that_could_not_be_read_is_wrong_once() -> None:
    assert mistakes("applications: [{import_path: !x y, args: {a: !x y}}]\nhttp_options: !x y") == [
        "1:30 applications[0].import_path: The tag '!x' is not known here: write a plain value.",
        "1:46 applications[0].args.a: The tag '!x' is not known here: write a plain value.",
        "2:15 http_options: The tag '!x' is not known here: write a plain value.",
    ]


def test_defaults_that_are_not_written_are_not_unique_either() -> None:
    assert mistakes("applications:\n- {import_path: 'a:b'}\n- {import_path: 'a:c'}") == [
        "3:3 applications[1]: The name 'default' is that of the application on line 2, too. It is the default.",
        "3:3 applications[1]: The route_prefix '/' is that of the application on line 2, too. It is the default.",
    ]
    without_routes = "applications:\n- {name: a, import_path: 'a:b', route_prefix: null}\n"
    assert len(read(without_routes + "- {name: b, import_path: 'a:b', route_prefix: null}").applications) == 2


# Files and modules


def test_a_file_that_cannot_be_read_is_a_problem_too(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"#" * (2 * BYTES_MAX))
    (tmp_path / "marked").write_bytes("\ufeffapplications: []".encode())
    for name, says in {
        "nothing": "nothing: The file cannot be read: No such file or directory.",
        ".": ": The file cannot be read: Is a directory.",
        "binary": "binary: The file cannot be read: It is not UTF-8 text",
        "large": f"more than {BYTES_MAX} are not read.",
    }.items():
        with pytest.raises(ConfigFileError, match=re.escape(says)):
            read_file(tmp_path / name)
    assert read_file(tmp_path / "marked").applications == ()


def test_modules_are_found_without_being_imported(tmp_path: Path) -> None:
    package = tmp_path / "app_package" / "inner"
    package.mkdir(parents=True)
    for file in (tmp_path / "app_module.py", package.parent / "__init__.py", package / "deep.py"):
        file.write_text("raise AssertionError('imported')\n")
    for import_path, exists in {
        "app_module:app": True,
        "app_module.app": True,
        "app_package.inner.deep:a.b": True,
        "app_package.inner.deep.build": True,
        "os.path:join": False,  # what `os` makes of it is no module that can be found without importing that
        "json.decoder:x": True,
        "sys:x": True,
        "app_module.inner:app": False,
        "app_package.outer:app": False,
        "nothing:app": False,
    }.items():
        text = f"applications: [{{import_path: '{import_path}'}}]"
        if exists:
            assert read(text, check_modules=True, app_dir=tmp_path).applications[0].import_path == import_path
        else:
            assert "There is no module" in mistakes(text, check_modules=True, app_dir=tmp_path)[0]
    assert not [name for name in sys.modules if name.startswith("app_")]


def test_folders_are_below_that_of_the_file_and_modules_are_looked_for_there(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "shown_here.py").write_text("")
    file = tmp_path / "f.yaml"
    text = "applications:\n- import_path: shown_here:app\n"
    file.write_text(text + "  runtime_env: {working_dir: code}")
    assert read_file(file).applications[0].runtime_env.working_dir == str(tmp_path / "code")
    file.write_text(text)
    with pytest.raises(ConfigFileError, match="There is no module 'shown_here'"):
        read_file(file)
    assert read_file(file, app_dir=tmp_path / "code")
    assert read_file(file, check_modules=False)
    file.write_text(text + "  runtime_env: {working_dir: nowhere}")
    with pytest.raises(ConfigFileError) as caught:
        read_file(file)
    (problem,) = caught.value.problems  # where the module would be is not known
    assert problem.path == "applications[0].runtime_env.working_dir"


# Whatever comes

_names = [
    *("applications", "http_options", "logging_config", "name", "import_path", "route_prefix", "args", "deployments"),
    *("runtime_env", "working_dir", "env_vars", "num_replicas", "autoscaling_config", "multiplexing_config", "pinned"),
    *("min_replicas", "max_replicas", "user_config", "port", "host", "ssl_keyfile", "request_router_config", "x", "<<"),
    *("max_bytes_per_replica", "ray_actor_options", "num_gpus", "placement_group_bundles", "backpressure_config"),
]
_keys = st.sampled_from(_names)
_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["auto", "a:b", "/", "8GiB", "\x00", "."])
)
_anything = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys | _scalars, inner, max_size=5)
)
_deployment = st.dictionaries(_keys, _anything, max_size=6)
_application = st.dictionaries(_keys, _anything | st.lists(_deployment | _anything, max_size=3), max_size=6)
_file = st.fixed_dictionaries(
    {"applications": st.lists(_application, max_size=3)}, optional={"http_options": _deployment}
)


@settings(max_examples=300, deadline=None)
@given(_file | _anything)
def test_whatever_is_in_it_the_file_is_read_or_its_mistakes_are_told(data: Any) -> None:
    try:
        config = read(yaml.safe_dump(data))
    except ConfigFileError as error:
        found = error
    else:
        found = ConfigFileError(problems=config.warnings)
        assert read(yaml.safe_dump(config.as_dict())) == config or "nan" in repr(config)
    assert all(problem.message and problem.line for problem in found.problems)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_good_file_with_one_thing_replaced_is_read_or_its_mistakes_are_told(data: st.DataObject) -> None:
    good: Any = yaml.safe_load((EXAMPLES / "full.yaml").read_text())
    at: Any = good
    while isinstance(at, dict | list) and at:
        key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
        if data.draw(st.booleans()) or not isinstance(at[key], dict | list):
            at[key] = data.draw(_anything)
            break
        at = at[key]
    try:
        read(yaml.safe_dump(good))
    except ConfigFileError as error:
        found = error.problems
    else:
        found = ()
    assert list(found) == sorted(found, key=lambda p: (p.line, p.column))
