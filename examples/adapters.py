"""One base model and an adapter for each customer: a replica holds the base once, and 50 adapters at a time.

It needs `pip install modelplex[peft]`. The first command writes three adapters for the base, as a training would.

    python examples/adapters.py adapters
    ADAPTERS=adapters modelplex run adapters:entry --app-dir examples
    curl -H "serve_multiplexed_model_id: ada" -d "[[1, 2, 3, 4]]" http://127.0.0.1:8000
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from starlette.requests import Request

from modelplex import serve
from modelplex.errors import ModelNotFoundError


def load_base() -> torch.nn.Module:
    """Where a large model would be loaded."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2))


@serve.deployment
class Customers:
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).absolute()
        self.adapters = serve.Adapters(load_base)

    @serve.multiplexed(max_num_models_per_replica=50)
    def get_model(self, customer: str) -> torch.nn.Module:  # a plain function: it runs in a thread
        if not (self.folder / customer).is_dir():
            raise ModelNotFoundError(f"There is no adapter for {customer!r}.")
        return self.adapters.load(self.folder / customer)

    async def __call__(self, request: Request) -> Any:
        model: Any = await self.get_model(serve.get_multiplexed_model_id())
        with torch.inference_mode():
            return model(torch.tensor(await request.json(), dtype=torch.float32)).tolist()


entry = Customers.bind(os.environ.get("ADAPTERS", "adapters"))  # type: ignore[attr-defined] # as for all decorated classes


def write_adapters(folder: Path) -> None:
    """An adapter for each of three customers, of random weights."""
    import peft

    for seed, customer in enumerate(("ada", "bob", "cyd"), 1):
        torch.manual_seed(seed)
        options = peft.LoraConfig(target_modules=["0", "2"], r=4, init_lora_weights=False)
        peft.get_peft_model(load_base(), options).save_pretrained(str(folder / customer))


if __name__ == "__main__":
    write_adapters(Path(sys.argv[1]))
