"""S3, Google Cloud Storage, Azure and HTTP(S), by obstore.

Its blocking functions are called in threads: its async ones now and then abort the interpreter (SIGABRT) at its end,
when a thread of theirs is about to wake an event loop that is gone.
"""

import asyncio
import contextlib
import importlib.util
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, TypeVar

from modelplex.errors import StoreConfigError, StoreError
from modelplex.stores.source import FileChangedError, RangesNotSupportedError, RemoteFile

# Whether a file is there is asked again so often, for so long.
RETRIES_MAX = 4
RETRY_S = 30.0

CONNECT_TIMEOUT_S = 5.0
# An answer that stands still for so long has failed. How long all of it takes is not limited: models are large.
READ_TIMEOUT_S = 20.0

_PART_BYTES = 2 * 2**20

# Where a machine of Amazon's has credentials: the last place that is looked at.
_METADATA = "169.254.169.254"

# Its own, so that a store that does not answer holds up nobody's event loop at its end, nor other work in threads.
_threads = ThreadPoolExecutor(16, thread_name_prefix="modelplex-ask")

T = TypeVar("T")


class ObjectStoreSource:
    """Files in an object store, or behind a web server.

    Args:
        url: `s3://bucket/folder`, `gs://…`, `az://…`, `https://…`; or what else obstore's `from_url` takes.
        options: passed on to obstore's store: `endpoint`, `region`, `skip_signature`, `client_options`, …

    Credentials, regions and endpoints are looked for where the tools of each store have them: environment variables,
    instance metadata, Google's application default credentials; for S3 also the profiles of `~/.aws`, if boto3 is
    installed. Raises `StoreConfigError` if the URL or an option cannot be.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._url = url
        self.name = _public(url).rstrip("/")
        self._options = dict(options or {})
        self._stores: dict[bool, Any] = {}  # with retries, and without
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStoreSource, (self._url, self._options)  # connections stay in their process

    def place(self, key: str) -> None:
        return None

    async def files(self, key: str) -> Sequence[RemoteFile]:
        return await _asked(self._files, key)

    def _files(self, key: str) -> Sequence[RemoteFile]:
        obstore, store = self._open()
        if not key.endswith("/"):
            with _translated(self.name, key):
                return [_remote_file(key, PurePosixPath(key).name, obstore.head(store, key))]
        files = [_remote_file(meta["path"], meta["path"].removeprefix(key), meta) for meta in self._below(key)]
        if not files:
            raise FileNotFoundError(f"{self.name}/{key} has no files")
        return sorted(files, key=lambda file: file.path)

    def stream(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        obstore, store = self._open(retries=False)  # whoever downloads tries again himself, with what is left
        options: dict[str, Any] = _conditions(file.version)
        if (start, end) != (0, file.size_bytes):
            options["range"] = (start, end)
        with _translated(self.name, file.key, changed=True):
            answer = obstore.get(store, file.key, options=options)
            meta = answer.meta
            if _version(meta) != file.version or meta["size"] != file.size_bytes:
                raise FileChangedError(f"{self.name}/{file.key}")
            if tuple(answer.range) != (start, end):
                raise StoreError(f"{self.name}/{file.key}: asked for bytes {start} to {end}, got {answer.range}")
            yield from answer.stream(_PART_BYTES)

    async def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        data = b"".join(await _asked(lambda: list(self.stream(file, start, end))))
        if len(data) != end - start:
            raise StoreError(f"{self.name}/{file.key} broke off after {len(data)} of {end - start} bytes")
        return data

    async def list(self, prefix: str) -> AsyncIterator[str]:
        # Object stores list by whole folders; what is left of the prefix is compared here.
        folder = prefix.rpartition("/")[0]
        for meta in await _asked(self._below, f"{folder}/" if folder else ""):
            if meta["path"].startswith(prefix):
                yield meta["path"]

    def _below(self, folder: str) -> Sequence[Mapping[str, Any]]:
        if self.name.startswith(("http://", "https://")):
            raise StoreConfigError(f"{self.name} cannot be listed: a web server does not tell which files it has.")
        obstore, store = self._open()
        with _translated(self.name, folder):
            found = [meta for chunk in obstore.list(store, folder or None) for meta in chunk]
        return [meta for meta in found if meta["path"] != folder]

    def _open(self, *, retries: bool = True) -> tuple[Any, Any]:
        try:
            import obstore
        except ImportError as error:
            raise StoreConfigError(
                f'{self.name} is read by obstore, which is not installed: pip install "modelplex[store]".'
            ) from error
        with self._opening:
            if retries not in self._stores:
                self._stores[retries] = _store(self._url, self._options, RETRIES_MAX if retries else 0)
            return obstore, self._stores[retries]


async def _asked(call: Callable[..., T], *args: Any) -> T:
    """What a call that may wait for the store answers. Who is cancelled does not wait for it."""
    return await asyncio.get_running_loop().run_in_executor(_threads, call, *args)


def _store(url: str, options: dict[str, Any], retries_max: int) -> Any:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    client = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
        "timeout": timedelta(days=1),
    }
    retries = {
        "max_retries": retries_max,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3)},
    }
    if url.startswith(("s3://", "s3a://")):
        options = _as_aws_tools_find_them(options)
    endpoint = options.get("endpoint") or options.get("endpoint_url") or options.get("aws_endpoint") or ""
    if str(endpoint).startswith("http://") or url.startswith("http://"):
        client["allow_http"] = True  # type: ignore[assignment] # whoever writes http:// means it
    given = {"retry_config": retries} | options | {"client_options": client | options.get("client_options", {})}
    try:
        return from_url(url, **given)
    except (BaseError, ValueError, TypeError) as error:
        raise StoreConfigError(f"{_public(url)} cannot be opened: {_short(error)}") from error


def _public(url: str) -> str:
    """The URL without a user, a password or a query with signatures. In Azure's, a container is before the "@"."""
    return re.sub(r"^(https?://)[^/@]*@", r"\1", url.partition("?")[0])


