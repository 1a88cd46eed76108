"""A real S3 server over HTTP, moto's, for code that is to believe that it talks to Amazon."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

import aioboto3
import httpx

START_TIMEOUT_S = 30.0


@contextlib.contextmanager
def s3_server(bucket: str, objects: dict[str, bytes]) -> Iterator[None]:
    """Serve a bucket with these objects until the end of the block, in which the AWS variables lead there.

    Code in this process and processes that are started in the block find it as they would find Amazon's.
    """
    with moto_server() as url, aws_environment(url):
        asyncio.run(_fill(bucket, objects))
        yield


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """Run moto's server in a process of its own until the end of the block; its URL."""
    with server_process("-m", "moto.server", "-H", "127.0.0.1", "-p", ready="/moto-api/") as url:
        yield url


@contextlib.contextmanager
def server_process(*arguments: str, ready: str = "/") -> Iterator[str]:
    """Run `python *arguments <port>` until the end of the block, and wait until it answers at `ready`; its URL."""
    url = f"http://127.0.0.1:{_free_port()}"
    command = [sys.executable, *arguments, url.rpartition(":")[2]]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            if not _answers(url + ready, process):
                log.seek(0)
                written = log.read().decode(errors="replace")
                raise AssertionError(f"python {' '.join(arguments)} does not answer. It wrote:\n{written}")
            yield url
        finally:
            process.kill()
            process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _answers(url: str, process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=START_TIMEOUT_S, trust_env=False)
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def aws_environment(url: str) -> Iterator[None]:
    """The variables that an AWS user sets lead to the server at this URL, and no others are set."""
    variables = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        # Nothing that is set up on this machine has a say.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(variables)
        yield


async def _fill(bucket: str, objects: dict[str, bytes]) -> None:
    async with aioboto3.Session().client("s3") as s3:
        await s3.create_bucket(Bucket=bucket)
        for key, body in objects.items():
            await s3.put_object(Bucket=bucket, Key=key, Body=body)
