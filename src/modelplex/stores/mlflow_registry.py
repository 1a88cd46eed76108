"""Models of an MLflow registry: what `shop@stable` stands for there, and the files of `shop@3`."""

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from modelplex.config import check_model_id
from modelplex.errors import ModelNotFoundError, StoreConfigError, StoreError
from modelplex.stores.source import FileChangedError, RemoteFile, Source
from modelplex.stores.versions import DEFAULT, LATEST

T = TypeVar("T")

# Calls of a registry at a time, and calls that may run or wait: its client runs in threads, which cannot be stopped.
THREADS = 4
CALLS_MAX = 64

# Versions whose places are remembered. They do not move.
PLACES_MAX = 1024

# Of the newest versions, so many are looked at for one that is ready.
NEWEST = 20

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND", "ENDPOINT_NOT_FOUND")
_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "INVALID_STATE")


class Registry:
    """Calls of one MLflow registry, each within a time.

    Args:
        uri: the registry's; what MLflow is configured for, unless given.
        timeout_s: for each call.
    """

    def __init__(self, uri: str | None = None, timeout_s: float = 30.0) -> None:
        self.uri = uri
        self._timeout_s = timeout_s
        self._client: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._running = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Registry, (self.uri, self._timeout_s)  # it may be part of code that goes to replicas

    async def call(self, what: str, function: Callable[[Any], T]) -> T:
        """What the function returns for a client, in a thread.

        Raises `ModelNotFoundError`, `StoreConfigError`, `StoreError`; `what` is what was asked for.
        """
        if self._running >= CALLS_MAX:
            raise StoreError(
                f"The MLflow registry does not answer: {self._running} calls wait for it.", retry_after_s=1
            )
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="modelplex-mlflow")
        self._running += 1
        call = asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(self._made()))
        call.add_done_callback(self._over)
        try:
            return await asyncio.wait_for(asyncio.shield(call), self._timeout_s)
        except TimeoutError:
            text = f"The MLflow registry did not answer within {self._timeout_s} s, asked for {what}."
            raise StoreError(text, retry_after_s=1) from None
        except StoreConfigError:
            raise
        except Exception as error:
            raise _translated(what, error) from error

    def _over(self, call: "asyncio.Future[Any]") -> None:
        self._running -= 1
        if not call.cancelled():
            call.exception()  # whoever asked may have left

    def _made(self) -> Any:
        with _lock:
            if self._client is None:
                try:
                    from mlflow import MlflowClient  # on use: it takes a second

                    # The tracking server is not asked, but a client has one; the default may need what is not there.
                    self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                except ImportError as error:
                    text = "An MLflow registry needs MLflow: pip install modelplex[mlflow]"
                    raise StoreConfigError(text) from error
                except Exception as error:
                    raise StoreConfigError(f"The MLflow registry cannot be used: {error}") from error
            return self._client


_lock = threading.Lock()


def _translated(what: str, error: Exception) -> Exception:
    code = getattr(error, "error_code", None)
    if code in _NOT_FOUND:
        return ModelNotFoundError(f"The MLflow registry has no {what}.")
    if code in _REFUSED:
        return StoreConfigError(f"The MLflow registry refuses {what}: {error}")
    return StoreError(f"The MLflow registry failed for {what}: {type(error).__name__}: {error}")


class MlflowAliases:
    """Finds the version that an id stands for, by the aliases of a registry.

    Args:
        registry: the registry; the one that MLflow is configured for, unless given.
    """

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry or Registry()

    async def resolve(self, model_id: str) -> str:
        """The version that the id stands for now, as `name@version`.

        A number is a version, which is not asked for. `@latest` is the newest version that is ready; another tag is an
        alias; a bare name is the alias `default`, or else the latest.

        Raises `InvalidModelIdError`, `ModelNotFoundError`, `StoreConfigError`, `StoreError`.
        """
        name, tag = _split(model_id)
        if tag.isdigit():
            return f"{name}@{tag}"
        if tag == LATEST:
            return f"{name}@{await self._latest(name)}"
        try:
            found = await self._registry.call(
                f"alias {tag or DEFAULT!r} of model {name!r}",
                lambda client: client.get_model_version_by_alias(name, tag or DEFAULT),
            )
        except ModelNotFoundError:
            if tag:
                raise
            return f"{name}@{await self._latest(name)}"
        return f"{name}@{_number(found.version)}"

    async def _latest(self, name: str) -> str:
        newest = await self._registry.call(
            f"model {name!r}",
            lambda client: list(
                client.search_model_versions(f"name='{name}'", NEWEST, order_by=["version_number DESC"])
            ),
        )
        ready = [_number(found.version) for found in newest if found.status == "READY"]
        if not ready:
            raise ModelNotFoundError(f"The MLflow registry has no version of model {name!r} that is ready.")
        return max(ready, key=int)


