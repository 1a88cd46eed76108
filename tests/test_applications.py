"""Import paths, functions that build applications, and the options that a file puts over those of the code."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelplex import config, serve
from modelplex.applications import apply_overrides, check_names, import_application
from modelplex.config import LoggingConfig
from modelplex.config_file import DeploymentOverride, read_text
from modelplex.deployment import Node, flatten
from modelplex.errors import ApplicationImportError, ConfigFileError, Fault

MODULE = """
import dataclasses
import functools

import msgspec
import pydantic
import pydantic.v1

from modelplex import serve


@serve.deployment
def answer():
    return 1


app = answer.bind()


class Holder:
    class Inner:
        app = answer.bind("inner")


class Undecorated:
    pass


number = 5


def nothing():
    return answer.bind("built")


def plain(args):
    return answer.bind(args)


def annotated(args: dict[str, str]):
    return answer.bind(args)


def optional(args: dict = {"of the code": 1}):
    return answer.bind(args)


def by_keyword(*, args):
    return answer.bind(args)


@functools.wraps(plain)
def wrapped(*args):
    return plain(*args)


class Callable:
    def __call__(self, args: "Fields"):
        return answer.bind(args)


instance = Callable()
partly = functools.partial(lambda extra, args: answer.bind({**args, **extra}), {"x": 1})


@dataclasses.dataclass
class Fields:
    name: str
    copies: int = 1
    rate: float = 0.5
    exact: bool = False
    words: list[str] = dataclasses.field(default_factory=list)


class Struct(msgspec.Struct, rename="camel"):
    copies_max: int


class Model(pydantic.BaseModel):
    name: str
    copies: int = 1


class OldModel(pydantic.v1.BaseModel):
    copies: int


def from_fields(args: Fields):
    return answer.bind(args)


def from_text_annotation(args: "Fields"):
    return answer.bind(args)


def from_struct(args: Struct):
    return answer.bind(args)


def from_model(args: Model):
    return answer.bind(args)


def from_old_model(args: OldModel):
    return answer.bind(args)


def from_number(args: int):
    return answer.bind(args)


def two(first, second):
    return app


def unbound():
    return answer


def nonsense():
    return 5


async def later():
    return app


def broken(args):
    raise KeyError("of the user")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "shown_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "shown.py").write_text(MODULE)
    (tmp_path / "shown_module.py").write_text(MODULE)
    (tmp_path / "shown_needy.py").write_text("import shown_elsewhere")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("shown_")]:
        del sys.modules[name]


def built_with(folder: Path, function: str, /, **args: Any) -> Any:
    """The argument with which the function of this name bound its deployment."""
    return import_application(f"shown_module:{function}", args, folder).args[0]


@pytest.mark.parametrize(
    "import_path",
    ["shown_module:app", "shown_module.app", "shown_package.shown:app", "shown_package.shown.app"],
)
def test_an_application_is_imported_by_either_form_of_its_path(import_path: str, folder: Path) -> None:
    application = import_application(import_path, app_dir=folder)
    assert isinstance(application, serve.Application)
    assert application.deployment.name == "answer"


def test_a_name_may_be_inside_of_another(folder: Path) -> None:
    assert import_application("shown_module:Holder.Inner.app", None, folder).args == ("inner",)


def test_the_folder_comes_first_on_the_path_once(folder: Path) -> None:
    for _ in range(3):
        import_application("shown_module:app", app_dir=folder)
    assert sys.path[0] == str(folder)
    assert sys.path.count(str(folder)) == 1


def test_functions_build_with_a_dict_of_what_was_given(folder: Path) -> None:
    assert built_with(folder, "nothing") == "built"
    for name in ("plain", "annotated", "optional", "by_keyword", "wrapped"):
        assert built_with(folder, name, a="1") == {"a": "1"}, name
    assert built_with(folder, "plain") == {}
    assert built_with(folder, "optional") == {"of the code": 1}
    assert built_with(folder, "partly", a="1") == {"a": "1", "x": 1}


