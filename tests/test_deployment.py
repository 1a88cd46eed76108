"""`@deployment`, and how applications are bound together and taken apart."""

import dataclasses
import functools
from collections import OrderedDict
from typing import Any, NamedTuple

import cloudpickle
import pytest

from modelplex.deployment import Application, Deployment, Node, deployment, flatten
from modelplex.handle import DeploymentHandle


class Model:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("nothing is constructed before it is run")


def function(request: object) -> str:
    return "ok"


def named(name: str) -> Deployment:
    return deployment(name=name)(Model)


def handles(value: Any) -> Any:
    """Handles as `application/deployment`, wherever they are."""
    if isinstance(value, DeploymentHandle):
        return f"{value.app_name}/{value.deployment_name}"
    if isinstance(value, list | tuple):
        return type(value)(handles(v) for v in value)
    if isinstance(value, dict):
        return {k: handles(v) for k, v in value.items()}
    return value


def names(nodes: list[Node]) -> list[str]:
    return [node.deployment.name for node in nodes]


# The decorator


def test_a_bare_decorator_takes_the_name_of_the_class() -> None:
    made = deployment(Model)
    assert isinstance(made, Deployment)
    assert (made.name, made.func_or_class) == ("Model", Model)


def test_empty_brackets_are_as_bare() -> None:
    assert deployment()(Model) == deployment(Model)


def test_a_function_can_be_a_deployment() -> None:
    assert deployment(function).name == "function"


def test_options_are_kept_and_the_rest_are_defaults() -> None:
    config = deployment(num_replicas=2, name="other")(Model).config
    assert (config.name, config.num_replicas, config.max_ongoing_requests) == ("other", 2, 5)


def test_something_without_a_name_needs_to_be_given_one() -> None:
    nameless = functools.partial(function)
    with pytest.raises(ValueError, match="non-empty string"):
        deployment(nameless)
    assert deployment(name="given")(nameless).name == "given"


@pytest.mark.parametrize("options", [{"replicas": 2}, {"num_replicas": 2, "version": "1"}])
def test_an_unknown_option_is_refused_with_the_ones_there_are(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"Unknown deployment option (replicas|version); the options are name, num_rep"):
        deployment(**options)
    with pytest.raises(TypeError, match="Unknown deployment option"):
        deployment(Model).options(**options)


@pytest.mark.parametrize(
    "options", [{"name": "a#b"}, {"name": ""}, {"num_replicas": 0}, {"max_ongoing_requests": None}]
)
def test_a_wrong_option_is_refused_wherever_it_is_given(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(options)).split('_')[0]}.* must be"):
        deployment(**options)(Model)
    with pytest.raises(ValueError, match="must be"):
        deployment(Model).options(**options)


@pytest.mark.parametrize("thing", [5, "Model", deployment(Model)])
def test_only_classes_and_functions_can_be_deployments(thing: Any) -> None:
    with pytest.raises(TypeError, match="decorates a class or a function, got"):
        deployment(name="given")(thing)


# Deployments


def test_options_makes_a_copy() -> None:
    before = deployment(num_replicas=2)(Model)
    after = before.options(name="other", max_ongoing_requests=7)
    assert (after.name, after.config.num_replicas, after.config.max_ongoing_requests) == ("other", 2, 7)
    assert before == deployment(num_replicas=2)(Model)
    assert after.func_or_class is Model


def test_a_deployment_never_changes() -> None:
    made = deployment(Model)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.config = made.config  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.config.num_replicas = 5  # type: ignore[misc]


def test_a_deployment_cannot_be_called() -> None:
    with pytest.raises(RuntimeError, match=r"Model cannot be called directly: serve\.run\(Model\.bind"):
        deployment(Model)("request")


def test_bind_constructs_nothing_and_keeps_the_arguments() -> None:
    made = deployment(Model)
    application = made.bind(1, "two", three=3)
    assert isinstance(application, Application)
    assert (application.deployment, application.args, application.kwargs) == (made, (1, "two"), {"three": 3})


def test_binding_twice_makes_two_applications() -> None:
    made = deployment(Model)
    assert made.bind() != made.bind()


# Taking applications apart


