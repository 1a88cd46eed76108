"""Servers of objects that others have written, each in a process of its own, and how tests put objects there.

Both call an object `bucket/key`, so that a test that runs over both finds it under one name.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import boto3
from aiohttp import web
from s3_server import aws_environment, moto_server, server_process

BUCKET = "bucket"
# S3 takes no smaller parts, other than the last one.
UPLOAD_PART_BYTES = 5 << 20


class ObjectServer(Protocol):
    """One of them."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...

    @property
    def scheme(self) -> str:
        """What the URL of a store there begins with."""
        ...

    def put(self, key: str, body: bytes, bucket: str = BUCKET) -> None:
        """Make an object, or another of the same key in one step."""
        ...

    def delete(self, key: str, bucket: str = BUCKET) -> None: ...


def store_url(server: ObjectServer, through: str | None = None, bucket: str = BUCKET) -> str:
    """What a user calls the bucket; `through` is the URL of a proxy before the server.

    An S3 store finds its server, or the proxy, by the variables of `aws_environment`.
    """
    return f"s3://{bucket}" if server.scheme == "s3" else f"{through or server.url}/{bucket}"


@dataclass(frozen=True)
class Moto:
    """Amazon's S3 as moto has it."""

    url: str
    scheme: str = "s3"

    @property
    def client(self) -> Any:
        """boto3's, for whatever else S3 can do."""
        with aws_environment(self.url):
            return boto3.client("s3")

    def put(self, key: str, body: bytes, bucket: str = BUCKET) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=body, ACL="public-read")  # also for plain HTTP clients

    def put_in_parts(self, key: str, body: bytes, bucket: str = BUCKET) -> None:
        """A multipart upload: the object's ETag is no MD5 of it."""
        client = self.client
        upload = {"Bucket": bucket, "Key": key}
        upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(body), UPLOAD_PART_BYTES), 1):
            part = client.upload_part(**upload, PartNumber=number, Body=body[start : start + UPLOAD_PART_BYTES])
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    def delete(self, key: str, bucket: str = BUCKET) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)


@dataclass(frozen=True)
class RangeServer:
    """A web server that knows ranges, ETags and If-Match: aiohttp's, of the files in a folder."""

    url: str
    folder: Path
    scheme: str = "http"

    def put(self, key: str, body: bytes, bucket: str = BUCKET) -> None:
        path = self.folder / bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"unfinished-{os.getpid()}"
        unfinished.write_bytes(body)
        unfinished.replace(path)

    def delete(self, key: str, bucket: str = BUCKET) -> None:
        (self.folder / bucket / key).unlink()


@contextlib.contextmanager
def moto(*buckets: str) -> Iterator[Moto]:
    """Run moto's server, with these buckets, until the end of the block."""
    with moto_server() as url:
        server = Moto(url)
        for bucket in buckets or (BUCKET,):
            server.client.create_bucket(Bucket=bucket)
        yield server


@contextlib.contextmanager
def range_server() -> Iterator[RangeServer]:
    """Run the web server, with nothing in its folder, until the end of the block."""
    with tempfile.TemporaryDirectory() as folder, server_process(__file__, folder) as url:
        yield RangeServer(url, Path(folder))


def _serve(folder: str, port: int) -> None:
    app = web.Application()
    app.router.add_static("/", folder)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
