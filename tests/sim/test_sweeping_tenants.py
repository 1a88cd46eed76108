"""What tenants are for: one that sweeps over all models takes from another next to nothing. The core under a clock."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest

from modelplex.config import TenantConfig
from modelplex.config.tenants import limits
from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.core.eviction import GDSF, LRU
from modelplex.core.routing import Router
from modelplex.core.tenant_lines import LineLimits
from modelplex.core.tenants import EVERYONE_ELSE
from modelplex.sim.trace import Catalog, Trace
from modelplex.sim.world import AnyRouter, Fleet, simulate

SECONDS = 30.0
WARM_S = 5.0  # by then the one has loaded what it needs, and the other begins
HOT = 60  # models of the tenant that is to be left alone
TAIL = 400  # more of them, that it seldom asks for
SWEPT = 10_000
RUN_S = 0.005
LOAD_S = 0.2
MODEL_BYTES = 100

# Of each of three replicas: 40 models or so many bytes.
MODELS_MAX = 40
BYTES_MAX = MODELS_MAX * MODEL_BYTES

TENANTS = {
    "a": TenantConfig(reserved_models=28, reserved_bytes=28 * MODEL_BYTES),
    EVERYONE_ELSE: TenantConfig(load_share=0.5, request_share=0.5, max_queued_requests=200),
}

Asked = tuple[float, str, str]  # arrival, tenant, model
Other = Callable[[Random], list[Asked]]


def hot(rng: Random) -> list[Asked]:
    """150 requests a second, nearly all of which are for 60 models, with Zipf's popularity."""
    weights = [1 / rank for rank in range(1, HOT + 1)]
    found: list[Asked] = []
    at = 0.0
    while (at := at + rng.expovariate(150)) < SECONDS:
        model = f"tail-{rng.randrange(TAIL)}" if rng.random() < 0.01 else f"hot-{rng.choices(range(HOT), weights)[0]}"
        found.append((at, "a", model))
    return found


def sweep(rng: Random) -> list[Asked]:
    """200 requests a second, each for the next of 10,000 models."""
    return [(WARM_S + number / 200, "b", f"swept-{number % SWEPT}") for number in range(int((SECONDS - WARM_S) * 200))]


def others_models(rng: Random) -> list[Asked]:
    """For the other's models: what it seldom needs, and what it needs most."""
    names = [*(f"tail-{n}" for n in range(TAIL)), *(f"hot-{n}" for n in range(HOT))]
    return [(WARM_S + number / 300, "b", rng.choice(names)) for number in range(int((SECONDS - WARM_S) * 300))]


def names_of_its_own(rng: Random) -> list[Asked]:
    """Under a new tenant's name each."""
    return [(at, f"stranger-{number}", model) for number, (at, _, model) in enumerate(sweep(rng))]


def huge(rng: Random) -> list[Asked]:
    return [(WARM_S + number / 100, "b", f"huge-{number}") for number in range(int((SECONDS - WARM_S) * 100))]


def crowd(rng: Random) -> list[Asked]:
    """300 at a time, every three seconds."""
    return [(WARM_S + 3 * (n // 300), "b", f"swept-{n}") for n in range(int((SECONDS - WARM_S) / 3) * 300)]


@dataclass(frozen=True)
class Result:
    hit_ratio: float
    p999_s: float
    others_answered: int


def run(asked: list[Asked], fleet: Fleet, *, tenants: bool = True) -> Result:
    asked = sorted(asked)
    ids = list(dict.fromkeys(model for _, _, model in asked))
    place = {model: number for number, model in enumerate(ids)}
    sizes = [BYTES_MAX // 4 if model.startswith("huge") else MODEL_BYTES for model in ids]
    trace = Trace(
        np.array([at for at, _, _ in asked], np.float64),
        np.array([place[model] for _, _, model in asked], np.int32),
        np.full(len(asked), RUN_S),
        Catalog(ids, np.array(sizes, np.int64), np.full(len(ids), LOAD_S)),
    )

    def router() -> AnyRouter:
        made = Router(200, 30.0, Estimates(load_s=1.0, service_s=0.05))
        if tenants:
            lines = {
                name: LineLimits(given.max_queued_requests or UNLIMITED, given.request_share)
                for name, given in TENANTS.items()
            }
            made.change(200, 30.0, retries_lost=True, tenants=lines)
        return made

    if tenants:
        most = limits(TENANTS, fleet.models_max, fleet.bytes_max, fleet.loads_max, 0)
        fleet = replace(fleet, tenants=most, tenant_of=lambda number: asked[number][1])
    outcome = simulate(trace, replace(fleet, router=router))
    own = np.array([tenant == "a" for _, tenant, _ in asked])
    late = own & (trace.arrivals_s >= WARM_S)
    answered = ~np.isnan(outcome.latency_s)
    assert tenants <= answered[own].all(), "nobody but the sweeper is told that its queue is full"
    warm = answered & ~outcome.cold
    p999_s = float(np.quantile(np.where(answered, outcome.latency_s, 60.0)[late], 0.999))
    return Result(float(warm[late].mean()), p999_s, int(answered[~own].sum()))


def fleet(policy: type, *, in_bytes: bool) -> Fleet:
    return Fleet(
        replicas=3,
        models_max=UNLIMITED if in_bytes else MODELS_MAX,
        bytes_max=BYTES_MAX if in_bytes else UNLIMITED,
        max_ongoing=8,
        loads_max=4,
        policy=policy,
    )


@functools.cache
def alone(policy: type, *, in_bytes: bool) -> Result:
    return run(hot(Random(1)), fleet(policy, in_bytes=in_bytes))


@pytest.mark.parametrize("in_bytes", [False, True])
@pytest.mark.parametrize("policy", [LRU, GDSF])
@pytest.mark.parametrize("other", [sweep, others_models, names_of_its_own, huge, crowd])
def test_what_another_does_costs_a_tenant_next_to_nothing(other: Other, policy: type, in_bytes: bool) -> None:
    before = alone(policy, in_bytes=in_bytes)
    beside = run(hot(Random(1)) + other(Random(2)), fleet(policy, in_bytes=in_bytes))
    assert beside.hit_ratio > before.hit_ratio - 0.02
    assert beside.p999_s <= 2 * before.p999_s
    assert beside.others_answered > 400, "the other gets on, too"


@pytest.mark.parametrize("other", [sweep, others_models, huge, crowd])
def test_without_tenants_it_costs_a_lot(other: Other) -> None:
    for policy in (LRU, GDSF):
        before = alone(policy, in_bytes=True)
        beside = run(hot(Random(1)) + other(Random(2)), fleet(policy, in_bytes=True), tenants=False)
        assert beside.hit_ratio < before.hit_ratio - 0.2
        assert beside.p999_s > 10 * before.p999_s
