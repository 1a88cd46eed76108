"""What a router knows of 1,000 replicas: how many bytes, and what a decision costs with it."""

import gc
import random
import time
import tracemalloc

from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.core.routing import Router

from .sizes import MODEL

ROUNDS = 20_000


def _fed(replicas: int, models: int) -> tuple[Router, int]:
    """A router that has heard of so many replicas, with so many models each, and the bytes that this takes."""
    gc.collect()
    tracemalloc.start()
    router = Router(UNLIMITED, 30.0, Estimates(load_s=1.0, service_s=0.05))
    for replica in range(replicas):
        held = [f"{MODEL[:-6]}{replica:04d}-{number:02d}" for number in range(models)]  # as if decoded: nobody else's
        router.replica_up(f"default_Ranker#r{replica:05d}", 16, 0, held, (), 0.0, harm_s=0.5)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return router, taken


def figures(replicas: int = 1000, models: int = 10) -> dict[str, float]:
    """Bytes for each replica and each model; and microseconds for a warm decision and what ends its request."""
    _, without = _fed(replicas, 0)
    router, taken = _fed(replicas, models)
    rng = random.Random(1)
    wanted = [f"{MODEL[:-6]}{rng.randrange(replicas):04d}-{rng.randrange(models):02d}" for _ in range(ROUNDS)]
    began = time.perf_counter()
    for at, model_id in enumerate(wanted):
        number = router.number()
        router.submit(number, model_id, at / 50_000)
        router.finish(number, at / 50_000, 0.0, 1, 0.5, holds=True)
    decision_s = (time.perf_counter() - began) / ROUNDS
    return {
        "routing state, MiB": taken / 2**20,
        "bytes per replica": without / replicas,
        "bytes per model held": (taken - without) / replicas / models,
        "decision and end of a request, us": decision_s * 1e6,
    }
