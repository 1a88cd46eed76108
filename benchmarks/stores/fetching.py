"""From a store to a file on the disk: Modelplex beside the libraries that one would take otherwise."""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import servers
from .clients import BUCKET, CLIENTS, OBJECT, SMALL, checksum
from .steps import MIB, Sizes, Step, in_process

LIMIT_BYTES_PER_S = 60e6  # about what one connection to a store in the cloud brings
# moto reads all of an object, in memory, for each part of it that is asked for: the whole one would take minutes.
MOTO_SHARE = 4
_SMALL_BYTES = 100_000
_PART_BYTES = 16 * MIB


@contextlib.contextmanager
def group(folder: Path, sizes: Sizes) -> Iterator[list[Step]]:
    whole_crc32 = _write_objects(folder / "whole" / BUCKET, sizes.object_bytes)
    moto_bytes = sizes.object_bytes // MOTO_SHARE
    moto_crc32 = _write_objects(folder / "moto" / BUCKET, moto_bytes)
    with contextlib.ExitStack() as stack:
        fast = stack.enter_context(servers.fast(folder / "whole"))
        limited = stack.enter_context(servers.fast(folder / "whole", LIMIT_BYTES_PER_S))
        moto = stack.enter_context(servers.moto())
        in_process("clients:upload", str(folder / "moto" / BUCKET), environment=moto)
        yield [
            Step(
                f"Fetching an object of {sizes.object_bytes / MIB:,.0f} MiB",
                f"{client}, {server}",
                functools.partial(_measure, client, server, environment, folder / "fetched", crc32),
            )
            for server, environment, crc32 in (
                ("fast server", fast, whole_crc32),
                (f"{LIMIT_BYTES_PER_S / 1e6:.0f} MB/s a connection", limited, whole_crc32),
                (f"moto, {moto_bytes / MIB:,.0f} MiB", moto, moto_crc32),
            )
            for client in CLIENTS
        ]


def _measure(client: str, server: str, environment: servers.Environment, folder: Path, crc32: int) -> Any:
    os.sync()  # what others have written is not to be waited for
    return in_process("clients:measure", client, server, str(folder), crc32, environment=environment)


def _write_objects(bucket: Path, object_bytes: int) -> int:
    """The large one and a small one. Answers the checksum of the large one."""
    bucket.mkdir(parents=True)
    write_random(bucket / OBJECT, object_bytes)
    write_random(bucket / SMALL, _SMALL_BYTES)
    return checksum(bucket / OBJECT)


def write_random(path: Path, size_bytes: int) -> None:
    """What nobody can compress."""
    with path.open("wb") as file:
        for at in range(0, size_bytes, _PART_BYTES):
            file.write(os.urandom(min(_PART_BYTES, size_bytes - at)))
