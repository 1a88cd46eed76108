"""The commands for a system that runs on its own: start, deploy, status, config, delete, shutdown."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplex import config_file, driver, errors
from modelplex.admin_client import AdminClient, find
from modelplex.config import HTTPOptions
from modelplex.config_file import SystemConfig
from modelplex.config_file.schema import schema
from modelplex.home import Home, answers

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 120.0

_HTTP = HTTPOptions()

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder in which it keeps what it is to run.", envvar="MODELPLEX_HOME"),
]
SystemOption = Annotated[
    Path | None, typer.Option("--system", help="Which system, by its folder, if several run.", show_default=False)
]
AppDir = Annotated[Path, typer.Option("--app-dir", "-d", help="Folder to import modules from.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    for command in (start, deploy, status, delete, shutdown):
        cli.command()(command)
    cli.command("config")(show_config)


def start(
    file: Annotated[
        Path | None, typer.Argument(help="A configuration file to run; its http_options are those of the system.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _HTTP.host,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 lets the system choose.")] = _HTTP.port,
    proxies: Annotated[int, typer.Option(min=1, help="Processes that take requests.")] = _HTTP.num_proxies,
    home: HomeOption = None,
    app_dir: AppDir = Path("."),
    blocking: Annotated[bool, typer.Option("--blocking", help="Do not return; Ctrl-C stops it.")] = False,
    http_options_json: Annotated[str, typer.Option("--http-options", hidden=True)] = "",
) -> None:
    """Start a system in the background. Applications are then deployed to it.

    What it runs is kept on disk. If its controller dies, what runs goes on; start it again, and it takes that over.
    """
    settings = None if file is None else read(file, app_dir)
    given = config_file.read_text(http_options_json, "--http-options") if http_options_json else settings
    options = http_options(given, host, port, proxies)
    place = Home.of(home)
    place.make()
    if answers(place.sockets):
        raise errors.ModelplexError(f"It runs already, in {place.folder}: modelplex shutdown ends it.")
    if blocking:
        running = driver.start("local", options, home=place)
        if settings is not None:
            running.deploy_config(settings, str(app_dir.absolute()))
        typer.echo(f"Served at {running.address}  (home: {place.folder}, logs: {running.log_dir})")
        driver.wait_for_signal()
        return
    client = _start_in_background(place, options)
    if settings is not None:
        client.deploy(settings.as_dict(), str(app_dir.absolute()))
    typer.echo(f"Served at {client.status()['address']}  (home: {place.folder}, log: {place.log})")


def deploy(
    file: Annotated[Path, typer.Argument(help="The configuration file, YAML or JSON.")],
    app_dir: AppDir = Path("."),
    home: HomeOption = None,
    system: SystemOption = None,
    wait: Annotated[bool, typer.Option(help="Return when the applications run, or have failed.")] = True,
) -> None:
    """Have a running system run what a file says. That is its applications, and no others that came from a file.

    What has not changed stays as it is; other replicas are replaced gradually, without losing a request. An application
    that fails to start goes back to what it was.
    """
    settings = read(file, app_dir)
    client = _client(home, system)
    config = settings.as_dict()
    if http := config.get("http_options"):
        has = client.config()["http_options"]
        ignored = ", ".join(name for name, value in http.items() if has.get(name) != value)
        if ignored:
            typer.echo(f"Warning: http_options ({ignored}) are those that the system was started with.", err=True)
    client.deploy(config, str(app_dir.absolute()), wait=wait)
    names = ", ".join(app.name for app in settings.applications) or "none"
    typer.echo(f"{'Deployed' if wait else 'Accepted'}: {names}")


def status(
    name: Annotated[str, typer.Option("--name", "-n", help="Only this application.")] = "",
    home: HomeOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what a running system runs, and how it is."""
    found = _client(home, system).status()
    if name:
        if name not in found["applications"]:
            raise errors.ModelplexError(f"There is no application {name!r}.")
        found["applications"] = {name: found["applications"][name]}
    typer.echo(json.dumps(found, indent=2) if as_json else _as_text(found))


