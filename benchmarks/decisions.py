"""What one routing decision costs, from 10 to 10,000 replicas that hold 100,000 models together.

    python benchmarks/decisions.py

Microseconds for each `submit`, the median of some rounds; what ends the requests is not timed.
"""

import random
import statistics
import time
from collections.abc import Callable

from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.core.routing import Router

MODELS = 100_000
SLOTS = 5
BATCH = 32
ROUNDS = 200


def make_router(replicas: int) -> Router:
    """All replicas are full of models, and one model has copies everywhere."""
    router = Router(UNLIMITED, 30.0, Estimates(load_s=1.0, service_s=0.05))
    rng, each = random.Random(1), MODELS // replicas
    for replica in range(replicas):
        held = [f"m{number}" for number in range(replica * each, (replica + 1) * each)]
        router.replica_up(f"replica-{replica}", SLOTS, 0, [*held, "everywhere"], (), 0.0, harm_s=rng.random())
    return router


def decision_us(router: Router, model: Callable[[int], str]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        models = [model(n) for n in range(BATCH)]
        numbers = [router.number() for _ in models]
        began = time.perf_counter()
        for number, model_id in zip(numbers, models, strict=True):
            router.submit(number, model_id, 0.0)
        rounds.append((time.perf_counter() - began) / BATCH * 1e6)
        for number in numbers:
            router.cancel(number, 0.0)
    return statistics.median(rounds)


def main() -> None:
    rng = random.Random(2)
    kinds: dict[str, Callable[[int], str]] = {
        "warm": lambda _: f"m{rng.randrange(MODELS)}",
        "cold": lambda _: f"cold-{rng.random()}",
        "no model": lambda _: "",
        "copies everywhere": lambda _: "everywhere",
    }
    print("| replicas | " + " | ".join([*kinds, "all full, warm", "all full, cold"]) + " |")
    print("|---|" + "---|" * (len(kinds) + 2))
    for replicas in (10, 100, 1_000, 10_000):
        router = make_router(replicas)
        costs = [decision_us(router, model) for model in kinds.values()]
        for replica_id in router.replica_ids:
            router.told_ongoing(replica_id, SLOTS, 0.0)
        costs += [decision_us(router, kinds[kind]) for kind in ("warm", "cold")]
        print(f"| {replicas} | " + " | ".join(f"{cost:.1f}" for cost in costs) + " |", flush=True)


if __name__ == "__main__":
    main()