class MlflowSource:
    """The files of the versions in a registry. The key of a version is its id as a folder: "shop@3/".

    Args:
        open_source: makes the source of a folder, by its URL (`s3://…`, `file:///…`, or a path).
        registry: the registry; the one that MLflow is configured for, unless given.
    """

    def __init__(self, open_source: Callable[[str], Source], registry: Registry | None = None) -> None:
        self._registry = registry or Registry()
        self._open_source = open_source
        self._places: OrderedDict[str, tuple[Source, str]] = OrderedDict()
        self.name = "models:/" if self._registry.uri is None else f"models:/ of {_public(self._registry.uri)}"

    def place(self, key: str) -> None:
        return None  # also of a folder on this machine, which whoever trains may remove

    async def files(self, key: str) -> Sequence[RemoteFile]:
        """The files of a version, or some of them. FileNotFoundError if there are none."""
        model_id, _, path = key.partition("/")
        source, folder = await self._place(model_id)
        found = await source.files(folder + path)
        return [replace(file, key=f"{model_id}/{file.key.removeprefix(folder)}") for file in found]

    def stream(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, as the source of that version's folder has them."""
        model_id, _, path = file.key.partition("/")
        if (place := self._places.get(model_id)) is None:  # others were asked for since
            raise FileChangedError(file.key)
        source, folder = place
        return source.stream(replace(file, key=folder + path), start, end)

    async def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        model_id, _, path = file.key.partition("/")
        source, folder = await self._place(model_id)
        return await source.read(replace(file, key=folder + path), start, end)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """The keys of versions that begin with a prefix; those of one model if it has the whole of its name."""
        name, at, _ = prefix.partition("@")
        only = f"name='{name}'" if at and _NAME.fullmatch(name) else None
        token: Any = None
        while True:
            page = await self._registry.call("models", self._page(only, token))
            for found in page:
                if (key := f"{found.name}@{_number(found.version)}/").startswith(prefix):
                    yield key
            if not (token := page.token):
                return

    @staticmethod
    def _page(only: str | None, token: Any) -> Callable[[Any], Any]:
        return lambda client: client.search_model_versions(only, page_token=token)

    async def _place(self, model_id: str) -> tuple[Source, str]:
        """The source that has the folder of a version, and the folder's key there."""
        if (place := self._places.get(model_id)) is not None:
            self._places.move_to_end(model_id)
            return place
        try:
            name, version = _split(model_id)
            if not version.isdigit():
                raise ModelNotFoundError(f"{model_id!r} names no version: that would be {name}@3, for example.")
            uri: str = await self._registry.call(
                f"version {version} of model {name!r}",
                lambda client: client.get_model_version_download_uri(name, version),
            )
        except ModelNotFoundError as error:
            raise FileNotFoundError(str(error)) from error
        parent, _, folder = uri.rstrip("/").rpartition("/")
        if not folder:
            raise StoreConfigError(f"The MLflow registry says that {model_id} is at {uri!r}, which is no folder.")
        place = self._places[model_id] = self._open_source(parent or "/"), f"{folder}/"
        if len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)
        return place


def _split(model_id: str) -> tuple[str, str]:
    name, at, tag = check_model_id(model_id).partition("@")
    if _NAME.fullmatch(name) is None or (at and _NAME.fullmatch(tag) is None):
        raise ModelNotFoundError(f"There is no model {model_id!r}: ids are name, name@version or name@alias.")
    return name, tag


def _number(version: Any) -> str:
    """A version, which MLflow has as a number or as text."""
    text = str(version)
    if not text.isdigit():
        raise StoreError(f"The MLflow registry names a version {text[:64]!r}, which is no number.")
    return text


def _public(uri: str) -> str:
    """The URI without a user and a password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri
