"""The command that says why: `modelplex why REQUEST_ID`, `modelplex why model MODEL_ID`."""

import json
import time
from typing import Annotated, Any

import typer

from modelplex import cli_system
from modelplex.cli_system import AsJson, HomeOption, SystemOption
from modelplex.observe.decision_texts import printable

# Times within a story are those since its begin; one that goes on for longer is told by the clock.
SINCE_MAX_S = 1000.0

# Records that bear the model's id as the request has it.
_OF_REQUESTS = ("route", "wait", "reject")


def register(cli: typer.Typer) -> None:
    """Add the command."""
    # Ids of requests may begin with a hyphen.
    cli.command(context_settings={"ignore_unknown_options": True})(why)


def why(
    what: Annotated[str, typer.Argument(metavar="REQUEST_ID | model", help="The x-request-id of an answer; or model.")],
    model_id: Annotated[str, typer.Argument(metavar="[MODEL_ID]", help="After the word model.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Records to show, the newest.")] = 100,
    home: HomeOption = None,
    system: SystemOption = None,
    as_json: AsJson = False,
) -> None:
    """Tell what became of a request, or of a model, and why: where it was sent, what it waited for, what was evicted.

    Each process remembers the last few thousand decisions, and nothing that was before it began.
    """
    if bool(model_id) != (what == "model"):
        raise typer.BadParameter("say a request's id, or: model MODEL_ID.")
    client = cli_system.client(home, system)
    about = {"model_id": model_id} if model_id else {"request_id": what}
    found = list(reversed(client.get("/v1/decisions", **about, limit=limit)["decisions"]))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    name = f"model {model_id}" if model_id else f"request {what}"
    if not found:
        typer.echo(f"Nothing is known of {printable(name)}: there was none, or it was too long ago.", err=True)
        raise typer.Exit(1)
    typer.echo(story(printable(name), found))


def story(name: str, found: list[dict[str, Any]]) -> str:
    """The records as lines, in the order of time."""
    began = float(found[0]["at"])
    day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began))
    models = {each["model_id"] for each in found if each["kind"] in _OF_REQUESTS} - {""}
    about = f" for model {models.pop()}" if name.startswith("request") and len(models) == 1 else ""
    lines = [f"{name}{about}, {day}.{int(began % 1 * 1000):03d}"]
    width = max(len(each["process"]) for each in found)
    lines += [f"  {_since(each['at'] - began)}  {each['process']:<{width}}  {_said(each, name)}" for each in found]
    return "\n".join(lines)


def _said(record: dict[str, Any], name: str) -> str:
    """Its text, and the request, unless that is in the text, or the story is about it."""
    text, request_id = str(record["text"]), record["request_id"]
    return text if not request_id or request_id in f"{text} {name}" else f"{text} (request {request_id})"


def _since(seconds: float) -> str:
    if seconds < SINCE_MAX_S:
        return f"{f'+{seconds:.3f} s':>10}"
    return f"{f'+{seconds / 60:.0f} min':>10}"
