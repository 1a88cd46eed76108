"""Too many connections: who goes, and who is kept out."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from virtual_time import in_virtual_time

from modelplex.runtime import http_crowd
from modelplex.runtime.http_crowd import LOOK_AGAIN_S, OTHER_FILES, Crowd, connections_max


@dataclass(eq=False)
class Fake:
    """A connection that waits for its client since then."""

    waiting_since: float | None
    client: Any = ("10.0.0.1", 1)
    aborted: bool = False
    patience: Any = field(init=False)

    def __post_init__(self) -> None:
        self.patience = self

    def abort(self) -> None:
        self.aborted = True


@in_virtual_time
async def test_who_has_waited_longest_goes() -> None:
    await asyncio.sleep(100)
    crowd = Crowd(3)
    guests = [Fake(50.0), Fake(None), Fake(20.0), Fake(100.0)]
    assert [crowd.add(guest) for guest in guests] == [True] * 4
    assert [guest.aborted for guest in guests] == [False, False, True, False]


@in_virtual_time
async def test_when_nobody_can_go_the_newcomer_does() -> None:
    await asyncio.sleep(100)
    crowd = Crowd(2)
    busy = [Fake(None), Fake(None)]
    assert all(map(crowd.add, busy))
    late = Fake(100.0)
    assert not crowd.add(late)
    assert not late.aborted  # it is told
    crowd.discard(late)
    busy[0].waiting_since = 100.0
    await asyncio.sleep(LOOK_AGAIN_S)
    assert crowd.add(Fake(None))
    assert [guest.aborted for guest in busy] == [True, False]


@in_virtual_time
async def test_those_that_have_gone_make_room() -> None:
    crowd = Crowd(1)
    first = Fake(None)
    crowd.add(first)
    second = Fake(None)
    assert not crowd.add(second)
    for gone in (first, second):
        crowd.discard(gone)
    assert crowd.add(Fake(None))


@in_virtual_time
async def test_many_go_at_once_when_there_are_many() -> None:
    """Since all are looked at to find them."""
    await asyncio.sleep(100)
    crowd = Crowd(1000)
    guests = [Fake(float(n % 90)) for n in range(1001)]
    assert all(crowd.add(guest) for guest in guests)
    gone = [guest for guest in guests if guest.aborted]
    assert len(gone) == 15
    assert {guest.waiting_since for guest in gone} == {0.0, 1.0}


@in_virtual_time
async def test_an_address_has_a_bound_of_its_own() -> None:
    await asyncio.sleep(100)
    crowd = Crowd(100, per_address_max=2)
    others = [Fake(1.0, (f"10.1.0.{n}", 1)) for n in range(5)]
    mine = [Fake(None), Fake(90.0), Fake(None)]
    assert all(crowd.add(guest) for guest in (*others, *mine))
    assert [guest.aborted for guest in mine] == [False, True, False]
    crowd.discard(mine[1])
    assert not crowd.add(Fake(None))  # nobody from there waits
    assert crowd.add(Fake(1.0, None))  # over a Unix socket
    assert not any(guest.aborted for guest in others)
    for guest in others:
        crowd.discard(guest)
    assert set(crowd._by_address) == {"10.0.0.1", ""}


@pytest.mark.parametrize(("soft", "most"), [(20_000, 10_000), (1024, 1024 - OTHER_FILES), (100, 50), (-1, 10_000)])
def test_no_more_than_the_system_has_files_for(monkeypatch: pytest.MonkeyPatch, soft: int, most: int) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, soft))
    assert connections_max(10_000) == most


def test_a_proxy_may_open_as_many_files_as_the_system_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: found.append(limits))
    for limits in ((1024, 4096), (1024, -1), (4096, 4096), (100_000, 200_000)):
        monkeypatch.setattr("resource.getrlimit", lambda _, limits=limits: limits)
        http_crowd.raise_open_files()
    assert found == [(4096, 4096), (65_536, -1)]