def test_one_deployment_is_one_node() -> None:
    [node] = flatten(named("a").bind(1, x=2), "app")
    assert (node.deployment, node.args, node.kwargs) == (named("a"), (1,), {"x": 2})


def test_what_is_called_comes_before_its_callers() -> None:
    inner = named("inner").bind()
    middle = named("middle").bind(inner)
    assert names(flatten(named("ingress").bind(middle), "app")) == ["inner", "middle", "ingress"]


def test_nested_applications_arrive_as_handles() -> None:
    a, b = named("a").bind(), named("b").bind()
    nodes = flatten(named("ingress").bind(a, 5, other=b), "app")
    assert handles(nodes[-1].args) == ("app/a", 5)
    assert handles(nodes[-1].kwargs) == {"other": "app/b"}


def test_applications_are_found_in_lists_tuples_and_dicts_however_deep() -> None:
    a, b, c = (named(name).bind() for name in "abc")
    nodes = flatten(named("ingress").bind([a, (b, 1)], models={"de": [{"x": c}], "n": 5}), "app")
    assert names(nodes) == ["a", "b", "c", "ingress"]
    assert handles(nodes[-1].args) == (["app/a", ("app/b", 1)],)
    assert handles(nodes[-1].kwargs) == {"models": {"de": [{"x": "app/c"}], "n": 5}}


class Pair(NamedTuple):
    one: int
    two: int


def test_other_arguments_pass_as_they_are() -> None:
    others = ({1, 2}, Pair(1, 2), OrderedDict(a=1), Model)
    [node] = flatten(named("a").bind(*others), "app")
    assert all(got is given for got, given in zip(node.args, others, strict=True))


def test_the_bound_arguments_are_not_changed() -> None:
    models = [named("a").bind()]
    flatten(named("ingress").bind(models), "app")
    assert isinstance(models[0], Application)


def test_an_application_that_is_bound_into_several_places_is_one_deployment() -> None:
    shared = named("shared").bind()
    one, other = named("one").bind(shared), named("other").bind([shared])
    nodes = flatten(named("ingress").bind(one, other, shared), "app")
    assert names(nodes) == ["shared", "one", "other", "ingress"]
    assert handles([node.args for node in nodes[1:]]) == [
        ("app/shared",),
        (["app/shared"],),
        ("app/one", "app/other", "app/shared"),
    ]


def test_different_applications_of_one_name_are_numbered() -> None:
    made = named("a")
    nodes = flatten(named("ingress").bind(made.bind(1), made.bind(2), made.bind(3)), "app")
    assert names(nodes) == ["a", "a_1", "a_2", "ingress"]
    assert [node.args for node in nodes[:3]] == [(1,), (2,), (3,)]
    assert handles(nodes[-1].args) == ("app/a", "app/a_1", "app/a_2")


def test_a_number_that_is_taken_is_passed_over() -> None:
    nodes = flatten(named("ingress").bind(named("a_1").bind(), named("a").bind(), named("a").bind()), "app")
    assert names(nodes) == ["a_1", "a", "a_2", "ingress"]


def test_an_ingress_of_the_same_name_as_one_below_it_is_numbered() -> None:
    assert names(flatten(named("a").bind(named("a").bind()), "app")) == ["a", "a_1"]


def test_a_numbered_deployment_keeps_its_other_options() -> None:
    made = deployment(num_replicas=4)(Model)
    nodes = flatten(named("ingress").bind(made.bind(), made.bind()), "app")
    assert [node.deployment.config.num_replicas for node in nodes] == [4, 4, 1]


def test_the_same_application_can_be_taken_apart_under_two_names() -> None:
    application = named("ingress").bind(named("a").bind())
    assert handles(flatten(application, "one")[-1].args) == ("one/a",)
    assert handles(flatten(application, "two")[-1].args) == ("two/a",)


def test_nodes_can_be_pickled() -> None:
    nodes = flatten(named("ingress").bind(named("a").bind()), "app")
    arrived = cloudpickle.loads(cloudpickle.dumps(nodes))
    assert names(arrived) == ["a", "ingress"]
    assert handles(arrived[-1].args) == ("app/a",)
