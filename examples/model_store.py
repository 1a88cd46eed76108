"""Models with versions in S3: s3://my_bucket/<name>/<version>/model.safetensors, each with an array `weights`.

Each is fetched once for all replicas, kept on the disk, and mapped into memory, which replicas share. A request names a
version (`shop-1@2`), the latest one (`shop-1`), or an alias (`shop-1@stable`) that stands in a file of the model's,
s3://my_bucket/<name>/aliases.json: {"stable": "1"}. When that changes, requests go over to the other version as soon as
it is loaded.

It needs `pip install "modelplex[store,safetensors]"`. Credentials and region come from the usual AWS variables;
AWS_ENDPOINT_URL names a store other than Amazon's.

    modelplex run model_store:entry --app-dir examples
    curl -H "serve_multiplexed_model_id: shop-1@stable" -d "[[1, 2]]" http://127.0.0.1:8000
"""

from typing import Any

import numpy as np
from starlette.requests import Request

from modelplex import serve

models = serve.ModelStore("s3://my_bucket", "{name}/{version}/model.safetensors", cache_bytes="10GiB")


@serve.deployment(num_replicas=2)
class Scorer:
    @serve.multiplexed(max_bytes_per_replica="1GiB", resolve=models.resolve, resolve_interval_s=2)
    async def get_model(self, model_id: str) -> Any:
        return await models.load(model_id)

    async def __call__(self, request: Request) -> Any:
        model = await self.get_model(serve.get_multiplexed_model_id())
        return (np.array(await request.json()) @ model["weights"]).tolist()


entry = Scorer.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return
