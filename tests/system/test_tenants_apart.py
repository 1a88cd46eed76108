"""One tenant sweeps over models in real processes; another's stay loaded."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelplex import errors, serve

pytestmark = [pytest.mark.system, pytest.mark.doors]


TENANTS = {
    "shop": {"reserved_models": 3},
    "*": {"load_share": 0.5, "request_share": 0.5, "max_queued_requests": 50},
}


class Models:
    def __init__(self) -> None:
        self.loads: list[str] = []

    @serve.multiplexed(max_num_models_per_replica=5, max_concurrent_loads=2)
    def get_model(self, model_id: str) -> str:
        time.sleep(0.02)
        self.loads.append(model_id)
        return model_id

    async def __call__(self) -> str:
        return str(await self.get_model(serve.get_multiplexed_model_id()))

    def loaded(self) -> list[str]:
        return self.loads


app = serve.deployment(num_replicas=2, max_ongoing_requests=4, tenants=TENANTS)(Models)


def test_a_sweep_does_not_flush_what_another_has_reserved() -> None:
    handle = serve.run(app.bind(), route_prefix=None)
    try:
        shop, crawler = handle.options(tenant="shop"), handle.options(tenant="crawler")
        own = [f"own-{n}" for n in range(4)]

        def ask_own() -> None:
            for model_id in own:
                assert shop.options(multiplexed_model_id=model_id).remote().result(timeout_s=30) == model_id

        def sweep(number: int) -> bool:
            try:
                crawler.options(multiplexed_model_id=f"swept-{number}").remote().result(timeout_s=30)
            except errors.BackPressureError:
                return False
            return True

        ask_own()
        with ThreadPoolExecutor(20) as threads:
            swept = threads.map(sweep, range(300))
            for _ in range(30):
                ask_own()
            assert sum(swept) > 50, "the other gets on, too"
        ask_own()
        loads = [model_id for one in handle.broadcast("loaded").result(timeout_s=30) for model_id in one]
        assert sorted(model_id for model_id in loads if model_id in own) == own, "each was loaded once"
        assert len(loads) > 50
    finally:
        serve.shutdown()