@pytest.mark.parametrize("name", ["from_fields", "from_text_annotation", "instance"])
def test_a_dataclass_is_made_of_text_and_of_values(name: str, folder: Path) -> None:
    made = built_with(folder, name, name="x", copies="3", rate="1.5", exact="true")
    assert (type(made).__name__, made.name, made.copies, made.rate, made.exact) == ("Fields", "x", 3, 1.5, True)
    made = built_with(folder, name, name="x", copies=3, words=["a"])
    assert (made.copies, made.words) == (3, ["a"])


def test_structs_and_models_are_made_too(folder: Path) -> None:
    assert built_with(folder, "from_struct", copiesMax="3").copies_max == 3
    assert built_with(folder, "from_model", name="x", copies="3").copies == 3
    assert built_with(folder, "from_old_model", copies="3").copies == 3


@pytest.mark.parametrize(
    ("import_path", "args", "says"),
    [
        ("nocolon", {}, "import_path must be an import path such as 'package.module:name', got 'nocolon'."),
        (":app", {}, "must be an import path"),
        ("shown_nothing:app", {}, r"There is no module 'shown_nothing' in '.*' \(--app-dir\)\."),
        ("shown_module.deeper:app", {}, r"There is no module 'shown_module.deeper' in"),
        ("shown_module:nope", {}, r"^shown_module has no application 'nope'\. Its applications: app\.$"),
        ("shown_module:Holder.nope", {}, r"no application 'Holder\.nope'\. Its applications: app\."),
        ("shown_module:number", {}, r"no application 'number'\. Its applications: app\."),
        ("shown_module:Undecorated", {}, "no application 'Undecorated'"),
        ("shown_module:answer", {}, r"That is a deployment; answer\.bind\(\) makes one\."),
        ("shown_module:app", {"a": "1"}, r"shown_module:app is an application, which takes no arguments \(a\)"),
        ("shown_module:nothing", {"a": "1"}, r"^shown_module:nothing takes no arguments; it was given a\.$"),
        (
            "shown_module:two",
            {},
            "shown_module:two takes first, second; a function that builds .* one argument at most",
        ),
        (
            "shown_module:unbound",
            {},
            r"it returned Deployment\. It returned a deployment: let it return what \.bind\(\)",
        ),
        ("shown_module:nonsense", {}, r"must build an application, .*; it returned int\.$"),
        ("shown_module:later", {}, "shown_module:later is an async function"),
        (
            "shown_module:from_number",
            {"a": "1"},
            "shown_module:from_number takes int, which cannot be made of arguments",
        ),
        (
            "shown_module:from_fields",
            {"name": "x", "copies": "many"},
            r"argument 'copies': Expected `int`, got `str`\.",
        ),
        ("shown_module:from_fields", {}, r"shown_module:from_fields: Object missing required field `name`\."),
        ("shown_module:from_fields", {"name": "x", "copy": "1"}, "no argument 'copy'. Did you mean 'copies'?"),
        ("shown_module:from_fields", {"name": "x", "words": [1]}, r"argument 'words\[0\]': Expected `str`, got `int`"),
        ("shown_module:from_struct", {"copiesMax": "x"}, "argument 'copiesMax': Expected `int`"),
        (
            "shown_module:from_model",
            {"copies": "x"},
            "argument 'name': Field required; argument 'copies': Input should be",
        ),
        ("shown_module:from_old_model", {"copies": "x"}, "argument 'copies': value is not a valid integer"),
    ],
)
def test_what_builds_nothing_says_why(import_path: str, args: dict[str, Any], says: str, folder: Path) -> None:
    with pytest.raises(ApplicationImportError, match=says) as caught:
        import_application(import_path, args, folder)
    assert caught.value.fault is Fault.CLIENT


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ApplicationImportError, match=r"There is no folder '.*/nowhere' to import from \(--app-dir\)\."):
        import_application("x:y", None, tmp_path / "nowhere")


