"""Arrays in, arrays out, for clients of Triton and KServe (the Open Inference Protocol, V2).

    modelplex run v2_arrays:entry --app-dir examples
    x='{"name": "x", "datatype": "FP32", "shape": [1], "data": [2]}'
    curl http://127.0.0.1:8000/v2/models/shop-17/infer -d '{"inputs": ['"$x"']}'

or with `pip install tritonclient[http]`: see docs/v2.md.
"""

from typing import Any, ClassVar

import numpy as np

from modelplex import serve

Arrays = dict[str, np.ndarray[Any, Any]]


async def model_exists(model_id: str) -> bool:
    return model_id.startswith("shop-")


@serve.deployment
class Shops:
    """One linear model for each shop."""

    metadata: ClassVar[dict[str, Any]] = {  # optional; what comes in is checked against it
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    }

    @serve.multiplexed(max_num_models_per_replica=10, model_exists=model_exists)
    def get_model(self, model_id: str) -> Any:
        number = np.float32(model_id.removeprefix("shop-"))  # where weights would be read
        return lambda x: x * number + 1

    def infer(self, model: Any, inputs: Arrays) -> Arrays:
        return {"y": model(inputs["x"])}


entry = Shops.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return
