"""Sums of what processes count."""

import pytest
from told_traffic import told_traffic

from modelplex.runtime import traffic_sums
from modelplex.runtime.traffic_sums import TrafficSums


def test_sums_do_not_fall_when_a_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic_sums, "PROCESSES_MAX", 2)
    sums = TrafficSums()
    assert sums.take({"a": told_traffic(("warm", "ok", 5)), "b": told_traffic(("none", "error", 1))}).warm == 5
    assert sums.take({"b": told_traffic(("none", "error", 2))}).warm == 5
    told = sums.take({"c": told_traffic(("warm", "ok", 2)), "d": None})
    assert (told.warm, told.none, told.errors, told.queued) == (7, 2, 2, 2)
    assert len(sums._last) == 2
