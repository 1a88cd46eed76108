"""The commands that make API keys and take them back: `modelplex keys`."""

import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplex.config.access import AccessConfig, AccessKey
from modelplex.config_file.access import read_keys
from modelplex.config_file.writing import as_yaml
from modelplex.runtime.access import new_key

FileOption = Annotated[Path, typer.Option("--file", "-f", help="The file of keys, YAML or, if it ends so, .json.")]
Name = Annotated[str, typer.Argument(help="Who has the key.")]

keys = typer.Typer(help="Make API keys, list them, take them back.", no_args_is_help=True, rich_markup_mode=None)


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.add_typer(keys, name="keys")


@keys.command()
def add(
    name: Name,
    file: FileOption,
    models: Annotated[list[str] | None, typer.Option(help="A glob of model ids; several times; else any.")] = None,
    applications: Annotated[list[str] | None, typer.Option(help="An application, or several. [any]")] = None,
    rate: Annotated[str | None, typer.Option(help="How many requests: 100/s, 1000/m, 5000/h.")] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="How many of them at once.")] = None,
    tenant: Annotated[str, typer.Option(help="On whose behalf its requests are.")] = "",
    expires_at: Annotated[str | None, typer.Option(help="When it ends to be good: 2027-01-31T00:00:00Z.")] = None,
) -> None:
    """Make a key, and print it: it is shown this once, and kept nowhere."""
    secret, key_id, sha256 = new_key()
    with _changed(file) as found:
        try:
            key = AccessKey(
                name=name,
                id=key_id,
                sha256=sha256,
                models=models or ["*"],
                applications=applications,
                rate=rate,
                burst=burst,
                tenant=tenant,
                expires_at=expires_at,
            )
            AccessConfig(keys=(*found, key))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        found.append(key)
    typer.echo(secret)


@keys.command("list")
def list_(
    file: FileOption, json_: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False
) -> None:
    """Say which keys there are."""
    found = read_keys(file).keys
    if json_:
        typer.echo(json.dumps([{k: v for k, v in _as_dict(key).items() if k != "sha256"} for key in found]))
        return
    for key in found:
        parts = [key.name, f"mpx_{key.id}_…", "models: " + " ".join(key.models)]
        parts += ["applications: " + " ".join(key.applications)] if key.applications is not None else []
        parts += [
            f"{option}: {value}" for option in ("rate", "tenant", "expires_at") if (value := getattr(key, option))
        ]
        typer.echo("  ".join(parts))


@keys.command()
def remove(name: Name, file: FileOption) -> None:
    """Take a key back: what runs knows it within a second or two."""
    with _changed(file) as found:
        kept = [key for key in found if key.name != name]
        if len(kept) == len(found):
            raise typer.BadParameter(f"there is no key {name!r} in {str(file)!r}.")
        found[:] = kept


@contextlib.contextmanager
def _changed(file: Path) -> Iterator[list[AccessKey]]:
    """The keys of a file, to be changed; they are written as a whole, or not at all if that fails."""
    file = file.resolve()
    try:
        folder = os.open(file.parent, os.O_RDONLY)
    except OSError as error:
        raise typer.BadParameter(f"{str(file.parent)!r}: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # another such command waits
        found = list(read_keys(file).keys) if file.exists() else []
        yield found
        listed = {"keys": [_as_dict(key) for key in found]}
        _write(file, json.dumps(listed, indent=1) if file.suffix == ".json" else as_yaml(listed))
    finally:
        os.close(folder)


def _write(file: Path, text: str) -> None:
    """A reader finds what was there before, or all of this; nobody else may read it."""
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text)
        os.replace(name, file)
    except OSError as error:
        raise typer.BadParameter(f"{str(file)!r} cannot be written: {error.strerror}.") from error


def _as_dict(key: AccessKey) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(key).items() if value not in (None, "")}
