"""The command `modelplex`: thin verbs over the public interface.

Exit codes: 0 all went well, also when Ctrl-C or SIGTERM ended it; 1 the application could not be served or recorded, or
was interrupted before it was; 2 the command line is wrong; 130 a second Ctrl-C ended everything at once.
"""

import importlib
import re
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from modelplex import __version__, config, driver, errors, serve
from modelplex.reload import end_with_parent, run_reloading

cli = typer.Typer(
    name="modelplex",
    help="Serve many models of one kind from few replicas.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: messages stay whole for whoever searches for them
)

_HTTP = config.HTTPOptions()

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
    import_path: Annotated[str, typer.Argument(help="The application, as module:name; it is what .bind() returned.")],
    host: Host = _HTTP.host,
    port: Port = _HTTP.port,
    app_dir: Annotated[Path, typer.Option("--app-dir", "-d", help="Folder to import the module from.")] = Path("."),
    name: Annotated[str, typer.Option(help="The application's name.")] = serve.DEFAULT_APP_NAME,
    route_prefix: Annotated[str, typer.Option(help="The path it is served under.")] = "/",
    proxies: Annotated[int, typer.Option(min=1, help="Processes that take requests.")] = _HTTP.num_proxies,
    reload: Annotated[bool, typer.Option("--reload", "-r", help="Start over when a Python file changes.")] = False,
) -> None:
    """Serve an application until Ctrl-C."""
    if reload:
        options = {"--host": host, "--port": port, "--app-dir": app_dir, "--name": name, "--route-prefix": route_prefix}
        options["--proxies"] = proxies
        arguments = [str(word) for option in options.items() for word in option]
        raise typer.Exit(run_reloading(["run", import_path, *arguments], app_dir))
    try:
        config.check_route_prefix(route_prefix)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    end_with_parent()
    # Listening begins before the application is imported: what comes meanwhile waits.
    running = driver.start("local", config.HTTPOptions(host=host, port=port, num_proxies=proxies))
    application = _import_application(import_path, app_dir)
    running.deploy(application, name, route_prefix)
    typer.echo(f"Application {name!r} is served at {running.address}{route_prefix}  (logs: {running.log_dir})")
    driver.wait_for_signal()


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


def _seconds(duration: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", duration)
    if found is None:
        raise typer.BadParameter(f"{duration!r} is no duration: it takes a number and one of s, m, h, d, as 90s or 2h.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _import_application(import_path: str, app_dir: Path) -> serve.Application:
    module_name, colon, name = import_path.partition(":")
    if not (module_name and colon and name):
        raise typer.BadParameter(f"{import_path!r} is no import path: it takes module:name, for example app:entry.")
    if not app_dir.is_dir():
        raise typer.BadParameter(f"there is no folder {str(app_dir)!r} to import from (--app-dir).")
    sys.path.insert(0, str(app_dir.resolve()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise typer.BadParameter(f"there is no module {module_name!r} in {str(app_dir)!r} (--app-dir).") from error
    application = getattr(module, name, None)
    if isinstance(application, serve.Application):
        return application
    found = [n for n, value in vars(module).items() if isinstance(value, serve.Application)]
    hint = f"Its applications: {', '.join(found) or 'none'}."
    if isinstance(application, serve.Deployment):
        hint = f"That is a deployment; {name}.bind() makes an application of it."
    raise typer.BadParameter(f"{module_name} has no application {name!r}. {hint}")


def main() -> None:
    """Entry point of the command."""
    # SIGTERM ends the program in the same good order as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            cli()
        finally:
            driver.shutdown()
    except errors.ModelplexError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
