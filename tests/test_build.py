"""The configuration file that is made of applications: read again, it changes nothing."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelplex import serve
from modelplex.applications import apply_overrides, import_application
from modelplex.build import build
from modelplex.config_file import read_text
from modelplex.deployment import Application, Node, flatten
from modelplex.errors import ApplicationImportError


class Chooser:
    """A class of a user's, which can be named."""


def policy(context: Any) -> int:
    return 1


@serve.deployment(
    num_replicas=2,
    max_leaked_bytes="2GiB",
    user_config={"a": [1, {"b": None}], "text": "2024-01-01"},
    multiplexing_config={"pinned": ["a", "b"], "max_bytes_per_replica": "8GiB"},
    ray_actor_options={"num_gpus": 0.5},
)
class Low:
    @serve.multiplexed(max_num_models_per_replica=7)
    async def get_model(self, model_id: str) -> str:
        return model_id


def served(**options: Any) -> Application:
    return serve.deployment(name="D", **options)(Chooser).bind()


applications = {
    "plain": served(),
    "number": served(num_replicas=3),
    "auto": served(num_replicas="auto"),
    "auto_of_one": served(num_replicas="auto", autoscaling_config={"max_replicas": 1}),
    "auto_from_two": served(num_replicas="auto", autoscaling_config={"min_replicas": 2, "upscale_delay_s": 1}),
    "scaling": served(autoscaling_config={"max_replicas": 4, "policy": policy}),
    "scaling_with_defaults": served(autoscaling_config={}),
    "router": served(request_router_config={"request_router_class": Chooser, "request_router_kwargs": {"a": 1}}),
    "router_by_name": served(request_router_config={"request_router_class": "some.module:Chooser"}),
    "many_options": served(
        backpressure_config={"status_code": 429},
        logging_config={"log_level": "DEBUG"},
        placement_group_bundles=[{"CPU": 1}],
        max_surge_percent=0.5,
    ),
    "code_only": served(
        request_router_config={"request_router_class": lambda: Chooser},
        autoscaling_config={"policy": lambda context: 1},
    ),
    "composed": serve.deployment(served).bind(Low.bind(), Low.bind()),  # type: ignore[attr-defined]
}
globals().update(applications)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module by a name that a file can have."""
    monkeypatch.setitem(sys.modules, "build_shown", sys.modules[__name__])
    for value in (Chooser, policy):
        monkeypatch.setattr(value, "__module__", "build_shown")


def nodes_of(name: str) -> list[Node]:
    return flatten(import_application(f"build_shown:{name}"), "default")


@pytest.mark.parametrize("name", applications)
def test_what_is_built_changes_nothing(name: str) -> None:
    (application,) = read_text(build([f"build_shown:{name}"]), check_modules=False).applications
    assert (application.name, application.route_prefix, application.import_path) == (
        "default",
        "/",
        f"build_shown:{name}",
    )
    nodes = nodes_of(name)
    assert [override.name for override in application.deployments] == [node.deployment.name for node in nodes]
    assert _by_name(apply_overrides(nodes, application.deployments)) == _by_name(nodes)


def _by_name(nodes: list[Node]) -> str:
    """Their options, code as its import path, as a file has it."""
    text = "\n".join(repr(node.deployment.config) for node in nodes)
    return text.replace(repr(Chooser), "'build_shown:Chooser'").replace(repr(policy), "'build_shown:policy'")


def test_only_what_is_not_the_default_is_written_with_what_it_is_for() -> None:
    text = build(["build_shown:composed"])
    low, low_1, served_ = read_text(text, check_modules=False).applications[0].deployments
    assert (low.name, low_1.name, served_.name, served_.options) == ("Low", "Low_1", "served", {})
    assert low.options == low_1.options == {
        "num_replicas": 2,
        "user_config": {"a": [1, {"b": None}], "text": "2024-01-01"},
        "multiplexing_config": {"max_bytes_per_replica": "8GiB", "pinned": ["a", "b"]},
        "max_leaked_bytes": 2**31,
        "ray_actor_options": {"num_gpus": 0.5},
    }  # fmt: skip
    assert "# processes to run, or" in text
    assert "#   get_model: max_num_models_per_replica 7, eviction lru\n" in text


def test_what_no_file_can_say_is_left_to_the_code_and_that_is_said() -> None:
    text = build(["build_shown:code_only"])
    for option in ("autoscaling_config", "request_router_config"):
        assert f"# {option} is as the code says: part of it cannot be written here.\n" in text
    assert set(read_text(text, check_modules=False).applications[0].deployments[0].options) <= {"num_replicas"}


def test_several_applications_have_names_and_prefixes_of_their_own() -> None:
    first, second = read_text(build(["build_shown:plain", "build_shown.auto"]), check_modules=False).applications
    assert (first.name, first.route_prefix, second.name, second.route_prefix) == ("app1", "/app1", "app2", "/app2")


def test_what_is_no_application_is_told() -> None:
    with pytest.raises(ApplicationImportError, match="has no application 'nothing'"):
        build(["build_shown:nothing"])


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@example({"0E0": "1e5"})
@given(_json)
def test_whatever_text_is_in_an_option_arrives(data: Any) -> None:
    applications["drawn"] = globals()["drawn"] = served(user_config={"x": data}, max_ongoing_requests=6)
    sys.modules["build_shown"] = sys.modules[__name__]
    (override,) = read_text(build(["build_shown:drawn"]), check_modules=False).applications[0].deployments
    assert override.options == {"user_config": {"x": data}, "max_ongoing_requests": 6}


def test_an_import_path_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "built_here.py").write_text(
        "from modelplex import serve\n@serve.deployment\ndef d(): ...\napp = d.bind()\n"
    )
    text = build(["built_here:app"], tmp_path)
    assert read_text(text, app_dir=tmp_path).applications[0].deployments[0].name == "d"
    del sys.modules["built_here"]
