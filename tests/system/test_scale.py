"""A hundred replicas that do nothing behind three routers, on real sockets: every request, and each model's loads."""

import asyncio
import random
from pathlib import Path

import pytest
import uvloop

from benchmarks.scale.replicas import MODELS_MAX, Crowd
from benchmarks.scale.routers import MeteredRouter

pytestmark = pytest.mark.system

GUARD_S = 30.0
REPLICAS, ROUTERS, CLIENTS = 100, 3, 40
MODELS = [f"model-{number:08d}" for number in range(REPLICAS * MODELS_MAX * 3 // 4)]


async def ask_for_all(router: MeteredRouter, seed: int) -> None:
    """Each model once, and popular ones again and again, by some clients at a time."""
    rng = random.Random(seed)
    asked = MODELS + [rng.choice(MODELS[:50]) for _ in range(1000)]
    rng.shuffle(asked)
    at = iter(asked)

    async def client() -> None:
        for model_id in at:
            await router.call(model_id)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    assert router.answered == len(asked)


async def check(folder: Path) -> None:
    crowd = await Crowd.start(folder, [f"r{number}" for number in range(REPLICAS)], load_s=0.02)
    routers = [MeteredRouter(str(number)) for number in range(ROUTERS)]
    try:
        async with asyncio.timeout(GUARD_S):
            await asyncio.gather(*(router.link(crowd.infos) for router in routers))
            await asyncio.gather(*(ask_for_all(router, seed) for seed, router in enumerate(routers)))
        assert set(crowd.loads) == set(MODELS)
        assert sum(crowd.loads.values()) == len(MODELS), "there is room for all: none has to be loaded twice"
        for router in routers:
            assert router.meter.heard["ModelLoaded"] == len(MODELS)
            assert router.meter.heard["ModelGone"] == 0
    finally:
        await asyncio.gather(*(router.router.close() for router in routers))
        await crowd.stop()


def test_every_request_is_answered_and_each_model_is_loaded_once(tmp_path: Path) -> None:
    uvloop.run(check(tmp_path))
