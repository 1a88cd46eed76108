"""The simulator's world: small traces by hand, what holds of any trace, and what several routers cost."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest

from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.core.eviction import LRU
from modelplex.core.routing import Command, Prefetch, Router, Send
from modelplex.sim.baselines import BoundedConsistentHash, ModelBlind, RayLike
from modelplex.sim.trace import Catalog, Trace
from modelplex.sim.world import PROGRESS_REQUESTS, AnyRouter, Fleet, Outcome, World, expected_completion, simulate

LOAD_S = 1.0
RUN_S = 0.25

Asked = tuple[float, str, float]  # arrival, model, service seconds


def trace(*asked: Asked, load_s: float = LOAD_S, size_bytes: int = 1) -> Trace:
    """Requests in the order of their arrival; every model is alike."""
    ids = sorted({model_id for _, model_id, _ in asked})
    place = {model_id: number for number, model_id in enumerate(ids)}
    return Trace(
        np.array([at for at, _, _ in asked], np.float64),
        np.array([place[model_id] for _, model_id, _ in asked], np.int32),
        np.array([service_s for _, _, service_s in asked], np.float64),
        Catalog(ids, np.full(len(ids), size_bytes, np.int64), np.full(len(ids), load_s, np.float64)),
    )


def latencies(outcome: Outcome) -> list[float]:
    return [round(latency_s, 9) for latency_s in outcome.latency_s.tolist()]


# Small traces by hand


def test_a_cold_request_waits_for_its_load_and_a_warm_one_does_not() -> None:
    outcome = simulate(trace((0.0, "m", RUN_S), (5.0, "m", RUN_S)), Fleet(replicas=1, models_max=1))
    assert latencies(outcome) == [LOAD_S + RUN_S, RUN_S]
    assert outcome.cold.tolist() == [True, False]
    assert (outcome.loads, outcome.load_seconds) == (1, LOAD_S)


def test_one_that_comes_while_its_model_loads_shares_the_load_and_counts_as_cold() -> None:
    outcome = simulate(trace((0.0, "m", RUN_S), (0.75, "m", RUN_S)), Fleet(replicas=1, models_max=1))
    assert latencies(outcome) == [1.25, 0.5]
    assert outcome.cold.tolist() == [True, True]
    assert outcome.loads == 1


def test_an_evicted_model_is_loaded_again() -> None:
    asked = trace((0.0, "a", RUN_S), (2.0, "b", RUN_S), (4.0, "a", RUN_S))
    outcome = simulate(asked, Fleet(replicas=1, models_max=1))
    assert latencies(outcome) == [1.25] * 3
    assert outcome.loads == 3
    assert simulate(asked, Fleet(replicas=1, models_max=2)).loads == 2


def test_a_model_that_cannot_be_evicted_yet_is_waited_for() -> None:
    outcome = simulate(trace((0.0, "a", 3.0), (2.0, "b", RUN_S)), Fleet(replicas=1, models_max=1))
    assert latencies(outcome) == [4.0, 2.0 + 1.25]


def test_bytes_limit_what_a_replica_holds_as_well() -> None:
    asked = trace((0.0, "a", RUN_S), (2.0, "b", RUN_S), (4.0, "c", RUN_S), (6.0, "a", RUN_S), size_bytes=10)
    assert simulate(asked, Fleet(replicas=1, bytes_max=20)).loads == 4
    assert simulate(asked, Fleet(replicas=1, bytes_max=30)).loads == 3


def test_a_model_that_can_never_fit_is_rejected() -> None:
    outcome = simulate(trace((0.0, "m", RUN_S), (5.0, "m", RUN_S), size_bytes=10), Fleet(replicas=1, bytes_max=9))
    assert all(map(math.isnan, outcome.latency_s.tolist()))
    assert outcome.loads == 1
    assert math.isnan(outcome.quantile_s(0.5))


def test_requests_beyond_the_slots_wait_in_the_order_of_arrival() -> None:
    outcome = simulate(trace(*[(0.0, "", 1.0)] * 5), Fleet(replicas=1, max_ongoing=2))
    assert latencies(outcome) == [1.0, 1.0, 2.0, 2.0, 3.0]


def test_requests_without_a_model_load_nothing_and_take_whichever_replica_is_free() -> None:
    outcome = simulate(trace(*[(0.0, "", 1.0)] * 6), Fleet(replicas=3, max_ongoing=2))
    assert latencies(outcome) == [1.0] * 6
    assert outcome.loads == 0
    assert not outcome.cold.any()


def test_loads_beyond_the_limit_wait_for_one_another() -> None:
    asked = trace((0.0, "a", RUN_S), (0.0, "b", RUN_S))
    assert latencies(simulate(asked, Fleet(replicas=1, loads_max=1))) == [1.25, 2.25]
    assert latencies(simulate(asked, Fleet(replicas=1))) == [1.25, 1.25]


def test_simultaneous_cold_models_are_spread_over_the_replicas() -> None:
    asked = trace(*[(0.0, model_id, RUN_S) for model_id in "abcdef"])
    outcome = simulate(asked, Fleet(replicas=3, models_max=2, loads_max=1))
    assert sorted(latencies(outcome)) == [1.25] * 3 + [2.25] * 3


def test_the_load_seconds_are_those_of_the_catalog() -> None:
    outcome = simulate(trace((0.0, "a", RUN_S), (0.0, "b", RUN_S), load_s=3.0), Fleet(replicas=1))
    assert (outcome.loads, outcome.load_seconds, outcome.cold_ratio) == (2, 6.0, 1.0)


def test_an_empty_trace_has_an_empty_outcome() -> None:
    outcome = simulate(trace(), Fleet(replicas=1))
    assert (len(outcome.latency_s), outcome.loads, outcome.cold_ratio) == (0, 0, 0.0)


def test_progress_is_told_now_and_then() -> None:
    told: list[int] = []
    simulate(trace(*[(0.0, "", 0.001)] * (2 * PROGRESS_REQUESTS + 5)), Fleet(replicas=1), told.append)
    assert told == [PROGRESS_REQUESTS, 2 * PROGRESS_REQUESTS]


# Several routers


class Noting(Router):
    """Notes in `submitted` which router gets which request, and in `held` whether a refusal said that it holds it."""

    def __init__(self, submitted: list[Router], held: list[bool]) -> None:
        super().__init__(UNLIMITED, 30.0, Estimates(1.0, 0.1))
        self.submitted = submitted
        self.held = held

    def submit(self, *args: Any, **named: Any) -> list[Command]:
        self.submitted.append(self)
        return super().submit(*args, **named)

    def refused(self, *args: Any, holds: bool = False, **named: Any) -> list[Command]:
        self.held.append(holds)
        return super().refused(*args, holds=holds, **named)


def test_requests_take_turns_among_routers_that_all_hear_of_every_model() -> None:
    submitted: list[Router] = []
    fleet = Fleet(replicas=4, models_max=1, routers=2, router=lambda: Noting(submitted, []))
    outcome = simulate(trace((0.0, "m", RUN_S), (5.0, "m", RUN_S), (9.0, "m", RUN_S)), fleet)
    assert latencies(outcome) == [1.25, RUN_S, RUN_S]
    assert submitted[0] is submitted[2]
    assert submitted[0] is not submitted[1]


@pytest.mark.parametrize(("second", "held"), [("m", True), ("other", False), ("", False)])
def test_a_replica_that_refuses_says_whether_it_has_the_model_or_will(second: str, held: bool) -> None:
    said: list[bool] = []
    fleet = Fleet(replicas=1, max_ongoing=1, routers=2, residency_delay_s=0.1, router=lambda: Noting([], said))
    simulate(trace((0.0, "m", RUN_S), (0.0, second, RUN_S)), fleet)
    assert said[0] == held


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 3.0])
def test_every_router_hears_all_news_as_late_as_the_fleet_says(delay_s: float) -> None:
    heard: list[tuple[str, str, float]] = []

    class Hearing(Router):
        def model_loading(self, replica_id: str, model_id: str, room: int | None, now: float, *more: float) -> Any:
            heard.append(("loading", model_id, now))
            return super().model_loading(replica_id, model_id, room, now, *more)

        def model_loaded(
            self, replica_id: str, model_id: str, room: int | None, load_s: float, now: float, *_: Any
        ) -> Any:
            heard.append(("loaded", model_id, now))
            return super().model_loaded(replica_id, model_id, room, load_s, now, *_)

        def model_gone(self, replica_id: str, model_id: str, room: int | None, now: float, *more: float) -> Any:
            heard.append(("gone", model_id, now))
            return super().model_gone(replica_id, model_id, room, now, *more)

    def make() -> Router:
        return Hearing(UNLIMITED, 30.0, Estimates(1.0, 0.1))

    asked = trace((1.0, "a", RUN_S), (8.0, "b", RUN_S))
    simulate(asked, Fleet(replicas=1, models_max=1, routers=2, residency_delay_s=delay_s, router=make))
    said = [
        ("loading", "a", 1.0),
        ("loaded", "a", 2.0),
        ("gone", "a", 8.0),
        ("loading", "b", 8.0),
        ("loaded", "b", 9.0),
    ]
    assert heard == [(verb, model_id, at + delay_s) for verb, model_id, at in said for _ in range(2)]


def test_a_replica_that_another_router_fills_refuses_and_the_request_runs_later() -> None:
    outcome = simulate(trace((0.0, "m", 1.0), (0.0, "m", 1.0)), Fleet(replicas=1, max_ongoing=1, routers=2))
    assert latencies(outcome) == [2.0, 3.0]


def test_room_that_another_router_has_used_is_not_used_twice() -> None:
    """Neither evicts what the other has just had loaded, though neither has heard of it."""
    for seed in range(10):
        ids = [f"{seed}-{number}" for number in range(4)]
        asked = trace(*[(0.0, model_id, RUN_S) for model_id in ids], *[(9.0, model_id, RUN_S) for model_id in ids])
        assert simulate(asked, Fleet(replicas=4, models_max=1, routers=2, residency_delay_s=0.01)).loads == 4


@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.01, 0.1])
@pytest.mark.parametrize("gap_s", [0.0, 0.0001, 0.002])
def test_simultaneous_cold_requests_for_one_model_cost_two_loads_at_most(delay_s: float, gap_s: float) -> None:
    """When nothing else goes on: eight replicas, four routers that know of each other only by what replicas say."""
    loads = []
    for seed in range(40):
        asked = trace(*[(gap_s * number, f"m{seed}", RUN_S) for number in range(12)])
        loads.append(simulate(asked, Fleet(replicas=8, models_max=4, routers=4, residency_delay_s=delay_s)).loads)
    assert max(loads) <= 2
    assert delay_s or max(loads) == 1


@pytest.mark.parametrize(("delay_s", "seeds_of_100"), [(0.0, 100), (0.001, 90), (0.1, 60)])
def test_models_that_fit_are_loaded_once_each_through_two_routers(delay_s: float, seeds_of_100: int) -> None:
    exact = 0
    for seed in range(100):
        draw = Random(seed)
        ids = [f"m{number}" for number in range(12)] * 4
        draw.shuffle(ids)
        at = 0.0
        asked = [(at := at + draw.expovariate(20.0), model_id, 0.02) for model_id in ids]
        exact += (
            simulate(
                trace(*asked), Fleet(replicas=3, models_max=4, max_ongoing=100, routers=2, residency_delay_s=delay_s)
            ).loads
            == 12
        )
    assert exact >= seeds_of_100


# What holds of any trace


class Watched:
    """A router that notes what it is asked and what it answers."""

    def __init__(self, router: AnyRouter, seen: dict[int, list[str]]) -> None:
        self._router = router
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    # The world has every router hear news through these, which it takes from the class.

    def model_loading(self, *args: Any) -> list[Command]:
        return self._note(self._router.model_loading(*args))

    def model_loaded(self, *args: Any) -> list[Command]:
        return self._note(self._router.model_loaded(*args))

    def model_gone(self, *args: Any) -> list[Command]:
        return self._note(self._router.model_gone(*args))

    def submit(self, number: int, *args: Any) -> list[Command]:
        assert number not in self._seen, "submitted twice"
        self._seen[number] = []
        return self._note(self._router.submit(number, *args))

    def finish(self, number: int, *args: Any, **named: Any) -> list[Command]:
        self._seen[number].append("finish")
        return self._note(self._router.finish(number, *args, **named))

    def refused(self, number: int, *args: Any, **named: Any) -> list[Command]:
        self._seen[number].append("refused")
        return self._note(self._router.refused(number, *args, **named))

    def tick(self, now: float) -> list[Command]:
        return self._note(self._router.tick(now))

    def told_ongoing(self, *args: Any) -> list[Command]:
        return self._note(self._router.told_ongoing(*args))

    def _note(self, commands: list[Command]) -> list[Command]:
        for command in commands:
            if not isinstance(command, Prefetch):
                self._seen[command.number].append("send" if isinstance(command, Send) else "reject")
        return commands


ROUTERS: dict[str, Callable[[], AnyRouter]] = {
    "ours": expected_completion,
    "short queue": lambda: Router(3, 30.0, Estimates(1.0, 0.1)),
    "ray": lambda: RayLike(Random(1)),
    "blind": lambda: ModelBlind(Random(1)),
    "bounded": lambda: BoundedConsistentHash(Random(1)),
}


def random_trace(draw: Random) -> Trace:
    models = draw.choice([1, 3, 10])
    gap_s = draw.choice([0.0, 0.01, 0.1, 1.0])
    at, asked = 0.0, []
    for _ in range(draw.choice([1, 20, 80])):
        at += gap_s * draw.random()
        model_id = "" if draw.random() < 0.1 else f"m{int(models * draw.random() ** 2)}"
        asked.append((at, model_id, draw.choice([0.0, 0.01, 0.3])))
    return trace(*asked, load_s=draw.choice([0.0, 0.1, 2.0]), size_bytes=draw.choice([1, 10]))


def random_fleet(draw: Random, router: Callable[[], AnyRouter]) -> Fleet:
    return Fleet(
        replicas=draw.choice([1, 2, 5, 20]),
        models_max=draw.choice([UNLIMITED, 1, 2, 5]),
        bytes_max=draw.choice([UNLIMITED, UNLIMITED, 25, 5]),
        max_ongoing=draw.choice([1, 2, 5]),
        loads_max=draw.choice([UNLIMITED, 1, 2]),
        policy=LRU,
        router=router,
        routers=draw.choice([1, 2, 4]),
        residency_delay_s=draw.choice([0.0, 0.001, 0.1, 1.0]),
    )


def play(seed: int, router: Callable[[], AnyRouter]) -> tuple[World, Outcome, dict[int, list[str]]]:
    draw = Random(seed)
    seen: dict[int, list[str]] = {}
    asked = random_trace(draw)
    world = World(asked, random_fleet(draw, lambda: Watched(router(), seen)))
    return world, world.run(), seen


def check_nothing_is_left(world: World, seen: dict[int, list[str]]) -> None:
    assert not world._events, "something is still to happen"
    assert not world._requests, "requests are left over"
    assert not world._mail, "news are left over"
    for replica in world._replicas.values():
        assert replica.occupancy.ongoing == 0, f"{replica.id} still runs something"
        assert not replica.cache.loading, f"{replica.id} still loads something"
        assert not any(number in replica.cache for number in seen), (
            f"{replica.id} has given leases that nobody gave back"
        )
    for router in world._routers:
        assert router.queued == 0, "a router believes that somebody waits"
    for number, steps in seen.items():
        assert steps, f"request {number} was never decided on"
        *before, last = steps
        assert last in ("finish", "reject"), f"request {number}: {steps}"
        assert not {"finish", "reject"} & set(before), f"request {number} ended more than once: {steps}"
        sends, returns = steps.count("send"), steps.count("refused") + steps.count("finish")
        assert sends == returns, f"request {number}: {steps}"


def check_outcome(outcome: Outcome, asked: Trace, seen: dict[int, list[str]]) -> None:
    assert len(seen) == len(outcome.latency_s) == len(outcome.cold) == len(asked)
    for number, (latency_s, service_s) in enumerate(zip(outcome.latency_s, asked.service_s, strict=True)):
        if seen[number][-1] == "reject":
            assert math.isnan(latency_s)
        elif not math.isnan(latency_s):  # those that the cache rejected have ended without one
            assert latency_s >= service_s - 1e-9
    assert outcome.loads <= len(asked)
    assert int(outcome.cold.sum()) >= min(1, outcome.loads) or np.isnan(outcome.latency_s).any()


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize("group", range(5))
def test_nothing_is_left_behind_and_every_request_ends_once(kind: str, group: int) -> None:
    for seed in range(40 * group, 40 * (group + 1)):
        try:
            world, outcome, seen = play(seed, ROUTERS[kind])
            check_nothing_is_left(world, seen)
            check_outcome(outcome, world._trace, seen)
        except Exception as error:
            raise AssertionError(f"seed {seed} with {kind}") from error


@pytest.mark.parametrize("kind", ROUTERS)
def test_the_same_trace_has_the_same_outcome(kind: str) -> None:
    for seed in range(5):
        one, other = play(seed, ROUTERS[kind])[1], play(seed, ROUTERS[kind])[1]
        np.testing.assert_array_equal(one.latency_s, other.latency_s)
        np.testing.assert_array_equal(one.cold, other.cold)
        assert (one.loads, one.load_seconds) == (other.loads, other.load_seconds)
