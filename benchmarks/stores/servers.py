"""Servers that speak S3 on this machine, and the environment in which clients find them."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.dataplane.processes import BenchmarkError, free_ports
from benchmarks.dataplane.systems import ROOT

START_TIMEOUT_S = 60.0
_POLL_S = 0.05

Environment = dict[str, str]


@contextlib.contextmanager
def fast(folder: Path, limit_bytes_per_s: float = 0.0) -> Iterator[Environment]:
    """Our own, of the objects below `folder/bucket`."""
    command = [sys.executable, "-m", "benchmarks.stores.fast_s3", str(folder), "--limit", str(limit_bytes_per_s)]
    with _process(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise BenchmarkError("the fast server has not started")
        yield environment(f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def moto() -> Iterator[Environment]:
    """moto's, which is empty. It has all of an object in memory for each request for a part of it."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _process(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(f"{url}/moto-api/"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError("moto's server has not started")
            time.sleep(_POLL_S)
        yield environment(url)


def environment(url: str) -> Environment:
    """That of this process, but for all that leads to another S3."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return found | {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@contextlib.contextmanager
def _process(command: list[str], stdout: int) -> "Iterator[subprocess.Popen[str]]":
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])}
    with subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=START_TIMEOUT_S):
            return True
    except (urllib.error.URLError, OSError):
        return False
