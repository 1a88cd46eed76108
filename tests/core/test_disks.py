"""Which files are on which machines' disks."""

import pytest

from modelplex.core.disks import EXPECTED_FETCH_S, Disks


def test_a_file_costs_nothing_where_it_is_and_a_fetch_elsewhere() -> None:
    disks = Disks()
    assert (disks.in_use, disks.fetch_s("a", "m")) == (False, 0.0)
    disks.told("a", ["m"])
    assert disks.in_use
    assert [disks.fetch_s(machine, "m") for machine in ("a", "b", "")] == [0.0, EXPECTED_FETCH_S, 0.0]
    assert disks.fetch_s("a", "other") == EXPECTED_FETCH_S
    disks.told("b", ["m", "other"])
    assert list(disks.machines("m")) == ["a", "b"]
    assert disks.fetch_s("b", "m") == 0.0


def test_a_machine_without_a_name_has_no_disk_of_its_own() -> None:
    disks = Disks()
    disks.told("", ["m"])
    assert (disks.in_use, len(disks), list(disks.machines("m"))) == (False, 0, [])


def test_what_a_fetch_takes_is_learned() -> None:
    disks = Disks()
    disks.told("a", ["m"])
    disks.saw_fetch(4.0)
    assert disks.fetch_s("b", "m") == 4.0
    for _ in range(100):
        disks.saw_fetch(2.0)
    assert disks.fetch_s("b", "m") == pytest.approx(2.0, abs=0.01)


def test_the_models_that_were_told_of_longest_ago_are_forgotten() -> None:
    disks = Disks(entries_max=3)
    disks.told("a", ["old", "new"])
    disks.told("b", ["old"])
    disks.told("b", ["new"])
    assert len(disks) == 2
    assert list(disks.machines("old")) == []
    assert list(disks.machines("new")) == ["a", "b"]


def test_what_is_told_again_is_remembered_once() -> None:
    disks = Disks(entries_max=2)
    for _ in range(5):
        disks.told("a", ["m", "n", "m"])
    assert len(disks) == 2
    assert disks.fetch_s("a", "m") == disks.fetch_s("a", "n") == 0.0
