"""A configuration file for applications that are there already: all their deployments, with the options of the code."""

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelplex.applications import import_application
from modelplex.config import DeploymentConfig, load
from modelplex.config_file import hints
from modelplex.config_file.schema import descriptions
from modelplex.config_file.writing import as_yaml
from modelplex.deployment import Node, flatten
from modelplex.multiplex import Loader, loaders_in

_HEAD = """\
# Made by: modelplex build {targets}
# What a deployment here does not say is as the code says. What it says takes the place of what the code says.

# http_options:
#   host: 127.0.0.1
#   port: 8000

applications:
"""

_LINE = 100


class _CodeOnlyError(Exception):
    """Part of a value can be written in code, and in no file."""


def build(import_paths: Sequence[str], app_dir: str | Path | None = None) -> str:
    """The text of a configuration file with these applications. Raises as `import_application` does."""
    text = _HEAD.format(targets=" ".join(import_paths))
    for number, import_path in enumerate(import_paths, 1):
        name, prefix = ("default", "/") if len(import_paths) == 1 else (f"app{number}", f"/app{number}")
        nodes = flatten(import_application(import_path, app_dir=app_dir), name)
        head = as_yaml({"name": name, "route_prefix": prefix, "import_path": import_path})
        text += _item(head + "deployments:\n" + textwrap.indent("".join(map(_deployment, nodes)), "  "), "  ")
    return text


def _deployment(node: Node) -> str:
    config = node.deployment.config
    written: dict[str, Any] = {}
    code_only = []
    for name, value in _changed(config).items():
        try:
            written[name] = _writable(value, DeploymentConfig, name)
        except _CodeOnlyError:
            code_only.append(name)
    if "autoscaling_config" in written:
        written = {"num_replicas": config.num_replicas, **written}  # its own defaults depend on it
    said = descriptions(DeploymentConfig)
    text = as_yaml({"name": node.deployment.name})
    for name, value in written.items():
        comment = textwrap.fill(said[name], _LINE, initial_indent="# ", subsequent_indent="# ")
        text += f"{comment}\n{as_yaml({name: value})}"
    for name in code_only:
        text += f"# {name} is as the code says: part of it cannot be written here.\n"
    return _item(text + _loaders(node))


def _changed(config: DeploymentConfig) -> dict[str, Any]:
    """The options that are not the defaults."""
    defaults = DeploymentConfig(name=config.name)
    found = {name: getattr(config, name) for name in DeploymentConfig.option_names() if name != "name"}
    changed = {name: value for name, value in found.items() if value != getattr(defaults, name)}
    if config.num_replicas == "auto" and config == config.with_options({"autoscaling_config": None}):
        del changed["autoscaling_config"]
    return changed


def _writable(value: Any, kind: type[Any], name: str) -> Any:
    """The value as dicts, lists and scalars. Raises `_CodeOnlyError` if it is more than those."""
    section = hints.section(hints.of(kind)[name])
    if section is not None and dataclasses.is_dataclass(value):
        given = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(section)}
        bounds = ("min_replicas", "max_replicas")  # the defaults are others if num_replicas is "auto"
        return {n: _writable(v, section, n) for n, (v, default) in given.items() if v != default or n in bounds}
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    path = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"
    try:
        if load(path) is value:
            return path
    except (ImportError, AttributeError, ValueError):
        pass
    raise _CodeOnlyError


def _loaders(node: Node) -> str:
    """What the code says of models, which `multiplexing_config` may override, as comments."""
    served = node.deployment.func_or_class
    loaders = loaders_in(served) if isinstance(served, type) else []
    if not loaders:
        return ""
    lines = [f"#   {loader.name}: {_budget(loader)}\n" for loader in loaders]
    return "".join(["# Its loaders, whose options multiplexing_config would override:\n", *lines])


def _budget(loader: Loader) -> str:
    options = loader.options
    words = [f"max_num_models_per_replica {options.models_max}"]
    words += [f"max_bytes_per_replica {options.bytes_max}"] if options.bytes_max > 0 else []
    words += [f"eviction {options.eviction}"] if isinstance(options.eviction, str) else []
    return ", ".join(words)


def _item(text: str, indent: str = "") -> str:
    """The entries of a mapping as an item of a list."""
    return textwrap.indent(f"- {textwrap.indent(text, '  ')[2:]}", indent)
