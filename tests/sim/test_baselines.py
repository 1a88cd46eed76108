"""The baselines keep the router's contract, and each chooses as the system that it stands for."""

import inspect
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from modelplex.core.routing import LOSSES_MAX, Command, Reject, Router, Send, Why
from modelplex.sim.baselines import Baseline, BoundedConsistentHash, ModelBlind, RayLike

POLICIES = [RayLike, ModelBlind, BoundedConsistentHash]
each_policy = pytest.mark.parametrize("policy", POLICIES)


def router_of(
    policy: Callable[[random.Random], Baseline], replicas: int, max_ongoing: int = 2, seed: int = 1
) -> Baseline:
    router = policy(random.Random(seed))
    for number in range(replicas):
        router.replica_up(f"r{number}", max_ongoing, None, (), (), 0.0)
    return router


def sent_to(commands: list[Command]) -> list[str]:
    """The replicas that the commands send to; nothing is rejected."""
    assert all(isinstance(command, Send) for command in commands)
    return [command.replica_id for command in commands if isinstance(command, Send)]


def numbers(commands: list[Command]) -> list[int]:
    return [command.number for command in commands if isinstance(command, Send | Reject)]


def let_pass(router: Baseline, until: float) -> list[Command]:
    """All that ticks bring until then."""
    commands = []
    while (at := router.next_tick) is not None and at <= until:
        commands += router.tick(at)
    return commands


# The contract


# What no simulated world asks of a router.
REAL_ONLY = {"broadcast", "change", "tell", "use"}


