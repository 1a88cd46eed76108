"""On which machines proxies are wanted: each rule as a table."""

import pytest

from modelplex.core.proxy_places import Close, Command, Open, ProxyPlaces
from modelplex.runtime.engine import Machine

LINGER_S = 30.0

HEAD = Machine("head")
ONE = Machine("one", is_head=False)
TWO = Machine("two", is_head=False)
MACHINES = [HEAD, ONE, TWO]


def draining(machine: Machine) -> Machine:
    return Machine(machine.name, machine.is_head, is_draining=True)


class Told:
    """Places that are told of what is otherwise than before; every proxy serves at once unless said otherwise."""

    def __init__(self, location: str = "EveryNode") -> None:
        self.places = ProxyPlaces(location, LINGER_S)
        self.machines = MACHINES
        self.used: set[str] = set()
        self.silent: set[str] = set()
        self.now = 100.0

    def __call__(self) -> list[Command]:
        ready = self.places.open.keys() - self.silent
        commands = self.places.decide(self.machines, self.used, ready, self.now)
        if any(isinstance(command, Open) for command in commands):
            assert self() == []  # what was opened serves
        return commands


@pytest.mark.parametrize(
    ("location", "used", "expected"),
    [
        ("EveryNode", set(), ["head"]),
        ("EveryNode", {"two"}, ["head", "two"]),
        ("EveryNode", {"unheard of"}, ["head"]),
        ("AllNodes", set(), ["head", "one", "two"]),
        ("HeadOnly", {"two"}, ["head"]),
        ("Disabled", {"two"}, []),
    ],
)
def test_the_location_says_which_machines_have_proxies(location: str, used: set[str], expected: list[str]) -> None:
    told = Told(location)
    told.used = used
    assert told() == [Open(name) for name in expected]


def test_a_machine_that_lost_its_last_replica_keeps_its_proxies_for_a_while() -> None:
    told = Told()
    told.used = {"one"}
    told()
    told.used = set()
    assert told() == []
    assert told.places.next_tick == told.now + LINGER_S
    told.now += LINGER_S - 1
    assert told() == []
    told.now += 1
    assert told() == [Close("one")]
    assert told.places.next_tick is None


def test_a_replica_that_comes_back_meanwhile_begins_the_while_anew() -> None:
    told = Told()
    told.used = {"one"}
    told()
    told.used = set()
    told()
    told.now += LINGER_S - 1
    told.used = {"one"}
    assert told() == []
    told.now += 2
    told.used = set()
    assert told() == []
    assert told.places.next_tick == told.now + LINGER_S


def test_the_last_proxy_that_serves_does_not_go() -> None:
    told = Told()
    told.used = {"one"}
    told()
    told.used, told.silent = set(), {"head"}
    told()
    told.now += 10 * LINGER_S
    assert told() == []
    told.silent = set()
    assert told() == [Close("one")]


def test_a_machine_that_is_drained_keeps_its_proxies_until_its_replicas_are_gone() -> None:
    told = Told()
    told.used = {"one", "two"}
    told()
    told.machines = [HEAD, draining(ONE), TWO]
    told.now += 10 * LINGER_S
    assert told() == []
    told.used = {"two"}
    assert told() == [Close("one")]


def test_a_head_that_is_drained_keeps_its_proxies_until_others_serve() -> None:
    told = Told()
    told()
    told.machines = [draining(HEAD), ONE, TWO]
    assert told() == []
    told.used, told.silent = {"one"}, {"one"}
    assert told() == [Open("one")]
    told.silent = set()
    assert told() == [Close("head")]


def test_nothing_is_opened_on_a_machine_that_is_drained_until_it_is_not() -> None:
    told = Told("AllNodes")
    told.machines = [HEAD, draining(ONE)]
    assert told() == [Open("head")]
    told.machines = [HEAD, ONE]
    assert told() == [Open("one")]


def test_a_machine_that_is_gone_is_closed_whatever_serves_and_opened_when_it_is_back() -> None:
    told = Told()
    told()
    told.machines, told.silent = [ONE, TWO], {"head"}
    assert told() == [Close("head")]
    told.machines = MACHINES
    assert told() == [Open("head")]


def test_proxies_of_an_earlier_controller_stay_where_they_are_wanted_and_linger_elsewhere() -> None:
    told = Told()
    told.places.adopt("head")
    told.places.adopt("one")
    assert told() == []
    told.now += LINGER_S
    assert told() == [Close("one")]
