"""Torch models in S3, at s3://my_bucket/<model id>/model.pt, of which each replica holds the last three used.

It is a program for Ray Serve, but for where `serve` comes from. It needs `pip install aioboto3 torch`. Credentials and
region come from the usual AWS variables; AWS_ENDPOINT_URL names a store other than Amazon's.

    modelplex run torch_s3:entry --app-dir examples
    curl -H "serve_multiplexed_model_id: 1" -d "[[1, 2]]" http://127.0.0.1:8000
"""

import tempfile
from typing import Any

import aioboto3
import starlette
import torch

from modelplex import serve


@serve.deployment
class ModelInferencer:
    def __init__(self) -> None:
        self.bucket_name = "my_bucket"

    @serve.multiplexed(max_num_models_per_replica=3)
    async def get_model(self, model_id: str) -> Any:
        session = aioboto3.Session()
        # A folder of its own, since replicas may load the same model at the same time.
        with tempfile.TemporaryDirectory() as folder:
            async with session.resource("s3") as s3:
                obj = await s3.Bucket(self.bucket_name)
                await obj.download_file(f"{model_id}/model.pt", f"{folder}/model.pt")
            # A whole module is a pickle, which may run any code when it is loaded: trust whoever can write the bucket.
            return torch.load(f"{folder}/model.pt", weights_only=False)

    async def __call__(self, request: starlette.requests.Request) -> Any:
        model_id = serve.get_multiplexed_model_id()
        model = await self.get_model(model_id)
        return model.forward(torch.tensor(await request.json(), dtype=torch.float32))


entry = ModelInferencer.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return
