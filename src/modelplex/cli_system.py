"""The commands for a system that runs on its own: start, deploy, status, config, delete, shutdown."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelplex import config_file, driver, errors
from modelplex.admin_client import AdminClient, find
from modelplex.config import ADMIN_PORT, AdminOptions, GRPCOptions, HTTPOptions
from modelplex.config_file import SystemConfig
from modelplex.config_file.schema import schema
from modelplex.config_file.writing import as_yaml
from modelplex.home import Home, answers

if TYPE_CHECKING:
    from modelplex.ray_admin import RayAdminClient

# The name of the system on the Ray cluster that `ray.init()` finds.
ON_RAY = "ray"

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 120.0

_HTTP = HTTPOptions()

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder in which it keeps what it is to run.", envvar="MODELPLEX_HOME"),
]
SystemOption = Annotated[
    Path | None,
    typer.Option("--system", help="Which system, by its folder, if several run; or ray.", show_default=False),
]
AdminTokenFile = Annotated[
    Path | None,
    typer.Option(
        "--admin-token-file",
        help="Open the admin interface and the dashboard over TCP for who has the token in this file; made if missing.",
    ),
]
AdminPort = Annotated[
    int | None, typer.Option("--admin-port", min=0, max=65535, help=f"The port for that; {ADMIN_PORT} unless given.")
]
AdminHost = Annotated[str | None, typer.Option("--admin-host", help="The address for that; 127.0.0.1 unless given.")]
GRPCPort = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Serve gRPC at this port, too; 0 lets the system choose.")
]
GRPCServicers = Annotated[
    list[str] | None,
    typer.Option("--grpc-servicer", help="A function add_XServicer_to_server, as module:name; may be repeated."),
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
    admin_token_file: AdminTokenFile = None,
    admin_port: AdminPort = None,
    admin_host: AdminHost = None,
    grpc_port: GRPCPort = None,
    grpc_servicers: GRPCServicers = None,
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
    if given is not None and given.engine == ON_RAY:
        raise typer.BadParameter("its engine is ray: modelplex run, or modelplex deploy, has it run on a Ray cluster.")
    options = http_options(given, host, port, proxies, grpc_port, grpc_servicers)
    admin = admin_options(given, admin_token_file, admin_port, admin_host)
    place = Home.of(home)
    place.make()
    if answers(place.sockets):
        raise errors.ModelplexError(f"It runs already, in {place.folder}: modelplex shutdown ends it.")
    if blocking:
        running = driver.start("local", options, home=place, admin=admin)
        if settings is not None:
            running.deploy_config(settings, str(app_dir.absolute()))
        where = served(running.address, grpc_address(running, options))
        typer.echo(f"{where}  (home: {place.folder}, logs: {running.log_dir})")
        driver.wait_for_signal()
        return
    asks = _start_in_background(place, options, admin)
    if settings is not None:
        asks.deploy(settings.as_dict(), str(app_dir.absolute()))
    found = asks.status()
    typer.echo(f"{served(found['address'], found['grpc_address'])}  (home: {place.folder}, log: {place.log})")
    if admin is not None:
        typer.echo(f"Admin interface at {found['admin_address']}  (token: {admin.token_file})")


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
    asks = _on_ray(settings.http_options) if settings.engine == ON_RAY else client(home, system)
    config = settings.as_dict()
    if config.pop("admin_options", None):
        typer.echo("Warning: admin_options are those that the system was started with.", err=True)
    if http := config.get("http_options"):
        has = asks.config()["http_options"]
        ignored = ", ".join(name for name, value in http.items() if has.get(name) != value)
        if ignored:
            typer.echo(f"Warning: http_options ({ignored}) are those that the system was started with.", err=True)
    asks.deploy(config, str(app_dir.absolute()), wait=wait)
    names = ", ".join(app.name for app in settings.applications) or "none"
    typer.echo(f"{'Deployed' if wait else 'Accepted'}: {names}")


def status(
    name: Annotated[str, typer.Option("--name", "-n", help="Only this application.")] = "",
    home: HomeOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what a running system runs, and how it is."""
    found = client(home, system).status()
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
    found = client(home, system).config()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(as_yaml(found), nl=False)


def delete(
    name: Annotated[str, typer.Argument(help="The application.")],
    home: HomeOption = None,
    system: SystemOption = None,
) -> None:
    """Stop one application of a running system. Requests that run may end."""
    client(home, system).delete(name)
    typer.echo(f"Deleted: {name}")


