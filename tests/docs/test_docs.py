"""What README.md and docs/ say: their Python runs, their commands exist, their tables and links are true.

What the language of a block means:

- `python` is run. The blocks of a page share one namespace, in order. A block whose first line is a comment with the
  name of a file, such as `# program.py`, is written to that file, in an empty folder that is the current one and on the
  path; pytest runs it there if it is `# test_….py`. A page that calls `serve.run` without `_local_testing_mode` is
  served for real: http://127.0.0.1:8000 in its blocks becomes the address that the system chose.
- `console` has commands, one a line, of the kinds that `check_command` knows. They are parsed, not run.
- `py` is Python that needs what is not here, such as a bucket. It has to compile. That of clusters.md is run, with the
  page's commands, by tests/system/test_cluster_docs.py.
- `yaml` is a configuration file, which has to be right. It is written to the file that a first line names, as above.
- `text` is for reading.
"""

import argparse
import ast
import contextlib
import gc
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pages import ADDRESS, ROOT, blocks_of

from modelplex import config_file, driver, errors, serve
from modelplex.cli import cli
from modelplex.config import (
    AutoscalingConfig,
    DeploymentConfig,
    GRPCOptions,
    HTTPOptions,
    MultiplexingConfig,
    TenantConfig,
)
from modelplex.config_file.reading import names_of

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]

PAGE_LINES_MAX = 160


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


# Python


