"""The slots of a replica, what routers believe of them, and promises of room: each rule, then random histories."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from modelplex.core.occupancy import TOLD_MAX, Occupancy, Promises

HISTORIES = 200

Kind = TypeVar("Kind")


def make(slots_max: int, *routers: str) -> Occupancy[str]:
    occupancy = Occupancy[str](slots_max)
    for router in routers:
        occupancy.join(router)
    return occupancy


# Slots


def test_no_more_requests_begin_than_there_are_slots() -> None:
    occupancy = make(2, "a", "b")
    assert [occupancy.begin("a"), occupancy.begin("b"), occupancy.begin("a")] == [True, True, False]
    assert (occupancy.ongoing, occupancy.limit) == (2, 2)
    occupancy.end("b")
    assert occupancy.begin("a")


def test_there_is_at_least_one_slot() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        make(0)


def test_a_slot_that_was_never_taken_cannot_be_given_back() -> None:
    with pytest.raises(RuntimeError, match="never taken"):
        make(1, "a").end("a")


def test_only_a_router_that_has_joined_begins_requests() -> None:
    occupancy = make(1)
    assert "a" not in occupancy
    with pytest.raises(KeyError):
        occupancy.begin("a")
    assert occupancy.ongoing == 0


def test_a_request_ends_though_its_router_has_left() -> None:
    occupancy = make(1, "a", "b")
    occupancy.begin("a")
    occupancy.leave("a")
    occupancy.leave("a")
    assert ("a" in occupancy, occupancy.ongoing) == (False, 1)
    occupancy.end("a")
    occupancy.told("a")
    assert occupancy.begin("b")


# What routers believe


def test_a_router_that_was_refused_is_told_when_a_slot_comes_free_once() -> None:
    occupancy = make(1, "a", "b")
    occupancy.begin("a")
    assert not occupancy.begin("b")
    occupancy.told("b")
    assert list(occupancy.mistaken()) == []  # it is right
    occupancy.end("a")
    occupancy.told("a")
    assert list(occupancy.mistaken()) == ["b"]
    assert list(occupancy.mistaken()) == []


def test_a_router_that_joins_a_full_replica_is_told_when_it_is_full_no_longer() -> None:
    occupancy = make(1, "a")
    occupancy.begin("a")
    occupancy.join("b")
    occupancy.end("a")
    occupancy.told("a")
    assert list(occupancy.mistaken()) == ["b"]


def test_a_router_is_not_told_of_what_it_knows() -> None:
    occupancy = make(2, "a", "b")
    occupancy.begin("a")
    occupancy.begin("b")
    occupancy.told("b")
    occupancy.end("b")
    occupancy.told("b")
    assert list(occupancy.mistaken()) == []  # "a" knows of its own request alone, "b" of the end of its own


def test_a_router_that_takes_what_it_believes_to_be_the_last_slot_is_told_when_it_was_not() -> None:
    occupancy = make(3, "a", "b")
    occupancy.begin("a")
    occupancy.begin("a")
    occupancy.told("b")  # of two others
    occupancy.end("a")
    assert list(occupancy.mistaken()) == []
    occupancy.begin("b")
    assert list(occupancy.mistaken()) == ["b"]


def test_who_has_left_is_not_told() -> None:
    occupancy = make(1, "a", "b")
    occupancy.begin("a")
    occupancy.told("b")
    occupancy.leave("b")
    occupancy.end("a")
    occupancy.told("a")
    assert list(occupancy.mistaken()) == []


def test_a_router_knows_that_its_own_request_has_ended() -> None:
    occupancy = make(1, "a")
    occupancy.begin("a")
    occupancy.end("a")
    assert list(occupancy.mistaken()) == []


# Promises


def test_room_for_one_model_is_promised_to_one_model() -> None:
    promises = Promises[int]()
    assert [promises.make(1, "a", 1), promises.make(2, "b", 1)] == [True, False]
    assert ["a" in promises, "b" in promises] == [True, False]


def test_all_requests_for_a_model_share_its_promise_until_the_last_has_ended() -> None:
    promises = Promises[int]()
    assert promises.make(1, "a", 1)
    assert promises.make(2, "a", 1)
    promises.end(1)
    assert not promises.make(3, "b", 1)
    promises.end(2)
    assert promises.make(3, "b", 1)


def test_what_the_cache_knows_is_promised_no_longer() -> None:
    promises = Promises[int]()
    for request in (1, 2):
        promises.make(request, "a", 1)
    promises.keep("a")
    assert "a" not in promises
    assert not promises.make(3, "b", 0)
    assert promises.make(3, "b", 1)
    promises.end(1)
    assert "b" in promises


def test_without_a_limit_everything_is_promised_and_with_no_room_nothing() -> None:
    promises = Promises[int]()
    assert all(promises.make(n, f"model {n}", None) for n in range(100))
    assert not Promises[int]().make(1, "a", 0)


def test_to_end_a_request_that_was_promised_nothing_does_nothing() -> None:
    promises = Promises[int]()
    promises.make(1, "a", 1)
    promises.end(2)
    promises.keep("b")
    assert "a" in promises


# Random histories: routers that hear at once, in order, and believe what they are told


class BrokenError(AssertionError):
    """A promise of the module is not kept."""


def must(holds: bool, promise: str) -> None:
    if not holds:
        raise BrokenError(promise)


class Router:
    """Its own requests here, and how many others it was told of last."""

    def __init__(self, ongoing: int) -> None:
        self.own = 0
        self.others = ongoing

    def told(self, ongoing: int) -> None:
        self.others = max(0, ongoing - self.own)


def play_beliefs(seed: int, kind: type[Occupancy[int]]) -> None:
    """A router with a slot to win always knows of it, and none is told for nothing."""
    rng = random.Random(seed)
    limit = rng.randint(1, 4)
    occupancy = kind(limit)
    routers: dict[int, Router] = {}
    running: list[int] = []
    for step in range(100):
        name = rng.choice(list(routers)) if routers else -1
        match rng.choice(["join", "begin", "begin", "begin", "begin", "end", "end", "leave"]):
            case "join" if len(routers) < 4:
                occupancy.join(step)
                routers[step] = Router(len(running))
            case "begin" if name >= 0 and routers[name].own + routers[name].others < limit:
                routers[name].own += 1
                began = occupancy.begin(name)
                must(began == (len(running) < limit), "a request begins if a slot is free, and only then")
                if began:
                    running.append(name)
                else:
                    routers[name].own -= 1
                    occupancy.told(name)
                    routers[name].told(occupancy.ongoing)
            case "end" if running:
                ended = running.pop(rng.randrange(len(running)))
                occupancy.end(ended)
                occupancy.told(ended)
                if ended in routers:
                    routers[ended].own -= 1
                    routers[ended].told(occupancy.ongoing)
            case "leave" if name >= 0 and rng.random() < 0.2:
                occupancy.leave(name)
                del routers[name]
        for other in occupancy.mistaken():
            must(other in routers, "who has left is not told")
            router = routers[other]
            must(router.own + router.others >= limit, "who believes that there is a slot is not told")
            router.told(occupancy.ongoing)
        must(occupancy.ongoing == len(running), "what runs is counted")
        for router in routers.values():
            knows = router.own + router.others < limit
            must(knows or len(running) == limit, "a router believes that there is no slot when there is one")


class CorrectsNobody(Occupancy[int]):
    def mistaken(self) -> Sequence[int]:
        return ()


class CorrectsOne(Occupancy[int]):
    def mistaken(self) -> Sequence[int]:
        return super().mistaken()[:1]


class ForgetsWhatItSaid(Occupancy[int]):
    def told(self, router: int) -> None:
        pass


class TakesANewcomerToBelieveInASlot(Occupancy[int]):
    def join(self, router: int) -> None:
        super().join(router)
        self._beliefs[router] = 0


class TellsWhoHasLeft(Occupancy[int]):
    def leave(self, router: int) -> None:
        pass


class LosesTheSlotOfOneWhoHasLeft(Occupancy[int]):
    def end(self, router: int) -> None:
        if router in self:
            super().end(router)


def play_promises(seed: int, kind: type[Promises[int]]) -> None:
    """No more models are promised room than there is room for, and a model is refused only for want of it."""
    rng = random.Random(seed)
    promises, places = kind(), rng.randint(1, 4)
    here: set[str] = set()  # models that the cache knows
    on_their_way: dict[int, str] = {}
    for step in range(100):
        room = places - len(here)
        promised = set(on_their_way.values()) - here
        match rng.choice(["ask", "ask", "ask", "arrive", "leave", "unload"]):
            case "ask" if (model_id := rng.choice("abcdef")) not in here:
                fits = promises.make(step, model_id, room)
                must(
                    fits == (model_id in promised or len(promised) < room), "a place is promised once, if there is one"
                )
                if fits:
                    on_their_way[step] = model_id
            case "arrive" if on_their_way:
                request = rng.choice(list(on_their_way))
                here.add(on_their_way[request])
                promises.keep(on_their_way.pop(request))
                promises.end(request)
            case "leave" if on_their_way:
                request = rng.choice(list(on_their_way))
                del on_their_way[request]
                promises.end(request)
            case "unload" if here:
                # Requests that it was kept for come for what is here no longer: they have no promise any more.
                gone = rng.choice(sorted(here))
                here.remove(gone)
                on_their_way = {request: model_id for request, model_id in on_their_way.items() if model_id != gone}
        promised = set(on_their_way.values()) - here
        must(len(promised) <= places - len(here), "no more is promised than there is")
        for model_id in "abcdef":
            must((model_id in promises) == (model_id in promised), "what is promised is known")


class PromisesTwice(Promises[int]):
    def make(self, request: int, model_id: str, room: int | None) -> bool:
        return super().make(request, model_id, room and room + 1)


class CountsRequests(Promises[int]):
    def make(self, request: int, model_id: str, room: int | None) -> bool:
        alike = len(self._models) - len(set(self._models.values()))
        return super().make(request, model_id, None if room is None else room - alike)


class NeverKeepsOne(Promises[int]):
    def keep(self, model_id: str) -> None:
        pass


class NeverEndsOne(Promises[int]):
    def end(self, request: int) -> None:
        pass


class EndsItForAll(Promises[int]):
    def end(self, request: int) -> None:
        if (model_id := self._models.get(request)) is not None:
            self.keep(model_id)


def play_many(play: Callable[[int, Kind], None], kind: Kind) -> None:
    for seed in range(HISTORIES):
        try:
            play(seed, kind)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_random_histories_keep_every_promise() -> None:
    play_many(play_beliefs, Occupancy[int])
    play_many(play_promises, Promises[int])


@pytest.mark.parametrize(
    "bug",
    [
        CorrectsNobody,
        CorrectsOne,
        ForgetsWhatItSaid,
        TakesANewcomerToBelieveInASlot,
        TellsWhoHasLeft,
        LosesTheSlotOfOneWhoHasLeft,
    ],
)
def test_a_planted_bug_of_beliefs_is_caught(bug: type[Occupancy[int]]) -> None:
    with pytest.raises(BrokenError):
        play_many(play_beliefs, bug)


@pytest.mark.parametrize("bug", [PromisesTwice, CountsRequests, NeverKeepsOne, NeverEndsOne, EndsItForAll])
def test_a_planted_bug_of_promises_is_caught(bug: type[Promises[int]]) -> None:
    with pytest.raises(BrokenError):
        play_many(play_promises, bug)


# Many routers


def full_of_doubters(slots_max: int, routers: int) -> Occupancy[str]:
    """All slots are taken, and every router has been refused, in the order of their numbers."""
    occupancy = make(slots_max, *(f"r{number:03d}" for number in range(routers)))
    for _ in range(slots_max):
        assert occupancy.begin("r000")
    for number in range(routers):
        assert not occupancy.begin(f"r{number:03d}")
        occupancy.told(f"r{number:03d}")
    return occupancy


def test_of_many_routers_a_few_hear_of_a_free_slot_those_first_that_have_waited_longest() -> None:
    occupancy = full_of_doubters(5, 100)
    occupancy.end("r000")
    assert list(occupancy.mistaken()) == [f"r{number:03d}" for number in range(1, 1 + TOLD_MAX)]
    assert occupancy.more_mistaken


def test_all_hear_of_it_in_the_end_if_nobody_takes_it() -> None:
    occupancy = full_of_doubters(5, 100)
    occupancy.end("r000")
    told: list[str] = []
    while occupancy.more_mistaken:
        told += occupancy.mistaken()
    assert sorted(told) == [f"r{number:03d}" for number in range(1, 100)]


def test_one_that_comes_in_vain_goes_to_the_end_of_the_line() -> None:
    occupancy = full_of_doubters(1, 20)
    occupancy.end("r000")
    first = list(occupancy.mistaken())
    assert occupancy.begin("r000")
    for router in first:
        assert not occupancy.begin(router)
        occupancy.told(router)
    occupancy.end("r000")
    assert not set(occupancy.mistaken()) & set(first)


def test_more_hear_of_it_when_there_are_more_slots() -> None:
    occupancy = full_of_doubters(20, 100)
    for _ in range(20):
        occupancy.end("r000")
    assert len(occupancy.mistaken()) == 40
