"""`serve.ModelStore`: models by their ids, from where they are stored to the disk and into memory."""

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelplex import loaded
from modelplex.config import parse_bytes
from modelplex.errors import AliasNotSetError, DiskCacheFullError, ModelNotFoundError, StoreConfigError, StoreError
from modelplex.stores.disk_cache import CachedPath, DiskCache, DiskUse
from modelplex.stores.download import download
from modelplex.stores.file_loading import FileLoading
from modelplex.stores.folder import FolderSource
from modelplex.stores.mlflow_registry import MlflowAliases, MlflowSource, Registry
from modelplex.stores.object_store import ObjectStoreSource
from modelplex.stores.pattern import Pattern
from modelplex.stores.source import FileChangedError, RemoteFile, Source
from modelplex.stores.versions import Versions

log = logging.getLogger(__name__)

CACHE_BYTES = "50GiB"

# A model that is replaced while it is read is read again from the start, so often.
CHANGES_MAX = 3


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a model is on its way to this machine.

    Attributes:
        model_id: the model.
        arrived_bytes: what is there of it.
        size_bytes: all of it.
    """

    model_id: str
    arrived_bytes: int
    size_bytes: int


class ModelStore:
    """Models in an object store, behind a web server, in a registry, or in a folder.

    Args:
        url: `s3://bucket/folder`, `gs://…`, `az://…`, `https://…`, `file:///…`, the path of a folder, or `models:/` for
            the MLflow registry that MLflow is configured for.
        pattern: where below it a model's file is: `{model_id}/model.safetensors`. A folder, if it ends with "/". With
            `{name}` and `{version}`, ids are like `shop@3`. A registry has its own.
        aliases: where the aliases of a model with versions are: a file such as `{"stable": "3"}`.
        loader: how `load` makes a model of a file: a name (see docs/loaders.md), or a function that takes the path and
            returns the model, plain (it runs in a thread) or async. Unless given, the ending of the file decides.
        loader_options: keyword arguments for a loader that is named or found by the ending.
        trusted: whether models may contain code that loading runs, such as pickles.
        cache_dir: the folder that files are kept in, for all processes of this machine; `~/.cache/modelplex/models`
            unless given. Files of a folder are used where they lie.
        cache_bytes: the room that it may take, as a number or as text such as "50GiB".
        options: passed on to obstore: `endpoint`, `region`, `skip_signature`, `client_options`, …; for a registry,
            `registry_uri`.
        on_progress: called with a `FetchProgress` now and then, on the event loop of the process that fetches.

    Raises ValueError if the pattern, the loader or a size cannot be.
    """

    def __init__(
        self,
        url: str | Path,
        pattern: str | None = None,
        *,
        aliases: str = "{name}/aliases.json",
        loader: str | Callable[[Path], Any] | None = None,
        loader_options: Mapping[str, Any] | None = None,
        trusted: bool = False,
        cache_dir: str | Path | None = None,
        cache_bytes: int | str = CACHE_BYTES,
        options: Mapping[str, Any] | None = None,
        on_progress: Callable[[FetchProgress], None] | None = None,
    ) -> None:
        self._source, self._places, self._versions = _opened(str(url), pattern, aliases, options)
        self._load = FileLoading(loader, dict(loader_options or {}), trusted)
        folder = Path(cache_dir).expanduser().absolute() if cache_dir is not None else _default_cache_dir()
        self._cache = DiskCache(folder, parse_bytes("cache_bytes", cache_bytes))
        self._on_progress = on_progress

    async def fetch(self, model_id: str) -> Path:
        """The path of a model's file, or of its folder, on this machine.

        It stays there for as long as the answer lives, or the file is open or mapped. When the store does not answer,
        what was fetched last has to do.

        Raises:
            InvalidModelIdError: the id can be none of this store's.
            ModelNotFoundError: there is no such model.
            StoreError: the store does not answer, or not with whole files.
            DiskCacheFullError: there is no room on the disk.
            UnsafeModelFileError: a link leads out of the folder.
        """
        key = await self._key(model_id)
        for _ in range(CHANGES_MAX):
            try:
                files = await self._source.files(key)
            except FileNotFoundError as error:
                raise ModelNotFoundError(f"There is no model '{model_id}': {error}.") from error
            except StoreConfigError:
                raise
            except StoreError as error:
                kept = await self._cache.newest(self._source.name, key)
                if kept is None:
                    raise
                log.warning("Model '%s' is as it was fetched last: %s", model_id, error)
                loaded.note_fetch(0.0)
                return kept
            if (place := self._source.place(key)) is not None:
                return place
            try:
                return await self._cached(model_id, key, files)
            except FileChangedError:
                log.info("Model '%s' was replaced while it was read: it is read again.", model_id)
        raise StoreError(f"Model '{model_id}' was replaced {CHANGES_MAX} times while it was read.")

    async def load(self, model_id: str) -> Any:
        """The model, fetched and loaded, in a thread. Raises what `fetch` and its loader raise.

        If the loader fails and the file turns out to be damaged on this disk, it is fetched once more.
        """
        path = await self.fetch(model_id)
        try:
            return await self._load(path)
        except Exception:
            if not isinstance(path, CachedPath) or not await self._cache.drop_if_damaged(path):
                raise
            log.warning("Model '%s' was damaged on the disk: it is fetched once more.", model_id)
        return await self._load(await self.fetch(model_id))

    async def exists(self, model_id: str) -> bool:
        """Whether there is such a model; for `model_exists` of `serve.multiplexed`."""
        try:
            return bool(await self._source.files(self._places.key(await self.resolve(model_id))))
        except (FileNotFoundError, ModelNotFoundError):
            return False

    async def resolve(self, model_id: str) -> str:
        """The version that an id stands for now, for `resolve` of `serve.multiplexed`; itself, if it is no alias.

        Raises `ModelNotFoundError` if it stands for nothing, `StoreError` if the store does not answer.
        """
        return model_id if self._versions is None else await self._versions.resolve(model_id)

    async def set_alias(self, alias: str, version: str) -> None:
        """Have an alias, such as `shop@stable`, stand for a version, such as `shop@3`, in a store that is a folder.

        Raises `ModelNotFoundError` if there is no such version, `AliasNotSetError` if that cannot be done here.
        """
        if not isinstance(self._versions, Versions):
            raise AliasNotSetError(f"Aliases of {self._source.name} are set in the store itself.")
        await self._versions.set_alias(alias, version)

    async def list(self) -> list[str]:
        """The ids of all models, in order. Raises `StoreConfigError` if the store cannot be listed."""
        found = {self._places.model_id(key) async for key in self._keys()}
        return sorted(model_id for model_id in found if model_id is not None)

    def disk_use(self) -> DiskUse:
        """What the disk cache holds now."""
        return self._cache.use()

    async def _key(self, model_id: str) -> str:
        """The key of the version that an id stands for."""
        try:
            return self._places.key(await self.resolve(model_id))
        except StoreConfigError:
            raise
        except StoreError as error:  # then it may be a version itself, which was fetched before
            try:
                return self._places.key(model_id)
            except ModelNotFoundError:
                raise error from None

    def _keys(self) -> AsyncIterator[str]:
        return self._source.list(self._places.prefix)

    async def _cached(self, model_id: str, key: str, files: Sequence[RemoteFile]) -> CachedPath:
        size_bytes = sum(file.size_bytes for file in files)

        def told(arrived_bytes: int) -> None:
            if self._on_progress is not None:
                self._on_progress(FetchProgress(model_id, arrived_bytes, size_bytes))

        async def fill(entry: Any) -> None:
            began = time.monotonic()
            await download(self._source, files, entry, told)
            took_s = time.monotonic() - began
            log.info("Fetched model '%s': %.1f MB in %.2f s.", model_id, size_bytes / 1e6, took_s)

        try:
            path = await self._cache.get(self._source.name, key, files, fill)
        except DiskCacheFullError as error:
            raise DiskCacheFullError(f"Model '{model_id}': {error}", retry_after_s=error.retry_after_s) from error
        loaded.note_fetch(path.fetch_s)
        return path


class _Places(Protocol):
    """Where models are: `Pattern` or `Versions`."""

    @property
    def prefix(self) -> str: ...

    def key(self, model_id: str) -> str: ...

    def model_id(self, key: str) -> str | None: ...


class _Resolver(Protocol):
    """What ids stand for: `Versions` or `MlflowAliases`."""

    async def resolve(self, model_id: str) -> str: ...


def _opened(
    url: str, pattern: str | None, aliases: str, options: Mapping[str, Any] | None
) -> tuple[Source, _Places, _Resolver | None]:
    """The source, where models are in it, and what their ids stand for, if not for themselves."""
    if url.rstrip("/") == "models:":
        if pattern is not None:
            raise ValueError(f"A registry says itself where its models are: it takes no pattern, got {pattern!r}.")
        registry = Registry((options or {}).get("registry_uri"))
        return MlflowSource(open_source, registry), Pattern("{model_id}/"), MlflowAliases(registry)
    source = open_source(url, options)
    if pattern is not None and "{version}" in pattern:
        versions = Versions(source, pattern, aliases)
        return source, versions, versions
    return source, Pattern("{model_id}" if pattern is None else pattern), None


def open_source(url: str, options: Mapping[str, Any] | None = None) -> Source:
    """The source that a URL, or the path of a folder, names."""
    scheme, found, rest = url.partition("://")
    if not found:
        return FolderSource(url.removeprefix("file:"))
    if scheme == "file":
        return FolderSource(rest)
    return ObjectStoreSource(url, options)


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "modelplex" / "models"
