"""The demo's own parts, without its server."""

import asyncio
import collections
from pathlib import Path

import numpy as np
from proxy_client import client_of

from modelplex import demo
from modelplex.testing import InlineCluster


def test_a_few_models_are_popular_and_most_are_seldom() -> None:
    asked = collections.Counter(demo.popular_models(5000))
    counts = [count for _, count in asked.most_common()]
    assert counts[0] > 10 * counts[len(counts) // 2]
    assert demo.popular_models(10) == demo.popular_models(10)


def test_the_answer_is_the_model_times_the_features(tmp_path: Path) -> None:
    demo.make_models(tmp_path)

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(demo.Forecast.bind(str(tmp_path)))  # type: ignore[attr-defined]
            async with client_of(cluster.directory) as client:
                headers = {"serve_multiplexed_model_id": "shop-007"}
                answer = await client.post("/", json=[1, 2, 3, 4], headers=headers)
                expected = np.load(tmp_path / "shop-007.npy") @ np.array([1, 2, 3, 4])
                assert np.allclose(answer.json()["forecast"], expected)
                missing = await client.get("/", headers={"serve_multiplexed_model_id": "shop-999"})
                assert (missing.status_code, "shop-999" in missing.text) == (404, True)

    asyncio.run(main())
