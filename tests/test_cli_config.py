"""`modelplex check` and `modelplex build`, and arguments of `modelplex run`."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from modelplex import cli as cli_module
from modelplex import driver
from modelplex.cli import cli
from modelplex.config_file import read_file
from modelplex.deployment import Application

EXAMPLES = Path(__file__).parents[1] / "examples" / "config"


def modelplex(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# check


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.[yj]*")), ids=lambda file: file.name)
def test_a_file_without_mistakes_is_ok(file: Path) -> None:
    done = modelplex("check", file, "--app-dir", EXAMPLES)
    assert (done.exit_code, done.stderr) == (0, "")
    names = ", ".join(app.name for app in read_file(file, app_dir=EXAMPLES).applications)
    assert done.stdout == f"OK: {file} (applications: {names})\n"
    done = modelplex("check", file, "--app-dir", EXAMPLES, "--json")
    assert json.loads(done.stdout) == {"problems": [], "warnings": []}


def test_all_mistakes_are_printed_and_the_exit_code_is_2(folder: Path) -> None:
    (folder / "f.yaml").write_text("applications:\n- import_path: a-b\n  nome: x\n")
    done = modelplex("check", "f.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "f.yaml:2:16: applications[0].import_path: import_path must be an import path such as 'package.module:name', "
        "got 'a-b'.",
        "f.yaml:3:3: applications[0].nome: There is no key 'nome'. Did you mean 'name'?",
    ]
    done = modelplex("check", "f.yaml", "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["problems"][1] == {
        "file": "f.yaml",
        "line": 3,
        "column": 3,
        "path": "applications[0].nome",
        "message": "There is no key 'nome'. Did you mean 'name'?",
    }


def test_warnings_do_not_make_a_file_wrong(folder: Path) -> None:
    (folder / "f.yaml").write_text("tracing_config: {}\napplications: []\n")
    done = modelplex("check", "f.yaml")
    assert (done.exit_code, done.stdout) == (0, "OK: f.yaml (applications: none)\n")
    assert done.stderr.startswith("Warning: f.yaml:1:1: tracing_config: tracing_config is ignored")
    (warning,) = json.loads(modelplex("check", "f.yaml", "--json").stdout)["warnings"]
    assert warning["path"] == "tracing_config"


def test_modules_may_be_elsewhere(folder: Path) -> None:
    (folder / "f.yaml").write_text("applications: [{import_path: 'not_installed_here:app'}]")
    assert modelplex("check", "f.yaml").exit_code == 2
    assert modelplex("check", "f.yaml", "--no-modules").exit_code == 0


def test_a_file_that_is_not_there_is_told(folder: Path) -> None:
    done = modelplex("check", "nothing.yaml")
    assert (done.exit_code, done.stderr) == (
        2,
        "nothing.yaml: The file cannot be read: No such file or directory.\n",
    )


# build


def test_what_is_built_is_printed_or_written_and_is_ok(folder: Path) -> None:
    printed = modelplex("build", "shops:app", "--app-dir", EXAMPLES)
    assert printed.exit_code == 0
    assert modelplex("build", "shops:app", "-d", EXAMPLES, "-o", "f.yaml").stdout == ""
    assert (folder / "f.yaml").read_text() == printed.stdout
    assert modelplex("check", "f.yaml", "-d", EXAMPLES).exit_code == 0
    assert read_file("f.yaml", app_dir=EXAMPLES).applications[0].deployments[0].options == {"max_ongoing_requests": 10}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["shops:nothing"], "shops has no application 'nothing'. Its applications: app."),
        (["no_such_module:app"], "There is no module 'no_such_module'"),
        (["shops:app", "-o", "no/such/folder.yaml"], "cannot be written: No such file or directory."),
        ([], "IMPORT_PATH"),
    ],
)
def test_what_cannot_be_built_is_exit_code_2(arguments: list[str], says: str, folder: Path) -> None:
    done = modelplex("build", *arguments, "-d", EXAMPLES)
    assert done.exit_code == 2
    assert says in done.stderr


# run


def test_run_gives_a_builder_its_arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Running:
        address, log_dir = "", ""

        def deploy(self, application: Application, name: str, route_prefix: str, app_dir: str) -> None:
            told.append(application.args[1])

    monkeypatch.setattr(driver, "start", lambda *_, **__: Running())
    monkeypatch.setattr(driver, "wait_for_signal", lambda: None)
    done = modelplex("run", "shops:build", "greeting=a=b", "copies=3", "--app-dir", EXAMPLES)
    assert done.exit_code == 0, done.stderr
    assert (told[0].greeting, told[0].copies) == ("a=b", 3)
    for words, says in {
        ("greeting",): "'greeting' is no argument: it takes key=value.",
        ("=x",): "'=x' is no argument: it takes key=value.",
        ("copies=1", "copies=2"): "the argument 'copies' is given twice.",
        ("copies=x",): "argument 'copies': Expected `int`, got `str`.",
        ("greetings=x",): "There is no argument 'greetings'. Did you mean 'greeting'?",
    }.items():
        done = modelplex("run", "shops:build", *words, "--app-dir", EXAMPLES)
        assert (done.exit_code, says in done.stderr) == (2, True), done.stderr
    assert modelplex("run", "shops:app", "a=b", "--app-dir", EXAMPLES).exit_code == 2
    assert len(told) == 1


def test_reload_keeps_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(cli_module, "run_reloading", lambda words, folder: told.append(words) or 0)  # type: ignore[func-returns-value]
    assert modelplex("run", "a:b", "x=1", "y=2", "--reload").exit_code == 0
    assert told[0][:4] == ["run", "a:b", "x=1", "y=2"]
