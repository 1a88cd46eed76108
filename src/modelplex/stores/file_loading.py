"""From a file to a model: by the loader that is named, or that the file's ending means, or by a user's function."""

import functools
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from modelplex import loaded
from modelplex.config import LOADER_ENDINGS, LOADERS, load
from modelplex.errors import InvalidModelFileError
from modelplex.threads import in_thread

# Loads run side by side as far as the caller lets them; libraries bring threads of their own.
_threads = ThreadPoolExecutor(16, thread_name_prefix="modelplex-load")


class FileLoading:
    """Loads models from files.

    Args:
        loader: a name in `config.LOADERS`, a function of a path, or None for what the ending means.
        options: keyword arguments for a loader of that table.
        trusted: whether code in a file may run.

    Raises ValueError or TypeError if there is no such loader, or it takes no such options.
    """

    def __init__(self, loader: str | Callable[[Path], Any] | None, options: Mapping[str, Any], trusted: bool) -> None:
        if isinstance(loader, str) and loader not in LOADERS:
            raise ValueError(f"loader must be a function or one of {', '.join(LOADERS)}; got {loader!r}.")
        if loader is not None and not isinstance(loader, str) and not callable(loader):
            raise TypeError(f"loader must be a name or a function of a path, got {loader!r}.")
        if callable(loader) and options:
            raise ValueError("loader_options are for loaders by name; a function has its own.")
        self._loader = loader
        self._options = dict(options)
        self._trusted = trusted

    async def __call__(self, path: Path) -> Any:
        """The model. Raises what the loader raises; `InvalidModelFileError` if no loader is known for it."""
        if callable(self._loader):
            function: Callable[[Path], Any] = self._loader
            if inspect.iscoroutinefunction(function):
                return _noted(await function(path))
        else:
            found = load(LOADERS[self._loader or _loader_for(path)])
            function = functools.partial(found, trusted=self._trusted, **self._options)
        return _noted(await in_thread(_threads, lambda: function(path)))


def _noted(made: Any) -> Any:
    """The model itself. What its loader knows of it is noted for whoever keeps it."""
    if not isinstance(made, loaded.Loaded):
        return made
    loaded.remember(made)
    return made.model


def _loader_for(path: Path) -> str:
    ending = "/" if path.is_dir() else path.suffix
    if ending not in LOADER_ENDINGS:
        endings = " ".join(LOADER_ENDINGS)
        raise InvalidModelFileError(
            f"Nothing tells how to load {path}: say loader=…, or use one of the endings {endings}"
        )
    return LOADER_ENDINGS[ending]