def shutdown(
    home: HomeOption = None,
    system: SystemOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop a running system, and forget what it ran. Requests that run may end."""
    if system == Path(ON_RAY):
        _on_ray().shutdown()
        typer.echo("Stopped.")
        return
    place = Home.of(home)
    is_dead = system is None and not answers(place.sockets)
    is_headless = is_dead and place.may_have_processes
    if is_dead and not is_headless and place.state.exists():
        with place.lock():
            place.state.unlink()
        typer.echo("Nothing ran. What it was to run when it is started is forgotten.")
        return
    asks = AdminClient(place.sockets) if is_headless else _local(home, system)
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Stop all that runs in {asks.folder}?", abort=True)
    if is_headless:
        # Its controller has died, and what it ran may still be there: another one takes that over, to end it.
        place.make()
        _start_in_background(place, replace(_HTTP, port=0))
    asks.shutdown()
    until = time.monotonic() + STOP_TIMEOUT_S
    while asks.folder.exists() or (asks.folder == place.sockets and place.is_locked):
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


def served(address: str, grpc_address: str = "") -> str:
    """Where, in words."""
    return (f"Served at {address}" if address else "Served without HTTP") + and_grpc(grpc_address)


def grpc_address(running: driver.AnyDriver, options: HTTPOptions) -> str:
    """Where gRPC is served; empty if it is not."""
    return running.status().grpc_address if options.grpc is not None else ""


def and_grpc(address: str) -> str:
    """Where gRPC is served, in words that go on with others; empty if it is not."""
    return f", gRPC at {address}" if address else ""


def http_options(
    settings: SystemConfig | None,
    host: str,
    port: int,
    proxies: int,
    grpc_port: int | None = None,
    grpc_servicers: Sequence[str] | None = None,
) -> HTTPOptions:
    """Those of a file, with those of the command line in their place where these are not the defaults.

    Raises `typer.BadParameter` for what cannot be.
    """
    given = {"host": host, "port": port, "num_proxies": proxies}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value != getattr(_HTTP, name)}
    options = _HTTP if settings is None else settings.http_options
    try:
        if grpc_port is not None or grpc_servicers:
            grpc = options.grpc or GRPCOptions()
            changed["grpc"] = replace(
                grpc,
                port=grpc.port if grpc_port is None else grpc_port,
                grpc_servicer_functions=grpc_servicers or grpc.grpc_servicer_functions,
            )
        return replace(options, **changed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def admin_options(
    settings: SystemConfig | None, token_file: Path | None, port: int | None, host: str | None
) -> AdminOptions | None:
    """Those of a file, with those of the command line in their place. None if nothing says who may come in."""
    given: dict[str, Any] = {"port": port, "host": host}
    if token_file is not None:
        given["token_file"] = str(token_file.absolute())
    given = {name: value for name, value in given.items() if value is not None}
    of_file = None if settings is None else settings.admin_options
    if of_file is not None:
        return replace(of_file, **given)
    if given and token_file is None:
        raise typer.BadParameter("the admin interface is open over TCP only with --admin-token-file.")
    return AdminOptions(**given) if given else None


def client(home: Path | None, system: Path | None) -> "AdminClient | RayAdminClient":
    """Who asks the system that is meant. Raises `NothingRunsError`."""
    return _on_ray() if system == Path(ON_RAY) else _local(home, system)


def _on_ray(begin_with: HTTPOptions | None = None) -> "RayAdminClient":
    driver.needs_ray()
    from modelplex.ray_admin import RayAdminClient

    return RayAdminClient(begin_with)


def _local(home: Path | None, system: Path | None) -> AdminClient:
    return AdminClient(system) if system is not None else find(home)


def _start_in_background(place: Home, options: HTTPOptions, admin: AdminOptions | None = None) -> AdminClient:
    """Start a controller that outlives this command. Raises `ModelplexError` with what it says if it ends."""
    asked = SystemConfig(http_options=options, admin_options=admin, applications=())
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
    urls = found["proxy_addresses"]
    if len(set(urls.values())) > 1:
        lines += [f"  {name}: {url}" for name, url in urls.items()]
    lines += [f"  no proxy{_on(machine)}{_note(why)}" for machine, why in found["proxy_failures"].items()]
    for name, app in found["applications"].items():
        lines.append(f"{name}: {app['status']}{_note(app['message'])}")
        for deployment, state in app["deployments"].items():
            counts = ", ".join(f"{count} {what}" for what, count in state["replica_states"].items()) or "no replicas"
            lines.append(f"  {deployment}: {state['status']} ({counts}){_note(state['message'])}")
    if not found["applications"]:
        lines.append("no applications")
    return "\n".join(lines)


def _on(machine: str) -> str:
    return f" on {machine}" if machine else ""


def _note(message: str) -> str:
    last = message.strip().rpartition("\n")[2]
    return f"  - {last}" if last else ""
