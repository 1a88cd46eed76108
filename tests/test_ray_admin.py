"""What commands say that are to ask a Ray cluster, where there is none; the rest is run in tests/system."""

from typing import Any

import pytest
import ray

from modelplex import errors
from modelplex.ray_admin import RayAdminClient


def test_without_a_cluster_none_is_begun_that_would_end_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def init(address: str | None, **options: Any) -> None:
        asked.append(address)
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(errors.NothingRunsError, match="no Ray cluster"):
        RayAdminClient()
    assert asked == ["auto"]
