"""Ways to bring an object from S3 to a file, each run in a process that has fetched before: imports are not counted."""

import asyncio
import os
import shutil
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from benchmarks.stores.steps import Figures, Stopwatch

BUCKET = "models"
OBJECT, SMALL = "model.bin", "small.bin"

Fetch = Callable[[str, Path], Awaitable[Path]]
"""Brings the object of that key, to the file of that path or one of its own; answers where it is."""


@asynccontextmanager
async def modelplex(folder: Path) -> AsyncIterator[Fetch]:
    from modelplex import serve

    store = serve.ModelStore(f"s3://{BUCKET}", cache_dir=folder / "cache")

    async def fetch(key: str, path: Path) -> Path:
        return await store.fetch(key)

    yield fetch


@asynccontextmanager
async def with_aioboto3(folder: Path) -> AsyncIterator[Fetch]:
    import aioboto3

    async with aioboto3.Session().client("s3") as s3:

        async def fetch(key: str, path: Path) -> Path:
            await s3.download_file(BUCKET, key, str(path))
            return path

        yield fetch


@asynccontextmanager
async def with_boto3(folder: Path) -> AsyncIterator[Fetch]:
    import boto3

    s3 = boto3.client("s3")

    async def fetch(key: str, path: Path) -> Path:
        s3.download_file(BUCKET, key, str(path))
        return path

    yield fetch


@asynccontextmanager
async def with_s3fs(folder: Path) -> AsyncIterator[Fetch]:
    import s3fs

    files = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    async def fetch(key: str, path: Path) -> Path:
        files.get_file(f"{BUCKET}/{key}", str(path))
        return path

    yield fetch


@asynccontextmanager
async def obstore_stream(folder: Path) -> AsyncIterator[Fetch]:
    import obstore

    store = _obstore()

    async def fetch(key: str, path: Path) -> Path:
        with path.open("wb", buffering=0) as file:
            for part in obstore.get(store, key).stream():  # type: ignore[arg-type]
                file.write(part)
        return path

    yield fetch


@asynccontextmanager
async def obstore_whole(folder: Path) -> AsyncIterator[Fetch]:
    import obstore

    store = _obstore()

    async def fetch(key: str, path: Path) -> Path:
        body = memoryview(obstore.get(store, key).bytes())  # type: ignore[arg-type]
        with path.open("wb", buffering=0) as file:
            while body:
                body = body[file.write(body) :]
        return path

    yield fetch


def _obstore() -> object:
    from obstore.store import S3Store

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    return S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True, "timeout": "30m"})


CLIENTS: dict[str, Callable[[Path], AbstractAsyncContextManager[Fetch]]] = {
    "modelplex": modelplex,
    "aioboto3": with_aioboto3,
    "boto3": with_boto3,
    "s3fs": with_s3fs,
    "obstore-stream": obstore_stream,
    "obstore-whole": obstore_whole,
}


def measure(client: str, server: str, folder: str, crc32: int) -> dict[str, Figures]:
    """Fetch the small object, and then with the clock running the large one. Raises ValueError if it is not whole."""
    inside = Path(folder)
    inside.mkdir()
    try:
        return {client: asyncio.run(_measure(client, server, inside, crc32))}
    finally:
        shutil.rmtree(inside)


async def _measure(client: str, server: str, folder: Path, crc32: int) -> Figures:
    async with CLIENTS[client](folder) as fetch:
        await fetch(SMALL, folder / SMALL)
        watch = Stopwatch()
        path = await fetch(OBJECT, folder / OBJECT)
        figures = watch.figures(server)
        if client == "modelplex":
            began_s = time.perf_counter()
            await fetch(OBJECT, folder / OBJECT)
            figures[f"{server}, fetched before, s"] = time.perf_counter() - began_s
        if checksum(path) != crc32:
            raise ValueError(f"{client} brought another file than there is")
        return figures


def checksum(path: Path) -> int:
    crc32 = 0
    with path.open("rb") as file:
        while part := file.read(2**22):
            crc32 = zlib.crc32(part, crc32)
    return crc32


def upload(folder: str) -> None:
    """Put all files of a folder into the bucket, which is made."""
    import boto3
    from botocore.config import Config

    s3 = boto3.client("s3", config=Config(read_timeout=600))
    s3.create_bucket(Bucket=BUCKET)
    for path in Path(folder).iterdir():
        with path.open("rb") as file:
            s3.put_object(Bucket=BUCKET, Key=path.name, Body=file)