def test_what_the_users_code_raises_is_left_as_it_is(folder: Path) -> None:
    with pytest.raises(KeyError, match="of the user"):
        import_application("shown_module:broken", {}, folder)
    with pytest.raises(ModuleNotFoundError, match="shown_elsewhere"):
        import_application("shown_needy:app", {}, folder)


# Options of a file


def nodes(**options: Any) -> list[Node]:
    low = serve.deployment(name="Low", **options)(_nothing)
    return flatten(serve.deployment(name="Top")(_nothing).bind(low.bind()), "app")


def _nothing() -> None: ...


def overrides(*lines: str) -> tuple[DeploymentOverride, ...]:
    text = "applications:\n- import_path: a:b\n  deployments:\n" + "".join(f"  - {{{line}}}\n" for line in lines)
    return read_text(text, "f.yaml", check_modules=False).applications[0].deployments


def test_options_of_the_file_take_the_place_of_those_in_the_code() -> None:
    before = nodes(num_replicas=2, max_ongoing_requests=7)
    low, top = apply_overrides(before, overrides("name: Low, num_replicas: 3, multiplexing_config: {pinned: [a]}"))
    assert (low.deployment.config.num_replicas, low.deployment.config.max_ongoing_requests) == (3, 7)
    assert low.deployment.config.multiplexing_config == config.MultiplexingConfig(pinned=["a"])
    assert top == before[1]
    assert before[0].deployment.config.num_replicas == 2


@pytest.mark.parametrize(
    ("code", "line", "replicas", "scaling_max"),
    [
        ({"num_replicas": 4}, "autoscaling_config: {min_replicas: 2}", "auto", 100),
        ({"num_replicas": "auto"}, "num_replicas: 4", 4, None),
        ({"autoscaling_config": {"max_replicas": 5}}, "num_replicas: 4", 4, None),
        ({"num_replicas": 4}, "num_replicas: auto", "auto", 100),
    ],
)
def test_a_number_and_the_demand_take_each_others_place(
    code: dict[str, Any], line: str, replicas: Any, scaling_max: int | None
) -> None:
    low, _ = apply_overrides(nodes(**code), overrides(f"name: Low, {line}"))
    assert low.deployment.config.num_replicas == replicas
    scaling = low.deployment.config.scaling
    assert (None if scaling is None else scaling.max_replicas) == scaling_max


def test_names_that_are_not_there_are_all_told_with_those_that_are() -> None:
    wrong = overrides("name: Lew", "name: Top", "name: zzz")
    for refuse in (lambda: apply_overrides(nodes(), wrong), lambda: check_names(wrong, ["Low", "Top"])):
        told: Callable[[], Any] = refuse
        with pytest.raises(ConfigFileError) as caught:
            told()
        assert str(caught.value).splitlines() == [
            "f.yaml:4:5: applications[0].deployments[0]: There is no deployment 'Lew'. Did you mean 'Low'?",
            "f.yaml:6:5: applications[0].deployments[2]: There is no deployment 'zzz'. There are Low, Top.",
        ]


def test_what_does_not_go_with_the_code_is_told_with_its_place() -> None:
    both = DeploymentOverride(name="Low", options={"num_replicas": 4, "autoscaling_config": {}})
    with pytest.raises(ConfigFileError, match="With what the code says of 'Low': num_replicas=4 says"):
        apply_overrides(nodes(), [both])


def test_logs_are_those_of_the_application_unless_a_deployment_has_its_own() -> None:
    quiet, loud = LoggingConfig(log_level="ERROR"), LoggingConfig(log_level="DEBUG")
    low, top = apply_overrides(nodes(logging_config=loud), [], logging_config=quiet)
    assert (low.deployment.config.logs, top.deployment.config.logs) == (loud, quiet)
    _, top = apply_overrides(nodes(), overrides("name: Top, logging_config: {log_level: DEBUG}"), logging_config=quiet)
    assert top.deployment.config.logs == loud
