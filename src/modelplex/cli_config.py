"""The commands that read and write configuration files: `modelplex check` and `modelplex build`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from modelplex import config_file
from modelplex.build import build as build_text
from modelplex.errors import ApplicationImportError, ConfigFileError, Problem

AppDir = Annotated[Path, typer.Option("--app-dir", "-d", help="Folder to import modules from.")]


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command()(check)
    cli.command()(build)


def check(
    file: Annotated[Path, typer.Argument(help="The configuration file, YAML or JSON.")],
    app_dir: AppDir = Path("."),
    modules: Annotated[bool, typer.Option(help="Whether modules that are not there are mistakes.")] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say all that is wrong with a configuration file. Nothing is imported or started.

    Exit code 0 if nothing is, else 2.
    """
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    try:
        found = config_file.read_file(file, app_dir=app_dir, check_modules=modules)
        warnings = found.warnings
    except ConfigFileError as error:
        problems = error.problems
    if json_:
        told = {"problems": problems, "warnings": warnings}
        typer.echo(json.dumps({key: [dataclasses.asdict(each) for each in value] for key, value in told.items()}))
    else:
        for warning in warnings:
            typer.echo(f"Warning: {warning}", err=True)
        for problem in problems:
            typer.echo(str(problem), err=True)
        if not problems:
            names = ", ".join(app.name for app in found.applications) or "none"
            typer.echo(f"OK: {file} (applications: {names})")
    if problems:
        raise typer.Exit(2)


def build(
    import_paths: Annotated[list[str], typer.Argument(metavar="IMPORT_PATH...", help="Applications, as module:name.")],
    output: Annotated[Path | None, typer.Option("--output-path", "-o", help="Write to this file.")] = None,
    app_dir: AppDir = Path("."),
) -> None:
    """Print a configuration file for applications. It has all deployments, with the options of their code."""
    try:
        text = build_text(import_paths, app_dir)
    except ApplicationImportError as error:
        raise typer.BadParameter(str(error)) from error
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise typer.BadParameter(f"{str(output)!r} cannot be written: {error.strerror}.") from error
