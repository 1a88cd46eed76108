"""Random histories against the autoscaler: load that comes and goes, replicas that follow, options that change.

What must hold is written in words in `Referee`, which knows the reports and reckons from them anew, tick by tick. The
planted bugs at the end show that these histories find what they are there to find.
"""

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from modelplex.config import AutoscalingConfig
from modelplex.core.look_back import LookBack
from modelplex.core.replica_load import ReplicaLoad, stop_order
from modelplex.core.scaling import Autoscaler
from modelplex.core.working_set import WorkingSet

TICK_S = 0.125  # all times are multiples of it, exactly
TICKS = 1600
GROUPS = 4
SEEDS_PER_GROUP = 50
SEEDS_TO_CATCH = range(200)
REPORT_TICKS = 8
CAPACITY = 3


class BrokenError(AssertionError):
    """A history in which something that must hold did not."""


class Referee:
    """Knows all that was reported, and what was decided."""

    def __init__(self, options: AutoscalingConfig, target: int, reloads: bool) -> None:
        self.options = options
        self.target = target
        self.reloads_may_be = reloads
        self.ongoing: dict[str, float] = {}
        self.waiting: dict[str, int] = {}
        self.values: list[float | None] = []  # what was asked for during each tick; None before the first report
        self.used: dict[str, float] = {}
        self.reloads: list[tuple[float, float]] = []
        self.direction = 0
        self.since = 0.0
        self.changes = {"up": 0, "down": 0, "from zero": 0, "to zero": 0, "reloads": 0, "models": 0}

    @property
    def total(self) -> float:
        return sum(self.ongoing.values()) + sum(self.waiting.values())

    @property
    def heard(self) -> bool:
        """Whether anybody has reported."""
        return bool(self.values and self.values[-1] is not None) or bool(self.ongoing or self.waiting)

    def told_replica(self, replica_id: str, load: ReplicaLoad, now: float) -> None:
        self.ongoing[replica_id] = load.ongoing
        self.used |= {model_id: now for model_id, uses in load.models.items() if uses}
        self.reloads.append((now, load.reload_s))

    def tick(self) -> None:
        """Time goes on, with what is asked for now."""
        self.values.append(self.total if self.heard else None)

    def demand(self) -> float:
        period = [v for v in self.values[-round(self.options.look_back_period_s / TICK_S) :] if v is not None]
        if self.options.aggregation_function == "max":
            return max([*period, self.total])
        if self.options.aggregation_function == "min":
            return min([*period, self.total])
        return math.fsum(period) / len(period) if period else self.total

    def clip(self, number: int) -> int:
        return min(self.options.max_replicas, max(self.options.min_replicas, number))

    def fit(self, now: float) -> int:
        """How few replicas the models fit into that were used within the look-back period."""
        used = [at for at in self.used.values() if at > now - self.options.look_back_period_s]
        return -(-len(used) // CAPACITY) if self.options.max_reload_fraction is not None else 0

    def reloads_too_much(self, now: float) -> bool:
        if self.options.max_reload_fraction is None or self.target == 0:
            return False
        period_s = self.options.look_back_period_s
        lost_s = math.fsum(s for at, s in self.reloads if at > now - period_s)
        return lost_s > self.options.max_reload_fraction * period_s * max(1, len(self.ongoing))

    def wish(self, now: float) -> int:
        """1 if more replicas ought to be wanted, -1 if fewer."""
        waiting, options = sum(self.waiting.values()), self.options
        if not self.heard:
            return 0
        if self.target == 0:
            return int(waiting > 0)
        needed = math.ceil(self.demand() / options.target_ongoing_requests - 1e-6)
        if self.clip(needed) > self.target or (self.reloads_too_much(now) and self.target < options.max_replicas):
            return 1
        if self.reloads_too_much(now):
            return 0
        needed = max(needed, self.fit(now), 1 if self.total or self.target > 1 else 0)
        return -1 if self.clip(needed) < self.target else 0

    def delay_s(self, direction: int) -> float:
        if direction > 0:
            return self.options.upscale_delay_s if self.target else 0.0
        to_zero_s = self.options.downscale_to_zero_delay_s
        return self.options.downscale_delay_s if self.target > 1 or to_zero_s is None else to_zero_s

    def decided(self, target: int, next_look: float, now: float) -> None:
        """A look was taken, with this result."""
        old, options = self.target, self.options
        needed = self.demand() / options.target_ongoing_requests
        direction = self.wish(now)
        if direction != self.direction:
            self.direction, self.since = direction, now
        due = self.since + self.delay_s(direction)

        assert options.min_replicas <= target <= options.max_replicas, "out of bounds"
        if target > old:
            assert direction > 0, f"{target} instead of {old}, when no more were wanted"
            assert now >= due, "more before it was wanted for long enough"
            factor = options.upscaling_factor or 1.0
            if old:
                most = max(old + 1, math.ceil(old + factor * (needed - old)))
                assert target <= most, f"{target} instead of {old}, when {needed} were needed"
        if target < old:
            assert direction < 0, f"{target} instead of {old}, when no fewer were wanted"
            assert now >= due, "fewer before they were wanted for long enough"
            assert target >= self.clip(math.ceil(needed - 1e-6)), "fewer than are needed"
            assert target >= self.clip(min(old, self.fit(now))), "the models in use do not fit any more"
            assert target > 0 or old == 1, "none instead of several"
            assert target > 0 or self.total == 0, "none, while something is asked for"
            least = old - math.ceil((options.downscaling_factor or 1.0) * (old - needed))
            assert target >= min(old - 1, least), f"{target} instead of {old}, when {needed} were needed"
        if direction and now >= due and (direction > 0 or not self.reloads_may_be):
            assert (target - old) * direction > 0, f"it stays at {old}, though {direction:+d} was wanted for long"
        assert now < next_look <= now + options.metrics_interval_s, "the next look comes too soon or too late"
        if direction and now < due and (direction > 0 or not self.reloads_may_be):
            assert next_look <= due, "the end of the delay is missed"
        self.count(old, target, needed, now)
        self.became(target)

    def became(self, target: int) -> None:
        if target != self.target:
            self.direction = 0
            self.reloads.clear()
        self.target = target

    def count(self, old: int, target: int, needed: float, now: float) -> None:
        self.changes["up"] += target > old > 0
        self.changes["down"] += target < old
        self.changes["from zero"] += old == 0 < target
        self.changes["to zero"] += target == 0 < old
        self.changes["reloads"] += target > old > 0 and self.clip(math.ceil(needed - 1e-6)) <= old
        self.changes["models"] += target < old and target == self.fit(now) > max(1, needed)


class World:
    """One random history."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.has_reloads = self.random.random() < 0.5
        self.may_have_models = self.has_reloads or self.random.random() < 0.5
        options = self.any_options(40.0)
        current = self.random.randint(options.min_replicas, options.max_replicas)
        self.scaler = Autoscaler(options, current, self.now)
        self.referee = Referee(options, current, self.has_reloads)
        self.replicas: dict[str, int] = {}  # with the tick at which they report
        self.loads: dict[str, ReplicaLoad] = {}
        self.started = 0
        self.load = 0.0
        self.models = 0
        self.reload_part = 0.0
        self.callers = [f"caller {n}" for n in range(self.random.randint(1, 3))]

    def any_options(self, look_back_max_s: float) -> AutoscalingConfig:
        """A period that becomes longer would begin with what has been kept of the shorter one."""
        pick = self.random.choice
        return AutoscalingConfig(
            min_replicas=pick([0, 0, 1, 2]),
            max_replicas=pick([2, 4, 12]),
            target_ongoing_requests=pick([0.5, 1, 2, 3]),
            metrics_interval_s=pick([0.5, 1.0, 5.0]),
            look_back_period_s=min(look_back_max_s, pick([2.0, 10.0, 40.0])),
            upscale_delay_s=pick([0.0, 3.0, 20.0]),
            downscale_delay_s=pick([0.0, 5.0, 30.0]),
            downscale_to_zero_delay_s=pick([None, 0.0, 12.0]),
            upscaling_factor=pick([None, None, 0.3, 2.0]),
            downscaling_factor=pick([None, None, 0.3, 2.0]),
            aggregation_function=pick(["mean", "mean", "max", "min"]),
            max_reload_fraction=pick([None, 0.1, 0.5]) if self.may_have_models else None,
        )

    def step(self, tick: int) -> None:
        chance = self.random.random
        if chance() < 1 / 200:
            self.load = self.random.choice([0.0, 0.0, 1.0, 3.0, 8.0, 30.0])
            self.models = self.random.choice([0, 2, 7, 20]) if self.may_have_models else 0
            self.reload_part = self.random.choice([0.0, 0.0, 0.2, 0.9]) if self.has_reloads else 0.0
        if chance() < 1 / 400:
            options = self.any_options(self.referee.options.look_back_period_s)
            self.referee.options = options
            self.referee.became(self.scaler.set_options(options, self.now))
        self.follow_target()
        for replica_id, phase in self.replicas.items():
            if (tick + phase) % REPORT_TICKS == 0:
                self.report(replica_id)
        for caller in self.callers:
            if chance() < 1 / 10:
                self.call(caller)
        if self.now >= self.scaler.next_look or chance() < 1 / 40:
            self.look()
        self.referee.tick()
        self.now += TICK_S

    def follow_target(self) -> None:
        """Replicas take their time to start; they stop at once."""
        while len(self.replicas) > self.scaler.target:
            (replica_id,) = stop_order({r: self.loads.get(r, ReplicaLoad()) for r in self.replicas}, 1)
            del self.replicas[replica_id]
            self.scaler.replica_gone(replica_id)
            self.referee.ongoing.pop(replica_id, None)
            self.call(self.callers[0])  # what has gone counts from the next report on
        if len(self.replicas) < self.scaler.target and self.random.random() < 0.1:
            self.started += 1
            self.replicas[f"r{self.started}"] = self.random.randrange(REPORT_TICKS)

    def report(self, replica_id: str) -> None:
        part = self.load / len(self.replicas)
        models = dict.fromkeys(f"m{self.random.randrange(self.models)}" for _ in range(CAPACITY) if self.models)
        load = ReplicaLoad(
            ongoing=self.random.choice([0.75, 1.0, 1.25]) * part,
            models={m: self.random.choice([0.0, 0.1, 2.0]) for m in models},
            capacity_models=CAPACITY,
            reload_s=self.random.random() * self.reload_part,
        )
        self.loads[replica_id] = load
        self.scaler.told_replica(replica_id, load, self.now)
        self.referee.told_replica(replica_id, load, self.now)

    def call(self, caller: str) -> None:
        if self.random.random() < 0.05:
            self.scaler.source_gone(caller)
            self.referee.waiting.pop(caller, None)
            caller = "another"
        waiting = 0
        if self.load and (not self.replicas or self.random.random() < 0.2):
            waiting = self.random.randint(0, 3)
        self.scaler.told_waiting(caller, waiting, self.now)
        self.referee.waiting[caller] = waiting
        if waiting and self.scaler.target == 0:
            assert self.scaler.next_look <= self.now, "at zero, a request that waits is not looked at"

    def look(self) -> None:
        target = self.scaler.decide(self.now)
        self.referee.decided(target, self.scaler.next_look, self.now)

    def settle(self) -> None:
        """The load stays as it is; so, in the end, does the number of replicas: at what it takes."""
        for replica_id in [*self.replicas]:
            self.scaler.replica_gone(replica_id)
        for caller in [*self.callers, "another"]:
            self.scaler.source_gone(caller)
        load = self.random.choice([0, 1, 5, 12])
        options = self.referee.options
        for _ in range(2000):
            self.scaler.told_waiting("the only one", load, self.now)
            self.scaler.decide(self.now)
            self.now = max(self.now + TICK_S, min(self.scaler.next_look, self.now + 5.0))
        expected = self.referee.clip(math.ceil(load / options.target_ongoing_requests))
        assert self.scaler.target == expected, f"{self.scaler.target} for {load} for ever"
        assert f"{expected} replicas stay" in self.scaler.why


def play(seed: int) -> Referee:
    """One history from its seed to its end; says how to repeat it when it breaks."""
    world = World(seed)
    try:
        for tick in range(TICKS):
            world.step(tick)
        world.settle()
    except Exception as error:
        where = f"seed {seed}, {world.now} s: {type(error).__name__}: {error}"
        raise BrokenError(f"{where}\n{world.scaler.why}\n{world.referee.options}") from error
    return world.referee


def play_all(seeds: Iterable[int]) -> list[Referee]:
    return [play(seed) for seed in seeds]


@pytest.mark.parametrize("group", range(GROUPS))
def test_what_must_hold_holds_after_every_look(group: int) -> None:
    referees = play_all(range(group * SEEDS_PER_GROUP, (group + 1) * SEEDS_PER_GROUP))
    for change in referees[0].changes:
        assert sum(referee.changes[change] for referee in referees) > 2, f"without {change} they would prove little"


# The order in which replicas stop


def lost(fleet: dict[str, ReplicaLoad], left: set[str], replica_id: str) -> float:
    """The demand that would have no copy any more."""
    elsewhere = {m for other in left - {replica_id} for m in fleet[other].models}
    gone = set(fleet[replica_id].models) - elsewhere
    return sum(load.models.get(m, 0.0) for load in fleet.values() for m in gone)


def check_order(seed: int, order_of: Callable[[dict[str, ReplicaLoad]], list[str]]) -> int:
    """Of how many choices each was a best one, by trying all."""
    rng = random.Random(seed)
    fleet = {
        f"r{n}": ReplicaLoad(
            ongoing=rng.choice([0, 1, 2]),
            models={f"m{rng.randrange(8)}": float(rng.choice([0, 0, 1, 4])) for _ in range(rng.randrange(4))},
            age_s=rng.choice([1.0, 2.0]),
        )
        for n in rng.sample(range(20), rng.randint(1, 6))
    }
    order = order_of(fleet)
    assert sorted(order) == sorted(fleet)
    left = set(fleet)
    for replica_id in order:
        costs = {r: (lost(fleet, left, r), fleet[r].ongoing, fleet[r].age_s, r) for r in left}
        assert costs[replica_id][0] == 0 or all(cost[0] for cost in costs.values()), "an only copy before a free one"
        assert costs[replica_id] == min(costs.values())
        left.remove(replica_id)
    return len(order)


def test_no_order_to_stop_in_is_better() -> None:
    assert sum(check_order(seed, stop_order) for seed in range(1000)) > 3000


@pytest.mark.parametrize(
    "order_of",
    [
        lambda fleet: sorted(fleet, key=lambda r: (fleet[r].ongoing, fleet[r].age_s, r)),
        # All at once, so that both of two copies are free.
        lambda fleet: sorted(fleet, key=lambda r: (lost(fleet, set(fleet), r), fleet[r].ongoing, fleet[r].age_s, r)),
        lambda fleet: stop_order(fleet)[::-1],
        lambda fleet: stop_order({r: ReplicaLoad(load.ongoing, load.models) for r, load in fleet.items()}),
    ],
)
def test_a_worse_order_is_found(order_of: Callable[[dict[str, ReplicaLoad]], list[str]]) -> None:
    with pytest.raises(AssertionError):
        sum(check_order(seed, order_of) for seed in range(1000))


# Planted bugs: each is one thing that somebody could forget or get wrong.


def nothing(*_: Any, **__: Any) -> None:
    """Takes the place of what is forgotten."""


def no_delays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "_due", property(lambda self: self._wanted_since))


def delays_that_never_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "_due", property(lambda self: math.inf if self._wanted_since is not None else None))


def delay_goes_on_when_it_is_not_wanted(patch: pytest.MonkeyPatch) -> None:
    def keep(self: Autoscaler, name: str, value: Any) -> None:
        if name != "_wanted_since" or value is not None or getattr(self, "_wanted_since", None) is None:
            object.__setattr__(self, name, value)

    patch.setattr(Autoscaler, "__setattr__", keep)


def delay_of_the_last_one_forgotten(patch: pytest.MonkeyPatch) -> None:
    def due(self: Autoscaler) -> float | None:
        if self._wanted_since is None:
            return None
        options = self._options
        up = self.wanted > self.target
        return self._wanted_since + (options.upscale_delay_s if up else options.downscale_delay_s)

    patch.setattr(Autoscaler, "_due", property(due))


def no_bounds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "_within_bounds", lambda self, number: max(0, number))


def last_one_stopped_while_it_runs(patch: pytest.MonkeyPatch) -> None:
    def clip(self: Autoscaler, number: int) -> int:
        return max(self._options.min_replicas, min(self._options.max_replicas, number))

    patch.setattr(Autoscaler, "_within_bounds", clip)


def waiting_requests_forgotten(patch: pytest.MonkeyPatch) -> None:
    ongoing = property(lambda self: sum(load.ongoing for load in self._loads.values()))
    patch.setattr(Autoscaler, "_requests_now", ongoing)


def gone_replicas_still_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "replica_gone", nothing)


def gone_callers_still_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "source_gone", nothing)


def zero_looked_at_at_leisure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "next_look", property(lambda self: self._looked_at + self._options.metrics_interval_s))


def end_of_a_delay_missed(patch: pytest.MonkeyPatch) -> None:
    def next_look(self: Autoscaler) -> float:
        if self.target == 0 and self._waiting_now > 0:
            return self._looked_at
        return self._looked_at + self._options.metrics_interval_s

    patch.setattr(Autoscaler, "next_look", property(next_look))


def last_report_taken_for_the_period(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LookBack, "aggregate", lambda self, *_: self._steps[-1][1] if self._steps else 0.0)


def steps_weighed_without_their_time(patch: pytest.MonkeyPatch) -> None:
    def aggregate(self: LookBack, function: str, now: float) -> float:
        values = [value for _, value in self._steps] or [0.0]
        return {"max": max(values), "min": min(values)}.get(function, sum(values) / len(values))

    patch.setattr(LookBack, "aggregate", aggregate)


def new_options_taken_up_but_for_the_period(patch: pytest.MonkeyPatch) -> None:
    original = Autoscaler.set_options

    def set_options(self: Autoscaler, *given: Any) -> int:
        period_s = self._requests.period_s
        target = original(self, *given)
        self._requests.period_s = self._models.period_s = period_s
        return target

    patch.setattr(Autoscaler, "set_options", set_options)


def target_left_out_of_new_bounds(patch: pytest.MonkeyPatch) -> None:
    def set_options(self: Autoscaler, options: AutoscalingConfig, *_: Any) -> int:
        self._options = options
        self._requests.period_s = self._models.period_s = options.look_back_period_s
        return self.target

    patch.setattr(Autoscaler, "set_options", set_options)


def factors_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "_in_part", lambda self, needed: math.ceil(needed - 1e-6))


def part_of(self: Autoscaler, needed: float) -> float:
    missing = needed - self.target
    factor = self._options.upscaling_factor if missing > 0 else self._options.downscaling_factor
    return self.target + (factor or 1.0) * missing


def parts_rounded_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "_in_part", lambda self, needed: math.floor(part_of(self, needed)))


def stuck_at_a_part(patch: pytest.MonkeyPatch) -> None:
    def in_part(self: Autoscaler, needed: float) -> int:
        return max(math.ceil(needed - 1e-6), math.ceil(part_of(self, needed)))

    patch.setattr(Autoscaler, "_in_part", in_part)


def stopping_overshoots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Autoscaler, "_in_part", lambda self, needed: math.ceil(part_of(self, needed) - 1e-6))


def models_in_use_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkingSet, "replicas_needed", lambda *_: 0)


def models_once_used_in_use_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkingSet, "_forget", nothing)


def models_in_use_start_replicas(patch: pytest.MonkeyPatch) -> None:
    original = Autoscaler._by_demand

    def by_demand(self: Autoscaler, now: float) -> tuple[int, str]:
        number, reason = original(self, now)
        return max(number, self._models.replicas_needed(now)), reason

    patch.setattr(Autoscaler, "_by_demand", by_demand)


def reloads_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkingSet, "reload_fraction", lambda *_: 0.0)


def reloads_of_all_replicas_against_the_time_of_one(patch: pytest.MonkeyPatch) -> None:
    original = WorkingSet.reload_fraction
    patch.setattr(WorkingSet, "reload_fraction", lambda self, replicas, now: original(self, 1, now))


def old_reloads_called_for_more_than_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkingSet, "replicas_changed", nothing)


def needed_for_ever_once_learned(patch: pytest.MonkeyPatch) -> None:
    original = WorkingSet.replicas_needed
    patch.setattr(WorkingSet, "replicas_needed", lambda self, now: max(original(self, now), self._learned[0]))


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    plant.__name__.replace("_", " "): plant
    for plant in (
        no_delays,
        delays_that_never_end,
        delay_goes_on_when_it_is_not_wanted,
        delay_of_the_last_one_forgotten,
        no_bounds,
        last_one_stopped_while_it_runs,
        waiting_requests_forgotten,
        gone_replicas_still_count,
        gone_callers_still_count,
        zero_looked_at_at_leisure,
        end_of_a_delay_missed,
        last_report_taken_for_the_period,
        steps_weighed_without_their_time,
        new_options_taken_up_but_for_the_period,
        target_left_out_of_new_bounds,
        factors_forgotten,
        parts_rounded_down,
        stuck_at_a_part,
        stopping_overshoots,
        models_in_use_forgotten,
        models_once_used_in_use_for_ever,
        models_in_use_start_replicas,
        reloads_forgotten,
        reloads_of_all_replicas_against_the_time_of_one,
        old_reloads_called_for_more_than_one,
        needed_for_ever_once_learned,
    )
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[name](monkeypatch)
    with pytest.raises(BrokenError):
        play_all(SEEDS_TO_CATCH)