def is_served_for_real(page: Path) -> bool:
    """Whether a block calls `serve.run` as it is called in production. A page is of one kind."""
    calls = [
        node
        for block in blocks_of(page, "python")
        if not block.file_name
        for node in ast.walk(ast.parse(block.text, str(page)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "serve.run"
    ]
    kinds = {any(k.arg == "_local_testing_mode" for k in call.keywords) for call in calls}
    assert len(kinds) < 2, f"{page.name} mixes _local_testing_mode with the real thing, which cannot be had together"
    return kinds == {False}


def _as_param(page: Path) -> Any:
    return pytest.param(page, id=page.name, marks=[pytest.mark.system] if is_served_for_real(page) else [])


@contextlib.contextmanager
def served_for_real() -> Iterator[str]:
    """Listen before the page does, on a port that is free; answers the address."""
    serve.start({"port": 0})
    running = driver.current()
    assert running is not None
    yield running.address


def run_tests(folder: Path, name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    plugins = ("-p", "modelplex.pytest_plugin", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "-o", "asyncio_mode=auto", name]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a page's files are written and imported from. What they left in this process is undone at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)
    try:
        yield tmp_path
    finally:
        serve.shutdown()
        for name in set(sys.modules) - modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
                del sys.modules[name]
        gc.collect()  # loaders that are functions of their own are known to replicas for as long as they live


@pytest.mark.parametrize("page", [_as_param(p) for p in PAGES if blocks_of(p, "python")])
def test_the_python_of_a_page_runs(page: Path, folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with served_for_real() if is_served_for_real(page) else contextlib.nullcontext("") as address:
        for block in blocks_of(page, "python", "yaml"):
            if block.file_name:
                (folder / block.file_name).write_text(block.text)
                if block.file_name.startswith("test_"):
                    run_tests(folder, block.file_name)
            elif block.language == "python":
                block.run(namespace, address)
    assert driver.current() is None or not address, f"{page.name} does not end with serve.shutdown()"
    namespace.clear()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_is_skipped_unseen(page: Path) -> None:
    """A language that nobody knows would be one that nobody runs."""
    for block in blocks_of(page):
        where = f"{page.name}:{block.line}"
        assert block.language in {"python", "py", "console", "yaml", "text"}, (
            f"{where}: {block.language!r} is never checked"
        )
        if block.language == "py":
            compile(block.text, where, "exec")
        if block.language == "yaml":
            config_file.read_text(block.text, where, check_modules=False)


# Commands


def check_command(line: str, page: Path) -> None:
    """Raise AssertionError if there is no such command, verb, option, target or file."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    checks: dict[str, Callable[[list[str], Path], None]] = {
        "curl": check_curl,
        "kubectl": check_kubectl,
        "make": check_make,
        "modelplex": check_modelplex,
        "pip": check_pip,
        "python": check_python,
    }
    assert words[0] in checks, f"{page.name}: nobody checks the command {words[0]!r}"
    checks[words[0]](words[1:], page)


def check_modelplex(words: list[str], page: Path) -> None:
    group: Any = typer.main.get_command(cli)
    if words[0].startswith("-"):
        with pytest.raises(typer.Exit):
            group.make_context("modelplex", words)
        return
    assert words[0] in group.commands, f"{page.name}: modelplex has no verb {words[0]!r}"
    try:
        given = group.commands[words[0]].make_context(words[0], words[1:]).params
    except Exception as error:  # typer has several, and does not export them
        raise AssertionError(f"{page.name}: modelplex {shlex.join(words)}: {error}") from error
    if words[0] != "run" or given["import_path"].endswith(".yaml"):
        return
    module, _, name = given["import_path"].partition(":")
    shown = next((b.text for b in blocks_of(page, "python") if b.file_name == f"{module}.py"), None)
    source = shown if shown is not None else (ROOT / given["app_dir"] / f"{module}.py").read_text()
    body = ast.parse(source).body
    assigned = {ast.unparse(target) for n in body if isinstance(n, ast.Assign) for target in n.targets}
    built = {n.name for n in body if isinstance(n, ast.FunctionDef)}
    assert name in assigned | built, f"{page.name}: {module}.py has no {name}"


def check_python(words: list[str], page: Path) -> None:
    program = ROOT / words[0]
    assert program.is_file(), f"{page.name}: there is no {words[0]}"
    unknown = [word for word in words[1:] if word.startswith("-") and f'"{word}"' not in program.read_text()]
    assert not unknown, f"{page.name}: {words[0]} knows no {unknown}"


def check_curl(words: list[str], page: Path) -> None:
    parser = argparse.ArgumentParser("curl", exit_on_error=False)
    for flag in ("-i", "-s", "-N"):
        parser.add_argument(flag, action="store_true")
    for option in ("-H", "-d", "-X"):
        parser.add_argument(option, action="append")
    parser.add_argument("url")
    assert parser.parse_args(words).url.startswith(ADDRESS)


def check_kubectl(words: list[str], page: Path) -> None:
    files = [file for option, file in itertools.pairwise(words) if option == "-f"]
    assert all((ROOT / file).is_file() for file in files), f"{page.name}: {files} are not all there"
    if "--" in words:
        check_command(shlex.join(words[words.index("--") + 1 :]), page)


def check_make(words: list[str], page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets


def check_pip(words: list[str], page: Path) -> None:
    assert words[0] == "install"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p, "console")], ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    for block in blocks_of(page, "console"):
        for line in block.text.splitlines():
            check_command(line, page)


@pytest.mark.parametrize(
    "line",
    [
        "modelplex fly",
        "modelplex run program:app --nope",
        "modelplex run program:nope",
        "make nothing",
        "kubectl apply -f nothing.yaml",
        "kubectl exec pod -- modelplex fly",
        "rm -r x",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(line, ROOT / "docs" / "running.md")


# Tables


def table(page: str, first_header: str) -> list[list[str]]:
    """The cells of the table whose first column has this header, without its two head lines."""
    text = prose(ROOT / "docs" / page)
    found = re.search(rf"^\| {first_header} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, f"{page} has no table of {first_header}"
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found[1].splitlines()]


def as_written(field: Field[Any]) -> tuple[str, str]:
    default = "its own" if field.default is MISSING else f"`{field.default!r}`"
    return f"`{field.name}`", default


@pytest.mark.parametrize(
    ("page", "header", "options"),
    [
        ("deployment-options.md", "deployment option", DeploymentConfig),
        ("autoscaling.md", "autoscaling option", AutoscalingConfig),
        ("http.md", "HTTP option", HTTPOptions),
        ("grpc.md", "gRPC option", GRPCOptions),
        ("tenants.md", "option of a tenant", TenantConfig),
        ("configuration.md", "part of `multiplexing_config`", MultiplexingConfig),
    ],
)
def test_the_options_and_defaults_are_those_of_the_code(page: str, header: str, options: Any) -> None:
    assert [(row[0], row[1]) for row in table(page, header)] == [as_written(field) for field in fields(options)]


@pytest.mark.parametrize(
    ("header", "kind"), [("key", config_file.SystemConfig), ("key of an application", config_file.ApplicationConfig)]
)
def test_the_keys_of_the_configuration_file_are_those_of_the_code(header: str, kind: Any) -> None:
    rows = table("configuration.md", header)
    assert [row[0].strip("`") for row in rows] == names_of(kind)
    written = {field.name: as_written(field)[1] for field in fields(kind) if field.default_factory is MISSING}
    made = ("those of code", "empty")
    assert [row[1] for row in rows if row[1] not in made] == [
        written[row[0].strip("`")] for row in rows if row[1] not in made
    ]


def test_statuses_and_faults_are_those_of_the_code() -> None:
    rows = table("http.md", "status")
    for status, name, fault, *_ in rows:
        error = getattr(errors, name.strip("`"))
        assert (status, fault) == (str(error.status), error.fault.value), name
    shown = {name.strip("`") for _, name, *_ in rows}
    # The rest never gets as far as an HTTP client.
    rest = {"ModelplexError", "RequestCancelledError", "NotInReplicaError", "DeploymentFailedError", "ProtocolError"}
    rest |= {"ApplicationImportError", "ConfigFileError", "CredentialsError", "NothingRunsError"}
    # What loaders raise, of which clients hear as ModelLoadError.
    rest |= {"InvalidModelFileError", "UnsafeModelFileError", "StoreError", "StoreConfigError", "DiskCacheFullError"}
    # What the admin interface answers; a kind of InvalidRequestError.
    rest |= {"AliasNotSetError", "ModelPinnedError", "InvalidTensorError"}
    assert shown | rest == {n for n, e in vars(errors).items() if isinstance(e, type) and issubclass(e, Exception)}


# Links


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: there is no {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {name} has no heading for #{anchor}"


def test_the_index_has_every_page() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (ROOT / "docs" / "index.md").read_text()))
    assert linked == {page.name for page in DOCS} - {"index.md"}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_a_page_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= PAGE_LINES_MAX
