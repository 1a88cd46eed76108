"""The service of `system/apps/asked.proto`: its modules, as protoc makes them, and a program that answers it."""

import contextlib
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from served import APPS, Served, serving

SERVICER = "asked_pb2_grpc:add_ShopServicer_to_server"


def compile_shop(folder: Path) -> Any:
    """Make the modules in a folder that is to be imported from, beside the application; answers `asked_pb2_grpc`."""
    for name in ("asked.proto", "grpc_shop.py"):
        shutil.copy(APPS / name, folder)
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=.", "asked.proto"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module("asked_pb2_grpc")


@dataclass(frozen=True)
class Shop:
    """A program that serves it.

    Attributes:
        served: the program.
        address: where gRPC is.
        stub: a client.
    """

    served: Served
    address: str
    stub: Any


def grpc_address(served: Served) -> str:
    found = re.search(r"gRPC at ([\d.:]+\d)", served.first_line)
    assert found, f"{served.first_line}\n{served.log}"
    return found[1]


@contextlib.contextmanager
def serving_shop(folder: Path, *arguments: str, import_path: str = "grpc_shop:app", proxies: int = 1) -> Iterator[Shop]:
    """Until the end of the block. The modules have to be in the folder already."""
    words = ["--grpc-port", "0", "--grpc-servicer", SERVICER, *arguments]
    with serving(import_path, folder, arguments=words, proxies=proxies) as served:
        address = grpc_address(served)
        with grpc.insecure_channel(address) as channel:
            yield Shop(served, address, importlib.import_module("asked_pb2_grpc").ShopStub(channel))