def _as_aws_tools_find_them(options: dict[str, Any]) -> dict[str, Any]:
    """Endpoint, region and credentials from the environment and, by boto3, from profiles, unless they are given."""
    found: dict[str, Any] = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        found["endpoint"] = endpoint
    explicit = {"credential_provider", "skip_signature", "access_key_id", "aws_access_key_id"} & options.keys()
    if not explicit and "AWS_ACCESS_KEY_ID" not in os.environ and importlib.util.find_spec("boto3") is not None:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider

        session = boto3.Session()
        client = session.client("s3", region_name=session.region_name or "us-east-1")
        if not client.meta.endpoint_url.endswith(".amazonaws.com"):
            found.setdefault("endpoint", client.meta.endpoint_url)
        if session.get_credentials() is not None:
            found["credential_provider"] = Boto3CredentialProvider(session)
        if session.region_name:
            found["region"] = session.region_name
    return found | options


def _remote_file(key: str, path: str, meta: Mapping[str, Any]) -> RemoteFile:
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise StoreError(f"{key} cannot be kept: its name has an empty part, '.' or '..'")
    return RemoteFile(key, path, meta["size"], _version(meta))


def _version(meta: Mapping[str, Any]) -> str:
    """The ETag; without one, the time of the last change, if the store told it."""
    if etag := meta["e_tag"]:
        return str(etag) if etag.startswith(('"', "W/")) else f'"{etag}"'  # Azure lists them without quotes
    at: datetime = meta["last_modified"]
    return at.isoformat() if at.timestamp() > 0 else ""


def _conditions(version: str) -> dict[str, Any]:
    """What has the store itself refuse another version; that the answer is of this one is checked all the same."""
    if version.startswith('"'):
        return {"if_match": version}
    if version and not version.startswith("W/"):
        return {"if_unmodified_since": datetime.fromisoformat(version)}
    return {}


@contextlib.contextmanager
def _translated(name: str, key: str, *, changed: bool = False) -> "Any":
    """Turns what obstore raises into errors that say whose fault it is."""
    from obstore import exceptions

    place = f"{name}/{key}"
    try:
        yield
    except FileNotFoundError as error:
        if changed:
            raise FileChangedError(place) from error
        raise FileNotFoundError(f"{place} does not exist") from error
    except (exceptions.PreconditionError, exceptions.NotModifiedError) as error:
        raise FileChangedError(place) from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise StoreConfigError(f"{place}: the store denies access. {_short(error)}") from error
    except (exceptions.BaseError, ValueError, OSError) as error:
        text = str(error)
        if "range" in text.lower() and ("partial" in text.lower() or "not support" in text.lower()):
            raise RangesNotSupportedError(place) from error
        if _METADATA in text:
            raise StoreConfigError(
                f"{place}: no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, use a profile "
                f"with boto3 installed, or say options={{'skip_signature': True}} for a public bucket. {_short(error)}"
            ) from error
        if "NoSuchBucket" in text or isinstance(error, exceptions.NotSupportedError | exceptions.InvalidPathError):
            raise StoreConfigError(f"{place}: {_short(error)}") from error
        raise StoreError(f"{place} cannot be read. {_short(error)}") from error


def _short(error: BaseException) -> str:
    """What an error of obstore says, without its inner structure and without queries, which may have signatures."""
    text = str(error).partition("\n\nDebug source")[0]
    return re.sub(r"\?[^\s)]*", "", text).strip()[:500]
