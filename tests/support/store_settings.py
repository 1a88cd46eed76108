"""The times and sizes of stores as tests want them: small."""

import pytest

from modelplex.core import transfer
from modelplex.core.backoff import Backoff
from modelplex.stores import disk_cache, download, entry, object_store

BLOCK_BYTES = 64 << 10
# Long for a server on this machine, also when it is busy.
READ_TIMEOUT_S = 1.0


def fetch_in_blocks(block_bytes: int) -> None:
    """For the rest of the process."""
    small_blocks(pytest.MonkeyPatch(), block_bytes)


def small_blocks(monkeypatch: pytest.MonkeyPatch, block_bytes: int = BLOCK_BYTES) -> None:
    for module, name in ((entry, "BLOCK_BYTES"), (download, "BLOCK_BYTES"), (object_store, "_PART_BYTES")):
        monkeypatch.setattr(module, name, block_bytes)
    monkeypatch.setattr(download, "_requests_good", {})


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are known soon, and tried again soon."""
    monkeypatch.setattr(object_store, "READ_TIMEOUT_S", READ_TIMEOUT_S)
    monkeypatch.setattr(object_store, "RETRIES_MAX", 1)
    monkeypatch.setattr(object_store, "RETRY_S", 5.0)
    for module in (transfer, download):
        monkeypatch.setattr(module, "BACKOFF", Backoff(0.01, 0.05))
    monkeypatch.setattr(disk_cache, "ROOM_WAIT_S", 1.0)
