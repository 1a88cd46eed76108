"""The commands about models and replicas of a running system: show, load, pin, drain, watch."""

import json
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from modelplex import errors, top
from modelplex.admin_client import Admin
from modelplex.cli_system import AsJson, HomeOption, SystemOption, client

PAGE_MAX = 1000

Application = Annotated[str, typer.Option(help="Of this application; need not be said if there is only one.")]
Deployment = Annotated[str, typer.Option(help="Of this deployment; need not be said if only one has models.")]
OfApplication = Annotated[str, typer.Option("--application", help="Only of this application.")]
OfDeployment = Annotated[str, typer.Option("--deployment", help="Only of this deployment.")]
Loader = Annotated[str, typer.Option(help="Of this loader; need not be said if the deployment has only one.")]
ModelId = Annotated[str, typer.Argument(help="The model's id.")]


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    for command in (models, replicas, drain, dashboard, load, prefetch, unload, pin, unpin):
        cli.command()(command)
    cli.command("alias")(set_alias)
    cli.command("top")(watch)


def models(
    application: OfApplication = "",
    deployment: OfDeployment = "",
    model: Annotated[str, typer.Option(help="Only this one, or those that match: * stands for any text.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many ids.")] = 100,
    home: HomeOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Show the models of a running system: where they are, and how."""
    asked = {"application": application, "deployment": deployment, "model": model}
    found, has_more = _models(client(home, system), limit, asked)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    rows = [
        (model["id"], model["deployment"], *_where(each), "pinned" if each["pinned"] else "")
        for model in found
        for each in model["replicas"]
    ]
    header = ("MODEL", "DEPLOYMENT", "REPLICA", "STATE", "SIZE", "AGE", "LOAD", "USES", "")
    typer.echo(top.table(header, rows) if rows else "no models")
    if has_more:
        typer.echo(f"There are more than {limit}: --limit shows more, --model fewer.", err=True)


def _models(admin: Admin, limit: int, asked: dict[str, str]) -> tuple[list[Any], bool]:
    """So many at most, page by page, and whether there are more."""
    found: list[Any] = []
    after, left = "", limit
    while True:
        page = admin.get("/v1/models", limit=min(left, PAGE_MAX), after=after, **asked)
        found += page["models"]
        left -= len({model["id"] for model in page["models"]})
        after = page["next"]
        if after is None or left <= 0:
            return found, after is not None


def _where(model: dict[str, Any]) -> tuple[str, ...]:
    state = "in use" if model["state"] == "resident" and model["leases"] else model["state"]
    return (
        top.short(model["replica"]),
        state,
        top.size(model["size_bytes"]),
        top.duration(model["age_s"]),
        top.duration(model["load_s"]),
        str(model["uses"]),
    )


def replicas(
    application: OfApplication = "",
    deployment: OfDeployment = "",
    home: HomeOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Show the replicas of a running system and what their models take."""
    asked = {"application": application, "deployment": deployment}
    found = client(home, system).get("/v1/replicas", limit=PAGE_MAX if as_json else 0, **asked)["replicas"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    rows = []
    for replica in found:
        running = f"{replica['ongoing']}/{replica['max_ongoing']}"
        for loader in replica["loaders"] or [None]:
            held = ("", "", "") if loader is None else (loader["name"], top.models(loader), top.budget(loader))
            rows.append((replica["replica"], running, *held, "retiring" if replica["retiring"] else ""))
    header = ("REPLICA", "REQUESTS", "LOADER", "MODELS", "SIZE", "")
    typer.echo(top.table(header, rows) if rows else "no replicas")


def _steered(verb: str, help_text: str, done: Callable[[str, dict[str, Any]], str]) -> Callable[..., None]:
    """The command that has something done to a model."""

    def command(
        model: ModelId,
        application: Application = "",
        deployment: Deployment = "",
        loader: Loader = "",
        home: HomeOption = None,
        system: SystemOption = None,
    ) -> None:
        body = {"application": application, "deployment": deployment, "loader": loader}
        answer = client(home, system).post(f"/v1/models/{quote(model, safe='')}/{verb}", body)
        typer.echo(done(model, answer))

    command.__name__, command.__doc__ = verb, help_text
    return command


def _on(answer: dict[str, Any]) -> str:
    count = answer["replicas"]
    return f"on {count} replica{'' if count == 1 else 's'}"


load = _steered(
    "load", "Load a model where a request for it would go; returns when it is.", lambda model, _: f"Loaded: {model}"
)
prefetch = _steered("prefetch", "Begin to load a model.", lambda model, _: f"Loading: {model}")
unload = _steered(
    "unload",
    "Unload a model everywhere as soon as nobody uses it.",
    lambda model, answer: f"Unloaded: {model} ({_on(answer)})",
)
pin = _steered(
    "pin",
    "Never evict a model where it is, or on one replica that loads it for that, as long as that replica lives.",
    lambda model, answer: f"Pinned: {model} ({_on(answer)})",
)
unpin = _steered("unpin", "Take back a pin.", lambda model, answer: f"Unpinned: {model} ({_on(answer)})")


def set_alias(
    alias: Annotated[str, typer.Argument(help="The alias, as shop@stable.")],
    version: Annotated[str, typer.Argument(help="What it is to stand for, as shop@3.")],
    application: Application = "",
    deployment: Deployment = "",
    loader: Loader = "",
    home: HomeOption = None,
    system: SystemOption = None,
) -> None:
    """Have an alias stand for another version, in a store of models that is a folder."""
    body = {"application": application, "deployment": deployment, "loader": loader, "version": version}
    client(home, system).put(f"/v1/models/{quote(alias, safe='')}/alias", body)
    typer.echo(f"Set: {alias} is {version}, for replicas as soon as they look.")


def drain(
    replica: Annotated[str, typer.Argument(help="The replica's id, as modelplex replicas shows it.")],
    home: HomeOption = None,
    system: SystemOption = None,
) -> None:
    """Have another replica take the place of one, which then ends what it does and stops."""
    client(home, system).post(f"/v1/replicas/{quote(replica, safe='')}/drain")
    typer.echo(f"Draining: {replica}, as soon as there is another in its place.")


def dashboard(
    token_file: Annotated[Path, typer.Option("--admin-token-file", help="That of modelplex start.")],
    home: HomeOption = None,
    system: SystemOption = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Print the address of the dashboard, with the token: whoever has it may do everything."""
    address = client(home, system).status()["admin_address"]
    if not address:
        raise errors.ModelplexError("It is not open over TCP: modelplex start --admin-token-file FILE opens it.")
    try:
        url = f"{address}/?token={quote(token_file.read_text().strip(), safe='')}"
    except OSError as error:
        raise typer.BadParameter(f"{token_file} cannot be read: {error.strerror}.") from error
    typer.echo(url)
    if open_it:
        webbrowser.open(url)


def watch(
    home: HomeOption = None,
    system: SystemOption = None,
    once: Annotated[bool, typer.Option("--once", help="Show one picture and end.")] = False,
    interval_s: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two pictures.")] = 1.0,
) -> None:
    """Watch a running system in the terminal, until Ctrl-C."""
    try:
        import rich  # noqa: F401 - so that it is missed before anything is asked
    except ModuleNotFoundError as error:
        raise typer.BadParameter("top needs rich: pip install 'modelplex[top]'") from error
    admin = client(home, system)
    top.show(lambda: admin.get("/v1/state"), interval_s, once=once)