@each_policy
@pytest.mark.parametrize("name", [name for name in vars(Router) if not name.startswith("_") and name not in REAL_ONLY])
def test_a_baseline_takes_what_the_router_takes(policy: type[Baseline], name: str) -> None:
    theirs, ours = getattr(Router, name), getattr(policy, name)
    if isinstance(theirs, property):
        assert isinstance(ours, property)
        return
    parameters = inspect.signature(theirs).parameters.values()
    in_place = [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
    named = {parameter.name: None for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    taken = [name for name in inspect.signature(ours).bind(*in_place, **named).arguments if not name.startswith("_")]
    assert taken == in_place[: len(taken)]
    assert not {"number", "model_id", "replica_id", "ongoing", "now", "deadline"} & set(in_place[len(taken) :])


@each_policy
def test_no_replica_is_sent_more_than_it_has_slots(policy: type[Baseline]) -> None:
    router = router_of(policy, 3)
    sent = Counter(
        replica_id
        for number in range(20)
        for replica_id in sent_to(router.submit(number, f"m{number % 4}", 0.0) + let_pass(router, 5.0))
    )
    assert sent == {"r0": 2, "r1": 2, "r2": 2}
    assert router.queued == 14


@each_policy
def test_those_who_wait_are_sent_in_the_order_of_their_arrival(policy: type[Baseline]) -> None:
    router = router_of(policy, 1)
    for number in range(1, 6):
        router.submit(number, f"m{number}", 0.0)
    order = []
    for number in (1, 2, 3):
        order += numbers(router.finish(number, 10.0 * number) + let_pass(router, 10.0 * number + 5))
    assert order == [3, 4, 5]
    assert (router.queued, router.next_tick) == (0, None)


@each_policy
def test_a_deadline_ends_the_wait(policy: type[Baseline]) -> None:
    router = router_of(policy, 1, max_ongoing=1)
    router.submit(1, "a", 0.0, deadline=4.0)
    router.submit(2, "b", 0.0, deadline=3.0)
    assert let_pass(router, 2.9) == []
    assert let_pass(router, 9.0) == [Reject(2, Why.DEADLINE)]
    assert router.finish(1, 9.0) == []
    assert router.next_tick is None


@each_policy
def test_who_leaves_waits_no_longer_and_gives_the_slot_back(policy: type[Baseline]) -> None:
    router = router_of(policy, 1, max_ongoing=1)
    for number in (1, 2, 3):
        router.submit(number, "a", 0.0)
    assert router.cancel(2, 1.0) == []
    assert numbers(router.cancel(1, 1.0) + let_pass(router, 2.0)) == [3]
    assert router.cancel(9, 2.0) == []


@each_policy
def test_a_refused_request_goes_elsewhere_and_stays_ahead_of_later_ones(policy: type[Baseline]) -> None:
    router = router_of(policy, 1, max_ongoing=2)
    assert sent_to(router.submit(1, "a", 0.0)) == ["r0"]
    assert router.refused(1, 2, 0.0) == []
    assert router.submit(2, "b", 0.0) == []
    router.replica_up("r1", 1, None, (), (), 1.0)
    assert router.queued in (1, 2)
    let_pass(router, 9.0)
    assert router.queued == 1
    assert numbers(router.told_ongoing("r0", 1, 9.0) + let_pass(router, 12.0)) == [2]


@each_policy
def test_a_slot_that_others_have_left_is_used(policy: type[Baseline]) -> None:
    router = router_of(policy, 0)
    router.replica_up("r0", 2, None, (), (), 0.0, ongoing=2)
    assert router.submit(1, "a", 0.0) == []
    assert numbers(router.told_ongoing("r0", 1, 1.0) + let_pass(router, 2.0)) == [1]
    assert router.submit(2, "a", 3.0) + let_pass(router, 9.0) == []
    assert numbers(router.finish(1, 9.0, ongoing=0) + let_pass(router, 12.0)) == [2]
    assert sent_to(router.submit(3, "a", 12.0)) == ["r0"]


@each_policy
def test_what_a_replica_says_that_it_runs_includes_our_own(policy: type[Baseline]) -> None:
    router = router_of(policy, 1, max_ongoing=4)
    router.submit(1, "a", 0.0)
    router.submit(2, "a", 0.0)
    router.told_ongoing("r0", 2, 0.0)
    assert sent_to(router.submit(3, "a", 0.0) + router.submit(4, "a", 0.0)) == ["r0", "r0"]
    router.told_ongoing("r0", 0, 0.0)
    assert router.submit(5, "a", 0.0) == []


@each_policy
def test_requests_wait_for_the_first_replica(policy: type[Baseline]) -> None:
    router = router_of(policy, 0)
    assert router.submit(1, "a", 0.0) == []
    assert sent_to(router.replica_up("r0", 1, None, (), (), 50.0)) == ["r0"]


@each_policy
def test_what_ran_on_a_replica_that_died_is_sent_again_unless_its_answer_had_begun(policy: type[Baseline]) -> None:
    router = router_of(policy, 1)
    router.submit(1, "a", 0.0)
    router.submit(2, "a", 0.0)
    router.answered(1)
    assert router.replica_down("r0", 1.0) == [Reject(1, Why.REPLICA_LOST)]
    assert router.replica_ids == []
    assert router.replica_up("r1", 1, None, (), (), 2.0) == [Send(2, "r1")]


@each_policy
def test_a_request_that_kills_its_replicas_is_given_up(policy: type[Baseline]) -> None:
    router = router_of(policy, 0)
    router.submit(1, "a", 0.0)
    for life in range(LOSSES_MAX):
        assert router.replica_up(f"r{life}", 1, None, (), (), 1.0) == [Send(1, f"r{life}")]
        lost = router.replica_down(f"r{life}", 1.0)
    assert lost == [Reject(1, Why.REPLICA_LOST)]


@each_policy
def test_a_replica_that_retires_ends_what_it_has_and_gets_nothing_new(policy: type[Baseline]) -> None:
    router = router_of(policy, 1)
    router.submit(1, "a", 0.0)
    assert router.replica_retiring("r0", 1.0) == []
    assert router.submit(2, "a", 1.0) == []
    assert router.finish(1, 2.0) + let_pass(router, 9.0) == []
    assert router.replica_up("r1", 1, None, (), (), 9.0) == [Send(2, "r1")]


@each_policy
@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_each_request_ends_once(policy: type[Baseline], seed: int) -> None:
    rng = random.Random(seed)
    router = router_of(policy, 4, seed=seed)
    running: dict[int, str] = {}
    open_requests: set[int] = set()
    born = 4

    def perform(commands: list[Command]) -> None:
        for command in commands:
            assert isinstance(command, Send | Reject)
            assert command.number in open_requests
            assert command.number not in running
            if isinstance(command, Send):
                assert command.replica_id in router.replica_ids
                running[command.number] = command.replica_id
                assert max(Counter(running.values()).values()) <= 2
            else:
                open_requests.discard(command.number)

    for step in range(2000):
        now = step / 10
        perform(let_pass(router, now))
        kind = rng.choices(("submit", "finish", "refused", "cancel", "replica", "model"), (8, 8, 1, 1, 0.2, 4))[0]
        number = rng.choice(sorted(running)) if running else -1
        if kind == "submit" or number < 0:
            open_requests.add(step)
            perform(router.submit(step, f"m{rng.randrange(6)}", now, now + 20 if rng.random() < 0.2 else None))
        elif kind == "finish":
            del running[number]
            open_requests.remove(number)
            perform(router.finish(number, now, 0.0, None))
        elif kind == "refused":
            replica_id = running.pop(number)
            perform(router.refused(number, Counter(running.values())[replica_id], now))
        elif kind == "cancel":
            number = rng.choice(sorted(open_requests))
            open_requests.remove(number)
            running.pop(number, None)
            perform(router.cancel(number, now))
        elif kind == "replica":
            dead = rng.choice(router.replica_ids)
            for lost in [n for n, replica_id in running.items() if replica_id == dead]:
                del running[lost]
            perform(router.replica_down(dead, now) + router.replica_up(f"r{born}", 2, None, ("m0",), (), now))
            born += 1
        else:
            told = (rng.choice(router.replica_ids), f"m{rng.randrange(6)}", None)
            perform(router.model_loading(*told, now) if rng.random() < 0.5 else router.model_gone(*told, now))
    now = 1000.0
    while running:
        number = min(running)
        del running[number]
        open_requests.remove(number)
        perform(router.finish(number, now) + let_pass(router, now + 5.0))
        now += 5.0
    assert not open_requests
    assert router.queued == 0


# ModelBlind


def test_model_blind_takes_the_less_busy_of_two_whatever_they_hold() -> None:
    router = router_of(ModelBlind, 2, max_ongoing=5)
    router.model_loaded("r0", "a", None, 1.0, 0.0)
    sent = [sent_to(router.submit(number, "a", 0.0))[0] for number in range(10)]
    assert all(sent[at] != sent[at + 1] for at in range(0, 10, 2))


def test_model_blind_keeps_nobody_waiting_while_a_replica_has_a_slot() -> None:
    router = router_of(ModelBlind, 10, max_ongoing=1)
    assert len([command for number in range(10) for command in router.submit(number, "a", 0.0)]) == 10


def test_power_of_two_choices_is_more_even_than_one_choice() -> None:
    def highest(draw: Callable[[int], str]) -> int:
        return max(Counter(draw(number) for number in range(1000)).values())

    router = router_of(ModelBlind, 100, max_ongoing=1000)
    rng = random.Random(1)
    one_choice = highest(lambda _: f"r{rng.randrange(100)}")
    assert highest(lambda number: sent_to(router.submit(number, "a", 0.0))[0]) <= 10 + 3 < one_choice


# BoundedConsistentHash


def homes(router: Baseline, models: int = 1000) -> dict[str, str]:
    """Where each model goes when nothing else runs."""
    home = {}
    for number in range(models):
        [home[f"m{number}"]] = sent_to(router.submit(number, f"m{number}", 0.0))
        router.finish(number, 0.0)
    return home


def test_a_model_has_a_home_on_which_all_routers_agree() -> None:
    home = homes(router_of(BoundedConsistentHash, 8, seed=1))
    assert home == homes(router_of(BoundedConsistentHash, 8, seed=2))
    assert all(60 <= count <= 220 for count in Counter(home.values()).values())
    assert len(set(home.values())) == 8


def test_only_the_models_of_a_replica_that_goes_move() -> None:
    router = router_of(BoundedConsistentHash, 8)
    before = homes(router)
    router.replica_down("r3", 0.0)
    after = homes(router)
    assert {model for model in before if before[model] != after[model]} == {m for m in before if before[m] == "r3"}
    router.replica_up("r3", 2, None, (), (), 0.0)
    assert homes(router) == before


def test_no_replica_runs_much_more_than_the_average() -> None:
    router = router_of(BoundedConsistentHash, 8, max_ongoing=1000)
    running: Counter[str] = Counter()
    for number in range(400):
        [replica_id] = sent_to(router.submit(number, "hot", 0.0))
        running[replica_id] += 1
        assert running[replica_id] <= math.ceil(1.25 * (number + 1) / 8)
    # They are filled one after the other.
    assert len(running) == math.ceil(400 / 63)


def test_a_replica_takes_up_to_its_bound_and_the_next_one_what_is_above() -> None:
    router = router_of(BoundedConsistentHash, 2, max_ongoing=100)
    # Of 1, 2, 3 … requests, ceil(1.25 / 2 of them) are 1, 2, 2, 3, 4, 4, 5.
    home, *others = [sent_to(router.submit(number, "hot", 0.0))[0] for number in range(7)]
    assert [replica_id == home for replica_id in others] == [True, False, True, True, False, True]


def test_replicas_with_few_slots_do_not_keep_others_idle() -> None:
    router = router_of(BoundedConsistentHash, 0)
    for number, max_ongoing in enumerate((1, 1, 1, 50)):
        router.replica_up(f"r{number}", max_ongoing, None, (), (), 0.0)
    sent = Counter(replica_id for n in range(53) for replica_id in sent_to(router.submit(n, "a", 0.0)))
    assert sent == {"r0": 1, "r1": 1, "r2": 1, "r3": 50}


# RayLike


def ray_with_holder(max_ongoing: int = 1, seed: int = 1) -> Baseline:
    """r0 holds model "a"; r1 and r2 hold one more model than r3 and r4."""
    router = router_of(RayLike, 5, max_ongoing, seed)
    for replica_id, model_id in (("r0", "a"), ("r0", "b"), ("r1", "b"), ("r2", "b")):
        router.model_loaded(replica_id, model_id, None, 1.0, 0.0)
    return router


@pytest.mark.parametrize("seed", range(20))
def test_ray_sends_to_a_holder_else_to_those_with_the_fewest_models(seed: int) -> None:
    assert sent_to(ray_with_holder(seed=seed).submit(1, "a", 0.0)) == ["r0"]
    assert sent_to(ray_with_holder(seed=seed).submit(1, "c", 0.0))[0] in {"r3", "r4"}


def test_ray_takes_a_replica_that_loads_for_a_holder_and_forgets_what_is_gone() -> None:
    router = ray_with_holder(max_ongoing=9)
    router.model_loading("r2", "c", None, 0.0)
    assert sent_to(router.submit(1, "c", 0.0)) == ["r2"]
    router.model_gone("r2", "c", None, 0.0)
    assert sent_to(router.submit(2, "c", 0.0))[0] in {"r3", "r4"}


def test_ray_takes_the_less_busy_of_two_holders() -> None:
    router = router_of(RayLike, 5, max_ongoing=9)
    for replica_id in ("r1", "r3"):
        router.model_loaded(replica_id, "a", None, 1.0, 0.0)
    sent = [sent_to(router.submit(number, "a", 0.0))[0] for number in range(10)]
    assert all({sent[at], sent[at + 1]} == {"r1", "r3"} for at in range(0, 10, 2))


def test_ray_books_nothing_so_a_cold_herd_spreads() -> None:
    router = router_of(RayLike, 8, max_ongoing=5)
    sent = sent_to([command for number in range(16) for command in router.submit(number, "a", 0.0)])
    assert len(set(sent)) > 4


@pytest.mark.parametrize("seed", range(20))
def test_ray_leaves_a_full_holder_at_once(seed: int) -> None:
    router = ray_with_holder(seed=seed)
    router.submit(1, "a", 0.0)
    assert sent_to(router.submit(2, "a", 0.0))[0] in {"r3", "r4"}


def test_ray_looks_again_after_growing_delays_and_is_not_woken_by_a_free_slot() -> None:
    router = router_of(RayLike, 1, max_ongoing=1)
    router.submit(1, "a", 0.0)
    router.submit(2, "a", 0.0)
    looks: list[float] = []
    while len(looks) < 7:
        assert router.next_tick is not None
        looks.append(router.next_tick)
        assert router.tick(looks[-1]) == []
    gaps = [late - early for early, late in zip([0.0, *looks], looks, strict=False)]
    assert gaps == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5])
    assert router.finish(1, looks[-1] + 0.1) == []
    assert router.tick(looks[-1] + 0.4) == []
    assert router.tick(looks[-1] + 0.5) == [Send(2, "r0")]


