"""Every client that is measured brings whole objects from the server that it is measured with."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.dataplane.processes import BenchmarkError
from benchmarks.stores import servers
from benchmarks.stores.clients import BUCKET, CLIENTS, OBJECT, SMALL
from benchmarks.stores.fetching import write_random
from benchmarks.stores.steps import in_process

pytestmark = [pytest.mark.system, pytest.mark.stores]

OBJECT_BYTES = 20_000_000  # more than one part of those who fetch in parts


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, servers.Environment]]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / BUCKET).mkdir()
    write_random(folder / BUCKET / OBJECT, OBJECT_BYTES)
    write_random(folder / BUCKET / SMALL, 100)
    with servers.fast(folder) as environment:
        yield folder, environment


@pytest.mark.parametrize("client", CLIENTS)
def test_an_object_arrives(client: str, served: tuple[Path, servers.Environment]) -> None:
    folder, environment = served
    crc32 = zlib.crc32((folder / BUCKET / OBJECT).read_bytes())
    target = folder / "fetched"
    found = in_process("clients:measure", client, "here", str(target), crc32, environment=environment)
    assert list(found) == [client]
    assert {"here, s", "here, CPU s"} <= found[client].keys()
    assert all(value >= 0 for value in found[client].values())
    assert not target.exists()


def test_another_object_than_was_expected_is_an_error(served: tuple[Path, servers.Environment]) -> None:
    folder, environment = served
    with pytest.raises(BenchmarkError, match="brought another file"):
        in_process("clients:measure", "obstore-whole", "here", str(folder / "fetched"), 0, environment=environment)
