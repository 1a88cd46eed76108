"""Whether there is a module, without importing anything: what a file names may not be what anybody wants to run yet."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def module_of(import_path: str) -> str:
    """The module of an import path, as `package.module:name` or `package.module.name`."""
    return import_path.partition(":")[0] if ":" in import_path else import_path.rpartition(".")[0]


def exists(module: str, folder: Path) -> bool:
    """Whether a module can be found in a folder, or else where Python looks for modules."""
    path: Sequence[str] | None = [str(folder), *sys.path]
    for number, name in enumerate(module.split(".")):
        if path is None:
            return False  # what was found before is a module, not a package
        try:
            spec = PathFinder.find_spec(name, path) or (_elsewhere(name) if number == 0 else None)
        except (ImportError, ValueError, OSError):
            return False
        if spec is None:
            return False
        locations = spec.submodule_search_locations
        path = None if locations is None else list(locations)
    return True


def _elsewhere(name: str) -> ModuleSpec | None:
    """Built-in, frozen, and editable installations."""
    return importlib.util.find_spec(name)