def filled(router: Baseline) -> dict[str, int]:
    """Have each of the five replicas run one request, and say which."""
    commands = [command for number in range(5) for command in router.submit(number, f"filler{number}", 0.0)]
    commands += let_pass(router, 9.0)
    assert router.queued == 0
    return dict(zip(sent_to(commands), numbers(commands), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_ray_asks_the_holders_no_more_until_it_asks_all(seed: int) -> None:
    router = ray_with_holder(seed=seed)
    running = filled(router)
    router.submit(9, "a", 10.0)
    router.finish(running["r0"], 10.0)
    # It looks 1.275 s and 1.775 s after 10: once more at those with the fewest models, and then at all.
    assert let_pass(router, 11.5) == []
    assert sent_to(let_pass(router, 30.0)) == ["r0"]


@pytest.mark.parametrize("seed", range(20))
def test_ray_asks_those_with_the_fewest_models_meanwhile(seed: int) -> None:
    router = ray_with_holder(seed=seed)
    running = filled(router)
    router.submit(9, "a", 10.0)
    router.finish(running["r3"], 10.0)
    router.finish(running["r4"], 10.0)
    assert sent_to(let_pass(router, 10.1))[0] in {"r3", "r4"}


@pytest.mark.parametrize(("model_id", "served"), [("a", 1), ("b", 2)])
def test_ray_gives_what_it_finds_to_the_oldest_request_for_the_same_model(model_id: str, served: int) -> None:
    router = router_of(RayLike, 1, max_ongoing=1)
    router.submit(0, "filler", 0.0)
    router.submit(1, "a", 0.0)
    router.submit(2, model_id, 0.01)
    let_pass(router, 0.18)
    # The task that was started for 2 is the next to look, 0.175 s after it slept first.
    router.finish(0, 0.18)
    assert numbers(let_pass(router, 0.19)) == [served]


def test_ray_gives_what_it_finds_to_the_oldest_of_all_when_nobody_waits_for_that_model() -> None:
    router = router_of(RayLike, 1, max_ongoing=1)
    router.submit(0, "filler", 0.0)
    router.submit(1, "a", 0.0)
    router.submit(2, "a", 0.01)
    let_pass(router, 0.18)
    router.finish(0, 0.18)
    assert numbers(let_pass(router, 0.19)) == [1]
    # The task that was started for 1 goes on looking on behalf of "a".
    router.cancel(2, 0.19)
    router.submit(3, "b", 0.2)
    router.submit(4, "c", 0.2)
    let_pass(router, 0.6)
    router.finish(1, 0.6)
    assert numbers(let_pass(router, 0.8)) == [3]


class CountedRay(RayLike):
    looks = 0

    def choose(self, *args: Any) -> Any:
        self.looks += 1
        return super().choose(*args)


def test_ray_runs_two_routing_tasks_for_each_replica() -> None:
    router = CountedRay(random.Random(1))
    for replica_id in ("r0", "r1"):
        router.replica_up(replica_id, 1, None, (), (), 0.0)
    for number in range(12):
        router.submit(number, "a", 0.0)
    assert router.queued == 10
    before = router.looks
    let_pass(router, 0.025)
    assert router.looks == before + 4