def show_config(
    home: HomeOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
    show_schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of configuration files.")
    ] = False,
) -> None:
    """Show what files a running system was given. They are shown as one."""
    if show_schema:
        typer.echo(json.dumps(schema(), indent=2))
        return
    found = _client(home, system).config()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    import yaml

    typer.echo(yaml.safe_dump(found, sort_keys=False), nl=False)


def delete(
    name: Annotated[str, typer.Argument(help="The application.")],
    home: HomeOption = None,
    system: SystemOption = None,
) -> None:
    """Stop one application of a running system. Requests that run may end."""
    _client(home, system).delete(name)
    typer.echo(f"Deleted: {name}")


def shutdown(
    home: HomeOption = None,
    system: SystemOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop a running system, and forget what it ran. Requests that run may end."""
    place = Home.of(home)
    is_dead = system is None and not answers(place.sockets)
    is_headless = is_dead and place.may_have_processes
    if is_dead and not is_headless and place.state.exists():
        with place.lock():
            place.state.unlink()
        typer.echo("Nothing ran. What it was to run when it is started is forgotten.")
        return
    client = AdminClient(place.sockets) if is_headless else _client(home, system)
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Stop all that runs in {client.folder}?", abort=True)
    if is_headless:
        # Its controller has died, and what it ran may still be there: another one takes that over, to end it.
        place.make()
        _start_in_background(place, replace(_HTTP, port=0))
    client.shutdown()
    until = time.monotonic() + STOP_TIMEOUT_S
    while client.folder.exists() or (client.folder == place.sockets and place.is_locked):
        if time.monotonic() > until:
            raise errors.ModelplexError(f"It has not ended within {STOP_TIMEOUT_S:g} s.")
        time.sleep(0.05)
    typer.echo("Stopped.")


def read(file: Path, app_dir: Path) -> SystemConfig:
    """A configuration file; its warnings are told. Raises `ConfigFileError`."""
    settings = config_file.read_file(file, app_dir=app_dir)
    for warning in settings.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    return settings


def http_options(settings: SystemConfig | None, host: str, port: int, proxies: int) -> HTTPOptions:
    """Those of a file, with those of the command line in their place where these are not the defaults."""
    given = {"host": host, "port": port, "num_proxies": proxies}
    changed = {name: value for name, value in given.items() if value != getattr(_HTTP, name)}
    return replace(_HTTP if settings is None else settings.http_options, **changed)  # type: ignore[arg-type]


def _client(home: Path | None, system: Path | None) -> AdminClient:
    return AdminClient(system) if system is not None else find(home)


def _start_in_background(place: Home, options: HTTPOptions) -> AdminClient:
    """Start a controller that outlives this command. Raises `ModelplexError` with what it says if it ends."""
    asked = SystemConfig(http_options=options, applications=())
    words = ["--home", str(place.folder), "--http-options", json.dumps(asked.as_dict())]
    with place.log.open("ab") as log:
        began = log.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "modelplex.cli", "start", "--blocking", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + START_TIMEOUT_S
    while not answers(place.sockets):
        if child.poll() is not None:
            said = place.log.read_bytes()[began:].decode(errors="replace").strip()
            raise errors.ModelplexError(f"It could not be started. {said}")
        if time.monotonic() > until:
            child.terminate()
            raise errors.ModelplexError(f"It does not answer; see {place.log}.")
        time.sleep(0.02)
    return AdminClient(place.sockets)


def _as_text(found: dict[str, Any]) -> str:
    lines = [f"{found['address'] or 'no HTTP'}  proxies: {len(found['proxies'])}  logs: {found['log_dir']}"]
    for name, app in found["applications"].items():
        lines.append(f"{name}: {app['status']}{_note(app['message'])}")
        for deployment, state in app["deployments"].items():
            counts = ", ".join(f"{count} {what}" for what, count in state["replica_states"].items()) or "no replicas"
            lines.append(f"  {deployment}: {state['status']} ({counts}){_note(state['message'])}")
    if not found["applications"]:
        lines.append("no applications")
    return "\n".join(lines)


def _note(message: str) -> str:
    last = message.strip().rpartition("\n")[2]
    return f"  - {last}" if last else ""
