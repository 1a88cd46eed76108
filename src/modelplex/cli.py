"""The command `modelplex`: thin verbs over the public interface.

Exit codes: 0 all went well, also when Ctrl-C or SIGTERM ended it; 1 the application could not be served or recorded, or
was interrupted before it was, or no plan meets its target; 2 the command line or a configuration file is wrong;
3 nothing runs that could be asked; 130 Ctrl-C ended a plan, or a second one everything else at once.
"""

import contextlib
import importlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelplex import __version__, cli_config, cli_keys, cli_models, cli_system, cli_why, config, driver, errors, serve
from modelplex.applications import import_application
from modelplex.reload import end_with_parent, run_reloading

if TYPE_CHECKING:
    from rich.progress import TaskID

cli = typer.Typer(
    name="modelplex",
    help="Serve many models of one kind from few replicas.",
    epilog="Exit codes: 0 all went well, 1 it did not, 2 the command line or a file is wrong, 3 nothing runs that "
    "could be asked, 130 Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: messages stay whole for whoever searches for them
)

_HTTP = config.HTTPOptions()
_MAX_ONGOING = config.DeploymentConfig(name="default").max_ongoing_requests

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 lets the system choose.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Serve many models of one kind from few replicas."""


@cli.command()
def run(
    import_path: Annotated[
        str,
        typer.Argument(
            help="The application, as module:name: what .bind() returned, or a function that builds it. Or a *.yaml."
        ),
    ],
    arguments: Annotated[list[str] | None, typer.Argument(help="What such a function gets, as key=value.")] = None,
    host: Host = _HTTP.host,
    port: Port = _HTTP.port,
    app_dir: Annotated[Path, typer.Option("--app-dir", "-d", help="Folder to import the module from.")] = Path("."),
    name: Annotated[str, typer.Option(help="The application's name.")] = serve.DEFAULT_APP_NAME,
    route_prefix: Annotated[str, typer.Option(help="The path it is served under.")] = "/",
    proxies: Annotated[int, typer.Option(min=1, help="Processes that take requests.")] = _HTTP.num_proxies,
    reload: Annotated[bool, typer.Option("--reload", "-r", help="Start over when a Python file changes.")] = False,
    engine: Annotated[
        str, typer.Option(help="local: processes here; ray: a Ray cluster. That of a file unless given.")
    ] = "",
    address: Annotated[str, typer.Option(help="Of the Ray cluster, as ray.init has it: auto, or host:port.")] = "",
    admin_token_file: cli_system.AdminTokenFile = None,
    admin_port: cli_system.AdminPort = None,
    admin_host: cli_system.AdminHost = None,
    grpc_port: cli_system.GRPCPort = None,
    grpc_servicers: cli_system.GRPCServicers = None,
) -> None:
    """Serve an application until Ctrl-C."""
    if reload:
        options: dict[str, Any] = {"--host": host, "--port": port, "--app-dir": app_dir, "--name": name}
        options |= {"--engine": engine, "--route-prefix": route_prefix, "--proxies": proxies, "--address": address}
        options |= {"--admin-token-file": admin_token_file, "--admin-port": admin_port, "--admin-host": admin_host}
        options |= {"--grpc-port": grpc_port}
        words = ["run", import_path, *(arguments or ()), *_words(options)]
        words += [word for path in grpc_servicers or () for word in ("--grpc-servicer", path)]
        raise typer.Exit(run_reloading(words, app_dir))
    try:
        config.check_route_prefix(route_prefix)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    end_with_parent()
    settings = None
    if Path(import_path).suffix in (".yaml", ".yml", ".json"):
        settings = cli_system.read(Path(import_path), app_dir)
        engine = engine or settings.engine
    http = cli_system.http_options(settings, host, port, proxies, grpc_port, grpc_servicers)
    admin = cli_system.admin_options(settings, admin_token_file, admin_port, admin_host)
    if engine == "ray":
        driver.connect_to_ray(address or None)
    # Listening begins before the application is imported: what comes meanwhile waits.
    running = driver.start(engine or "local", http, admin=admin)
    if settings is None:
        application = _import_application(import_path, arguments or [], app_dir)
        running.deploy(application, name, route_prefix, str(app_dir.absolute()))
        grpc = cli_system.and_grpc(cli_system.grpc_address(running, http))
        said = f"Application {name!r} is served at {running.address}{route_prefix}{grpc}"
    else:
        running.deploy_config(settings, str(app_dir.absolute()))
        names = ", ".join(app.name for app in settings.applications) or "nothing"
        said = f"{cli_system.served(running.address, cli_system.grpc_address(running, http))}: {names}"
    _say_and_wait(said, running, admin)


def _say_and_wait(said: str, running: driver.AnyDriver, admin: config.AdminOptions | None) -> None:
    """Until Ctrl-C."""
    typer.echo(f"{said}  (logs: {running.log_dir})")
    if admin is not None:
        typer.echo(f"Admin interface at {running.status().admin_address}  (token: {admin.token_file})")
    driver.wait_for_signal()


def _words(options: dict[str, Any]) -> list[str]:
    """A command line with these options, except for those that are not given."""
    return [str(word) for name, value in options.items() if value not in (None, "") for word in (name, value)]


@cli.command()
def demo(
    host: Host = _HTTP.host,
    port: Port = _HTTP.port,
    once: Annotated[bool, typer.Option("--once", help="End after the calls instead of serving on.")] = False,
) -> None:
    """Serve a few hundred small models, call them, and go on serving until Ctrl-C."""
    try:
        from modelplex.demo import show
    except ModuleNotFoundError as error:
        raise typer.BadParameter(f"the demo needs {error.name}: pip install 'modelplex[demo]'") from error
    show(config.HTTPOptions(host=host, port=port), then_wait=not once)


@cli.command()
def record(
    out: Annotated[Path, typer.Argument(help="The log: JSON lines if it ends in .jsonl, else CSV; - is the output.")],
    app: Annotated[str, typer.Option(help="Only this application.")] = "",
    deployment: Annotated[str, typer.Option(help="Only deployments of this name.")] = "",
    duration: Annotated[str, typer.Option("--for", help="End after so long: 90s, 10m, 2h.")] = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that exists.")] = False,
) -> None:
    """Record who asks for which model when, from what runs now, until Ctrl-C."""
    from modelplex import recorder

    duration_s = _seconds(duration) if duration else None
    if out.is_file() and not force:
        raise typer.BadParameter(f"{str(out)!r} exists; --force replaces it.")
    recorder.record(out, app, deployment, duration_s)


@cli.command()
def plan(
    log: Annotated[Path, typer.Argument(help="What modelplex record wrote, or another log of requests.")],
    p99: Annotated[str, typer.Option(help="99% of the requests are to be answered within so long: 200ms, 2s.")] = "",
    replicas: Annotated[str, typer.Option(help="Numbers of replicas: 3, or 1-16, or 2,4,8.")] = "",
    models_max: Annotated[str, typer.Option(help="Models that a replica may hold: 4, or 4,8,16.")] = "",
    bytes_max: Annotated[str, typer.Option("--bytes", help="Bytes that they may take: 8GiB, or 8GiB,16GiB.")] = "",
    eviction: Annotated[str, typer.Option(help="Policies.")] = ",".join(config.EVICTION_POLICIES),
    max_ongoing: Annotated[int, typer.Option(min=1, help="Requests that run at a time on a replica.")] = _MAX_ONGOING,
    baselines: Annotated[bool, typer.Option("--baselines", help="Compare with other ways to route.")] = False,
    json: Annotated[str, typer.Option(help="Write JSON to this file; - is the output, instead of the table.")] = "",
    plot: Annotated[Path | None, typer.Option(help="Draw pictures into this folder.")] = None,
    service_s: Annotated[
        float | None, typer.Option(min=0, help="What a request runs, if the log says nothing.")
    ] = None,
    load_s: Annotated[float | None, typer.Option(min=0, help="What a load takes, if the log says nothing.")] = None,
    size: Annotated[str, typer.Option(help="What a model takes, if the log says nothing: 300MiB.")] = "",
) -> None:
    """Say how many replicas, of how much memory, answer the requests of a log in time.

    Without --p99, say what the fleets of --replicas and --models-max, or --bytes, would do.
    """
    try:
        from modelplex.sim import log as logs
        from modelplex.sim import planner, plots, report
        from modelplex.sim.prediction import Question

        target_s = _seconds(p99) if p99 else None
        if target_s is None and not (replicas and (models_max or bytes_max)):
            raise typer.BadParameter("it takes --p99, or --replicas and --models-max or --bytes to simulate these.")
        size_bytes = config.parse_bytes("--size", size) if size else None
        read = logs.read(log, service_s=service_s, load_s=load_s, size_bytes=size_bytes)
        sizes, in_bytes = planner.sizes(
            read.trace, _integers("--models-max", models_max), _bytes(bytes_max), sized=bool(size_bytes)
        )
        question = Question(
            trace=read.trace,
            p99_s=target_s,
            replicas=_integers("--replicas", replicas) or planner.REPLICAS,
            sizes=sizes,
            in_bytes=in_bytes,
            evictions=_policies(eviction),
            max_ongoing=max_ongoing,
        )
        if plot is not None:
            importlib.import_module("matplotlib")  # so that it is missed before the work, not after it
        with _progress_bar() as progress:
            found = planner.plan(question, with_baselines=baselines, progress=progress)
            if plot is not None:
                plots.draw(plot, found, progress)
        if json:
            _write(json, report.to_json(read, found))
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise typer.BadParameter(f"a plan needs {missing}: pip install 'modelplex[plan]'") from error
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if json != "-":
        typer.echo(report.text(read, found))
    if not found.met:
        raise typer.Exit(1)


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Shows what is done, and which part of it, on a terminal; answers who is to be told."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def told(what: str, part: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=part)

        yield told


def _write(file: str, text: str) -> None:
    if file == "-":
        typer.echo(text)
    else:
        Path(file).write_text(text + "\n")


def _policies(names: str) -> list[str]:
    policies = names.split(",")
    for policy in policies:
        if policy not in config.EVICTION_POLICIES:
            raise typer.BadParameter(f"there is no policy {policy!r}; there are {', '.join(config.EVICTION_POLICIES)}.")
    return list(dict.fromkeys(policies))


def _integers(option: str, text: str) -> list[int]:
    """Ascending, of numbers and ranges as 1-4,8."""
    numbers: set[int] = set()
    for part in text.split(",") if text else ():
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 0 < first <= last < 10_000:
            raise typer.BadParameter(f"{option} takes numbers from 1 on, as 3 or 1-16 or 2,4,8; got {text!r}.")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def _bytes(text: str) -> list[int]:
    return sorted({config.parse_bytes("--bytes", part) for part in text.split(",")}) if text else []


def _seconds(duration: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhd])", duration)
    if found is None:
        raise typer.BadParameter(
            f"{duration!r} is no duration: it takes a number and one of ms, s, m, h, d, as 90s or 2h."
        )
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _import_application(import_path: str, words: list[str], app_dir: Path) -> serve.Application:
    args: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{word!r} is no argument: it takes key=value.")
        if key in args:
            raise typer.BadParameter(f"the argument {key!r} is given twice.")
        args[key] = value
    try:
        return import_application(import_path, args, app_dir)
    except errors.ApplicationImportError as error:
        raise typer.BadParameter(str(error)) from error


cli_config.register(cli)
cli_system.register(cli)
cli_keys.register(cli)
cli_why.register(cli)
cli_models.register(cli)


def main() -> None:
    """Entry point of the command."""
    # SIGTERM ends the program in the same good order as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            cli()
        finally:
            driver.stop_own()
    except errors.ConfigFileError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except errors.NothingRunsError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(3)
    except errors.ModelplexError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
